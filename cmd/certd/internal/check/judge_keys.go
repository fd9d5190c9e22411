package check

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"certd.internal/rotation"
)

func (j *judgement) keysReachable() []verdict {
	if j.KeysErr != nil {
		return []verdict{{result: Error, say: j.KeysErr.Error(), hint: "certd config validate"}}
	}
	if v := j.Keys.Vault; v != nil {
		j.settled("", "KeysUnavailable") // it may be of a minute ago
		if v.HealthErr != nil {
			return []verdict{{result: Error, say: v.HealthErr.Error(), hint: "vault status -address=" + v.Address, runbook: "KeysUnavailable"}}
		}
		if p := v.Health.NamespaceProblem; p != "" {
			return []verdict{{result: Error, say: p, hint: "correct keys.vault.namespace"}}
		}
		return holds("%s, %d ms", v.Health.Version, v.Took.Milliseconds())
	}
	switch f := j.Keys.Files; {
	case f == nil:
	case f.Passphrase != nil:
		return []verdict{{result: Error, say: f.Passphrase.Error(), hint: "correct keys.file.passphraseFrom"}}
	case f.Dir.Err != nil:
		return []verdict{{result: Error, say: f.Dir.Err.Error(), hint: "correct keys.file.dir, or who owns it"}}
	case !f.Dir.Exists:
		return holds("%s, which certd init makes", f.Dir.Path)
	}
	for _, k := range j.allKeys() {
		if errors.Is(k.Err, rotation.ErrUnavailable) {
			return []verdict{{result: Error, say: k.Err.Error(), hint: "restore the way to the key backend"}}
		}
	}
	return holds("")
}

func (j *judgement) allKeys() []Key { return slices.Concat(j.Keys.Anchors, j.Keys.WebhookCAs) }

// vault judges by what Vault said, where it answers; beyond names the claim by which
// it has to hold that this can be known.
func (j *judgement) vault(beyond string, judge func() []verdict) []verdict {
	v := j.Keys.Vault
	if v == nil {
		return nil
	}
	unknown := func(claim string) []verdict {
		return []verdict{{result: Unknown, say: "it could not be seen", follows: claim}}
	}
	switch {
	case v.HealthErr != nil || v.Health.NamespaceProblem != "":
		return unknown(keysReachable)
	case beyond == keysReachable:
	case v.Health.Sealed:
		return unknown(vaultUnsealed)
	case beyond == vaultUnsealed:
	case v.Wrapped || v.LoginErr != nil:
		u := unknown(vaultLogin)
		u[0].ignored = v.Wrapped
		return u
	}
	return judge()
}

// tlsLasts is how long a certificate of Vault's has to last: time to notice, and to
// make another.
const tlsLasts = 14 * day

func (j *judgement) vaultTLS() []verdict {
	return j.vault(keysReachable, func() []verdict {
		switch ends := j.Keys.Vault.Health.TLSEnds; {
		case ends.IsZero():
			return holds("none is needed: it is on this machine")
		case ends.Sub(j.Now) < tlsLasts:
			return []verdict{{result: Warning, say: fmt.Sprintf("it ends in %s; certd then signs nothing more", left(ends.Sub(j.Now))), hint: "renew the certificate of " + j.Keys.Vault.Address}}
		default:
			return holds("until %s", ends.Format("2 Jan 2006"))
		}
	})
}

func (j *judgement) vaultUnsealed() []verdict {
	return j.vault(keysReachable, func() []verdict {
		if j.Keys.Vault.Health.Sealed {
			return []verdict{{result: Error, runbook: "KeysUnavailable", say: "it is sealed, or not initialised: nothing can be signed; the issuers in use stay good until their ends", hint: "vault operator unseal"}}
		}
		return holds("")
	})
}

// vaultClockTolerated is how far Vault's clock may be off: it is for the eyes of
// people alone, since certd sets all dates itself but those of Vault's PKI engine.
const vaultClockTolerated = 30 * time.Second

func (j *judgement) vaultClock() []verdict {
	return j.vault(keysReachable, func() []verdict {
		if off := j.Keys.Vault.Health.Skew.Abs(); off > vaultClockTolerated {
			return []verdict{{result: Warning, say: fmt.Sprintf("it differs by %s", off), hint: "check NTP on this host and on Vault's"}}
		}
		return holds("below %s", vaultClockTolerated)
	})
}

func (j *judgement) vaultLogin() []verdict {
	return j.vault(vaultUnsealed, func() []verdict {
		v := j.Keys.Vault
		switch {
		case v.Wrapped:
			return []verdict{{result: Unknown, ignored: true, say: "the secret id is wrapped, and good for one login, which is the daemon's: it was not tried", hint: "certd check, once the daemon runs"}}
		case v.LoginErr != nil:
			return []verdict{{result: Error, say: v.LoginErr.Error(), hint: "correct keys.vault.auth, or the role in Vault"}}
		}
		return holds("")
	})
}

