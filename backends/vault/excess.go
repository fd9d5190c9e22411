package vault

import (
	"context"
	"slices"
	"strings"
)

// excess returns what certd's token may do beside what it needs for a key,
// such as "certd-transit/keys/a/config (update)". Vault tells capabilities
// only; limits on parameters do not show.
func (t *Transit) excess(ctx context.Context, name string) ([]string, error) {
	paths := append(keyDoors(t.mount, name), "sys/mounts/"+t.mount, "sys/policies/acl/certd-run", "auth/token/create")
	has, err := t.vault.capabilitiesOf(ctx, paths)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, path := range paths {
		if may := has[path]; len(may) > 0 && !slices.Contains(may, "deny") {
			out = append(out, path+" ("+strings.Join(may, ", ")+")")
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
