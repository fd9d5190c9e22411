package receiver

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Where a receiver may be depends on where its name leads, whatever it looks
// like.
func TestWhereReceiversMayBe(t *testing.T) {
	for _, row := range []struct {
		host, leadsTo string
		private       bool // it may be there with allowPrivate
		always        bool
	}{
		{"hooks.example", "93.184.215.14", true, true},
		{"hooks.example", "2606:2800:21f:cb07::1", true, true},
		{"hooks.example", "64:ff9b::93.184.215.14", true, true},
		{"hooks.example", "10.1.2.3", true, false},
		{"hooks.example", "172.31.255.255", true, false},
		{"hooks.example", "172.32.0.1", true, true},
		{"hooks.example", "192.168.0.1", true, false},
		{"hooks.example", "100.64.0.1", true, false},
		{"hooks.example", "127.0.0.1", true, false},
		{"hooks.example", "127.9.9.9", true, false},
		{"hooks.example", "::1", true, false},
		{"hooks.example", "::ffff:127.0.0.1", true, false},
		{"hooks.example", "::ffff:10.0.0.1", true, false},
		{"hooks.example", "64:ff9b::10.0.0.1", true, false},
		{"hooks.example", "2002:a00:1::1", true, false},
		{"hooks.example", "fd12:3456::1", true, false},
		{"hooks.example", "240.0.0.1", true, false},
		{"2130706433", "127.0.0.1", true, false}, // what some resolvers make of it
		{"0x7f.1", "127.0.0.1", true, false},
		{"localhost.evil.example", "127.0.0.1", true, false},
		{"localhost", "127.0.0.1", true, true},
		{"LOCALHOST.", "::1", true, true},
		{"am.localhost", "127.0.0.1", true, true},
		{"localhost", "10.0.0.1", true, false},
		{"127.0.0.1", "127.0.0.1", true, true},
		{"::1", "::1", true, true},
		{"::ffff:127.0.0.1", "127.0.0.1", true, true},
		{"10.1.2.3", "10.1.2.3", true, true},
		{"10.1.2.3", "10.1.2.4", true, false},
		{"fd12:3456::1", "fd12:3456::1", true, true},
		// Nothing opens these.
		{"hooks.example", "169.254.169.254", false, false},
		{"hooks.example", "::ffff:169.254.169.254", false, false},
		{"hooks.example", "64:ff9b::169.254.169.254", false, false},
		{"169.254.169.254", "169.254.169.254", false, false},
		{"169.254.1.1", "169.254.1.1", false, false},
		{"fe80::1", "fe80::1%eth0", false, false},
		{"hooks.example", "febf::1", false, false},
		{"hooks.example", "fd00:ec2::254", false, false},
		{"100.100.100.200", "100.100.100.200", false, false},
		{"hooks.example", "168.63.129.16", false, false},
		{"hooks.example", "192.0.0.192", false, false},
		{"0.0.0.0", "0.0.0.0", false, false},
		{"::", "::", false, false},
		{"hooks.example", "224.0.0.1", false, false},
		{"hooks.example", "ff02::1", false, false},
		{"hooks.example", "255.255.255.255", false, false},
	} {
		ip := netip.MustParseAddr(row.leadsTo)
		if err := (Access{}).admits(row.host, ip); (err == nil) != row.always {
			t.Errorf("%s at %s: %v", row.host, ip, err)
		}
		if err := (Access{AllowPrivate: true}).admits(row.host, ip); (err == nil) != row.private {
			t.Errorf("%s at %s with allowPrivate: %v", row.host, ip, err)
		}
	}
}

