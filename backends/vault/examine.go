package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"certd.internal/rotation"
)

// Use is what certd works with in Vault: paths of mounts, and names of keys.
type Use struct {
	Transit     string // "" where PKI signs
	PKI         string // MOUNT/issuer/REF, "" where Transit signs
	Webhooks    string // "" where there are no webhooks to look after
	Keys        []string
	WebhookKeys []string
	MirrorMount string // of a KV engine of version 2; "" where there is no mirror
	MirrorPath  string
}

// Examination is what Vault says of itself, of certd's token and of what that may
// do. Nothing is signed or changed for it; where there is no token yet, one is made
// by logging in.
type Examination struct {
	Address   string
	Health    Health
	HealthErr error
	Took      time.Duration // that the answer about its health took
	// Wrapped: logging in would spend a wrapped secret id, which works once, so it
	// was not tried; what follows is not known.
	Wrapped   bool
	LoginErr  error
	Token     Token
	TokenErr  error
	Rights    Rights
	RightsErr error
	// Audit are the names of the audit devices. AuditErr wraps ErrDenied where the
	// token may not list them, which the shipped policies leave so.
	Audit    []string
	AuditErr error
}

// Token is certd's own token.
type Token struct {
	Policies  []string
	Expires   time.Time // zero: never
	Renewable bool
	// Lasting: when it has ended certd can have another.
	Lasting bool
}

// Rights compares what certd's token may do with what certd uses.
type Rights struct {
	Missing []Right
	// Excess is what nobody needs who has certd's token: "certd-transit/keys/a/config (update)".
	Excess []string
	Root   bool // it may do everything
}

// Right is a capability on a path, and the file of deploy/vault that grants it.
type Right struct{ Path, Capability, Policy string }

// Examine asks Vault about everything that certd needs of it.
func (v *Vault) Examine(ctx context.Context, u Use) Examination {
	e := Examination{Address: v.client.address}
	began := time.Now()
	e.Health, e.HealthErr = v.Health(ctx)
	e.Took = time.Since(began)
	if e.HealthErr != nil || e.Health.Sealed || e.Health.NamespaceProblem != "" {
		return e
	}
	if e.Wrapped = v.loginSpends(); e.Wrapped {
		return e
	}
	if _, e.LoginErr = v.keeper.session(ctx); e.LoginErr != nil {
		return e
	}
	e.Token, e.TokenErr = v.token(ctx)
	e.Rights, e.RightsErr = v.rights(ctx, u)
	e.Audit, e.AuditErr = v.audit(ctx)
	return e
}

// loginSpends says whether a login is due that would unwrap a secret id: the one who
// does so second is told that somebody else has it.
func (v *Vault) loginSpends() bool {
	l, ok := v.keeper.from.(*login)
	if !ok || l.auth.AppRole == nil || v.keeper.live() {
		return false
	}
	text, err := l.auth.AppRole.SecretID()
	if err != nil {
		return false // logging in will say why
	}
	id := strings.TrimSpace(string(text))
	l.mu.Lock()
	defer l.mu.Unlock()
	return isToken(id) && l.unwrapAt != id
}

func (v *Vault) token(ctx context.Context) (Token, error) {
	q := call{op: "lookup-token", doing: "ask Vault about certd's own token", path: "auth/token/lookup-self", capability: "read", policy: "certd-run.hcl"}
	asked := time.Now()
	r, err := v.do(ctx, q)
	if err != nil {
		return Token{}, err
	}
	var data struct {
		TTL       int64    `json:"ttl"` // seconds; 0: never ends
		Renewable bool     `json:"renewable"`
		Policies  []string `json:"policies"`
		Identity  []string `json:"identity_policies"`
	}
	if err := json.Unmarshal(r.Data, &data); err != nil {
		return Token{}, fmt.Errorf("%s: the answer is not a token's record: %w", q.doing, rotation.ErrUnavailable)
	}
	t := Token{Policies: append(data.Policies, data.Identity...), Renewable: data.Renewable}
	if data.TTL > 0 {
		t.Expires = asked.Add(time.Duration(data.TTL) * time.Second)
	}
	if l, ok := v.keeper.from.(*login); ok {
		t.Lasting = l.auth.Token == nil
	}
	return t, nil
}

// audit lists the audit devices.
func (v *Vault) audit(ctx context.Context) ([]string, error) {
	q := call{op: "list-audit", doing: "list Vault's audit devices", path: "sys/audit", capability: "sudo"}
	r, err := v.do(ctx, q)
	if err != nil {
		return nil, err
	}
	var devices map[string]json.RawMessage
	if err := json.Unmarshal(r.Data, &devices); err != nil {
		return nil, fmt.Errorf("%s: the answer is not a list of them: %w", q.doing, rotation.ErrUnavailable)
	}
	return slices.Sorted(maps.Keys(devices)), nil
}

// rights asks what the token may do with each path that certd uses, and with those
// that would let whoever steals it take a key, or lose one for good. Vault tells
// capabilities only; the shipped policies' limits on parameters do not show.
func (v *Vault) rights(ctx context.Context, u Use) (r Rights, err error) {
	uses := u.rights()
	paths := u.tempting()
	for _, need := range uses {
		paths = append(paths, need.Path)
	}
	slices.Sort(paths)
	paths = slices.Compact(paths)
	has, err := v.capabilitiesOf(ctx, paths)
	if errors.Is(err, rotation.ErrDenied) {
		return Rights{Missing: []Right{{"sys/capabilities-self", "update", u.policy()}}}, nil
	}
	if err != nil {
		return Rights{}, err
	}
	for _, path := range paths {
		may := slices.DeleteFunc(slices.Clone(has[path]), func(c string) bool { return c == "deny" })
		if slices.Contains(may, "root") {
			r.Root = true
			continue
		}
		for _, need := range uses {
			if need.Path != path {
				continue
			}
			if i := slices.Index(may, need.Capability); i >= 0 {
				may = slices.Delete(may, i, i+1)
			} else {
				r.Missing = append(r.Missing, need)
			}
		}
		if len(may) > 0 {
			r.Excess = append(r.Excess, path+" ("+strings.Join(may, ", ")+")")
		}
	}
	return r, nil
}

