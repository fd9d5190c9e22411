package config

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"certd.internal/rotation"
)

func TestExampleLoads(t *testing.T) {
	text := string(Example())
	dir := t.TempDir()
	for _, folder := range []string{"/etc/certd", "/srv/certd", "/var/lib/certd"} {
		text = strings.ReplaceAll(text, folder, filepath.Join(dir, folder))
	}
	for _, name := range []string{"etc/certd/secret-id", "etc/certd/vault-ca.pem", "etc/certd/kube/prod-eu-1"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := loaded(t, write(t, map[string]string{"certd.yaml": text}))
	if len(c.Warnings) != 2 || !strings.Contains(c.Warnings[0].Message, "issuers are renewed with 84h left: `linkerd check` warns below 60 days") ||
		!strings.Contains(c.Warnings[1].Message, "webhooks' certificates are renewed with 15d left") {
		t.Errorf("warnings: %s", c.Warnings)
	}
	if len(c.Clusters) != 3 || c.Clusters[0].Policy.Issuer.Lifetime != 90*day {
		t.Errorf("clusters: %+v", c.Clusters)
	}
}

// What the example has commented out loads too, in place of its alternative.
func TestExampleShowsOnlyWhatWorks(t *testing.T) {
	for _, row := range []struct{ uncomment, drop string }{
		{"# namespace:", ""},
		{"# token:", "      appRole:"}, {"# tokenFile:", "      appRole:"}, {"# kubernetes:", "      appRole:"},
		{"# cert:", "      appRole:"}, {"# jwt:", "      appRole:"},
		{"# pki:", "    transit:"},
		{"# extra:", ""},
	} {
		var lines []string
		for line := range strings.Lines(string(Example())) {
			if row.drop != "" && strings.HasPrefix(line, row.drop) {
				continue
			}
			lines = append(lines, strings.Replace(line, row.uncomment, row.uncomment[2:], 1))
		}
		loaded(t, write(t, map[string]string{"certd.yaml": strings.Join(lines, "")}))
	}
	if c := loaded(t, write(t, map[string]string{"certd.yaml": withNotify()})); len(c.Notify.Receivers) != 4 || len(c.Notify.Routes) != 3 || c.Notify.Digest == nil {
		t.Errorf("%+v", c.Notify)
	}
	elects := strings.Replace(string(Example()), "# mirror:", "mirror:", 1)
	before, block, _ := strings.Cut(elects, "# leaderElection:")
	block, after, _ := strings.Cut(block, "\n\n")
	elects = before + "leaderElection:" + strings.ReplaceAll(block, "\n# ", "\n") + "\n\n" + after
	if e := loaded(t, write(t, map[string]string{"certd.yaml": elects})).Election; e == nil || *e != (Election{"certd", "certd", "prod-eu-1", 15 * time.Second, 10 * time.Second, 2 * time.Second}) {
		t.Errorf("%+v", e)
	}
	for _, alternative := range []string{"file", "kms"} {
		text := regexp.MustCompile(`(?s)  vault:.*?(  # file:)`).ReplaceAllString(string(Example()), "$1")
		text = strings.Replace(text, "# "+alternative+":", alternative+":", 1)
		loaded(t, write(t, map[string]string{"certd.yaml": text}))
	}
}

// withNotify is the example with its receivers of notifications.
func withNotify() string {
	before, block, _ := strings.Cut(string(Example()), "# notify:")
	return before + strings.ReplaceAll("# notify:"+block, "\n# ", "\n")[2:]
}

func TestExampleNamesEveryField(t *testing.T) {
	text := string(Example())
	var walk func(fields []field)
	walk = func(fields []field) {
		for _, f := range fields {
			named := regexp.MustCompile(`(?m)(^|[ {])` + f.name + `:`).MatchString(text)
			if refused := f.refused != ""; named == refused {
				t.Errorf("%s: named %v, refused %v", f.name, named, refused)
			}
			walk(f.fields)
		}
	}
	walk(root().fields)
}

func TestExampleShowsTheDefaults(t *testing.T) {
	path := write(t, map[string]string{"certd.yaml": string(Example())})
	doc := (&decoder{file: path}).decode(Example(), root())
	defaults := doc.sub("defaults")
	var walk func(n *node, fields []field)
	walk = func(n *node, fields []field) {
		for _, f := range fields {
			switch sub := n.sub(f.name); {
			case f.refused != "" || (f.kind == kindObject || f.kind == kindList || f.kind == kindDomains) && sub == nil:
			case f.kind == kindObject:
				walk(sub, f.fields)
			case sub.text != f.builtin:
				t.Errorf("%s: %q, and the default is %q", sub.path, sub.text, f.builtin)
			}
		}
	}
	walk(defaults, policyFields())
}

func TestDevPassesTheSameChecks(t *testing.T) {
	path := write(t, map[string]string{"certd.yaml": string(Dev()), "passphrase": "x"})
	c := loaded(t, path)
	if len(c.Warnings) > 0 {
		t.Errorf("warnings: %s", c.Warnings)
	}
	dir := filepath.Dir(path)
	p := c.Clusters[1].Policy
	if c.Server.Socket != dir+"/certd.sock" || c.StateDir != dir+"/state" || c.Keys.File.Dir != dir+"/keys" ||
		c.Keys.File.Passphrase.File != dir+"/passphrase" || c.Clusters[1].Directory != dir+"/clusters/west" {
		t.Errorf("%+v", c)
	}
	if p.Cluster != "west" || !p.Directory || !p.CreateNamespace || p.LeafLifetime != 5*time.Minute || p.Repair != time.Minute ||
		p.Issuer.Lifetime != 30*time.Minute || p.Issuer.RenewBefore != 10*time.Minute || p.Issuer.Spread != 0 ||
		!p.Issuer.EveryFiring || p.Issuer.Schedule.String() != "* * * * *" || c.Trust.Lifetime != 3650*day {
		t.Errorf("%+v", p)
	}
}

func TestEveryDefaultPassesItsOwnCheck(t *testing.T) {
	var walk func(path string, fields []field)
	walk = func(path string, fields []field) {
		for _, f := range fields {
			if f.refused == "" && f.doc == "" {
				t.Errorf("%s%s is not explained", path, f.name)
			}
			n := &node{field: f, text: f.builtin}
			if complaint := n.check(); f.builtin != "" && f.kind != kindBool && complaint != "" {
				t.Errorf("%s%s: %s", path, f.name, complaint)
			}
			walk(path+f.name+".", f.fields)
		}
	}
	walk("", root().fields)
}

// accepts evaluates the part of JSON Schema that Schema uses.
func accepts(schema map[string]any, value any) bool {
	if pattern, ok := schema["pattern"].(string); ok {
		pattern = strings.Replace(pattern, "(?=.)", "", 1) // RE2 has no lookahead
		if s, ok := value.(string); !ok || !regexp.MustCompile(pattern).MatchString(s) {
			return false
		}
	}
	if words, ok := schema["enum"].([]any); ok && !slices.Contains(words, value) {
		return false
	}
	switch schema["type"] {
	case "string":
		s, ok := value.(string)
		return ok && (schema["minLength"] == nil || s != "")
	case "integer":
		n, ok := value.(float64)
		least, _ := schema["minimum"].(float64)
		most, _ := schema["maximum"].(float64)
		return ok && n == math.Trunc(n) && n >= least && n <= most
	case "boolean":
		b, ok := value.(bool)
		return ok && (schema["const"] == nil || schema["const"] == b)
	case "array":
		list, ok := value.([]any)
		least, _ := schema["minItems"].(float64)
		return ok && float64(len(list)) >= least && !slices.ContainsFunc(list, func(item any) bool { return !accepts(schema["items"].(map[string]any), item) })
	case nil:
		return schema["const"] == nil || schema["const"] == value
	}
	object, ok := value.(map[string]any)
	if !ok {
		return false
	}
	properties, _ := schema["properties"].(map[string]any)
	for name, v := range object {
		sub, known := properties[name].(map[string]any)
		if more, ok := schema["additionalProperties"].(map[string]any); !known && ok {
			sub, known = more, true
		}
		if !known || !accepts(sub, v) {
			return false
		}
	}
	there := func(s map[string]any) bool {
		for _, name := range s["required"].([]any) {
			if _, ok := object[name.(string)]; !ok {
				return false
			}
		}
		for name, sub := range mapOf(s["properties"]) {
			if v, ok := object[name]; ok && s["type"] == nil && !accepts(sub.(map[string]any), v) {
				return false
			}
		}
		return true
	}
	if schema["required"] != nil && !there(map[string]any{"required": schema["required"]}) {
		return false
	}
	if alternatives, ok := schema["oneOf"].([]any); ok {
		n := 0
		for _, a := range alternatives {
			if there(a.(map[string]any)) {
				n++
			}
		}
		return n == 1
	}
	return true
}

func mapOf(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// plain turns decoded nodes back into what JSON has.
func plain(n *node) any {
	switch n.kind {
	case kindBool:
		return n.flag
	case kindCount:
		return float64(n.count)
	case kindList, kindDomains, kindWords:
		list := []any{}
		for _, item := range n.items {
			list = append(list, plain(item))
		}
		return list
	case kindObject, kindMap, kindLabels, kindSecret:
		object := map[string]any{}
		for name, v := range n.values {
			object[name] = plain(v)
		}
		return object
	}
	return n.text
}

func TestSchemaAgreesWithTheDecoder(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal(Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	decode := func(text string) any {
		d := decoder{file: "certd.yaml"}
		n := d.decode([]byte(text), root())
		if len(d.problems) > 0 {
			t.Fatalf("%s", d.problems)
		}
		return plain(n)
	}
	withExtra := strings.Replace(string(Example()), "# extra:", "extra:", 1)
	for _, text := range []string{string(Example()), string(Dev()), minimal, withExtra, withNotify()} {
		if !accepts(schema, decode(text)) {
			t.Errorf("the schema refuses\n%s", text)
		}
	}
	for story, spoil := range map[string]func(map[string]any){
		"an unknown field":        func(m map[string]any) { m["nmae"] = "x" },
		"a field that is refused": func(m map[string]any) { m["approvals"] = map[string]any{"restore": 2.0} },
		"a third person":          func(m map[string]any) { m["approvals"] = map[string]any{"retire": 3.0} },
		"nothing that says where": func(m map[string]any) { m["keys"] = map[string]any{} },
		"no name":                 func(m map[string]any) { delete(m, "name") },
		"a name in capitals":      func(m map[string]any) { m["name"] = "ACME" },
		"half an hour in words":   func(m map[string]any) { m["trust"] = map[string]any{"lifetime": "half an hour"} },
		"a webhook without a name to serve under": func(m map[string]any) {
			m["defaults"] = decode(withExtra).(map[string]any)["defaults"]
			m["defaults"].(map[string]any)["webhooks"].(map[string]any)["extra"].([]any)[0].(map[string]any)["dnsNames"] = []any{}
		},
		"a receiver of two kinds": func(m map[string]any) {
			m["notify"] = decode(withNotify()).(map[string]any)["notify"]
			ops := m["notify"].(map[string]any)["receivers"].(map[string]any)["ops"].(map[string]any)
			ops["webhook"] = map[string]any{"url": "https://a.example", "secretFrom": map[string]any{"env": "S"}}
		},
		"half a message a minute": func(m map[string]any) {
			m["notify"] = decode(withNotify()).(map[string]any)["notify"]
			m["notify"].(map[string]any)["receivers"].(map[string]any)["ops"].(map[string]any)["perMinute"] = 0.5
		},
		"two targets": func(m map[string]any) {
			m["clusters"].([]any)[0].(map[string]any)["inCluster"] = true
		},
	} {
		m := decode(minimal).(map[string]any)
		spoil(m)
		if accepts(schema, m) {
			t.Errorf("the schema accepts %s", story)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"10y": 3650 * day, "90d": 90 * day, "36h": 36 * time.Hour, "30m": 30 * time.Minute, "45s": 45 * time.Second,
		"1d12h": 36 * time.Hour, "1y1d1h1m1s": 366*day + time.Hour + time.Minute + time.Second, "0s": 0, "007d": 7 * day,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "d", "1", "-1d", "1.5h", "3mo", "2w", "10ms", "1h1d", "1d1d", "1d ", " 1d", "1D", "300y",
		"106751d24h", "9999999999999d", "1e3s", "+1d", "١d"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q is taken for %s", text, got)
		}
	}
}

func FuzzParseDuration(f *testing.F) {
	for _, seed := range []string{"10y", "1d12h", "0s", "84h", "1h1d", "9223372036s", "292y"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseDuration(text)
		if err != nil {
			return
		}
		if again, err := ParseDuration(rotation.FormatDuration(d)); err != nil || again != d || d < 0 {
			t.Fatalf("%q is %s, written %s, which is %s (%v)", text, d, rotation.FormatDuration(d), again, err)
		}
	})
}

// Whatever the file, Load returns a configuration or problems, and each
// problem has its place.
func FuzzLoad(f *testing.F) {
	paths, err := filepath.Glob("testdata/broken/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add(Example())
	f.Add(Dev())
	f.Add([]byte(minimal))
	f.Add([]byte(withNotify()))
	f.Fuzz(func(t *testing.T, data []byte) {
		if strings.Contains(string(data), "clustersDir") {
			return // reads whatever folder it names
		}
		config, problems := parse("certd.yaml", data, options())
		if (config == nil) != (len(problems) > 0) {
			t.Fatalf("configuration %v, problems %v", config != nil, problems)
		}
		lines := strings.Count(string(data), "\n") + strings.Count(string(data), "\r") + 1
		for _, p := range problems {
			if p.Line < 1 || p.Line > lines || p.Column < 1 || p.Message == "" {
				t.Errorf("%q has no place in %d lines", p, lines)
			}
		}
		if config == nil {
			return
		}
		for _, cluster := range config.Fleet().Clusters {
			if problems := cluster.CheckLifetimes(options().Now); len(problems) > 0 || cluster.Cluster == "" {
				t.Errorf("%q is accepted: %v", cluster.Cluster, problems)
			}
		}
	})
}
