package vault

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"certd.internal/rotation"
)

// login logs in by one method, and is the keeper's authority.
type login struct {
	auth   Auth
	client *client
	log    *slog.Logger

	mu       sync.Mutex
	unwrapAt string // the wrapping token that was spent
	secretID string // what was in it
}

func newLogin(a Auth, c *client, log *slog.Logger) *login {
	return &login{auth: a, client: c, log: log}
}

func (l *login) login(ctx context.Context) (grant, error) {
	if l.client.namespace != "" {
		// A Vault that ignores the namespace would let certd in, and sign with
		// other people's keys of the same name.
		switch h, err := l.client.health(ctx, nil); {
		case err != nil:
			return grant{}, err
		case h.NamespaceProblem != "":
			return grant{}, fmt.Errorf("log in to Vault at %s: %s", l.client.address, h.NamespaceProblem)
		}
	}
	switch a := l.auth; {
	case a.Token != nil:
		return l.given(ctx, a.Token, "the configured Vault token")
	case a.TokenFile != "":
		return l.given(ctx, func() ([]byte, error) { return readSecret(a.TokenFile) }, "the Vault token in "+a.TokenFile)
	case a.AppRole != nil:
		return l.appRole(ctx, a.AppRole)
	case a.Kubernetes != nil:
		jwt, err := readSecret(a.Kubernetes.TokenFile)
		if err != nil {
			return grant{}, fmt.Errorf("log in to Vault by Kubernetes: read the ServiceAccount token: %w", err)
		}
		return l.ask(ctx, "Kubernetes", cmp.Or(a.Kubernetes.Mount, "kubernetes"), map[string]string{"role": a.Kubernetes.Role, "jwt": string(jwt)})
	case a.JWT != nil:
		jwt, err := a.JWT.Token()
		if err != nil {
			return grant{}, fmt.Errorf("log in to Vault by JWT: %w", err)
		}
		body := map[string]string{"jwt": string(jwt)}
		if a.JWT.Role != "" {
			body["role"] = a.JWT.Role
		}
		return l.ask(ctx, "JWT", cmp.Or(a.JWT.Mount, "jwt"), body)
	}
	a := l.auth.Cert
	// The certificate is shown in the handshake: a renewed one is only seen on
	// a new connection.
	l.client.pool.CloseIdleConnections()
	body := map[string]string{}
	if a.Role != "" {
		body["name"] = a.Role
	}
	return l.ask(ctx, "TLS certificate", cmp.Or(a.Mount, "cert"), body)
}

