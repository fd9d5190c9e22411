package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// privateForms are the forms in which a private key may lie around: its bare number in
// either order of bytes and as text, and what PEM has of it.
func privateForms(t *testing.T, text string) map[string][]byte {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatal("the exported key is no PEM")
	}
	var key *ecdsa.PrivateKey
	if k, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		key = k
	} else if k, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		key, _ = k.(*ecdsa.PrivateKey)
	}
	if key == nil {
		t.Fatal("the exported key is no ECDSA key")
	}
	number, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	reversed := slices.Clone(number)
	slices.Reverse(reversed)
	sec1, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	forms := map[string][]byte{
		"its number": number, "its number, the last byte first": reversed, "its number in hex": []byte(hex.EncodeToString(number)), "its number in base64": []byte(base64.StdEncoding.EncodeToString(number))[:40],
	}
	for name, der := range map[string][]byte{"SEC 1": sec1, "PKCS #8": pkcs8} {
		i := bytes.Index(der, number)
		if i < 0 {
			t.Fatalf("%s does not hold the number", name)
		}
		// Whole groups of base64 that lie within the number, and on one line of PEM.
		for from := i + (3-i%3)%3; from+12 <= i+len(number); from += 12 {
			if from/48 == (from+11)/48 {
				forms[fmt.Sprintf("%s in base64 (from byte %d)", name, from)] = []byte(base64.StdEncoding.EncodeToString(der[from : from+12]))
			}
		}
	}
	return forms
}

// memoryOf reads all that a process has written, and may write, in its memory.
func memoryOf(t *testing.T, pid int) (image []byte) {
	t.Helper()
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatalf("read the memory of certd, which takes root or CAP_SYS_PTRACE: %v", err)
	}
	defer mem.Close()
	pages, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer pages.Close()
	size := uint64(os.Getpagesize())
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to uint64
		var rights string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &rights); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		if !strings.HasPrefix(rights, "rw") || strings.Contains(lines.Text(), "[vvar") {
			continue
		}
		page := make([]byte, size)
		entry := make([]byte, 8)
		for at := from; at < to; {
			// The race detector reserves terabytes: only pages that are there are read, and
			// a stretch of none is skipped by the chunk.
			chunk := min((to-at)/size, 4096)
			table := make([]byte, 8*chunk)
			if n, _ := pages.ReadAt(table, int64(at/size*8)); n < len(table) {
				break
			}
			for i := range chunk {
				copy(entry, table[8*i:])
				if entry[7]&0xc0 == 0 { // neither present nor swapped
					continue
				}
				if _, err := mem.ReadAt(page, int64(at+i*size)); err == nil {
					image = append(image, page...)
				}
			}
			at += chunk * size
		}
	}
	return image
}

// No private key of a CA is anywhere but in Vault: not in certd's memory while it works, in
// its files, its logs, its backups or its clusters. The keys are had from Vault for this
// by turning on what certd never does, after the rest was collected.
func TestNoCAKeyIsOutsideOfVault(t *testing.T) {
	s := newSite(t, 1, hooked[:strings.Index(hooked, "    extra:")])
	s.installWebhooks(0, "control-plane", "-tls", "external", "-lag", "0s", "-replicas", "1")
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.eventually(120*time.Second, func() string { return s.webhooks(0, 3) })
	s.must("rotate", "issuer", "--config", "certd.yaml", "--all", "--yes", "--wait", "--timeout", "1m", "--reason", "custody")
	s.must("backup", "--config", "certd.yaml", "copy.db")
	served := s.secret(0).Data
	anchor := pemBlock(t, string(served["ca.crt"]))

	places := map[string][]byte{"certd's memory": memoryOf(t, d.cmd.Process.Pid)}
	d.term()
	places["certd's log"] = d.log.Bytes()
	if err := filepath.WalkDir(s.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		places[path] = b
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if places[filepath.Join(s.dir, "copy.db")] == nil || places[filepath.Join(s.dir, "state/certd.db")] == nil {
		t.Fatal("the journal or its copy is not among what is searched")
	}
	ctx := context.Background()
	secrets, err := s.kube[0].CoreV1().Secrets("").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range secrets.Items {
		for k, v := range o.Data {
			places["Secret "+o.Namespace+"/"+o.Name+" "+k] = v
			if der, _ := pem.Decode(v); der != nil {
				places["Secret "+o.Namespace+"/"+o.Name+" "+k+", decoded"] = der.Bytes
			}
		}
	}
	configMaps, err := s.kube[0].CoreV1().ConfigMaps("").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range configMaps.Items {
		places["ConfigMap "+o.Namespace+"/"+o.Name] = fmt.Append(nil, o.Data, o.BinaryData)
	}

	// What is known to be there is found: the search works.
	if !bytes.Contains(places["certd's memory"], anchor) {
		t.Errorf("the anchor's certificate is not in the %d bytes of certd's memory", len(places["certd's memory"]))
	}
	found := func(key, text string, in map[string][]byte) (where []string) {
		for form, bytesOf := range privateForms(t, text) {
			for place, b := range in {
				if bytes.Contains(b, bytesOf) {
					where = append(where, fmt.Sprintf("%s: %s is in %s", key, form, place))
				}
			}
		}
		return where
	}
	issuer := string(served["tls.key"])
	if found("the issuer's key", issuer, map[string][]byte{"its Secret": served["tls.key"]}) == nil {
		t.Error("the issuer's key is not found in its own Secret")
	}

	webhook := s.fleet + "-webhook-" + s.lab.Clusters[0].Name + "-1"
	for _, key := range []struct{ mount, name string }{{"certd-transit", s.fleet + "-anchor-1"}, {"certd-transit-webhooks", webhook}} {
		s.vaultDo("POST", key.mount+"/keys/"+key.name+"/config", map[string]any{"exportable": true})
		versions, _ := s.vaultDo("GET", key.mount+"/export/signing-key/"+key.name, nil)["keys"].(map[string]any)
		text, _ := versions["1"].(string)
		for _, where := range found(key.name, text, places) {
			t.Error(where)
		}
	}
	// An issuer's key is to be in its Secret alone. In certd's memory copies may lie around
	// that Go's libraries made and nobody can overwrite (docs/threat-model.md).
	searched := len(places["certd's memory"])
	for place := range places {
		if place == "certd's memory" || strings.HasPrefix(place, "Secret linkerd/linkerd-identity-issuer ") {
			delete(places, place)
		}
	}
	for _, where := range found("the issuer's key", issuer, places) {
		t.Error(where)
	}
	t.Logf("%d bytes of memory and %d other places were searched", searched, len(places))
}

func pemBlock(t *testing.T, text string) []byte {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("no PEM in %q", text)
	}
	return block.Bytes
}
