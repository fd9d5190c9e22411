package config

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// A node is one value of the file, checked by itself against its field.
type node struct {
	field
	at       Position // of the value
	path     string
	text     string // of every scalar, as written
	duration time.Duration
	count    int
	flag     bool
	keys     []string // of an object or map, in the order of the file
	values   map[string]*node
	items    []*node
}

// sub returns the value below n, or nil if it, or anything above it, is not
// there.
func (n *node) sub(path ...string) *node {
	for _, name := range path {
		if n == nil {
			return nil
		}
		n = n.values[name]
	}
	return n
}

// text returns the value below n as it was written, or "".
func (n *node) textOf(path ...string) string {
	if n = n.sub(path...); n == nil {
		return ""
	}
	return n.text
}

const (
	maxFileSize = 1 << 20
	maxLine     = 4096
	maxLines    = 20000
	maxNesting  = 32
)

// decoder turns one file into nodes, and collects all problems on the way.
type decoder struct {
	file     string
	problems Problems
}

// decode reads one YAML document as described by f. It returns nil if there is
// nothing to go on with.
func (d *decoder) decode(data []byte, f field) *node {
	whole := Position{d.file, 1, 1}
	switch {
	case len(data) > maxFileSize:
		d.problems.add(whole, "", "the file is larger than 1 MiB")
		return nil
	case !utf8.Valid(data):
		d.problems.add(whole, "", "the file is not UTF-8 text")
		return nil
	case bytes.ContainsRune(data, 0):
		d.problems.add(whole, "", "the file holds zero bytes")
		return nil
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if line, complaint := unreadable(data); line > 0 {
		d.problems.add(Position{d.file, line, 1}, "", "%s", complaint)
		return nil
	}
	parsed, err := parseYAML(data)
	if err != nil {
		at, message := whole, err.Error()
		if syntax := (*yaml.SyntaxError)(nil); errors.As(err, &syntax) {
			message = syntax.Message
			if syntax.Token != nil {
				at = d.position(syntax.Token)
			}
		}
		d.problems.add(at, "", "not valid YAML: %s", message)
		return nil
	}
	var body ast.Node
	for _, doc := range parsed.Docs {
		if doc.Body == nil {
			continue
		}
		if _, comment := doc.Body.(*ast.CommentGroupNode); comment {
			continue
		}
		if body != nil {
			d.problems.add(d.start(doc.Body), "", "a second document begins here; a file holds one")
			return nil
		}
		body = doc.Body
	}
	if body == nil {
		d.problems.add(whole, "", "the file is empty; `certd config example` prints one to start from")
		return nil
	}
	return d.value(body, f, "", 0)
}

// parseYAML keeps a daemon that reloads its configuration running whatever the
// parser makes of a file.
func parseYAML(data []byte) (file *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the parser gave up: %v", r)
		}
	}()
	return parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
}

// unreadable returns the first line that no configuration has, and why; 0 if
// none. The YAML parser recurses without a limit, and the time it takes grows
// with the square of a line's and of a mapping's length.
func unreadable(data []byte) (line int, complaint string) {
	open, opened := 0, 0
	for text := range bytes.Lines(data) {
		line++
		for _, c := range text {
			switch c {
			case '[', '{':
				open++
				opened++ // those that a quoted "]" seems to close count, too
			case ']', '}':
				open = max(0, open-1)
			}
		}
		marks := bytes.Count(text, []byte("- ")) + bytes.Count(text, []byte("? "))
		indent := len(text) - len(bytes.TrimLeft(text, " \t"))
		switch {
		case len(text) > maxLine:
			return line, fmt.Sprintf("the line is longer than %d bytes", maxLine)
		case line > maxLines:
			return line, fmt.Sprintf("the file is longer than %d lines; put clusters into files of their own, in clustersDir", maxLines)
		case open > 4*maxNesting || opened > maxFileSize/64 || marks > 4*maxNesting || indent > 8*maxNesting:
			return line, "nested too deeply"
		}
	}
	return 0, ""
}

func (d *decoder) position(t *token.Token) Position {
	if t == nil || t.Position == nil {
		return Position{d.file, 1, 1}
	}
	return Position{d.file, max(1, t.Position.Line), max(1, t.Position.Column)}
}

// start returns where a value begins: for a block, at its first key.
func (d *decoder) start(n ast.Node) Position {
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return d.start(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return d.start(n.Key)
	}
	return d.position(n.GetToken())
}

// value decodes n as f. Where it cannot, it says so and returns nil.
func (d *decoder) value(n ast.Node, f field, path string, depth int) *node {
	at := d.start(n)
	if depth > maxNesting {
		d.problems.add(at, path, "nested too deeply")
		return nil
	}
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		d.problems.add(at, path, "YAML anchors and aliases are not used here; defaults and groups say things once")
		return nil
	case *ast.TagNode, *ast.DirectiveNode:
		d.problems.add(at, path, "YAML tags and directives are not used here")
		return nil
	case *ast.NullNode:
		d.problems.add(at, path, "has no value; fill it in or leave the field out")
		return nil
	}
	out := &node{field: f, at: at, path: path}
	switch f.kind {
	case kindObject, kindMap, kindSecret, kindLabels:
		return d.mapping(n, out, depth)
	case kindList, kindDomains, kindWords:
		list, ok := n.(*ast.SequenceNode)
		if !ok {
			d.problems.add(at, path, "is %s, not a list", nodeKind(n))
			return nil
		}
		for i, item := range list.Values {
			element := f
			element.kind = kindObject
			switch f.kind {
			case kindDomains:
				element.kind = kindDomain
			case kindWords:
				element.kind = kindWord
			}
			if v := d.value(item, element, fmt.Sprintf("%s[%d]", path, i), depth+1); v != nil {
				out.items = append(out.items, v)
			}
		}
		if f.filled && len(list.Values) == 0 {
			d.problems.add(at, path, "is empty; it needs at least one entry")
		}
		return out
	}
	if !d.scalar(n, out) {
		return nil
	}
	if complaint := out.check(); complaint != "" {
		d.problems.add(at, path, "%s", complaint)
		return nil
	}
	return out
}