func (u Use) policy() string {
	if u.PKI != "" {
		return "certd-pki.hcl"
	}
	return "certd-run.hcl"
}

// rights are those of the shipped policies, for these keys.
func (u Use) rights() (all []Right) {
	add := func(capability string, path ...string) {
		all = append(all, Right{strings.Join(path, "/"), capability, u.policy()})
	}
	for _, k := range u.Keys {
		if u.Transit != "" {
			add("update", u.Transit, "sign", k)
			add("read", u.Transit, "keys", k)
		}
	}
	if u.PKI != "" {
		add("update", u.PKI, "sign-intermediate")
		add("read", u.PKI, "json")
	}
	for _, k := range u.WebhookKeys {
		if u.Webhooks != "" {
			add("update", u.Webhooks, "sign", k)
			add("read", u.Webhooks, "keys", k)
			add("update", u.Webhooks, "keys", k)
		}
	}
	if m := strings.Trim(u.MirrorMount, "/"); m != "" {
		path := strings.Trim(u.MirrorPath, "/")
		add("create", m, "data", path)
		add("update", m, "data", path)
		add("read", m, "data", path)
		add("read", m, "metadata", path)
	}
	add("read", "auth/token/lookup-self")
	add("update", "auth/token/renew-self")
	add("update", "sys/capabilities-self")
	return all
}

// tempting are paths that nobody needs who signs: those of the keys' flags and
// copies, of the mounts, of policies and tokens, of the audit log, and those by which
// the mirror's versions are lost.
func (u Use) tempting() []string {
	paths := []string{"sys/policies/acl/certd-run", "auth/token/create", "sys/audit/certd", "sys/raw/certd"}
	mount := func(at string, keys []string) {
		if at == "" {
			return
		}
		paths = append(paths, "sys/mounts/"+at)
		for _, k := range keys {
			paths = append(paths, keyDoors(at, k)...)
		}
	}
	mount(u.Transit, u.Keys)
	mount(u.Webhooks, u.WebhookKeys)
	if m := strings.Trim(u.MirrorMount, "/"); m != "" {
		path := strings.Trim(u.MirrorPath, "/")
		paths = append(paths, "sys/mounts/"+m, m+"/config", m+"/delete/"+path, m+"/undelete/"+path, m+"/destroy/"+path)
	}
	if m, _, ok := strings.Cut(u.PKI, "/issuer/"); ok {
		paths = append(paths, "sys/mounts/"+m, m+"/root/generate/exported", m+"/issuers/generate/root/exported", m+"/config/issuers", m+"/sign-verbatim", u.PKI+"/sign-self-issued")
	}
	return paths
}

// keyDoors are the paths by which a key of the Transit engine can leave, be lost, or
// become another.
func keyDoors(mount, name string) []string {
	key := mount + "/keys/" + name
	return []string{key + "/config", key + "/rotate", key + "/trim", key + "/import", key + "/soft-delete",
		mount + "/export/signing-key/" + name, mount + "/backup/" + name, mount + "/byok-export/" + name + "/" + name}
}

// capabilitiesOf returns what the token may do with each path.
func (v *Vault) capabilitiesOf(ctx context.Context, paths []string) (map[string][]string, error) {
	q := call{op: "capabilities", doing: "ask Vault what certd's token may do", path: "sys/capabilities-self", body: map[string][]string{"paths": paths}, harmless: true}
	s, err := v.keeper.session(ctx)
	if err != nil {
		return nil, err
	}
	r, f := v.client.send(ctx, s.token, q)
	if f != nil {
		return nil, v.client.classify(q, f)
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(r.Data, &all); err != nil {
		return nil, fmt.Errorf("%s: %w", q.doing, err)
	}
	has := map[string][]string{}
	for _, path := range paths {
		var may []string
		if err := json.Unmarshal(all[path], &may); err != nil {
			return nil, fmt.Errorf("%s: the answer says nothing of %s: %w", q.doing, path, rotation.ErrUnavailable)
		}
		has[path] = may
	}
	return has, nil
}

// KeyFlags is what Vault says of a key in the Transit engine, whether or not it is
// fit to sign.
type KeyFlags struct {
	Exportable      bool // for whoever may ask
	PlaintextBackup bool // likewise, as a backup
	DeletionAllowed bool
	Imported        bool
	// NotPinned says why signatures may be made with another version than the
	// first; "" where that cannot be.
	NotPinned string
}

// Flags reads the flags of a key. Its error wraps ErrKeyNotFound, ErrDenied or
// ErrUnavailable where that is what happened.
func (t *Transit) Flags(ctx context.Context, name string) (KeyFlags, error) {
	if err := checkName(name); err != nil {
		return KeyFlags{}, err
	}
	r, err := t.read(ctx, name, "certd-run.hcl")
	if err != nil {
		return KeyFlags{}, err
	}
	return KeyFlags{Exportable: *r.Exportable, PlaintextBackup: *r.AllowPlaintextBackup, DeletionAllowed: r.DeletionAllowed, Imported: r.Imported, NotPinned: r.notPinned()}, nil
}

// Vault returns the connection that the keys are reached by.
func (t *Transit) Vault() *Vault { return t.vault }
