// Release says under which licences the modules in a program may be passed on. It writes
// them into the program's bill of materials (CycloneDX), and their texts, which most of
// them ask for, into one file. It fails where a module has no licence that is known, or
// one that nobody has allowed.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/CycloneDX/cyclonedx-go"
	"github.com/google/licensecheck"
)

func main() {
	var o options
	flag.StringVar(&o.program, "program", "bin/certd", "the program, made by Go")
	flag.StringVar(&o.modules, "modules", ".", "the folder of the module it was made from")
	flag.StringVar(&o.allowed, "allowed", ".ci/licences", "the licences that are allowed: SPDX identifiers, one a line")
	flag.StringVar(&o.sbom, "sbom", "", "a bill of materials of the program (CycloneDX JSON), to be completed in its place")
	flag.StringVar(&o.texts, "texts", "", "where to write the licences' texts")
	flag.Parse()
	if err := o.run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type options struct{ program, modules, allowed, sbom, texts string }

func (o options) run() error {
	allowed, err := readAllowed(o.allowed)
	if err != nil {
		return err
	}
	modules, err := linked(o.program, o.modules)
	if err != nil {
		return err
	}
	var bad []error
	for i := range modules {
		m := &modules[i]
		if err := m.license(); err != nil {
			bad = append(bad, err)
			continue
		}
		for _, id := range m.licences {
			if !allowed[id] {
				bad = append(bad, fmt.Errorf("%s: its licence %s is not among those in %s: do without the module, or argue for the licence there", m.name(), id, o.allowed))
			}
		}
	}
	if err := errors.Join(bad...); err != nil {
		return err
	}
	if o.sbom != "" {
		if err := complete(o.sbom, modules); err != nil {
			return err
		}
	}
	if o.texts != "" {
		if err := os.WriteFile(o.texts, texts(modules), 0o644); err != nil {
			return fmt.Errorf("write the licences' texts: %w", err)
		}
	}
	return nil
}

func readAllowed(path string) (map[string]bool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read which licences are allowed: %w", err)
	}
	allowed := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if line, _, _ := strings.Cut(lines.Text(), "#"); strings.TrimSpace(line) != "" {
			allowed[strings.TrimSpace(line)] = true
		}
	}
	return allowed, lines.Err()
}

// module is one that is linked into the program, or Go's standard library.
type module struct {
	path, version string
	dir           string
	licences      []string // SPDX identifiers, sorted
	files         []file   // that say so
}

type file struct {
	name string
	text []byte
}

func (m module) name() string { return m.path + " " + m.version }

// standard is what bills of materials call Go's standard library.
const standard = "std"

// linked are the modules whose packages are in a program, by what Go recorded in it, with
// where their sources are.
func linked(program, from string) ([]module, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("read what %s is made of: %w", program, err)
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("find Go's standard library: %w", err)
	}
	modules := []module{{path: standard, version: info.GoVersion, dir: strings.TrimSpace(string(root))}}
	var wanted []string
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		modules = append(modules, module{path: d.Path, version: d.Version})
		wanted = append(wanted, d.Path+"@"+d.Version)
	}
	cmd := exec.Command("go", append([]string{"mod", "download", "-json"}, wanted...)...)
	cmd.Dir, cmd.Stderr = from, os.Stderr
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("find the sources of the modules in %s: %w", program, err)
	}
	dirs := map[string]string{}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var at struct{ Path, Version, Dir string }
		if err := decoder.Decode(&at); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("find the sources of the modules in %s: %w", program, err)
		}
		dirs[at.Path+"@"+at.Version] = at.Dir
	}
	for i := range modules[1:] {
		m := &modules[i+1]
		if m.dir = dirs[m.path+"@"+m.version]; m.dir == "" {
			return nil, fmt.Errorf("%s: its source is not there", m.name())
		}
	}
	return modules, nil
}

