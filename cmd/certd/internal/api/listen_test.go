package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// left makes the socket of a process that is gone.
func left(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestListenMakesASocketForOwnerAndGroup(t *testing.T) {
	path := filepath.Join(filepath.Dir(socketPath(t)), "run", "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if dir, err := os.Stat(filepath.Dir(path)); err != nil || dir.Mode().Perm()&0o007 != 0 {
		t.Errorf("folder: %v, %v", dir.Mode(), err)
	}
}

// Between bind and chmod the socket is as closed as after.
func TestASocketIsNeverOpenToOthers(t *testing.T) {
	path := socketPath(t)
	l, err := bindRestricted(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm()&^0o660 != 0 {
		t.Errorf("mode after bind: %v, %v", info.Mode(), err)
	}
}

func TestListenAndWhatIsThereAlready(t *testing.T) {
	t.Run("the socket of a process that is gone is replaced", func(t *testing.T) {
		path := socketPath(t)
		left(t, path)
		l, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	})
	t.Run("a socket that answers is left alone", func(t *testing.T) {
		r := serve(t, &scripted{})
		if _, err := Listen(r.socket); !errors.Is(err, ErrNotNow) {
			t.Errorf("Listen: %v", err)
		}
		if _, err := NewClient(r.socket).Status(t.Context()); err != nil {
			t.Errorf("the first daemon is disturbed: %v", err)
		}
	})
	t.Run("a file is left alone", func(t *testing.T) {
		path := socketPath(t)
		if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "not a socket") {
			t.Errorf("Listen: %v", err)
		}
		if b, _ := os.ReadFile(path); string(b) != "mine" {
			t.Errorf("the file holds %q", b)
		}
	})
	t.Run("a link to a socket is left alone", func(t *testing.T) {
		path := socketPath(t)
		left(t, path+"1")
		if err := os.Symlink(path+"1", path); err != nil {
			t.Fatal(err)
		}
		if _, err := Listen(path); err == nil {
			t.Error("Listen took it")
		}
	})
	t.Run("a path that no socket can have is a usage error", func(t *testing.T) {
		if _, err := Listen("/tmp/" + strings.Repeat("x", 120)); !errors.Is(err, ErrUsage) {
			t.Errorf("Listen: %v", err)
		}
	})
}

func TestWhatCountsAsNoDaemon(t *testing.T) {
	t.Run("no socket", func(t *testing.T) {
		_, err := NewClient(socketPath(t)).Status(t.Context())
		wantNoDaemon(t, err)
	})
	t.Run("a socket that is left over", func(t *testing.T) {
		path := socketPath(t)
		left(t, path)
		_, err := NewClient(path).Status(t.Context())
		wantNoDaemon(t, err)
		_, err = NewClient(path).Rotate(t.Context(), RotateRequest{Clusters: []string{"eu"}, Wait: true})
		wantNoDaemon(t, err)
	})
	t.Run("a daemon that accepts and says nothing", func(t *testing.T) {
		path := socketPath(t)
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		began := time.Now()
		_, err = NewClient(path).Status(t.Context())
		wantNoDaemon(t, err)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %s to give up", took)
		}
	})
	t.Run("a daemon that goes away instead of answering", func(t *testing.T) {
		path := socketPath(t)
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				bufio.NewReader(conn).ReadString('\n')
				conn.Close()
			}
		}()
		_, err = NewClient(path).Status(t.Context())
		wantNoDaemon(t, err)
		// What it was told to do may have been begun: that is another thing.
		if _, err := NewClient(path).Rotate(t.Context(), RotateRequest{Clusters: []string{"eu"}, Wait: true}); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNoDaemon) {
			t.Errorf("Rotate: %v", err)
		}
	})
	t.Run("another program is no daemon, and said so", func(t *testing.T) {
		path := socketPath(t)
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			conn, err := l.Accept()
			if err == nil {
				bufio.NewReader(conn).ReadString('\n')
				conn.Write([]byte("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"))
				conn.Close()
			}
		}()
		if _, err := NewClient(path).Status(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("Status: %v", err)
		}
	})
}

func wantNoDaemon(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, ErrNoDaemon) || ExitCode(err) != 69 {
		t.Errorf("error %v (exit %d), want one that is ErrNoDaemon", err, ExitCode(err))
	}
}

func TestWhoMayUseTheSocket(t *testing.T) {
	const nobody = 64242 // a number no system gives out
	for name, row := range map[string]struct {
		owner owner
		peer  peer
		want  bool
	}{
		"root":                                   {owner{uid: 500, gid: 500}, peer{uid: 0, gid: 0}, true},
		"the daemon's own user":                  {owner{uid: 500, gid: 500}, peer{uid: 501, gid: nobody}, true},
		"the owner of the file":                  {owner{uid: 500, gid: 500}, peer{uid: 500, gid: nobody}, true},
		"a member of the group":                  {owner{uid: 500, gid: 600, groupWrite: true}, peer{uid: nobody, gid: 600}, true},
		"a member of a group that may not write": {owner{uid: 500, gid: 600}, peer{uid: nobody, gid: 600}, false},
		"anyone else":                            {owner{uid: 500, gid: 600, groupWrite: true}, peer{uid: nobody, gid: nobody}, false},
		"a process the kernel could not tell us about": {owner{uid: 0, gid: 0, groupWrite: true}, peer{err: errors.New("no")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := row.owner.admits(row.peer, 501); got != row.want {
				t.Errorf("admitted: %v", got)
			}
		})
	}
}

func TestTheKernelNamesThePeer(t *testing.T) {
	path := socketPath(t)
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p := peerOf(conn)
	if p.err != nil || p.uid != uint32(os.Geteuid()) || p.gid != uint32(os.Getegid()) {
		t.Errorf("peer %+v, this process is %d:%d", p, os.Geteuid(), os.Getegid())
	}
	want := "uid" + strconv.Itoa(os.Geteuid()) + "@cli"
	if u, err := user.Current(); err == nil {
		want = u.Username + "@cli"
	}
	if got := p.actor(); got != want {
		t.Errorf("actor %q, want %q", got, want)
	}
	if got := (peer{uid: 64242}).actor(); got != "uid64242@cli" {
		t.Errorf("a user without a name acts as %q", got)
	}
}

func TestAStrangerIsRefused(t *testing.T) {
	r := serve(t, &scripted{})
	h := NewServer(&scripted{}, slog.New(slog.DiscardHandler)).handler(r.socket)
	for name, p := range map[string]peer{
		"a user who is in no group": {uid: 64242, gid: 64242},
		"nobody knows who":          {err: errors.New("no credentials")},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(context.WithValue(t.Context(), peerKey{}, p), "GET", "/v1/status", nil))
			var f failure
			if err := json.Unmarshal(w.Body.Bytes(), &f); err != nil || w.Code != 403 || !errors.Is(f.err(), ErrDenied) {
				t.Errorf("status %d, answer %s, %v", w.Code, w.Body, err)
			}
		})
	}
}
