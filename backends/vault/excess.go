package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// excess returns what certd's token may do beside what it needs for a key,
// such as "certd-transit/keys/a/config (update)". Vault tells capabilities
// only; limits on parameters do not show.
func (t *Transit) excess(ctx context.Context, name string) ([]string, error) {
	key := t.mount + "/keys/" + name
	paths := []string{
		key + "/config", key + "/rotate", key + "/trim", key + "/import", key + "/soft-delete",
		t.mount + "/export/signing-key/" + name, t.mount + "/backup/" + name, t.mount + "/byok-export/" + name + "/" + name,
		"sys/mounts/" + t.mount, "sys/policies/acl/certd-run", "auth/token/create",
	}
	s, err := t.vault.keeper.session(ctx)
	if err != nil {
		return nil, err
	}
	q := call{op: "capabilities", doing: "ask Vault what certd's token may do", path: "sys/capabilities-self", body: map[string][]string{"paths": paths}, harmless: true}
	r, f := t.vault.client.send(ctx, s.token, q)
	if f != nil {
		return nil, t.vault.client.classify(q, f)
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(r.Data, &all); err != nil {
		return nil, fmt.Errorf("%s: %w", q.doing, err)
	}
	var out []string
	for _, path := range paths {
		var has []string
		if json.Unmarshal(all[path], &has) == nil && len(has) > 0 && !slices.Contains(has, "deny") {
			out = append(out, path+" ("+strings.Join(has, ", ")+")")
		}
	}
	return out, nil
}

// warnOfExcess says once in the log what the token should not be able to do:
// whoever steals such a token can take the key, or lose it for good.
func (t *Transit) warnOfExcess(ctx context.Context, name string) {
	if !t.first("excess") {
		return
	}
	switch more, err := t.excess(ctx, name); {
	case err != nil:
		t.vault.log.Debug("could not ask what the Vault token may do", "err", err)
	case len(more) > 0:
		t.vault.log.Warn("Vault token may do more than certd needs; deploy/vault/certd-run.hcl is enough", "may", more)
	}
}
