package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// certd run, started as systemd starts a unit of Type=notify: it tells when it works,
// while it reloads, that it lives, and when it stops.
func TestSystemdIsTold(t *testing.T) {
	s := newFolders(t)
	s.must("init", "--config", "certd.yaml", "--yes")
	address := &net.UnixAddr{Name: filepath.Join(s.dir, "notify"), Net: "unixgram"}
	conn, err := net.ListenUnixgram("unixgram", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// hears wants the next message to begin so, but for those of the watchdog.
	hears := func(want string) {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1024)
		for {
			n, err := conn.Read(b)
			if err != nil {
				t.Fatalf("waiting for %q: %v", want, err)
			}
			got := string(b[:n])
			if strings.HasPrefix(got, want) {
				return
			}
			if got != "WATCHDOG=1" {
				t.Fatalf("told %q, want %q", got, want)
			}
		}
	}
	tell := func(signal syscall.Signal, d *process) {
		t.Helper()
		if err := d.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
	}
	d := s.run("NOTIFY_SOCKET="+address.Name, "WATCHDOG_USEC=100000")
	hears("READY=1\nSTATUS=fleet folders, 2 clusters")
	s.must("history", "--config", "certd.yaml") // it answers from then on
	tell(syscall.SIGHUP, d)
	hears("RELOADING=1\nMONOTONIC_USEC=")
	hears("READY=1")
	s.write("certd.yaml", "nonsense\n") // it is refused, and that is over, too
	hears("RELOADING=1\n")
	hears("READY=1")
	hears("WATCHDOG=1")
	tell(syscall.SIGTERM, d)
	hears("STOPPING=1")
	<-d.done
}

// The unit leaves certd little that it does not need: 1.0 of 10 or better by systemd's own
// count (the threshold is in tenths). And systemd understands each line of it.
func TestTheUnitIsConfined(t *testing.T) {
	const unit = "../../deploy/systemd/certd.service"
	if out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=10", unit).CombinedOutput(); err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
	text, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	here := filepath.Join(t.TempDir(), "certd.service")
	if err := os.WriteFile(here, []byte(replaced(t, string(text), "ExecStart=/usr/bin/certd ", "ExecStart="+program+" ")), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", "--man=no", here).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