// scalar reads the text of n, refusing what YAML would read as something else
// than the field holds.
func (d *decoder) scalar(n ast.Node, out *node) bool {
	switch n := n.(type) {
	case *ast.StringNode:
		out.text = n.Value
		if out.kind == kindCount {
			d.problems.add(out.at, out.path, "%.40q is not a whole number; write it without quotes", out.text)
			return false
		}
	case *ast.LiteralNode:
		out.text = n.Value.Value
	case *ast.BoolNode:
		out.text, out.flag = n.GetToken().Value, n.Value
		if out.kind == kindBool {
			return true
		}
		d.problems.add(out.at, out.path, "is the truth value %s, not a text; quote it if it is meant: %q", out.text, out.text)
		return false
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		out.text = n.GetToken().Value
		switch {
		case out.kind == kindDuration || out.kind == kindCount:
			return true // its unit is missing, or it says "0"; or it is one
		case strings.HasPrefix(out.text, "0") && len(out.text) > 1:
			d.problems.add(out.at, out.path, "YAML reads %s as another number; quote it if it is a text: %q", out.text, out.text)
		case out.kind == kindBool:
			d.problems.add(out.at, out.path, "%s is neither true nor false", out.text)
		default:
			d.problems.add(out.at, out.path, "is the number %s, not a text; quote it if it is meant: %q", out.text, out.text)
		}
		return false
	default:
		d.problems.add(out.at, out.path, "is %s, not a single value", nodeKind(n))
		return false
	}
	if out.kind == kindBool {
		d.problems.add(out.at, out.path, "%.40q is neither true nor false", out.text)
		return false
	}
	return true
}

func nodeKind(n ast.Node) string {
	switch n.(type) {
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	}
	return "a single value"
}

// mapping reads the entries of n into out.
func (d *decoder) mapping(n ast.Node, out *node, depth int) *node {
	var entries []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		entries = n.Values
	case *ast.MappingValueNode:
		entries = []*ast.MappingValueNode{n}
	default:
		if out.kind == kindSecret {
			d.problems.add(out.at, out.path, "secrets are not written here; say where it is: {file: PATH}, {env: NAME} or {credential: NAME}")
		} else {
			d.problems.add(out.at, out.path, "is %s, not a mapping", nodeKind(n))
		}
		return nil
	}
	out.values = map[string]*node{}
	seen := map[string]Position{}
	for _, entry := range entries {
		d.entry(entry, out, seen, depth)
	}
	for _, f := range out.fields {
		if _, there := seen[f.name]; f.required && !there && (out.kind == kindObject) {
			d.problems.add(out.at, join(out.path, f.name), "is missing: %s", lowerFirst(f.doc))
		}
	}
	d.exactlyOne(out, seen)
	return out
}

func (d *decoder) entry(entry *ast.MappingValueNode, out *node, seen map[string]Position, depth int) {
	at := d.position(entry.Key.GetToken())
	if _, merge := entry.Key.(*ast.MergeKeyNode); merge || entry.Key.IsMergeKey() {
		d.problems.add(at, out.path, "YAML merge keys are not used here; defaults and groups say things once")
		return
	}
	key := entry.Key.GetToken().Value
	path := join(out.path, key)
	if before, twice := seen[key]; twice {
		d.problems.add(at, path, "stands here a second time, first in line %d", before.Line)
		return
	}
	seen[key] = at
	var f field
	switch out.kind {
	case kindMap:
		f = field{kind: kindObject, fields: out.fields, oneOf: out.oneOf}
		if complaint := (&node{field: field{kind: kindName}, text: key}).check(); complaint != "" {
			d.problems.add(at, path, "%s", complaint)
		}
	case kindLabels:
		f = field{kind: kindText}
	case kindSecret:
		f = secretField(key)
		if f.name == "" {
			d.problems.add(at, path, "unknown field; a secret is one of {file: PATH}, {env: NAME} and {credential: NAME}")
			return
		}
	default:
		known := out.field.sub(key)
		switch {
		case known == nil:
			d.problems.add(at, path, "unknown field%s", didYouMean(key, out.names()))
			return
		case known.refused != "":
			d.problems.add(at, path, "%s", known.refused)
			return
		}
		f = *known
	}
	if v := d.value(entry.Value, f, path, depth+1); v != nil {
		out.values[key] = v
		out.keys = append(out.keys, key)
	}
}

// exactlyOne checks the alternatives of an object. `inCluster: false` is as
// good as absent.
func (d *decoder) exactlyOne(out *node, seen map[string]Position) {
	alternatives := out.oneOf
	if out.kind == kindSecret {
		alternatives = []string{"file", "env", "credential"}
	}
	if len(alternatives) == 0 || out.kind == kindMap {
		return
	}
	var found []string
	for _, name := range alternatives {
		if _, there := seen[name]; there {
			if v := out.values[name]; v == nil || v.kind != kindBool || v.flag {
				found = append(found, name)
			}
		}
	}
	if len(found) != 1 {
		says := "none"
		if len(found) > 0 {
			says = strings.Join(found, " and ")
		}
		d.problems.add(out.at, out.path, "needs exactly one of %s; it has %s", strings.Join(alternatives, ", "), says)
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func lowerFirst(s string) string {
	return strings.ToLower(s[:1]) + strings.TrimSuffix(s[1:], ".")
}