func TestURLsOfReceivers(t *testing.T) {
	for _, row := range []struct {
		url  string
		want string // "" = it is taken
		open string // with allowHTTP and allowPrivate
	}{
		{"https://hooks.slack.com/services/T/B/s3cret", "", ""},
		{" https://hooks.slack.com/x\n", "", ""},
		{"https://10.0.0.7:9093", "", ""},
		{"http://127.0.0.1:9093/am", "", ""},
		{"http://[::1]:9093", "", ""},
		{"http://localhost:9093", "", ""},
		{"http://hooks.example/s3cret", "not encrypted", ""},
		{"http://10.0.0.7:9093", "not encrypted", ""},
		{"https://169.254.169.254/latest/meta-data", "link-local and metadata", "link-local and metadata"},
		{"https://[::ffff:169.254.169.254]/s3cret", "link-local and metadata", "link-local and metadata"},
		{"https://[fe80::1%25eth0]/", "link-local and metadata", "link-local and metadata"},
		{"ftp://hooks.example/s3cret", "not an https URL", "not an https URL"},
		{"file:///etc/s3cret", "not an https URL", "not an https URL"},
		{"gopher://127.0.0.1:25/s3cret", "not an https URL", "not an https URL"},
		{"https:hooks.example/s3cret", "not a URL", "not a URL"},
		{"https:///s3cret", "no host", "no host"},
		{"https://user:s3cret@hooks.example/", "user name or password", "user name or password"},
		{"https://hooks.example/#s3cret", "fragment", "fragment"},
		{"https://hooks.example/s3cret\x7f", "not a URL", "not a URL"},
		{"s3cret", "not an https URL", "not an https URL"},
		{"", "not an https URL", "not an https URL"},
	} {
		for access, want := range map[Access]string{{}: row.want, {AllowHTTP: true, AllowPrivate: true}: row.open} {
			_, err := access.Check(row.url)
			switch {
			case err == nil && want != "", err != nil && (want == "" || !strings.Contains(err.Error(), want)):
				t.Errorf("%q, %+v: %v, want %q", row.url, access, err, want)
			case err != nil && strings.Contains(err.Error(), "s3cret"):
				t.Errorf("the error quotes the URL: %v", err)
			}
		}
	}
}

// names is a DNS server that answers with the addresses given, one after
// another.
func names(t *testing.T, addresses ...string) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	var n atomic.Int64
	go func() {
		buf := make([]byte, 512)
		for {
			size, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			reply := append([]byte{}, buf[:size]...)
			kind := binary.BigEndian.Uint16(reply[questionEnd(reply)-4:])
			reply = reply[:questionEnd(reply)]
			binary.BigEndian.PutUint16(reply[2:], 0x8180)
			binary.BigEndian.PutUint16(reply[6:], 0)
			binary.BigEndian.PutUint16(reply[10:], 0)
			if kind == 1 { // an A record; there is no AAAA
				ip := netip.MustParseAddr(addresses[min(int(n.Add(1)), len(addresses))-1]).As4()
				binary.BigEndian.PutUint16(reply[6:], 1)
				reply = append(reply, 0xC0, 0x0C, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
				reply = append(reply, ip[:]...)
			}
			_, _ = conn.WriteTo(reply, from)
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// questionEnd is where the first question of a DNS message ends.
func questionEnd(m []byte) int {
	i := 12
	for m[i] != 0 {
		i += int(m[i]) + 1
	}
	return i + 5
}

// A name is judged by where it leads at each attempt, so that one that leads to a
// public address first and to this host later reaches nothing here.
func TestNamesThatLeadElsewhere(t *testing.T) {
	var asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer srv.Close()
	port := srv.Listener.Addr().(*net.TCPAddr).Port
	u := &url.URL{Scheme: "http", Host: net.JoinHostPort("rebind.example", itoa(port)), Path: "/s3cret"}
	send := func(a Access) error { return a.post(t.Context(), "it", u, nil, []byte("{}")) }

	for _, address := range []string{"127.0.0.1", "169.254.169.254", "10.0.0.1"} {
		err := send(Access{AllowHTTP: true, resolver: names(t, address)})
		if f := (*Failure)(nil); !errors.As(err, &f) || !strings.Contains(f.Why, address) || strings.Contains(f.Why, "s3cret") {
			t.Errorf("%s: %v", address, err)
		}
	}
	if err := send(Access{AllowHTTP: true, AllowPrivate: true, resolver: names(t, "169.254.169.254")}); err == nil || !strings.Contains(err.Error(), "metadata") {
		t.Errorf("a metadata address with allowPrivate: %v", err)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
	if err := send(Access{AllowHTTP: true, AllowPrivate: true, resolver: names(t, "127.0.0.1")}); err != nil || asked.Load() != 1 {
		t.Errorf("with allowPrivate: %v, %d requests", err, asked.Load())
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var followed atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
	defer elsewhere.Close()
	for _, code := range []int{301, 302, 303, 307, 308} {
		srv := httptest.NewServer(http.RedirectHandler(elsewhere.URL+"/s3cret", code))
		u, _ := url.Parse(srv.URL)
		err := (Access{}).post(t.Context(), "it", u, nil, []byte("{}"))
		if err == nil || !strings.Contains(err.Error(), "follows no redirects") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%d: %v", code, err)
		}
		srv.Close()
	}
	if n := followed.Load(); n != 0 {
		t.Errorf("%d were followed", n)
	}
}

func TestWhatAnAnswerMeans(t *testing.T) {
	var code int
	var after string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		w.WriteHeader(code)
		w.Write([]byte("s3cret " + strings.Repeat("x", 1<<20)))
	}))
	defer srv.Close()
	u, _ := url.Parse(srv.URL)
	for _, row := range []struct {
		code    int
		after   string
		refused bool
		wait    time.Duration
	}{
		{200, "", false, 0}, {202, "", false, 0}, {204, "", false, 0},
		{400, "", true, 0}, {413, "", true, 0}, {422, "", true, 0},
		{401, "", false, 0}, {403, "", false, 0}, {404, "", false, 0}, {410, "", false, 0}, {500, "", false, 0},
		{429, "30", false, 30 * time.Second}, {503, "30", false, 30 * time.Second}, {500, "30", false, 0},
		{429, "99999999999999999999", false, 0}, {429, "86400", false, time.Hour}, {429, "-1", false, 0}, {429, "soon", false, 0},
		{429, "Mon, 02 Jan 2006 15:04:05 GMT", false, 0},
	} {
		code, after = row.code, row.after
		err := (Access{}).post(t.Context(), "it", u, nil, []byte("{}"))
		var f *Failure
		switch {
		case row.code < 300:
			if err != nil {
				t.Errorf("%d: %v", row.code, err)
			}
		case !errors.As(err, &f) || f.Refused != row.refused || f.RetryAfter != row.wait || strings.Contains(f.Why, "s3cret"):
			t.Errorf("%d %s: %+v", row.code, row.after, f)
		}
	}
}

func TestWhyNoAnswerCame(t *testing.T) {
	dead := httptest.NewServer(nil)
	dead.Close()
	plain := httptest.NewServer(nil)
	defer plain.Close()
	stranger := httptest.NewTLSServer(nil)
	defer stranger.Close()
	stranger.Config.ErrorLog = quiet
	for text, want := range map[string]string{
		dead.URL + "/s3cret": "connection refused",
		strings.Replace(plain.URL, "http:", "https:", 1) + "/s3cret": "does not speak TLS",
		stranger.URL + "/s3cret":                                     "certificate",
		"https://no-such-host.invalid/s3cret":                        "not resolved",
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		err = (Access{}).post(t.Context(), "it", u, nil, []byte("{}"))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", text, err)
		}
	}
	roots := x509.NewCertPool()
	roots.AddCert(stranger.Certificate())
	u, _ := url.Parse(stranger.URL)
	if err := (Access{Roots: roots}).post(t.Context(), "it", u, nil, []byte("{}")); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("with its CA: %v", err)
	}
}

