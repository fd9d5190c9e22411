//go:build pkcs11

package keystore

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"certd.internal/backends/backendtest"
	"certd.internal/rotation"
)

// softHSM makes a token of SoftHSM, a PKCS#11 module in software, and returns
// its URI without the PIN.
func softHSM(t *testing.T) (uri, pinFile string) {
	t.Helper()
	module := ""
	for _, path := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so", "/opt/homebrew/lib/softhsm/libsofthsm2.so"} {
		if _, err := os.Stat(path); err == nil {
			module = path
		}
	}
	if module == "" {
		t.Fatal("SoftHSM is not installed, and PKCS#11 is tested with it: apt-get install softhsm2 (make deps does that)")
	}
	dir := t.TempDir()
	tokens := filepath.Join(dir, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "softhsm2.conf")
	pinFile = filepath.Join(dir, "pin")
	for path, text := range map[string]string{conf: "directories.tokendir = " + tokens + "\n", pinFile: "1234\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	if out, err := exec.CommandContext(t.Context(), "softhsm2-util", "--init-token", "--free", "--label", "certd", "--pin", "1234", "--so-pin", "5678").CombinedOutput(); err != nil {
		t.Fatalf("softhsm2-util: %v\n%s", err, out)
	}
	return "pkcs11:module-path=" + module + ";token=certd?pin-source=" + pinFile, pinFile
}

// One test, since a module is loaded once into a process, with one
// configuration.
func TestPKCS11(t *testing.T) {
	uri, pinFile := softHSM(t)
	open := func(t *testing.T) rotation.Keys {
		t.Helper()
		k, err := NewKMS(uri)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	backendtest.TestKeys(t, open, backendtest.KeysOptions{Backend: "kms"})

	pin := func(t *testing.T, text string) {
		t.Helper()
		if err := os.WriteFile(pinFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("a wrong PIN is tried once", func(t *testing.T) {
		pin(t, "9999")
		defer pin(t, "1234")
		k := open(t)
		defer k.Close()
		for range 20 { // SoftHSM does not lock itself, others do after three
			_, err := k.OpenKey(t.Context(), "signs", nil)
			if !errors.Is(err, rotation.ErrDenied) || strings.Contains(err.Error(), "9999") {
				t.Fatalf("got %v", err)
			}
		}
		pin(t, "1234")
		if _, err := k.OpenKey(t.Context(), "signs", nil); err != nil {
			t.Errorf("with the right PIN afterwards: %v", err)
		}
	})
	t.Run("a PIN that cannot be read", func(t *testing.T) {
		pin(t, "")
		defer pin(t, "1234")
		k := open(t)
		defer k.Close()
		if _, err := k.OpenKey(t.Context(), "signs", nil); !errors.Is(err, rotation.ErrDenied) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a token that is not there", func(t *testing.T) {
		k, err := NewKMS(strings.Replace(uri, "token=certd", "token=other", 1))
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		if _, err := k.OpenKey(t.Context(), "signs", nil); !errors.Is(err, rotation.ErrUnavailable) || !strings.Contains(err.Error(), "other") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a module that is not there", func(t *testing.T) {
		k, err := NewKMS("pkcs11:module-path=/nonexistent.so;token=certd?pin-source=" + pinFile)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		if _, err := k.OpenKey(t.Context(), "signs", nil); !errors.Is(err, rotation.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("after closing", func(t *testing.T) {
		k := open(t)
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := k.OpenKey(t.Context(), "signs", nil); !errors.Is(err, rotation.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	})
}
