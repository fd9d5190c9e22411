package receiver

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// sendTimeout bounds one attempt, from the name's resolution to the last
	// byte of the answer that is read.
	sendTimeout = 10 * time.Second
	// maxAnswer bounds what is read of an answer, which is thrown away: reading
	// lets the receiver end its connection in order.
	maxAnswer = 64 << 10
	// longestWait is the most that a receiver may ask to be left alone for.
	longestWait = time.Hour
)

// Access says where a receiver may be, and whom to believe that it is there.
type Access struct {
	// AllowPrivate: it may be at an address that is not public, such as
	// 10.0.0.7, although its name does not say so.
	AllowPrivate bool
	// AllowHTTP: what it is told may be read by others on the way.
	AllowHTTP bool
	// Roots are the CAs that its certificate is checked against; nil: the
	// system's.
	Roots *x509.CertPool
	// Proxy is the HTTP proxy to go through; nil: none. Where the receiver's name
	// leads is then the proxy's to judge.
	Proxy *url.URL

	resolver *net.Resolver // tests; nil: the system's
}

// never are where no receiver is, whatever the configuration says: link-local
// addresses, and those at which clouds hand out credentials.
var never = prefixes("169.254.0.0/16 fe80::/10 168.63.129.16/32 100.100.100.200/32 192.0.0.192/32 fd00:ec2::254/128 " +
	"0.0.0.0/32 ::/128 224.0.0.0/4 ff00::/8 255.255.255.255/32")

// private are addresses that are not public: they have to be asked for.
var private = prefixes("127.0.0.0/8 ::1/128 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 fc00::/7 fec0::/10 0.0.0.0/8 192.0.0.0/24 " +
	"192.0.2.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4 100::/64 2001:db8::/32 3fff::/20 " +
	"2001::/32 2002::/16 64:ff9b:1::/48 5f00::/16") // the last line: ways from IPv6 to any address of IPv4

// nat64 embeds an address of IPv4 in its last four bytes (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

