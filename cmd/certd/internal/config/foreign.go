package config

import (
	"os"
	"slices"
	"strings"

	"certd.internal/pki"
	"certd.internal/rotation"
)

// foreign reads the anchors of partner meshes that hold for one cluster. A list
// is read, and what is wrong with it told, once however many clusters it is for.
func (b *builder) foreign(p *rotation.Policy, l layers) {
	list, layer := l.find("foreignAnchors")
	if list == nil {
		return
	}
	var names []string
	for _, n := range list.items {
		names = append(names, n.textOf("name"))
	}
	b.show(l.prefix()+".foreignAnchors", strings.Join(names, ", "), list, layer)
	if b.partners == nil {
		b.partners = map[*node][]rotation.ForeignAnchor{}
	}
	anchors, known := b.partners[list]
	if !known {
		for i, n := range list.items {
			if first := slices.Index(names, names[i]); first < i && names[i] != "" {
				b.problems.add(n.at, join(n.path, "name"), "%q is the name of another one in this list, at %s", names[i], list.items[first].at)
			}
			anchors = append(anchors, b.anchorsIn(n)...)
		}
		b.partners[list] = anchors
	}
	p.Foreign = anchors
}

// anchorsIn reads the file of one partner mesh, and watches it from now on.
func (b *builder) anchorsIn(n *node) (anchors []rotation.ForeignAnchor) {
	file := n.sub("file")
	if file == nil {
		return nil
	}
	path := b.absolute(file)
	if !slices.Contains(b.config.Read, path) {
		b.config.Read = append(b.config.Read, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		b.problems.add(file.at, file.path, "%s", err)
		return nil
	}
	if len(text) > maxFileSize || strings.Contains(string(text), "PRIVATE KEY") {
		b.problems.add(file.at, file.path, "%s: it is to hold CA certificates in PEM, and nothing else", path)
		return nil
	}
	bundle, err := pki.ParseBundle(text)
	if err != nil {
		b.problems.add(file.at, file.path, "%s: %v", path, err)
		return nil
	}
	// Room is left for anchors of the fleet's own, two of them during a change.
	if n := len(bundle.Anchors()); n > pki.MaxAnchors-3 {
		b.problems.add(file.at, file.path, "%s: it holds %d anchors; all partners together may have %d", path, n, pki.MaxAnchors-3)
	}
	for _, c := range bundle.Anchors() {
		anchors = append(anchors, rotation.ForeignAnchor{Name: n.textOf("name"), Certificate: c})
	}
	return anchors
}
