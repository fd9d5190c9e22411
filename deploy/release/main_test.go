package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/CycloneDX/cyclonedx-go"
)

// licences are whole texts of some that are known.
func licences(t *testing.T) (apache, mit, gpl string) {
	t.Helper()
	text, err := os.ReadFile("../../LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	mit = `Copyright (c) 2026 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
`
	gpl = `This program is free software: you can redistribute it and/or modify it under the terms of the GNU Affero General Public License as published by the Free Software Foundation, either version 3 of the License, or (at your option) any later version.

This program is distributed in the hope that it will be useful, but WITHOUT ANY WARRANTY; without even the implied warranty of MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE. See the GNU Affero General Public License for more details.
`
	return string(text), mit, gpl
}

func TestWhichLicenceAModuleHas(t *testing.T) {
	apache, mit, agpl := licences(t)
	for name, row := range map[string]struct {
		files map[string]string
		want  []string
		err   string
	}{
		"one":                        {map[string]string{"LICENSE": mit}, []string{"MIT"}, ""},
		"two":                        {map[string]string{"LICENSE": apache, "LICENSE-MIT": mit}, []string{"Apache-2.0", "MIT"}, ""},
		"another spelling":           {map[string]string{"Licence.md": mit}, []string{"MIT"}, ""},
		"a notice beside it":         {map[string]string{"LICENSE": apache, "NOTICE.txt": "Made by somebody"}, []string{"Apache-2.0"}, ""},
		"one that is known":          {map[string]string{"COPYING": agpl}, []string{"AGPL-3.0-or-later"}, ""},
		"none":                       {map[string]string{"README": mit}, nil, "it has no licence"},
		"a notice alone":             {map[string]string{"NOTICE": "Made by somebody"}, nil, "it has no licence"},
		"terms of somebody's own":    {map[string]string{"LICENSE": "You may look at this on Sundays."}, nil, "LICENSE is to 0 % a licence that is known"},
		"terms beside a licence":     {map[string]string{"LICENSE": mit, "LICENSE.enterprise": "You may look at this on Sundays."}, nil, "LICENSE.enterprise is to 0 %"},
		"a licence with other terms": {map[string]string{"LICENSE": mit + strings.Repeat("But never on Sundays, nor on holidays. ", 60)}, nil, "LICENSE is to"},
		"a program about licences":   {map[string]string{"LICENSE": mit, "license.go": "package license"}, []string{"MIT"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := module{path: "example.com/m", version: "v1.0.0", dir: t.TempDir()}
			for file, text := range row.files {
				if err := os.WriteFile(filepath.Join(m.dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := m.license()
			switch {
			case row.err == "" && (err != nil || !slices.Equal(m.licences, row.want)):
				t.Errorf("%v, %v; want %v", m.licences, err, row.want)
			case row.err != "" && (err == nil || !strings.Contains(err.Error(), row.err) || !strings.Contains(err.Error(), "example.com/m v1.0.0")):
				t.Errorf("%v, %v; want the module's name and %q", m.licences, err, row.err)
			}
		})
	}
}

// The test itself is a program made by Go, of modules whose licences are known.
func TestAProgramsModules(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	o := options{program: self, modules: ".", allowed: "../../.ci/licences", texts: filepath.Join(dir, "texts")}
	if err := o.run(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(o.texts)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"std go1.", "github.com/CycloneDX/cyclonedx-go v0.9.3: Apache-2.0\n", "github.com/google/licensecheck v0.3.1: BSD-3-Clause\n", "Redistributions of source code must retain"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the texts do not say %q", want)
		}
	}

	o.allowed = write("few", "BSD-3-Clause # and nothing else\n")
	if err := o.run(); err == nil || !strings.Contains(err.Error(), "github.com/CycloneDX/cyclonedx-go v0.9.3: its licence Apache-2.0 is not among those in "+o.allowed) {
		t.Errorf("a licence that is not allowed: %v", err)
	}

	o.allowed, o.sbom = "../../.ci/licences", write("bom", `{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"components":[{"type":"library","name":"std"},{"type":"library","name":"github.com/google/licensecheck"},{"type":"library","name":"github.com/CycloneDX/cyclonedx-go"}]}`)
	if err := o.run(); err != nil {
		t.Fatal(err)
	}
	text, err = os.ReadFile(o.sbom)
	if err != nil {
		t.Fatal(err)
	}
	var bom cyclonedx.BOM
	if err := cyclonedx.NewBOMDecoder(bytes.NewReader(text), cyclonedx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	for _, c := range *bom.Components {
		if c.Licenses == nil || len(*c.Licenses) == 0 || (*c.Licenses)[0].License.ID == "" {
			t.Errorf("%s has no licence in the bill of materials", c.Name)
		}
	}
	o.sbom = write("short", `{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"components":[{"type":"library","name":"std"}]}`)
	if err := o.run(); err == nil || !strings.Contains(err.Error(), "does not name github.com/") {
		t.Errorf("a bill of materials that lacks a module: %v", err)
	}
	o.sbom = write("other", `{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"components":[{"type":"library","name":"example.com/other"}]}`)
	if err := o.run(); err == nil || !strings.Contains(err.Error(), "names example.com/other, which is not in the program") {
		t.Errorf("a bill of materials of something else: %v", err)
	}
}
