// Container makes certd's image without a container engine: the program, the CA
// certificates of public servers, and nothing else, as the Dockerfile beside it does. What
// it writes is for docker load, podman load and ctr image import; the same input makes the
// same bytes.
package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	var o options
	flag.StringVar(&o.program, "program", "bin/certd", "certd, linked statically")
	flag.StringVar(&o.authorities, "authorities", "/etc/ssl/certs/ca-certificates.crt", "CA certificates of public servers, PEM")
	flag.StringVar(&o.tag, "tag", "certd:dev", "the image's name")
	flag.StringVar(&o.out, "out", "bin/certd-image.tar", "where to write it")
	flag.Parse()
	if err := write(o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type options struct{ program, authorities, tag, out string }

func write(o options) error {
	tag, err := name.NewTag(o.tag, name.WithDefaultRegistry(""))
	if err != nil {
		return fmt.Errorf("name the image: %w", err)
	}
	image, err := build(o)
	if err != nil {
		return err
	}
	if err := tarball.WriteToFile(o.out, tag, image); err != nil {
		return fmt.Errorf("write the image: %w", err)
	}
	return nil
}

func build(o options) (v1.Image, error) {
	program, err := os.ReadFile(o.program)
	if err != nil {
		return nil, fmt.Errorf("read certd: %w; make build makes it", err)
	}
	architecture, err := static(program)
	if err != nil {
		return nil, fmt.Errorf("%s is no program for this image: %w; make build makes one", o.program, err)
	}
	authorities, err := os.ReadFile(o.authorities)
	if err != nil {
		return nil, fmt.Errorf("read the CA certificates: %w; Debian's package is ca-certificates", err)
	}
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	for _, f := range []struct {
		name string
		mode int64
		text []byte
	}{
		{"etc/", 0o755, nil}, {"etc/ssl/", 0o755, nil}, {"etc/ssl/certs/", 0o755, nil},
		{"etc/ssl/certs/ca-certificates.crt", 0o444, authorities},
		{"usr/", 0o755, nil}, {"usr/bin/", 0o755, nil},
		{"usr/bin/certd", 0o555, program},
	} {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.text)), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if f.text == nil {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("put %s into the image: %w", f.name, err)
		}
		if _, err := w.Write(f.text); err != nil {
			return nil, fmt.Errorf("put %s into the image: %w", f.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("make the image's layer: %w", err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil })
	if err != nil {
		return nil, fmt.Errorf("make the image's layer: %w", err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, fmt.Errorf("make the image: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("make the image: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", architecture
	config.Config = v1.Config{User: "65532:65532", Env: []string{"PATH=/usr/bin"}, Entrypoint: []string{"/usr/bin/certd"}, Cmd: []string{"run"},
		Labels: map[string]string{"org.opencontainers.image.title": "certd", "org.opencontainers.image.licenses": "Apache-2.0"}}
	return mutate.ConfigFile(image, config)
}

// static says which architecture a program is for, as Go calls it. One that needs a loader
// or libraries would not start in an image that has none.
func static(program []byte) (architecture string, err error) {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return "", fmt.Errorf("it is none for Linux: %w", err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", errors.New("it is linked dynamically")
		}
	}
	switch f.Machine {
	case elf.EM_X86_64:
		return "amd64", nil
	case elf.EM_AARCH64:
		return "arm64", nil
	}
	return "", fmt.Errorf("it is for %s", f.Machine)
}