// tokenLasts is how much a token that ends for good has to have left.
const tokenLasts = 14 * day

func (j *judgement) vaultToken() []verdict {
	return j.vault(vaultLogin, func() []verdict {
		v := j.Keys.Vault
		t := v.Token
		rest := t.Expires.Sub(j.Now)
		switch {
		case v.TokenErr != nil:
			return []verdict{{result: Warning, say: v.TokenErr.Error() + ": certd does not know when it ends, and cannot renew it", hint: "vault policy write certd-run deploy/vault/certd-run.hcl"}}
		case t.Expires.IsZero():
			return holds("it never ends")
		case t.Renewable:
			return holds("renewable, %s left", left(rest))
		case t.Lasting:
			return holds("%s left, then certd logs in anew", left(rest))
		case rest < tokenLasts:
			return []verdict{{result: Error, say: fmt.Sprintf("it ends in %s, cannot be renewed, and certd has no way to another", left(rest)), hint: "put another one in its place, or let certd log in by itself (keys.vault.auth)"}}
		}
		return []verdict{{result: Warning, say: fmt.Sprintf("it ends in %s, cannot be renewed, and certd has no way to another", left(rest)), hint: "let certd log in by itself (keys.vault.auth)"}}
	})
}

func (j *judgement) keysRights() []verdict {
	if j.Keys.Vault == nil {
		for _, k := range j.allKeys() {
			if errors.Is(k.Err, rotation.ErrDenied) {
				return []verdict{{result: Error, say: k.Err.Error(), hint: "give certd the right that is named"}}
			}
		}
		return nil
	}
	return j.vault(vaultLogin, func() []verdict {
		v := j.Keys.Vault
		j.settled("", "KeysDenied")
		if v.RightsErr != nil {
			return []verdict{{result: Unknown, say: v.RightsErr.Error(), hint: "vault token capabilities"}}
		}
		var all []verdict
		for _, r := range v.Rights.Missing {
			name := strings.TrimSuffix(r.Policy, ".hcl")
			all = append(all, verdict{result: Error, runbook: "KeysDenied", say: fmt.Sprintf("%q on %s is missing", r.Capability, r.Path), hint: fmt.Sprintf("vault policy write %s deploy/vault/%s, with your mounts, and give it to certd's role", name, r.Policy)})
		}
		if len(all) == 0 {
			return holds("%s", strings.Join(v.Token.Policies, ", "))
		}
		return all
	})
}

func (j *judgement) keysExcess() []verdict {
	return j.vault(vaultLogin, func() []verdict {
		v := j.Keys.Vault
		const hint = "give certd's role the policies of deploy/vault alone; certd-init and certd-import are for people"
		switch r := v.Rights; {
		case v.RightsErr != nil:
			return []verdict{{result: Unknown, say: v.RightsErr.Error(), hint: "vault token capabilities"}}
		case r.Root:
			return []verdict{{result: Warning, say: "it is a root token: whoever steals it has everything", hint: hint}}
		case len(r.Excess) > 0:
			return []verdict{{result: Warning, say: "whoever steals its token also has " + listed(r.Excess, 4), hint: hint}}
		}
		return holds("")
	})
}

func (j *judgement) vaultAudit() []verdict {
	return j.vault(vaultLogin, func() []verdict {
		v := j.Keys.Vault
		switch {
		case errors.Is(v.AuditErr, rotation.ErrDenied):
			return []verdict{{result: Unknown, ignored: true, say: "certd's token may not see it, and need not", hint: "vault audit list; deploy/vault/certd-run.hcl says how to let certd look"}}
		case v.AuditErr != nil:
			return []verdict{{result: Unknown, say: v.AuditErr.Error(), hint: "vault audit list"}}
		case len(v.Audit) == 0:
			return []verdict{{result: Warning, say: "none is: nobody could say later what the anchor's key has signed", hint: "vault audit enable file file_path=/var/log/vault-audit.log"}}
		}
		return holds("%s", strings.Join(v.Audit, ", "))
	})
}

func (j *judgement) keyFiles() []verdict {
	switch f := j.Keys.Files; {
	case f == nil || !f.Dir.Exists:
		return nil
	case !f.Private:
		return []verdict{{result: Warning, say: "others may look into " + f.Dir.Path, hint: "chmod 700 " + f.Dir.Path}}
	}
	return holds("")
}

