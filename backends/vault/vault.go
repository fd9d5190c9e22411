// Package vault keeps CA keys in HashiCorp Vault or OpenBao: in the Transit
// engine, which signs digests, or behind the PKI engine, which signs whole
// certificates. Only the client side of Vault is in here.
//
// It sends one request for one call and repeats none that signs. It keeps its
// token alive by itself and logs in again when that is needed. It re-reads a
// key's flags before each use, since Vault lets most of them change later, and
// believes no signature that does not verify under the pinned public key.
package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"certd.internal/rotation"
)

// Vault is a connection to one Vault with one way to log in. The key places
// made from it share its token.
type Vault struct {
	client *client
	keeper *keeper
	log    *slog.Logger
}

// New checks c and reads its CA files. It sends nothing: the first call logs
// in, so a Vault that is away does not keep certd from starting.
func New(c Config, log *slog.Logger) (*Vault, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("configure Vault: %w", err)
	}
	cl, err := newClient(c)
	if err != nil {
		return nil, fmt.Errorf("configure Vault at %s: %w", c.Address, err)
	}
	return &Vault{client: cl, keeper: newKeeper(newLogin(c.Auth, cl, log), cl.timeout, log), log: log}, nil
}

// TokenExpires is when the token that certd has now ends: zero while it has none,
// and where it never does.
func (v *Vault) TokenExpires() time.Time { return v.keeper.expires() }

// Close forgets the token and stops renewing it.
func (v *Vault) Close() error {
	v.keeper.close()
	v.client.pool.CloseIdleConnections()
	return nil
}

// do makes a call with the current token, logging in first where there is
// none. When Vault refuses, it finds out whether the token has died, and then
// logs in again and repeats the call once; a call marked once is not repeated
// but ends in an error wrapping ErrTryAgain.
func (v *Vault) do(ctx context.Context, q call) (reply, error) {
	for repeat := false; ; repeat = true {
		s, err := v.keeper.session(ctx)
		if err != nil {
			return reply{}, fmt.Errorf("%s: %w", q.doing, err)
		}
		r, f := v.client.send(ctx, s.token, q)
		if f == nil {
			v.keeper.proved(s)
			return r, nil
		}
		if f.status != http.StatusForbidden || f.foreign { // whoever stands in between knows nothing of the token
			return reply{}, v.client.classify(q, f)
		}
		switch alive, err := v.alive(ctx, s, f); {
		case err != nil:
			return reply{}, fmt.Errorf("%s: %w", q.doing, err)
		case alive, repeat:
			return reply{}, v.denied(ctx, s, q, f)
		}
		v.log.Info("Vault token is dead, logging in again", "vault", v.client.address)
		v.keeper.discard(s)
		if q.once {
			if _, err := v.keeper.session(ctx); err != nil {
				return reply{}, fmt.Errorf("%s: the token had died: %w", q.doing, err)
			}
			return reply{}, fmt.Errorf("%s: the token had died and certd has logged in again: %w", q.doing, rotation.ErrTryAgain)
		}
	}
}

// alive tells a token without rights from a dead one: Vault since 1.17 says
// which, OpenBao and older Vaults answer "permission denied" to both.
func (v *Vault) alive(ctx context.Context, s *session, f *fault) (bool, error) {
	if f.says("invalid token") {
		return false, nil
	}
	q := call{op: "lookup-token", doing: "ask Vault about certd's own token", path: "auth/token/lookup-self"}
	switch _, lf := v.client.send(ctx, s.token, q); {
	case lf == nil:
		return true, nil
	case lf.status == http.StatusForbidden && !lf.foreign:
		// A live token may lack even this right. One that never worked was
		// given a moment ago, so it is not dead.
		return !v.keeper.hasWorked(s) && !lf.says("invalid token"), nil
	default:
		return false, v.client.classify(q, lf)
	}
}

// denied says which right is missing, as far as Vault tells.
func (v *Vault) denied(ctx context.Context, s *session, q call, f *fault) error {
	hint := ""
	if q.policy != "" {
		hint = "; deploy/vault/" + q.policy + " is the policy that grants it"
	}
	has, err := v.capabilities(ctx, s, q.path)
	switch {
	case err == nil && (slices.Contains(has, q.capability) || slices.Contains(has, "root")) && !slices.Contains(has, "deny"):
		return fmt.Errorf("%s: %s: the token may %q %s, but not with these parameters, or not from this address%s: %w",
			q.doing, f.text(), q.capability, q.path, hint, rotation.ErrDenied)
	case q.capability == "":
		return fmt.Errorf("%s: %s%s: %w", q.doing, f.text(), hint, rotation.ErrDenied)
	}
	return fmt.Errorf("%s: %s: the token lacks %s on %s%s: %w", q.doing, f.text(), q.capability, q.path, hint, rotation.ErrDenied)
}

// capabilities returns what the token may do with path.
func (v *Vault) capabilities(ctx context.Context, s *session, path string) ([]string, error) {
	q := call{op: "capabilities", doing: "ask Vault what certd's token may do", path: "sys/capabilities-self", body: map[string][]string{"paths": {path}}, harmless: true}
	r, f := v.client.send(ctx, s.token, q)
	if f != nil {
		return nil, v.client.classify(q, f)
	}
	var data struct {
		Capabilities []string `json:"capabilities"`
	}
	if err := json.Unmarshal(r.Data, &data); err != nil {
		return nil, fmt.Errorf("%s: %w", q.doing, err)
	}
	return data.Capabilities, nil
}