// A proxy is used where it is configured, whatever the environment says, and is
// at no place that nothing may be at.
func TestProxy(t *testing.T) {
	target := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer target.Close()
	var asked []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.Host)
		if r.Host != "hooks.example:443" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		there, err := net.Dial("tcp", target.Listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		here, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { io.Copy(there, here); there.Close() }()
		go func() { io.Copy(here, there); here.Close() }()
	}))
	defer proxy.Close()
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	roots := x509.NewCertPool()
	roots.AddCert(target.Certificate())
	at, _ := url.Parse(proxy.URL)
	hooks := &url.URL{Scheme: "https", Host: "hooks.example", Path: "/s3cret"}
	err := (Access{Roots: roots, Proxy: at}).post(t.Context(), "it", hooks, nil, []byte("{}"))
	// The target's certificate is for example.com, among others.
	if err == nil || !strings.Contains(err.Error(), "hooks.example") || len(asked) != 1 || asked[0] != "CONNECT hooks.example:443" {
		t.Errorf("%v, asked %q", err, asked)
	}
	err = (Access{Proxy: at}).post(t.Context(), "it", &url.URL{Scheme: "https", Host: "other.example", Path: "/s3cret"}, nil, []byte("{}"))
	if err == nil || !strings.Contains(err.Error(), "by the proxy at "+at.Host) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("a proxy that refuses: %v", err)
	}
	meta := &url.URL{Scheme: "http", Host: "proxy.example:3128"}
	err = (Access{Proxy: meta, resolver: names(t, "169.254.169.254")}).post(t.Context(), "it", hooks, nil, []byte("{}"))
	if err == nil || !strings.Contains(err.Error(), "metadata") {
		t.Errorf("a proxy at a metadata address: %v", err)
	}
	plain := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer plain.Close()
	roots.AddCert(plain.Certificate())
	u, _ := url.Parse(plain.URL)
	if err := (Access{Roots: roots}).post(t.Context(), "it", u, nil, []byte("{}")); err != nil {
		t.Errorf("without a proxy: %v", err)
	}
}