// licenceFile is what a licence is called; notices belong to it.
var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|unlicense|notice)([-.].*)?$`)

// least is how much of a file has to be a known licence's text, in percent. Copyright
// lines and titles are the rest.
const least = 75

// license reads the licences in the module's topmost folder. Those of code that it has
// copied from elsewhere, further down, are its author's to name there.
func (m *module) license() error {
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return fmt.Errorf("%s: look for its licence: %w", m.name(), err)
	}
	var unknown []string
	for _, e := range entries {
		if !e.Type().IsRegular() || !licenceFile.MatchString(e.Name()) || strings.HasSuffix(e.Name(), ".go") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(m.dir, e.Name()))
		if err != nil {
			return fmt.Errorf("%s: read its licence: %w", m.name(), err)
		}
		m.files = append(m.files, file{e.Name(), text})
		if strings.HasPrefix(strings.ToLower(e.Name()), "notice") {
			continue
		}
		cover := licensecheck.Scan(text)
		if cover.Percent < least {
			unknown = append(unknown, fmt.Sprintf("%s is to %.0f %% a licence that is known", e.Name(), cover.Percent))
			continue
		}
		for _, match := range cover.Match {
			if !match.IsURL && !slices.Contains(m.licences, match.ID) {
				m.licences = append(m.licences, match.ID)
			}
		}
	}
	slices.Sort(m.licences)
	switch {
	case len(unknown) > 0:
		return fmt.Errorf("%s: %s; read it", m.name(), strings.Join(unknown, ", "))
	case len(m.licences) == 0:
		return fmt.Errorf("%s: it has no licence; it must not be passed on", m.name())
	}
	return nil
}

// complete writes the licences into a bill of materials. It has to name the very modules.
func complete(path string, modules []module) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("complete the bill of materials: %w", err)
	}
	bom := cyclonedx.NewBOM()
	if err := cyclonedx.NewBOMDecoder(bytes.NewReader(text), cyclonedx.BOMFileFormatJSON).Decode(bom); err != nil {
		return fmt.Errorf("read the bill of materials %s: %w", path, err)
	}
	if bom.Components == nil {
		return fmt.Errorf("the bill of materials %s names no module", path)
	}
	of := map[string]module{}
	for _, m := range modules {
		of[m.path] = m
	}
	components := *bom.Components
	for i := range components {
		m, ok := of[components[i].Name]
		if !ok {
			return fmt.Errorf("the bill of materials %s names %s, which is not in the program", path, components[i].Name)
		}
		delete(of, m.path)
		var licences cyclonedx.Licenses
		for _, id := range m.licences {
			licences = append(licences, cyclonedx.LicenseChoice{License: &cyclonedx.License{ID: id}})
		}
		components[i].Licenses = &licences
	}
	for _, m := range of {
		return fmt.Errorf("the bill of materials %s does not name %s, which is in the program", path, m.name())
	}
	var out bytes.Buffer
	if err := cyclonedx.NewBOMEncoder(&out, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(bom); err != nil {
		return fmt.Errorf("complete the bill of materials %s: %w", path, err)
	}
	if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
		return fmt.Errorf("complete the bill of materials: %w", err)
	}
	return nil
}

// texts is the list of modules with their licences, and then the texts. One that many
// modules share stands there once.
func texts(modules []module) []byte {
	var out bytes.Buffer
	out.WriteString("What certd is made of besides its own code, and under which licences.\n\n")
	modules = slices.SortedFunc(slices.Values(modules), func(a, b module) int { return cmp.Compare(a.path, b.path) })
	type whose struct {
		of   []string
		text []byte
	}
	var each []*whose
	seen := map[string]*whose{}
	for _, m := range modules {
		fmt.Fprintf(&out, "%s: %s\n", m.name(), strings.Join(m.licences, ", "))
		for _, f := range m.files {
			w := seen[string(f.text)]
			if w == nil {
				w = &whose{text: f.text}
				seen[string(f.text)] = w
				each = append(each, w)
			}
			w.of = append(w.of, m.name()+", "+f.name)
		}
	}
	for _, w := range each {
		fmt.Fprintf(&out, "\n%s\n%s\n\n%s\n", strings.Repeat("=", 80), strings.Join(w.of, "\n"), bytes.TrimSpace(w.text))
	}
	return out.Bytes()
}
