package config

import (
	"fmt"
	"path/filepath"
	"strings"
)

// layers are the places that can say one thing, the first that does wins.
type layers []layer

type layer struct {
	name string // "" where the file and line say enough
	node *node
}

// find returns the value at path and the layer that has it, or nil.
func (l layers) find(path ...string) (*node, string) {
	for _, layer := range l {
		if n := layer.node.sub(path...); n != nil {
			return n, layer.name
		}
	}
	return nil, ""
}

// at returns the place of the value at path, or of the nearest thing around it
// that the file has.
func (l layers) at(path ...string) Position {
	for ; len(path) > 0; path = path[:len(path)-1] {
		if n, _ := l.find(path...); n != nil {
			return n.at
		}
	}
	return l[0].node.at
}

// value returns what holds at path: what a layer says, or else the default of
// table. It is nil where there is neither.
func (b *builder) value(l layers, table field, path ...string) *node {
	n, layer := l.find(path...)
	if n == nil {
		for _, name := range path {
			sub := table.sub(name)
			if sub == nil {
				return nil
			}
			table = *sub
		}
		if table.builtin == "" {
			return nil
		}
		n = &node{field: table, path: strings.Join(path, "."), text: table.builtin, flag: table.builtin == "true"}
		n.check() // a test sees to it that every default passes
	}
	shown := strings.Join(path, ".")
	if prefix := l.prefix(); prefix != "" {
		shown = prefix + "." + shown
	}
	text := n.text
	if n.kind == kindPath {
		text = b.absolute(n)
	}
	b.show(shown, text, n, layer)
	return n
}

// prefix is what the cluster's values are shown under.
func (l layers) prefix() string {
	if l[0].node.field.sub("directory") == nil {
		return ""
	}
	return "clusters[" + l[0].node.textOf("name") + "]"
}

func (b *builder) text(l layers, path ...string) string {
	if n := b.value(l, b.table, path...); n != nil {
		return n.text
	}
	return ""
}

// textOr falls back on an environment variable. Paths there are relative to
// the current folder, as for Vault's own command.
func (b *builder) textOr(variable string, l layers, path ...string) string {
	n, _ := l.find(path...)
	switch env := b.options.Getenv(variable); {
	case n != nil && n.kind == kindPath:
		return b.path(l, path...)
	case n != nil:
		return b.text(l, path...)
	case env != "":
		b.config.Values = append(b.config.Values, Value{strings.Join(path, "."), env, "$" + variable})
		return env
	}
	return ""
}

func (b *builder) path(l layers, path ...string) string {
	n := b.value(l, b.table, path...)
	if n == nil {
		return ""
	}
	return b.absolute(n)
}

// absolute resolves a path against the folder of the file it stands in.
func (b *builder) absolute(n *node) string {
	if filepath.IsAbs(n.text) {
		return filepath.Clean(n.text)
	}
	folder := filepath.Dir(b.config.File)
	if n.at.File != "" {
		if here, err := filepath.Abs(n.at.File); err == nil {
			folder = filepath.Dir(here)
		}
	}
	return filepath.Join(folder, n.text)
}

func (b *builder) show(path, value string, n *node, layer string) {
	origin := "default"
	if n.at.Line > 0 {
		origin = n.at.String()
		if layer != "" {
			origin = fmt.Sprintf("%s (%s)", layer, origin)
		}
	}
	b.config.Values = append(b.config.Values, Value{path, value, origin})
}
