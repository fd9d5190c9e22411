package cli

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/invopop/jsonschema"
	checker "github.com/santhosh-tekuri/jsonschema/v6"

	"certd.internal/rotation"
)

const reference = "../../../../docs/reference"

// documentTypes are the documents that have a schema, by file.
func documentTypes() map[string]any {
	return map[string]any{"fleetstatus": rotation.FleetStatus{}, "plan": rotation.Plan{}, "historylist": rotation.HistoryList{}}
}

// schemaOf is the JSON Schema of a document: from the Go types, their json tags
// and their comments. What is not known to it is allowed, since fields are added.
func schemaOf(t testing.TB, doc any) []byte {
	t.Helper()
	r := jsonschema.Reflector{AllowAdditionalProperties: true, Anonymous: true, ExpandedStruct: true, FieldNameTag: "json",
		Mapper: func(of reflect.Type) *jsonschema.Schema {
			if of == reflect.TypeFor[rotation.State]() {
				return &jsonschema.Schema{Type: "string", Enum: []any{rotation.StateOK, rotation.StateWarning, rotation.StateCritical, rotation.StateUnknown}}
			}
			return nil
		}}
	// Paths of packages are made of the folder, which has to be below this one.
	t.Chdir("../../../..")
	if err := r.AddGoComments("certd.internal", "./rotation"); err != nil {
		t.Fatal(err)
	}
	s := r.Reflect(doc)
	kind := reflect.TypeOf(doc).Name()
	s.Title = kind
	for name, is := range map[string]string{"apiVersion": rotation.APIVersion, "kind": kind} {
		p, ok := s.Properties.Get(name)
		if !ok {
			t.Fatalf("%s has no %s", kind, name)
		}
		p.Const, p.Description = is, ""
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(b, '\n')
}

func TestSchemasAreUpToDate(t *testing.T) {
	for name, doc := range documentTypes() {
		t.Run(name, func(t *testing.T) {
			path, err := filepath.Abs(filepath.Join(reference, name+".schema.json"))
			if err != nil {
				t.Fatal(err)
			}
			got := schemaOf(t, doc)
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s is out of date (make generate): -have +want\n%s", path, diff)
			}
		})
	}
}

// compiled is a schema of docs/reference, ready to judge documents. With strict,
// fields that it does not know are refused.
func compiled(t testing.TB, name string, strict bool) func(doc any) error {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(reference, name+".schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	schema, err := checker.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if strict {
		refuseUnknown(schema)
	}
	c := checker.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource(name, schema); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(name)
	if err != nil {
		t.Fatal(err)
	}
	return func(doc any) error {
		text, err := json.Marshal(doc)
		if err != nil {
			return err
		}
		value, err := checker.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			return err
		}
		return s.Validate(value)
	}
}

func refuseUnknown(schema any) {
	switch s := schema.(type) {
	case map[string]any:
		if s["type"] == "object" && s["properties"] != nil {
			s["additionalProperties"] = false
		}
		for _, sub := range s {
			refuseUnknown(sub)
		}
	case []any:
		for _, sub := range s {
			refuseUnknown(sub)
		}
	}
}

func TestDocumentsKeepToTheirSchemas(t *testing.T) {
	status := compiled(t, "fleetstatus", true)
	for _, name := range []string{"healthy", "overdue", "unreachable", "journal", "watched", "none", "large", "broken", "hooked", "untrusted", "dark"} {
		if err := status(fleetOf(name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := status(grouping()); err != nil {
		t.Error(err)
	}
	for seed := range uint64(50) {
		st := random(rand.New(rand.NewPCG(seed, 2)))
		for i := range st.Clusters { // the schema knows no state of a later version
			st.Clusters[i].State = rotation.StateOK
			for f := range st.Clusters[i].Findings {
				st.Clusters[i].Findings[f].Severity = rotation.StateWarning
			}
		}
		for f := range st.Findings {
			st.Findings[f].Severity = rotation.StateWarning
		}
		if err := status(st); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
	if err := compiled(t, "plan", true)(plan()); err != nil {
		t.Error(err)
	}
	if err := compiled(t, "historylist", true)(rotation.HistoryList{APIVersion: rotation.APIVersion, Kind: "HistoryList", Fleet: "acme-mesh", Source: "daemon", Items: entries()}); err != nil {
		t.Error(err)
	}

	// And they mean something.
	for name, bad := range map[string]func(*rotation.FleetStatus){
		"a state that is none":     func(st *rotation.FleetStatus) { st.State = "fine" },
		"a kind of another":        func(st *rotation.FleetStatus) { st.Kind = "Plan" },
		"clusters that are null":   func(st *rotation.FleetStatus) { st.Clusters = nil },
		"findings that are null":   func(st *rotation.FleetStatus) { st.Clusters[0].Findings = nil },
		"no rotation of the trust": func(st *rotation.FleetStatus) { st.Trust.Rotation = nil },
	} {
		st := healthy("a", "b")
		bad(&st)
		if status(st) == nil {
			t.Errorf("%s: the schema takes it", name)
		}
	}
}
