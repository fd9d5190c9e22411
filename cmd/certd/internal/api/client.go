package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"certd.internal/cmd/certd/internal/check"
	"certd.internal/rotation"
)

const (
	// answerTimeout is how long a daemon may take to accept a connection, and
	// to begin its answer to a question; one that takes longer counts as none.
	answerTimeout = 2 * time.Second
	// transferTimeout bounds an answer that has begun.
	transferTimeout = time.Minute
	// acceptTimeout is how long a daemon may take to accept work it is not
	// waited for.
	acceptTimeout = 15 * time.Second
	// verifyTimeout bounds a verification: the daemon waits for its clusters for
	// 20 s, then judges and sends what may be many pairs.
	verifyTimeout = time.Minute
)

// A Client is the Service behind a socket. Questions (Status, Plan, History,
// Verify, Export, Trust) return ErrNoDaemon if the daemon does not begin to
// answer within 2 s, or goes away instead, so that a caller can turn to the
// journal. Init, TestReceiver, and Rotate with Wait, last as long as ctx does.
type Client struct {
	socket string
	asking *http.Client
	doing  *http.Client
}

var _ Service = (*Client)(nil)

// NewClient returns a client of the daemon that listens on the socket. It
// connects at each call, not before.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: answerTimeout}).DialContext(ctx, "unix", socket)
	}
	return &Client{
		socket: socket,
		asking: &http.Client{
			Transport: &http.Transport{DialContext: dial, ResponseHeaderTimeout: answerTimeout, DisableKeepAlives: true},
			Timeout:   transferTimeout,
		},
		doing: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}},
	}
}

// Status asks the daemon for the fleet.
func (c *Client) Status(ctx context.Context) (doc rotation.FleetStatus, err error) {
	return doc, c.ask(ctx, "/v1/status", nil, &doc)
}

// Plan asks the daemon what it is going to do.
func (c *Client) Plan(ctx context.Context, until time.Time, ifStopped bool) (doc rotation.Plan, err error) {
	q := url.Values{"until": {until.UTC().Format(time.RFC3339Nano)}, "ifStopped": {strconv.FormatBool(ifStopped)}}
	return doc, c.ask(ctx, "/v1/plan", q, &doc)
}

// History asks the daemon for journal entries.
func (c *Client) History(ctx context.Context, h HistoryQuery) (doc rotation.HistoryList, err error) {
	q := url.Values{}
	if !h.Since.IsZero() {
		q.Set("since", h.Since.UTC().Format(time.RFC3339Nano))
	}
	if h.Cluster != "" {
		q.Set("cluster", h.Cluster)
	}
	if h.Limit != 0 {
		q.Set("limit", strconv.Itoa(h.Limit))
	}
	if h.After != 0 {
		q.Set("after", strconv.FormatUint(h.After, 10))
	}
	return doc, c.ask(ctx, "/v1/history", q, &doc)
}

// Verify asks the daemon to check the journal's hash chain.
func (c *Client) Verify(ctx context.Context) (doc VerifyReport, err error) {
	return doc, c.ask(ctx, "/v1/verify", nil, &doc)
}

// Verification asks the daemon to look at the clusters and judge the promises.
func (c *Client) Verification(ctx context.Context) (doc rotation.Verification, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, verifyTimeout, errNoVerdict)
	defer cancel()
	return doc, c.get(ctx, c.doing, "/v1/verification", nil, &doc)
}

// Check asks the daemon to look at everything and judge the claims. It returns
// ErrNoDaemon where none listens.
func (c *Client) Check(ctx context.Context, s check.Select) (doc check.Report, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, verifyTimeout, errNoVerdict)
	defer cancel()
	return doc, c.get(ctx, c.doing, "/v1/check", url.Values{"cluster": s.Clusters, "category": s.Categories, "version": {s.Version}}, &doc)
}

// errNoVerdict is why a verification or a check was given up.
var errNoVerdict = fmt.Errorf("the daemon did not come to a verdict within %s: %w", verifyTimeout, ErrTimeout)

// Export asks the daemon what other tools need to know of a cluster.
func (c *Client) Export(ctx context.Context, cluster string) (doc ClusterExport, err error) {
	return doc, c.ask(ctx, "/v1/export", url.Values{"cluster": {cluster}}, &doc)
}

// Trust asks the daemon for every generation of the trust anchor.
func (c *Client) Trust(ctx context.Context) (doc TrustList, err error) {
	return doc, c.ask(ctx, "/v1/trust", nil, &doc)
}

// Rotate asks the daemon for new certificates.
func (c *Client) Rotate(ctx context.Context, r RotateRequest) (doc RotateReply, err error) {
	if !r.Wait {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, acceptTimeout, errSlow)
		defer cancel()
	}
	return doc, c.do(ctx, "/v1/rotate", r, &doc)
}

