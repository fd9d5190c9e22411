package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"certd.internal/.ci/scoreboard"
)

func TestEachLineIsATestThatIsThere(t *testing.T) {
	for _, l := range lines() {
		if l.test == "" {
			continue
		}
		found := false
		files, err := os.ReadDir("../../../" + l.pkg)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if text, err := os.ReadFile("../../../" + l.pkg + "/" + f.Name()); err == nil {
				found = found || bytes.Contains(text, []byte("func "+l.test+"(")) && bytes.Contains(text, []byte(`"`+l.name+`"`))
			}
		}
		if !found {
			t.Errorf("%s: there is no %s in %s that measures it", l.name, l.test, l.pkg)
		}
	}
	if got := pick(lines(), "R5,R10"); len(got) != 2 {
		t.Errorf("%v", got)
	}
}

func TestALineIsWhatWasWrittenDown(t *testing.T) {
	b := board{dir: t.TempDir(), commit: strings.Repeat("ab", 20)}
	for _, r := range []scoreboard.Record{
		{Line: "R5", Range: scoreboard.Range{From: 0, To: 10}, Commit: b.commit, Counts: map[string]uint64{"images": 10}},
		{Line: "R5", Range: scoreboard.Range{From: 10, To: 20}, Commit: b.commit, Counts: map[string]uint64{"images": 10}, Failed: true},
		{Line: "R5", Range: scoreboard.Range{From: 20, To: 30}, Commit: "another", Counts: map[string]uint64{"images": 10}},
	} {
		if err := scoreboard.Write(b.dir, r); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := b.print(&out, []line{{name: "R5", title: "torn images"}, {name: "R4", title: "kills"}}); err != nil {
		t.Fatal(err)
	}
	want := "R5  torn images  seeds 0–19  commit abababababab  FAILED: 20 images\nR4  kills        no seeds    commit abababababab  \n"
	if out.String() != want {
		t.Errorf("%q\nwant\n%q", &out, want)
	}
	if err := b.forget("R5"); err != nil {
		t.Fatal(err)
	}
	if left, err := scoreboard.Read(b.dir); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}