func prefixes(list string) (all []netip.Prefix) {
	for text := range strings.FieldsSeq(list) {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func within(ip netip.Addr, all []netip.Prefix) bool {
	for _, p := range all {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// plain is the address that ip stands for.
func plain(ip netip.Addr) netip.Addr {
	ip = ip.Unmap().WithZone("")
	if nat64.Contains(ip) {
		b := ip.As16()
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return ip
}

// isLocalhost: the name that by RFC 6761 is this host's.
func isLocalhost(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// isLoopback says whether a host's name or address is that of this host.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return isLocalhost(host) || err == nil && plain(ip).IsLoopback()
}

// admits judges an address that the name of a host has led to. It is asked for
// each address that is tried, after the name was resolved: a name that leads
// elsewhere the next time gains nothing.
func (a Access) admits(host string, ip netip.Addr) error {
	ip = plain(ip)
	said, err := netip.ParseAddr(host)
	literal := err == nil && plain(said) == ip
	switch {
	case within(ip, never):
		return fmt.Errorf("it is at %s, where certd sends nothing: link-local and metadata addresses are refused", ip)
	case !within(ip, private), literal, a.AllowPrivate, isLocalhost(host) && ip.IsLoopback():
		return nil
	}
	return fmt.Errorf("its name leads to %s, which is not a public address; if that is meant, set allowPrivate: true", ip)
}

// Check reads the URL of a receiver and says what is wrong with it, without
// quoting it.
func (a Access) Check(text string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSpace(text))
	switch {
	case err != nil || u.Opaque != "":
		return nil, errors.New("it is not a URL")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("it is not an https URL")
	case u.Hostname() == "":
		return nil, errors.New("it names no host")
	case u.User != nil:
		return nil, errors.New("it holds a user name or password; they are told apart from it")
	case u.Fragment != "":
		return nil, errors.New("it holds a fragment (#), which is never sent")
	case u.Scheme == "http" && !a.AllowHTTP && !isLoopback(u.Hostname()):
		return nil, errors.New("it is not encrypted (http); use https, or set allowHTTP: true if others may read what certd tells")
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil {
		if err := a.admits(u.Hostname(), ip); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// client follows no redirects, and connects to nothing that admits refuses: to
// the receiver, or to the configured proxy. What the environment says of proxies
// does not count.
func (a Access) client() *http.Client {
	var proxy func(*http.Request) (*url.URL, error)
	if a.Proxy != nil {
		proxy = http.ProxyURL(a.Proxy)
	}
	return &http.Client{
		Timeout:       sendTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            a.dial,
			Proxy:                  proxy,
			TLSClientConfig:        &tls.Config{RootCAs: a.Roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    sendTimeout,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxAnswer,
		},
	}
}

func (a Access) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if a.Proxy != nil {
		a.AllowPrivate = true // proxies are where only this network gets to
	}
	d := net.Dialer{Timeout: sendTimeout, Resolver: a.resolver, Control: func(_, to string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(to)
		if err != nil {
			return errors.New("it is at no address of IPv4 or IPv6")
		}
		return a.admits(host, at.Addr())
	}}
	return d.DialContext(ctx, network, address)
}

// post sends one body. who is the receiver in words, for errors.
func (a Access) post(ctx context.Context, who string, u *url.URL, header http.Header, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return &Failure{Why: fmt.Sprintf("tell %s: its URL cannot be used", who)}
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "certd")
	resp, err := a.client().Do(req)
	if err != nil {
		why := reason(ctx, err)
		if a.Proxy != nil {
			why += fmt.Sprintf(" (by the proxy at %s)", a.Proxy.Host)
		}
		return &Failure{Why: fmt.Sprintf("tell %s: %s", who, why)}
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)) // the status has said it
	return judge(who, resp)
}

// reason says why no answer came, without the URL, which net/http wraps around
// every error.
func reason(ctx context.Context, err error) string {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	var slow net.Error
	if ctx.Err() != nil || errors.As(err, &slow) && slow.Timeout() {
		return fmt.Sprintf("no answer within %s", sendTimeout)
	}
	// A header or a name that cannot be used is quoted by net/http; what comes
	// from the network is not.
	var op *net.OpError
	var unknown *net.DNSError
	var verify *tls.CertificateVerificationError
	switch {
	case errors.As(err, &unknown):
		return "its name is not resolved: " + unknown.Err
	case errors.As(err, &op):
		return op.Op + ": " + op.Err.Error()
	case errors.As(err, &verify):
		return verify.Error()
	case errors.Is(err, http.ErrSchemeMismatch):
		return "it does not speak TLS"
	}
	return "the connection ended without an answer"
}

// judge makes of an answer what it means.
func judge(who string, resp *http.Response) error {
	f := &Failure{Why: fmt.Sprintf("tell %s: it answers %d %s", who, resp.StatusCode, http.StatusText(resp.StatusCode))}
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		return nil
	case code >= 300 && code < 400:
		f.Why += "; certd follows no redirects: configure the URL that it leads to"
	case code == http.StatusBadRequest, code == http.StatusRequestEntityTooLarge, code == http.StatusUnprocessableEntity:
		f.Refused = true
	case code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusNotFound, code == http.StatusGone:
		f.Why += "; is what it is configured with still valid?"
	case code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable:
		f.RetryAfter = retryAfter(resp.Header.Get("Retry-After"))
	}
	return f
}

// retryAfter reads the header (RFC 9110 §10.2.3): seconds, or a date.
func retryAfter(text string) time.Duration {
	if n, err := strconv.Atoi(text); err == nil && n > 0 {
		return min(time.Duration(min(n, int(longestWait/time.Second)))*time.Second, longestWait)
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, min(time.Until(at), longestWait))
	}
	return 0
}
