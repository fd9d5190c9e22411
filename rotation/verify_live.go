package rotation

import "time"

// LiveEvidence is what one look at each cluster shows at now, without a daemon: of
// earlier issuers and bundles it knows what the journal does. Keys, journal and the
// fleet's findings are left to the caller.
func LiveEvidence(f Fleet, views []View, now time.Time) Evidence {
	e := Evidence{Fleet: f, Asked: now, At: now}
	for _, v := range views {
		c := ClusterEvidence{View: v}
		if v.Observed != nil {
			c.Trail = Trail{}.after(v.Observed, v.Policy, v.Certificates, now)
		}
		if v.Observed != nil || v.Err != nil {
			c.LookedAt = now
		}
		e.Clusters = append(e.Clusters, c)
	}
	return e
}
