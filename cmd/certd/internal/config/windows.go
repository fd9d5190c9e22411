package config

import (
	"slices"
	"strings"
	"time"

	"certd.internal/rotation"
)

// windows says when workloads of one cluster may be restarted.
func (b *builder) windows(p *rotation.Policy, l layers) {
	zone, err := time.LoadLocation(b.value(l, field{kind: kindObject, fields: policyFields()}, "timeZone").text)
	if err != nil {
		return // it was reported where it stands
	}
	for _, n := range b.freezes() {
		from, _ := time.ParseInLocation(time.DateOnly, n.textOf("from"), zone) // checked where it stands
		to, _ := time.ParseInLocation(time.DateOnly, n.textOf("to"), zone)
		p.Freezes = append(p.Freezes, rotation.Freeze{Name: n.textOf("name"), Reason: n.textOf("reason"), From: from, To: to.AddDate(0, 0, 1)})
	}
	list, layer := l.find("windows")
	if list == nil {
		return
	}
	all := b.doc.sub("windows")
	var names []string
	for _, n := range list.items {
		names = append(names, n.text)
		w := all.sub(n.text)
		if w == nil {
			continue // windowNames tells
		}
		opens, err := rotation.ParseSchedule(w.textOf("opens"), zone)
		if length := w.sub("for"); err == nil && length != nil {
			p.Windows = append(p.Windows, rotation.Window{Name: n.text, Opens: opens, For: length.duration})
		}
	}
	b.show(l.prefix()+".windows", strings.Join(names, ", "), list, layer)
}

// windowNames reports names of windows in a layer that nobody has defined.
func (b *builder) windowNames(layer *node) {
	list := layer.sub("windows")
	if list == nil {
		return
	}
	all := b.doc.sub("windows")
	for _, n := range list.items {
		if all.sub(n.text) == nil && !b.reported(n.path) {
			b.problems.add(n.at, n.path, "there is no window %q%s", n.text, didYouMean(n.text, all.keysOf()))
		}
	}
}

// freezes returns those of the file, each of which begins before it ends.
func (b *builder) freezes() (all []*node) {
	list := b.doc.sub("freezes")
	if list == nil {
		return nil
	}
	var names []string
	for _, n := range list.items {
		name := n.textOf("name")
		switch to := n.sub("to"); {
		case to == nil || n.sub("from") == nil || b.reported(to.path, n.sub("from").path):
		case to.text < n.textOf("from"):
			b.problems.add(to.at, to.path, "%s is before %s, the first day", to.text, n.textOf("from"))
		case slices.Contains(names, name) && !b.reported(join(n.path, "name")):
			b.problems.add(n.sub("name").at, join(n.path, "name"), "%q is the name of another one in this list", name)
		default:
			all = append(all, n)
		}
		names = append(names, name)
	}
	return all
}
