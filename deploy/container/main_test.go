package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const root = "../.."

const authorities = "/etc/ssl/certs/ca-certificates.crt"

// goAt runs Go in the repository's main module.
func goAt(t *testing.T, env []string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// The image of the real certd has the program and CA certificates, and nothing else: no
// shell, no library, no user database. Time zones are in the program.
func TestWhatIsInTheImage(t *testing.T) {
	dir := t.TempDir()
	o := options{program: filepath.Join(dir, "certd"), authorities: authorities, tag: "certd:test", out: filepath.Join(dir, "image.tar")}
	goAt(t, []string{"CGO_ENABLED=0", "GOOS=linux"}, "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", o.program, "./cmd/certd")
	if err := write(o); err != nil {
		t.Fatal(err)
	}
	image, err := tarball.ImageFromPath(o.out, nil)
	if err != nil {
		t.Fatal(err)
	}
	files := mutate.Extract(image)
	defer files.Close()
	want := map[string][]byte{"usr/bin/certd": readFile(t, o.program), "etc/ssl/certs/ca-certificates.crt": readFile(t, authorities)}
	for r := tar.NewReader(files); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || fs.FileMode(h.Mode)&0o022 != 0 || h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir {
			t.Errorf("%s is of %d:%d with mode %o and type %c", h.Name, h.Uid, h.Gid, h.Mode, h.Typeflag)
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(text, want[h.Name]) || len(text) == 0 {
			t.Errorf("%s is in the image, or is another", h.Name)
		}
		delete(want, h.Name)
	}
	for name := range want {
		t.Errorf("%s is not in the image", name)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c := config.Config; c.User != "65532:65532" || !slices.Equal(c.Entrypoint, []string{"/usr/bin/certd"}) || !slices.Equal(c.Cmd, []string{"run"}) {
		t.Errorf("it runs %v %v as %q", c.Entrypoint, c.Cmd, c.User)
	}
	if deps := goAt(t, nil, "list", "-deps", "./cmd/certd"); !strings.Contains(string(deps), "\ntime/tzdata\n") {
		t.Error("certd has no time zones of its own, and the image has none")
	}

	before := readFile(t, o.out)
	if err := write(o); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, readFile(t, o.out)) {
		t.Error("made again of the same files, the image is another")
	}
}

func TestAProgramThatWouldNotStartIsRefused(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "certd")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for program, says := range map[string]string{script: "none for Linux", "/bin/sh": "linked dynamically", filepath.Join(dir, "none"): "make build"} {
		if _, err := build(options{program: program, authorities: authorities}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", program, err, says)
		}
	}
}

// The Dockerfile makes the same: its last stage begins with nothing, and has these lines.
func TestTheDockerfileMakesTheSame(t *testing.T) {
	text := string(readFile(t, "Dockerfile"))
	_, last, found := strings.Cut(text, "\nFROM scratch\n")
	if !found || strings.Contains(last, "\nFROM ") {
		t.Fatal("the last stage does not begin with nothing")
	}
	want := []string{
		"COPY --from=build --chmod=0444 /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt",
		"COPY --from=build --chmod=0555 /src/bin/certd /usr/bin/certd",
		"ENV PATH=/usr/bin", "USER 65532:65532", `ENTRYPOINT ["/usr/bin/certd"]`, `CMD ["run"]`,
	}
	if got := strings.Split(strings.TrimSpace(last), "\n"); !slices.Equal(got, want) {
		t.Errorf("its last stage:\n%s", last)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