// RenewTrust asks the daemon for new dates for the trust anchor.
func (c *Client) RenewTrust(ctx context.Context, r RenewRequest) (doc RenewReply, err error) {
	return doc, c.do(ctx, "/v1/trust/renew", r, &doc)
}

// ChangeTrust asks the daemon to begin a change of the trust anchor, or to steer it.
func (c *Client) ChangeTrust(ctx context.Context, r ChangeRequest) (doc ChangeReply, err error) {
	return doc, c.do(ctx, "/v1/trust/change", r, &doc)
}

// Adopt asks the daemon to take clusters over.
func (c *Client) Adopt(ctx context.Context, r AdoptRequest) (doc AdoptReply, err error) {
	return doc, c.do(ctx, "/v1/adopt", r, &doc)
}

// Pause asks the daemon to leave clusters alone for a while, or not any more.
func (c *Client) Pause(ctx context.Context, r PauseRequest) (doc PauseReply, err error) {
	return doc, c.do(ctx, "/v1/pause", r, &doc)
}

// TestReceiver asks the daemon to send a test to a receiver of notifications. It
// lasts as long as ctx does; the daemon gives up after half a minute.
func (c *Client) TestReceiver(ctx context.Context, r ReceiverTest) (doc ReceiverTestReply, err error) {
	return doc, c.do(ctx, "/v1/notify/test", r, &doc)
}

// Init asks the daemon to make the trust anchor.
func (c *Client) Init(ctx context.Context, r InitRequest) (doc InitReply, err error) {
	return doc, c.do(ctx, "/v1/init", r, &doc)
}

// errSlow is why a request that nobody waits for was given up.
var errSlow = fmt.Errorf("the daemon did not accept the request within %s; whether it will act on it is unknown, certd history shows it: %w", acceptTimeout, ErrUnavailable)

func (c *Client) ask(ctx context.Context, path string, q url.Values, into any) error {
	return c.get(ctx, c.asking, path, q, into)
}

func (c *Client) get(ctx context.Context, by *http.Client, path string, q url.Values, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, (&url.URL{Scheme: "http", Host: "certd", Path: path, RawQuery: q.Encode()}).String(), nil)
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", err)
	}
	resp, err := by.Do(req)
	if err != nil {
		var slow net.Error
		if ctx.Err() == nil && errors.As(err, &slow) && slow.Timeout() {
			return fmt.Errorf("%w on %s within %s", ErrNoDaemon, c.socket, answerTimeout)
		}
		if err = c.unanswered(ctx, err); errors.Is(err, errHungUp) {
			// It is stopping, or has just died: a question can be put to the journal.
			err = fmt.Errorf("%w: %w", err, ErrNoDaemon)
		}
		return err
	}
	return c.take(ctx, resp, into)
}

func (c *Client) do(ctx context.Context, path string, request, into any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://certd"+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.doing.Do(req)
	if err != nil {
		return c.unanswered(ctx, err)
	}
	return c.take(ctx, resp, into)
}

// unanswered says what it means that no answer came.
func (c *Client) unanswered(ctx context.Context, err error) error {
	// net/http wraps every error in the made-up URL, which helps nobody.
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	var dial *net.OpError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("wait for the daemon's answer: %w", context.Cause(ctx))
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("connect to %s%s: %w", c.socket, groupHint(c.socket), ErrDenied)
	case errors.As(err, &dial) && dial.Op == "dial":
		return fmt.Errorf("%w on %s (%w)", ErrNoDaemon, c.socket, dial.Err)
	}
	return fmt.Errorf("%w (%w): %w", errHungUp, err, ErrUnavailable)
}

// errHungUp: there was a daemon, and it went away before it answered.
var errHungUp = errors.New("the daemon closed the connection without an answer")

// groupHint names the group that may connect, if that can be seen.
func groupHint(socket string) string {
	o, err := socketOwner(socket)
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" as uid %d, which is not in its group (gid %d)", os.Getuid(), o.gid)
}

// maxAnswer bounds what the client reads: 10,000 entries are some 8 MB.
const maxAnswer = 256 << 20

func (c *Client) take(ctx context.Context, resp *http.Response, into any) error {
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return c.unanswered(ctx, err)
	}
	if resp.StatusCode != http.StatusOK {
		var f failure
		if err := json.Unmarshal(body, &f); err != nil || f.Text == "" {
			return fmt.Errorf("what listens on %s answers %s and not as certd does: %w", c.socket, resp.Status, ErrUnavailable)
		}
		return f.err()
	}
	// Unknown fields are fine here: a newer daemon may say more.
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("read the daemon's answer: %w: %w", err, ErrUnavailable)
	}
	return nil
}
