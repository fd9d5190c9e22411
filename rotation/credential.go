package rotation

import (
	"fmt"
	"time"
)

// Credential is what the API server of a cluster lets certd in by, where that is known to end.
type Credential struct {
	Kind        string // "client certificate" or "token"
	From        string // where it stands: a path, or what else people know it by
	Begun, Ends time.Time
}

// credentialNotice is how long before its end a credential is to be renewed, which a person does
// where nothing else does; of one that lives shorter, a tenth of its life: what renews tokens by
// itself, such as a kubelet, does so earlier.
const credentialNotice = 14 * 24 * time.Hour

// Floor is with how much left c has to be renewed.
func (c Credential) Floor() time.Duration {
	return max(0, min(credentialNotice, c.Ends.Sub(c.Begun)/10))
}

// Problem says what is the matter with c, and how bad that is; "" if nothing is.
func (c Credential) Problem(now time.Time) (say string, s State) {
	left := c.Ends.Sub(now)
	switch {
	case left >= c.Floor():
		return "", StateOK
	case left <= 0:
		return fmt.Sprintf("certd's own %s there (%s) ended at %s: nothing can be renewed there", c.Kind, c.From, clock(c.Ends)), StateCritical
	case left < c.Floor()/7:
		s = StateCritical
	default:
		s = StateWarning
	}
	return fmt.Sprintf("certd's own %s there (%s) ends at %s, in %s: from then on nothing can be renewed there", c.Kind, c.From, clock(c.Ends), short(left)), s
}

// judgeCredential is the floor of certd's own credential (I4).
func (d *Decision) judgeCredential(o *Observation, now time.Time) {
	if c := o.Credential; c != nil {
		if say, s := c.Problem(now); say != "" {
			d.find(s, "CredentialEnds", say, &c.Ends, "certd runbook CredentialEnds")
		}
	}
}