func (j *judgement) anchorExists() []verdict {
	j.settled("", "NoAnchor")
	if a := j.Fleet.Active(); a != nil {
		return holds("%s, until %s", a.ID, a.Certificate.NotAfter.Format("2 Jan 2006"))
	}
	for _, c := range j.Clusters { // they say the same
		j.settled(c.name(), "NoAnchor")
	}
	v := verdict{result: Warning, say: "there is no trust anchor yet", hint: "certd init", runbook: "NoAnchor"}
	for _, f := range j.Findings { // a cluster may show that there was one
		if f.ID == "NoAnchor" && f.Fix != v.hint {
			v.say, v.hint = f.Message, f.Fix
			break
		}
	}
	return []verdict{v}
}

func (j *judgement) anchorKeys() []verdict {
	return keysFit(j.Keys.Anchors, "if it is lost: certd trust rotate")
}

func (j *judgement) webhookCAKeys() []verdict {
	return keysFit(j.Keys.WebhookCAs, "certd rotate webhook-ca CLUSTER")
}

// keysFit judges what came of opening keys, beyond what the way to them is in
// the way of, and what claims about their flags say.
func keysFit(keys []Key, hint string) (all []verdict) {
	for _, k := range keys {
		loose := k.Flags != nil && (k.Flags.Exportable || k.Flags.PlaintextBackup || k.Flags.NotPinned != "")
		switch {
		case k.Err == nil || loose && k.Cluster == "":
			all = append(all, held("", "%s: %s", k.who(), k.Name))
		case errors.Is(k.Err, rotation.ErrUnavailable), errors.Is(k.Err, rotation.ErrDenied):
			all = append(all, verdict{result: Unknown, say: k.who() + ": the key could not be looked at", follows: keysReachable})
		default:
			all = append(all, verdict{result: Error, say: fmt.Sprintf("%s: %v", k.who(), k.Err), hint: hint})
		}
	}
	return all
}

func (k Key) who() string {
	if k.Cluster != "" {
		return k.Cluster + "/" + k.Of
	}
	return k.Of
}

func (j *judgement) notExportable() (all []verdict) {
	const hint = "certd trust rotate, then take away the right to change the key's flags"
	for _, k := range j.Keys.Anchors {
		switch {
		case k.Flags != nil && (k.Flags.Exportable || k.Flags.PlaintextBackup), k.Err == nil && k.Info.Exportable && k.Info.Backend != "file":
			all = append(all, verdict{result: Error, say: fmt.Sprintf("%s: %s can be exported or backed up in clear, and may have been: that cannot be undone", k.Of, k.Name), hint: hint, runbook: "KeyExportable"})
		case k.Err != nil && k.Flags == nil:
			all = append(all, verdict{result: Unknown, say: k.Of + ": the key could not be looked at", follows: "anchor-key-exists"})
		case k.Info.Backend == "vault-pki":
			all = append(all, verdict{result: Unknown, ignored: true, say: k.Of + ": Vault's PKI engine does not tell whether a key was made to be exported", hint: "make roots with issuers/generate/root/internal"})
		case k.Info.Backend == "file":
			all = append(all, held("", "as safe as %s.pem and its passphrase", k.Name))
		default:
			all = append(all, held("", ""))
		}
	}
	return all
}

// flagged judges the flags of keys in Vault's Transit engine.
func (j *judgement) flagged(judge func(k Key) *verdict) (all []verdict) {
	for _, k := range j.Keys.Anchors {
		switch {
		case k.FlagsErr != nil:
			all = append(all, verdict{result: Unknown, say: k.Of + ": the key could not be looked at", follows: "anchor-key-exists"})
		case k.Flags == nil: // elsewhere there are none
		default:
			if v := judge(k); v != nil {
				all = append(all, *v)
			} else {
				all = append(all, held("", ""))
			}
		}
	}
	return all
}

func (j *judgement) notDeletable() []verdict {
	return j.flagged(func(k Key) *verdict {
		if !k.Flags.DeletionAllowed {
			return nil
		}
		return &verdict{result: Warning, say: fmt.Sprintf("%s: %s has deletion_allowed=true: one request, and no issuer can be signed under it any more", k.Of, k.Name), hint: "vault write MOUNT/keys/" + k.Name + "/config deletion_allowed=false"}
	})
}

func (j *judgement) pinned() []verdict {
	return j.flagged(func(k Key) *verdict {
		if k.Flags.NotPinned == "" {
			return nil
		}
		return &verdict{result: Error, runbook: "KeyUnfit", say: fmt.Sprintf("%s: %s has %s: certd does not sign with it", k.Of, k.Name, k.Flags.NotPinned), hint: "put the flag right in Vault, or certd trust rotate"}
	})
}
