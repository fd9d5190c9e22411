package kube

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"time"
)

// maxAnswer bounds any answer but that of a watch, and each item of a list that is read
// item by item. Kubernetes itself keeps an object under 1.5 MiB (etcd's request
// limit); more comes from something that is not an honest API server.
const maxAnswer = 2 << 20

// maxWatched is how much one watch may tell before it is begun anew: certd follows objects one
// by one, and asks for their metadata alone. Client-go would gather an event that never ends
// up to 16 MiB, for each watch.
const maxWatched = 512 << 10

// maxHeader bounds the header of an answer; Go's own bound is 10 MiB.
const maxHeader = 64 << 10

// maxUnread is what a server may send ahead of what is read, over all requests on one
// connection; Go's own bound is 1 GiB.
const maxUnread = 2 * maxAnswer

// headerTable bounds what each side of a connection remembers of headers, in bytes (RFC 7541
// §4.2): the short ones that each request repeats, and not the token. HTTP/2's own bound is
// 4096, which takes several KiB for each cluster to save some hundred bytes of a request.
const headerTable = 512

// bounded refuses answers that are too large and notes the server's clock for
// who asks.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	sent := time.Now()
	resp, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if c, ok := r.Context().Value(clockKey{}).(*clock); ok {
		c.note(resp.Header.Get("Date"), sent, time.Now())
	}
	// What follows a switch of protocols is no answer, and is written to, too.
	items := resp.StatusCode == http.StatusOK && r.Context().Value(itemsKey{}) != nil
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols || items:
	case isWatch(r) && resp.StatusCode == http.StatusOK:
		resp.Body = &shortened{resp.Body, maxWatched}
	default:
		resp.Body = &limited{resp.Body, maxAnswer}
	}
	return resp, nil
}

// WrappedRoundTripper lets client-go find the transport whose connections
// Close closes.
func (b bounded) WrappedRoundTripper() http.RoundTripper { return b.next }

// oneDial has the first request make the connection alone, and so again once one has failed:
// all of them fit on one connection of HTTP/2, but requests that find none begin one each,
// with a TLS handshake that is then thrown away. A look sends a dozen at once, and watches
// begin beside it.
type oneDial struct {
	next  http.RoundTripper
	ahead chan struct{} // has room for the one that makes the connection

	mu    sync.Mutex
	there chan struct{} // closed while there is a connection
	began time.Time     // when the last one was begun by who did not wait, or not any longer
}

// connectionWaits is how long others wait for a connection that somebody makes, and no more
// than a quarter of the time there is: behind one address may stand several servers, one of
// which is gone. Where a thousand clusters are greeted at once, handshakes take seconds: one
// of those who have waited makes another connection, and the rest wait as long once more.
const connectionWaits = 4 * time.Second

func newOneDial(next http.RoundTripper) *oneDial {
	return &oneDial{next: next, ahead: make(chan struct{}, 1), there: make(chan struct{})}
}

func (o *oneDial) RoundTrip(r *http.Request) (*http.Response, error) {
	o.mu.Lock()
	there := o.there
	o.mu.Unlock()
	select {
	case <-there:
	default:
		enough := connectionWaits
		if end, ok := r.Context().Deadline(); ok {
			enough = min(enough, time.Until(end)/4)
		}
		for again := true; ; again = false {
			select {
			case <-there:
			case o.ahead <- struct{}{}:
				defer func() { <-o.ahead }()
				o.begins(0)
			case <-time.After(enough):
				if !o.begins(enough) && again {
					continue
				}
			case <-r.Context().Done():
			}
			break
		}
		if err := r.Context().Err(); err != nil { // whatever else has happened by then
			if r.Body != nil {
				r.Body.Close()
			}
			return nil, err
		}
		// The answer is not waited for by the others: it may take for ever.
		connected := func(httptrace.GotConnInfo) {
			o.mu.Lock()
			defer o.mu.Unlock()
			select {
			case <-o.there:
			default:
				close(o.there)
			}
		}
		r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{GotConn: connected}))
	}
	resp, err := o.next.RoundTrip(r)
	if err != nil && r.Context().Err() == nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		select {
		case <-o.there:
			o.there = make(chan struct{})
		default:
		}
	}
	return resp, err
}

// begins says whether a connection is to be begun now, and takes note of it: the last one was
// begun that long ago.
func (o *oneDial) begins(after time.Duration) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.began) < after {
		return false
	}
	o.began = time.Now()
	return true
}

// WrappedRoundTripper lets client-go find the transport whose connections
// Close closes.
func (o *oneDial) WrappedRoundTripper() http.RoundTripper { return o.next }

// limited fails where io.LimitReader would pretend that the text ends.
type limited struct {
	io.ReadCloser
	left int
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	if l.left -= n; l.left < 0 {
		return 0, fmt.Errorf("the answer is larger than %d MiB", maxAnswer>>20)
	}
	return n, err
}

// shortened ends where its server would go on: what a watch did not tell is seen when the next
// one begins.
type shortened struct {
	io.ReadCloser
	left int
}

func (s *shortened) Read(p []byte) (int, error) {
	if s.left <= 0 {
		return 0, io.EOF
	}
	n, err := s.ReadCloser.Read(p[:min(len(p), s.left)])
	s.left -= n
	return n, err
}

// isWatch asks each request, and parses none: in a value of a query, = is escaped.
func isWatch(r *http.Request) bool {
	return strings.HasPrefix(r.URL.RawQuery, "watch=") || strings.Contains(r.URL.RawQuery, "&watch=")
}

type itemsKey struct{}

// withItems has lists under ctx pass whatever their size: the caller bounds each
// item. Refusals are bounded as ever.
func withItems(ctx context.Context) context.Context { return context.WithValue(ctx, itemsKey{}, true) }

type clockKey struct{}

// clock is what one answer told about a server's clock.
type clock struct {
	date time.Time     // its Date header
	skew time.Duration // the server's clock minus ours; 0 where they may agree
}

// withClock has the next call under ctx note the server's clock.
func withClock(ctx context.Context) (context.Context, *clock) {
	c := &clock{}
	return context.WithValue(ctx, clockKey{}, c), c
}

// note compares a Date header with the middle of the exchange. Date has whole
// seconds, rounded down (RFC 9110 §5.6.7), so half a second is added, and what
// that and the way there and back can explain is no skew.
func (c *clock) note(date string, sent, received time.Time) {
	at, err := http.ParseTime(date)
	if err != nil {
		return
	}
	trip := received.Sub(sent)
	skew := at.Add(time.Second / 2).Sub(sent.Add(trip / 2))
	if skew.Abs() <= (trip+time.Second)/2 {
		skew = 0
	}
	c.date, c.skew = at, skew
}
