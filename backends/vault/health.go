package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"certd.internal/rotation"
)

// Health is what Vault says of itself to anyone, without a token.
type Health struct {
	Version string
	Sealed  bool // or not initialised
	Standby bool
	Skew    time.Duration // Vault's clock minus certd's, as far as the round trip does not explain it; whole seconds
	// TLSEnds is notAfter of the certificate that Vault, or what stands before it,
	// shows; zero without TLS.
	TLSEnds time.Time
	// NamespaceProblem says why the configured namespace does not work, or "".
	NamespaceProblem string
}

const healthPath = "sys/health"

// Health asks once. Vault answers it also while its audit log is full and
// nothing else works, so it is no proof that signing works.
func (v *Vault) Health(ctx context.Context) (Health, error) {
	return v.client.health(ctx, secrets{v.keeper.token()})
}

// health sends no secret; whoever answers may know those of other calls.
func (c *client) health(ctx context.Context, known secrets) (Health, error) {
	q := call{op: "health", doing: "ask for the health of Vault", path: healthPath, secrets: known, query: url.Values{
		"standbyok": {"true"}, "perfstandbyok": {"true"}, "sealedcode": {"200"}, "uninitcode": {"200"}, "drsecondarycode": {"200"}}}
	before := time.Now()
	r, f := c.send(ctx, "", q)
	if f != nil {
		return Health{}, c.classify(q, f)
	}
	var h struct {
		Initialized bool   `json:"initialized"`
		Sealed      bool   `json:"sealed"`
		Standby     bool   `json:"standby"`
		Server      int64  `json:"server_time_utc"` // seconds
		Version     string `json:"version"`
		Enterprise  *bool  `json:"enterprise"` // absent in OpenBao
	}
	if err := json.Unmarshal(r.Data, &h); err != nil || h.Version == "" {
		return Health{}, fmt.Errorf("%s: the answer of %s is not Vault's: %w", q.doing, c.address, rotation.ErrUnavailable)
	}
	out := Health{Version: h.Version, Sealed: h.Sealed || !h.Initialized, Standby: h.Standby, TLSEnds: r.tlsEnds}
	if h.Server != 0 {
		out.Skew = skew(time.Unix(h.Server, 0), before, time.Now())
	}
	if ns := c.namespace; ns != "" && h.Enterprise != nil && !*h.Enterprise {
		out.NamespaceProblem = fmt.Sprintf("namespace %q is configured, but this Vault is the community edition, which ignores it and would use the root namespace; remove keys.vault.namespace", ns)
	}
	return out, nil
}

// skew is how far server, cut to whole seconds, lies outside the time in which
// the answer was made.
func skew(server, before, after time.Time) time.Duration {
	switch {
	case server.Add(time.Second).Before(before):
		return server.Add(time.Second).Sub(before).Truncate(time.Second)
	case server.After(after):
		return server.Sub(after).Truncate(time.Second)
	}
	return 0
}