// given takes a token made elsewhere and asks Vault how long it lives.
func (l *login) given(ctx context.Context, read Secret, what string) (grant, error) {
	b, err := read()
	if err != nil {
		return grant{}, fmt.Errorf("read %s: %w", what, err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return grant{}, fmt.Errorf("read %s: it is empty: %w", what, rotation.ErrDenied)
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return grant{}, fmt.Errorf("read %s: it has characters that no token has: %w", what, rotation.ErrDenied)
	}
	q := call{op: "lookup-token", doing: "look up " + what, path: "auth/token/lookup-self"}
	r, f := l.client.send(ctx, token, q)
	switch {
	case f == nil:
	case f.status == http.StatusForbidden && f.says("invalid token"):
		return grant{}, fmt.Errorf("%s: Vault does not know it, or it has expired; put a new one there: %w", q.doing, rotation.ErrDenied)
	case f.status == http.StatusForbidden && !f.foreign:
		// Dead, or without the right to look itself up: using it will tell.
		l.log.Warn("Vault token cannot be looked up, so it is not renewed either", "token", what, "missing", "read on auth/token/lookup-self")
		return grant{ClientToken: token}, nil
	default:
		return grant{}, l.client.classify(q, f)
	}
	var data struct {
		TTL       int64    `json:"ttl"` // seconds; 0: never ends
		Renewable bool     `json:"renewable"`
		Policies  []string `json:"policies"`
	}
	if err := json.Unmarshal(r.Data, &data); err != nil {
		return grant{}, fmt.Errorf("%s: the answer is not a token's record: %w", q.doing, rotation.ErrUnavailable)
	}
	for _, p := range data.Policies {
		if p == "root" {
			l.log.Warn("Vault token is a root token; certd needs no more than deploy/vault's policies", "token", what)
		}
	}
	return grant{ClientToken: token, LeaseDuration: data.TTL, Renewable: data.Renewable}, nil
}

func (l *login) appRole(ctx context.Context, a *AppRole) (grant, error) {
	mount := cmp.Or(a.Mount, "approle")
	b, err := a.SecretID()
	if err != nil {
		return grant{}, fmt.Errorf("log in to Vault by AppRole: %w", err)
	}
	id := strings.TrimSpace(string(b))
	if isToken(id) {
		if id, err = l.unwrap(ctx, mount, id); err != nil {
			return grant{}, err
		}
	}
	return l.ask(ctx, "AppRole", mount, map[string]string{"role_id": a.RoleID, "secret_id": id})
}

// isToken says whether what should be a secret id is a wrapping token.
func isToken(id string) bool { return strings.HasPrefix(id, "hvs.") || strings.HasPrefix(id, "s.") }

// unwrap takes a secret id out of its wrapping, which works once: whoever
// comes second knows that somebody else has it.
func (l *login) unwrap(ctx context.Context, mount, wrapping string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unwrapAt == wrapping {
		return l.secretID, nil
	}
	const spent = "the wrapped secret id has expired, or was unwrapped before; if certd did not do that itself before a restart, " +
		"somebody else has it: destroy it in Vault, then put a newly wrapped one in its place"
	q := call{op: "lookup-wrapping", doing: "look at the wrapped secret id", path: "sys/wrapping/lookup", body: map[string]string{"token": wrapping}, harmless: true, secrets: secrets{wrapping}}
	r, f := l.client.send(ctx, "", q)
	if f != nil {
		if f.status == http.StatusBadRequest || f.status == http.StatusForbidden {
			l.log.Error("wrapped AppRole secret id was spent before certd used it")
			return "", fmt.Errorf("%s: %s: %w", q.doing, spent, rotation.ErrDenied)
		}
		return "", l.client.classify(q, f)
	}
	var from struct {
		CreationPath string `json:"creation_path"`
	}
	err := json.Unmarshal(r.Data, &from)
	rest, ok := strings.CutPrefix(from.CreationPath, "auth/"+mount+"/role/")
	role, ok2 := strings.CutSuffix(rest, "/secret-id")
	if err != nil || !ok || !ok2 || role == "" || strings.Contains(role, "/") {
		return "", fmt.Errorf("%s: it was made by %q, not by auth/%s/role/ROLE/secret-id, so it is not what it should be: %w", q.doing, oneLine(from.CreationPath), mount, rotation.ErrDenied)
	}
	q = call{op: "unwrap", doing: "unwrap the secret id", path: "sys/wrapping/unwrap", body: map[string]string{}, harmless: true}
	if r, f = l.client.send(ctx, wrapping, q); f != nil {
		if f.status == http.StatusBadRequest || f.status == http.StatusForbidden {
			l.log.Error("wrapped AppRole secret id was spent before certd used it")
			return "", fmt.Errorf("%s: %s: %w", q.doing, spent, rotation.ErrDenied)
		}
		return "", l.client.classify(q, f)
	}
	var in struct {
		SecretID string `json:"secret_id"`
	}
	if err := json.Unmarshal(r.Data, &in); err != nil || in.SecretID == "" {
		return "", fmt.Errorf("%s: there is no secret id in it: %w", q.doing, rotation.ErrDenied)
	}
	l.unwrapAt, l.secretID = wrapping, in.SecretID
	return in.SecretID, nil
}

// ask sends a login request.
func (l *login) ask(ctx context.Context, method, mount string, body map[string]string) (grant, error) {
	q := call{op: "login", doing: fmt.Sprintf("log in to Vault at %s by %s (auth/%s)", l.client.address, method, mount), path: "auth/" + mount + "/login", body: body, harmless: true, secrets: secrets{body["secret_id"], body["jwt"]}}
	r, f := l.client.send(ctx, "", q)
	switch {
	case f == nil && r.Auth != nil && r.Auth.ClientToken != "":
		return *r.Auth, nil
	case f == nil:
		return grant{}, fmt.Errorf("%s: the answer has no token; a login that waits for a second factor does not suit a daemon: %w", q.doing, rotation.ErrDenied)
	}
	switch {
	case f.status == http.StatusForbidden && l.auth.Kubernetes != nil && f.says("permission denied"):
		// All that Vault says when it could not ask the API server.
		return grant{}, fmt.Errorf("%s: %s: the Kubernetes API does not know the ServiceAccount's token, or Vault could not reach the Kubernetes API to ask: %w", q.doing, f.text(), rotation.ErrUnavailable)
	case f.says("Vault is sealed", "local node not active"), f.foreign && f.status == http.StatusForbidden:
	case f.says("no handler for route"):
		return grant{}, fmt.Errorf("%s: %s: no auth method is mounted there: %w", q.doing, f.text(), rotation.ErrDenied)
	case f.status == http.StatusBadRequest, f.status == http.StatusForbidden, f.status == http.StatusUnauthorized:
		return grant{}, fmt.Errorf("%s: %s: check the role, and that its credential has neither expired nor been used up: %w", q.doing, f.text(), rotation.ErrDenied)
	}
	return grant{}, l.client.classify(q, f)
}

func (l *login) renew(ctx context.Context, token string) (grant, bool, error) {
	q := call{op: "renew-token", doing: "renew certd's Vault token", path: "auth/token/renew-self", body: map[string]string{}, harmless: true}
	r, f := l.client.send(ctx, token, q)
	switch {
	case f == nil && r.Auth != nil:
		return *r.Auth, false, nil
	case f == nil:
		return grant{}, false, fmt.Errorf("%s: the answer has no token", q.doing)
	case f.status == http.StatusForbidden:
		return grant{}, f.says("invalid token"), fmt.Errorf("%s: %s: %w", q.doing, f.text(), rotation.ErrDenied)
	}
	return grant{}, false, l.client.classify(q, f)
}
