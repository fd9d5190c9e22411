package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"certd.internal/rotation"
	"certd.internal/state"
)

// unpack puts the files of a .tar.gz into the site's folder.
func (s *site) unpack(archive string) {
	s.t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		s.t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			s.t.Fatal(err)
		}
		path := filepath.Join(s.dir, filepath.FromSlash(h.Name))
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, h.FileInfo().Mode())
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, path)
		default:
			var text []byte
			if text, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, text, h.FileInfo().Mode())
			}
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// meanings are the paths and values in what `config show` says.
func meanings(text, dir string) (all []string) {
	for line := range strings.Lines(strings.ReplaceAll(text, dir, "DIR")) {
		if cells := regexp.MustCompile(`\s{2,}`).Split(strings.TrimSpace(line), -1); len(cells) > 1 && cells[0] != "PATH" {
			all = append(all, cells[0]+" = "+cells[1])
		}
	}
	return all
}

// What the certd of each earlier schema left behind goes on under this one: its
// configuration and its example of one mean what they meant, its journal can be looked at
// without being changed, is migrated with a copy of what was, and keeps its history; a
// change of the trust anchor goes on in its stage, and issuers are renewed. Back with the
// copy, the same once more.
func TestEarlierFleetsGoOn(t *testing.T) {
	archives, err := filepath.Glob("testdata/earlier/schema-*.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	for _, archive := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(archive), ".tar.gz"), func(t *testing.T) {
			s := newFolders(t)
			schema, err := strconv.Atoi(regexp.MustCompile(`\d+`).FindString(filepath.Base(archive)))
			if err != nil {
				t.Fatal(err)
			}
			s.unpack(archive)
			for file, said := range map[string]string{"certd.yaml": "show.txt", "example.yaml": "example-show.txt"} {
				now := meanings(s.must("config", "show", "--config", file), s.dir)
				then := meanings(s.read(said), s.dir)
				if len(then) < 20 {
					t.Errorf("%s: %d values were read", said, len(then))
				}
				for _, m := range then {
					if !slices.Contains(now, m) {
						t.Errorf("%s of schema %d: %s no longer holds", file, schema, m)
					}
				}
			}

			journal, before := s.read("state/certd.db"), s.tree("state", "keys", "east", "west")
			entries := len(s.history())
			s.refused(0, "before the upgrade", nil, "history", "--config", "certd.yaml")
			s.same(before, "state", "keys", "east", "west")

			for _, again := range []bool{false, true} {
				d := s.run()
				s.converged()
				for _, c := range []string{"east", "west"} {
					was := s.read(c + "/linkerd/" + rotation.IssuerObject + "/tls.crt")
					s.must("rotate", "issuer", c, "--config", "certd.yaml", "--yes", "--wait", "--timeout", "1m", "--reason", "after the upgrade")
					if issuer := s.read(c + "/linkerd/" + rotation.IssuerObject + "/tls.crt"); issuer == was || !chains([]byte(issuer), s.read(c+"/linkerd/"+rotation.BundleObject+"/ca-bundle.crt")) {
						t.Errorf("%s has the issuer of before, or one that does not verify", c)
					}
				}
				if st, _ := s.status(); schema >= 3 && (st.Trust.Rotation == nil || st.Trust.Rotation.To != "g2" && st.Trust.Active.ID != "g2") {
					t.Errorf("the change of the trust anchor: %+v", st.Trust.Rotation)
				}
				d.term()
				if h := s.history(); len(h) <= entries {
					t.Errorf("%d entries, and %d before", len(h), entries)
				}
				s.must("history", "--verify", "--config", "certd.yaml")
				if again {
					break
				}
				kept := fmt.Sprintf("state/certd.db.schema-%d", schema)
				if s.read(kept) != journal {
					t.Errorf("%s is not what was there", kept)
				}
				if now, err := state.Inspect(s.path("state/certd.db"), "folders"); err != nil || now.Schema != len(archives)+1 {
					t.Errorf("this certd has schema %d, and there are fixtures of %d before it (%v): testdata/earlier/README.md says how to make one", now.Schema, len(archives), err)
				}
				s.must("restore", kept, "--config", "certd.yaml", "--yes", "--reason", "and back")
			}
		})
	}
}
