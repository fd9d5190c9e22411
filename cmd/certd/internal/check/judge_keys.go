package check

import (
	"errors"
	"fmt"

	"certd.internal/rotation"
)

func (j *judgement) keysReachable() []verdict {
	if j.KeysErr != nil {
		return []verdict{{result: Error, say: j.KeysErr.Error(), hint: "certd config validate"}}
	}
	switch f := j.Keys.Files; {
	case f == nil:
		return j.keysAnswer()
	case f.Passphrase != nil:
		return []verdict{{result: Error, say: f.Passphrase.Error(), hint: "correct keys.file.passphraseFrom"}}
	case f.Dir.Err != nil:
		return []verdict{{result: Error, say: f.Dir.Err.Error(), hint: "correct keys.file.dir, or who owns it"}}
	case !f.Dir.Exists:
		return holds("%s, which certd init makes", f.Dir.Path)
	}
	return j.keysAnswer()
}

// keysAnswer is told by the keys that were to be opened.
func (j *judgement) keysAnswer() []verdict {
	for _, k := range j.allKeys() {
		if errors.Is(k.Err, rotation.ErrUnavailable) {
			return []verdict{{result: Error, say: k.Err.Error(), hint: "restore the way to the key backend"}}
		}
	}
	return holds("")
}

func (j *judgement) allKeys() []Key {
	return append(append([]Key{}, j.Keys.Anchors...), j.Keys.WebhookCAs...)
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

func (j *judgement) keysRights() []verdict {
	for _, k := range j.allKeys() {
		if errors.Is(k.Err, rotation.ErrDenied) {
			return []verdict{{result: Error, say: k.Err.Error(), hint: "give certd the right that is named"}}
		}
	}
	return nil
}

func (j *judgement) anchorExists() []verdict {
	j.settled("", "NoAnchor")
	if a := j.Fleet.Active(); a != nil {
		return holds("%s, until %s", a.ID, a.Certificate.NotAfter.Format("2 Jan 2006"))
	}
	for _, c := range j.Clusters { // they say the same
		j.settled(c.name(), "NoAnchor")
	}
	return []verdict{{result: Warning, say: "there is no trust anchor yet", hint: "certd init", runbook: "NoAnchor"}}
}

func (j *judgement) anchorKeys() []verdict {
	return keysFit(j.Keys.Anchors, "a trust anchor whose key is gone signs nothing any more: certd trust rotate")
}

func (j *judgement) webhookCAKeys() []verdict {
	return keysFit(j.Keys.WebhookCAs, "certd rotate webhook-ca CLUSTER")
}

// keysFit judges what came of opening keys, beyond what the way to them is in
// the way of.
func keysFit(keys []Key, hint string) (all []verdict) {
	for _, k := range keys {
		who := k.Of
		if k.Cluster != "" {
			who = k.Cluster + "/" + k.Of
		}
		switch {
		case k.Err == nil:
			all = append(all, held("", "%s: %s", who, k.Name))
		case errors.Is(k.Err, rotation.ErrUnavailable), errors.Is(k.Err, rotation.ErrDenied):
			all = append(all, verdict{result: Unknown, say: who + ": the key could not be looked at"})
		default:
			all = append(all, verdict{result: Error, say: fmt.Sprintf("%s: %v", who, k.Err), hint: hint})
		}
	}
	return all
}

func (j *judgement) notExportable() (all []verdict) {
	for _, k := range j.Keys.Anchors {
		switch {
		case k.Err != nil:
		case k.Info.Backend == "file":
			all = append(all, held("", "%s: it is a file, encrypted under the passphrase: whoever has both has the key", k.Of))
		case k.Info.Exportable:
			all = append(all, verdict{result: Error, say: k.Of + ": " + k.Name + " can be exported, and may have been", hint: "certd trust rotate, then take away the right to change the key's flags", runbook: "KeyExportable"})
		default:
			all = append(all, held("", ""))
		}
	}
	return all
}
