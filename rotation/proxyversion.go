package rotation

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
)

// ProxyVersion are the meshed pods whose proxy is of one version.
type ProxyVersion struct {
	Version string // as Linkerd writes it ("stable-2.13.6"); "": it could not be made out
	Pods    int
	Owners  []ProxyOwner // of some of them, at most MaxVersionOwners; with Pods alone
}

// MaxVersionOwners bounds how many owners a census names for each version.
const MaxVersionOwners = 20

// versionForm is how releases are called; what is behind it ("-distroless") does not
// matter. Proxies have numbers of their own, too.
var versionForm = regexp.MustCompile(`^(?:(stable|enterprise|edge|preview)-|v)(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?:[-+.].*)?$`)

// JudgesTwoCertificates says whether a proxy of that version is known to accept an issuer
// with two certificates, as a change of the trust anchor has them: one whose TLS goes by
// rustls-webpki, with which that was tried (linkerd2-proxy v2.203.4 and v2.210.0;
// linkerd2 pull requests 11417 and 11407). known is false where the version says nothing.
func JudgesTwoCertificates(version string) (proven, known bool) {
	m := versionForm.FindStringSubmatch(version)
	if m == nil {
		return false, false
	}
	var n [3]int
	for i, text := range m[2:5] {
		n[i], _ = strconv.Atoi(text) // "" is 0
	}
	since := func(first ...int) bool { return slices.Compare(n[:len(first)], first) >= 0 }
	switch m[1] {
	case "edge", "preview": // by year and month; it came in the course of September 2023
		return since(23, 10), true
	case "stable", "enterprise":
		return since(2, 15) || n[1] == 14 && since(2, 14, 1) || n[1] == 13 && since(2, 13, 7), true
	}
	if !since(2, 100) { // no number of a proxy
		return false, false
	}
	return since(2, 210) || n[1] == 203 && since(2, 203, 4), true
}

// judged are the pods whose proxies are of versions of one kind: known to accept an
// issuer with two certificates or not, or of no version that says so.
func (p Proxies) judged(proven, known bool) (pods int, versions []ProxyVersion) {
	for _, v := range p.Versions {
		if yes, is := JudgesTwoCertificates(v.Version); yes == proven && is == known {
			pods += v.Pods
			versions = append(versions, v)
		}
	}
	return pods, versions
}

// older says which proxies keep a cluster from an issuer with two certificates; "" if
// none does.
func (p Proxies) older() string {
	pods, versions := p.judged(false, true)
	if pods == 0 {
		return ""
	}
	return fmt.Sprintf("of %d of %d meshed pods the proxy is older than 2.13.7 (2.14.1 of Linkerd 2.14, edge-23.10 of edge), and whether it accepts an issuer with two certificates is not known: %s; they are to be created anew by an injector that is newer",
		pods, p.Total(), namesOfVersions(versions))
}

// namesOfVersions names owners, with the version of their proxies.
func namesOfVersions(versions []ProxyVersion) string {
	var text string
	for i, v := range versions {
		if i > 0 {
			text += "; "
		}
		if i == 3 {
			return text + fmt.Sprintf("and %d more versions", len(versions)-i)
		}
		text += fmt.Sprintf("%s (%s)", namesOf(v.Owners, 3), cmp.Or(v.Version, "no version"))
	}
	return text
}

// unpublished says why a cluster cannot be told of another trust anchor; "" if it can.
func (o *Observation) unpublished() string {
	if o == nil || o.Identity == nil || !o.Identity.Deployed || !o.Identity.OwnRoots {
		return ""
	}
	return "linkerd-identity does not read ConfigMap " + BundleObject + " (Linkerd before 2.11): it learns of another trust anchor by an upgrade alone; upgrade Linkerd first"
}

// ChangeNotes are what is to be known before a change is begun, and does not stand
// against it.
func (r *Reconciler) ChangeNotes() (all []string) {
	f, views := r.fleet(), r.views()
	for _, p := range f.Policy.Clusters {
		v, ok := views[p.Cluster]
		if !ok {
			continue
		}
		if pods, versions := v.Proxies.judged(false, false); pods > 0 {
			all = append(all, fmt.Sprintf("%s: of %d of %d meshed pods it is not known which version the proxy is, and so not whether it accepts an issuer with two certificates: %s",
				p.Cluster, pods, v.Proxies.Total(), namesOfVersions(versions)))
		}
	}
	return all
}
