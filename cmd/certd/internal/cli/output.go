package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/client-go/util/jsonpath"
	"sigs.k8s.io/yaml"
)

// An output is how an answer is wanted: -o.
type output struct {
	format string // one of those the command has
	path   string // for jsonpath
}

// outputOf reads -o. The first format is the default.
func outputOf(flag string, formats ...string) (output, error) {
	name, path, isPath := strings.Cut(flag, "=")
	switch {
	case flag == "":
		return output{format: formats[0]}, nil
	case !slices.Contains(formats, name):
		return output{}, usage("-o %s: not one of %s", flag, strings.Join(formats, ", "))
	case name == "jsonpath" && (!isPath || path == ""):
		return output{}, usage("-o jsonpath wants an expression, as in -o jsonpath='{.state}'")
	case name != "jsonpath" && isPath:
		return output{}, usage("-o %s: only jsonpath takes an expression", flag)
	}
	return output{format: name, path: path}, nil
}

// machine says whether a program is to read it.
func (o output) machine() bool {
	return o.format == "json" || o.format == "yaml" || o.format == "jsonpath"
}

// document prints a document for a program.
func (a *App) document(o output, doc any) error {
	switch o.format {
	case "yaml":
		b, err := yaml.Marshal(doc)
		if err != nil {
			return fmt.Errorf("encode the answer as YAML: %w", err)
		}
		a.tell(strings.TrimSuffix(string(b), "\n"))
		return nil
	case "jsonpath":
		return a.jsonpath(o.path, doc)
	}
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the answer as JSON: %w", err)
	}
	a.tell(string(b))
	return nil
}

func (a *App) jsonpath(path string, doc any) error {
	if !strings.Contains(path, "{") {
		path = "{" + path + "}" // kubectl takes .state for {.state}, too
	}
	p := jsonpath.New("-o").AllowMissingKeys(true)
	if err := p.Parse(path); err != nil {
		return usage("-o jsonpath=%s: %v", path, err)
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("encode the answer as JSON: %w", err)
	}
	var generic any
	if err := json.Unmarshal(b, &generic); err != nil {
		return fmt.Errorf("encode the answer as JSON: %w", err)
	}
	var out bytes.Buffer
	if err := p.Execute(&out, generic); err != nil {
		return usage("-o jsonpath=%s: %v", path, err)
	}
	a.tell(out.String())
	return nil
}
