package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"time"

	"certd.internal/cmd/certd/internal/check"
)

const (
	maxBody = 1 << 20 // the names of some ten thousand clusters
	// headerTimeout bounds what a client may take to begin. There is no bound
	// on the answer: a request may wait for a rotation.
	headerTimeout = 5 * time.Second
	idleTimeout   = time.Minute
	drainTimeout  = 3 * time.Second
)

// A Server answers on the admin socket.
type Server struct {
	service Service
	log     *slog.Logger
	// bodyTimeout is how long a client may take to send its request. It cannot
	// be http.Server.ReadTimeout, which goes on running while the answer is
	// worked on and ends the request's context then.
	bodyTimeout time.Duration
}

// NewServer returns a server that answers for the service.
func NewServer(service Service, log *slog.Logger) *Server {
	return &Server{service: service, log: log, bodyTimeout: 10 * time.Second}
}

// Serve answers until ctx ends, then gives requests in hand, whose contexts
// end too, a few seconds, and closes the listener. It returns nil after that.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.handler(l.Addr().String()),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          log.New(&logWriter{s.log}, "", 0),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withPeer,
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(l)
	if !stop() {
		<-stopped
		return nil
	}
	return fmt.Errorf("serve the admin socket: %w", err)
}

func (s *Server) handler(socket string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", read(s, nil, func(ctx context.Context, _ url.Values) (any, error) {
		return s.service.Status(ctx)
	}))
	mux.HandleFunc("GET /v1/plan", read(s, []string{"until", "ifStopped"}, s.plan))
	mux.HandleFunc("GET /v1/history", read(s, []string{"since", "cluster", "limit", "after"}, s.history))
	mux.HandleFunc("GET /v1/verify", read(s, nil, func(ctx context.Context, _ url.Values) (any, error) {
		return s.service.Verify(ctx)
	}))
	mux.HandleFunc("GET /v1/verification", read(s, nil, func(ctx context.Context, _ url.Values) (any, error) {
		return s.service.Verification(ctx)
	}))
	mux.HandleFunc("GET /v1/check", read(s, []string{"cluster", "category", "version"}, func(ctx context.Context, q url.Values) (any, error) {
		return s.service.Check(ctx, check.Select{Clusters: q["cluster"], Categories: q["category"], Version: q.Get("version")})
	}))
	mux.HandleFunc("GET /v1/export", read(s, []string{"cluster"}, func(ctx context.Context, q url.Values) (any, error) {
		return s.service.Export(ctx, q.Get("cluster"))
	}))
	mux.HandleFunc("GET /v1/trust", read(s, nil, func(ctx context.Context, _ url.Values) (any, error) {
		return s.service.Trust(ctx)
	}))
	mux.HandleFunc("GET /v1/diagnosis", read(s, nil, func(ctx context.Context, _ url.Values) (any, error) {
		return s.service.Diagnosis(ctx)
	}))
	mux.HandleFunc("GET /v1/snapshot", read(s, nil, func(ctx context.Context, _ url.Values) (any, error) {
		return s.service.Snapshot(ctx)
	}))
	mux.HandleFunc("POST /v1/log-level", write(s, func(ctx context.Context, r LogLevelRequest, actor string) (any, error) {
		r.Actor = actor
		return s.service.LogLevel(ctx, r)
	}))
	mux.HandleFunc("POST /v1/rotate", write(s, func(ctx context.Context, r RotateRequest, actor string) (any, error) {
		r.Actor = actor
		s.log.Info("request", "what", "rotate", "target", r.Target, "actor", actor, "clusters", r.Clusters, "reason", r.Reason, "dry_run", r.DryRun)
		return s.service.Rotate(ctx, r)
	}))
	mux.HandleFunc("POST /v1/trust/renew", write(s, func(ctx context.Context, r RenewRequest, actor string) (any, error) {
		r.Actor = actor
		s.log.Info("request", "what", "trust renew", "actor", actor, "reason", r.Reason, "dry_run", r.DryRun)
		return s.service.RenewTrust(ctx, r)
	}))
	mux.HandleFunc("POST /v1/trust/change", write(s, func(ctx context.Context, r ChangeRequest, actor string) (any, error) {
		r.Actor, r.ByID = actor, byID(ctx)
		s.log.Info("request", "what", "trust "+string(r.Order), "actor", actor, "without", r.Without, "approves", r.Approves, "reason", r.Reason, "dry_run", r.DryRun)
		reply, err := s.service.ChangeTrust(ctx, r)
		if err != nil {
			err = answer{scrub(err.Error(), r.Token), err}
		}
		return reply, err
	}))
	mux.HandleFunc("POST /v1/adopt", write(s, func(ctx context.Context, r AdoptRequest, actor string) (any, error) {
		r.Actor = actor
		s.log.Info("request", "what", "adopt", "actor", actor, "clusters", r.Clusters, "reason", r.Reason, "dry_run", r.DryRun)
		return s.service.Adopt(ctx, r)
	}))
	mux.HandleFunc("POST /v1/pause", write(s, func(ctx context.Context, r PauseRequest, actor string) (any, error) {
		r.Actor = actor
		s.log.Info("request", "what", "pause", "resume", r.Resume, "actor", actor, "clusters", r.Clusters, "seconds", r.Seconds, "reason", r.Reason, "dry_run", r.DryRun)
		return s.service.Pause(ctx, r)
	}))
	mux.HandleFunc("POST /v1/notify/test", write(s, func(ctx context.Context, r ReceiverTest, actor string) (any, error) {
		r.Actor = actor
		s.log.Info("request", "what", "debug notify", "actor", actor, "receiver", r.Receiver)
		return s.service.TestReceiver(ctx, r)
	}))
	mux.HandleFunc("POST /v1/init", write(s, func(ctx context.Context, r InitRequest, actor string) (any, error) {
		r.Actor = actor
		s.log.Info("request", "what", "init", "actor", actor, "operator", r.Operator, "reason", r.Reason, "dry_run", r.DryRun)
		reply, err := s.service.Init(ctx, r)
		if err != nil {
			err = answer{scrub(err.Error(), r.Token), err}
		}
		return reply, err
	}))
	unknown := func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, fmt.Errorf("this daemon does not know %s %s; is it of another version than the command? %w", r.Method, r.URL.Path, ErrUsage))
	}
	mux.HandleFunc("/", unknown)
	return s.guard(socket, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.RequestURI == "*" { // the multiplexer refuses it without a word
			unknown(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	}))
}

// guard lets in whom the socket admits, and turns a panic into an answer: one
// bad request must not end the daemon's other work.
func (s *Server) guard(socket string, next http.Handler) http.Handler {
	self := uint32(os.Geteuid())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				// The value may quote the request, so only its type is logged.
				s.log.Error("request ended by a panic", "path", r.URL.Path, "type", fmt.Sprintf("%T", p))
				s.fail(w, errors.New("the daemon met a fault of its own in this request; it goes on running"))
			}
		}()
		who, _ := r.Context().Value(peerKey{}).(peer)
		o, err := socketOwner(socket)
		if err != nil || !o.admits(who, self) {
			s.log.Warn("request refused", "path", r.URL.Path, "uid", who.uid, "err", errors.Join(err, who.err))
			s.fail(w, fmt.Errorf("%s is neither root, nor the user of the daemon, nor in the group of %s: %w", who.actor(), socket, ErrDenied))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// read answers a GET with what ask returns; parameters it does not know are
// refused, as a misspelt limit must not silently mean none.
func read(s *Server, known []string, ask func(context.Context, url.Values) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			s.fail(w, fmt.Errorf("read the query: %w: %w", err, ErrUsage))
			return
		}
		for name := range q {
			if !slices.Contains(known, name) {
				s.fail(w, fmt.Errorf("%s has no parameter %q: %w", r.URL.Path, name, ErrUsage))
				return
			}
		}
		s.reply(w, func() (any, error) { return ask(r.Context(), q) })
	}
}

// write answers a POST whose body is one JSON document of type T.
func write[T any](s *Server, do func(ctx context.Context, request T, actor string) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var request T
		conn := http.NewResponseController(w)
		err := conn.SetReadDeadline(time.Now().Add(s.bodyTimeout))
		if err == nil {
			err = decode(http.MaxBytesReader(w, r.Body, maxBody), &request)
		}
		if err == nil {
			err = conn.SetReadDeadline(time.Time{})
		}
		if err != nil {
			s.fail(w, err)
			return
		}
		who, _ := r.Context().Value(peerKey{}).(peer)
		s.reply(w, func() (any, error) { return do(r.Context(), request, who.actor()) })
	}
}

// decode reads one JSON document and nothing after it. Its errors do not
// quote values: one of them is a token.
func decode(body io.Reader, into any) error {
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	var tooLarge *http.MaxBytesError
	var typed *json.UnmarshalTypeError
	switch {
	case errors.As(err, &tooLarge):
		return fmt.Errorf("the request is larger than %d bytes: %w", tooLarge.Limit, ErrUsage)
	case errors.As(err, &typed):
		return fmt.Errorf("read the request: field %s has the wrong type: %w", typed.Field, ErrUsage)
	case err != nil:
		return fmt.Errorf("read the request: %w: %w", err, ErrUsage)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the request: something follows the JSON document: %w", ErrUsage)
	}
	return nil
}

func (s *Server) plan(ctx context.Context, q url.Values) (any, error) {
	until, err := timeOf(q, "until")
	if err != nil {
		return nil, err
	}
	if until.IsZero() {
		return nil, fmt.Errorf("until is missing: %w", ErrUsage)
	}
	ifStopped := false
	if v := q.Get("ifStopped"); v != "" {
		if ifStopped, err = strconv.ParseBool(v); err != nil {
			return nil, fmt.Errorf("ifStopped is %q, not true or false: %w", v, ErrUsage)
		}
	}
	return s.service.Plan(ctx, until, ifStopped)
}

func (s *Server) history(ctx context.Context, q url.Values) (any, error) {
	since, err := timeOf(q, "since")
	if err != nil {
		return nil, err
	}
	query := HistoryQuery{Since: since, Cluster: q.Get("cluster")}
	if v := q.Get("limit"); v != "" {
		if query.Limit, err = strconv.Atoi(v); err != nil || query.Limit < 0 {
			return nil, fmt.Errorf("limit is %q, not a number from 0 on: %w", v, ErrUsage)
		}
	}
	if v := q.Get("after"); v != "" {
		if query.After, err = strconv.ParseUint(v, 10, 64); err != nil {
			return nil, fmt.Errorf("after is %q, not a sequence number: %w", v, ErrUsage)
		}
	}
	return s.service.History(ctx, query)
}

func timeOf(q url.Values, name string) (time.Time, error) {
	v := q.Get(name)
	if v == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, v)
	if err != nil {
		return t, fmt.Errorf("%s is %q, not a time as in RFC 3339: %w", name, v, ErrUsage)
	}
	return t, nil
}

// reply encodes the whole answer before the first byte is sent, so that a
// client never takes half a document for all of it.
func (s *Server) reply(w http.ResponseWriter, ask func() (any, error)) {
	doc, err := ask()
	if err != nil {
		s.fail(w, err)
		return
	}
	var body bytes.Buffer
	if err := json.NewEncoder(&body).Encode(doc); err != nil {
		s.fail(w, fmt.Errorf("encode the answer: %w", err))
		return
	}
	s.send(w, http.StatusOK, body.Bytes())
}

func (s *Server) fail(w http.ResponseWriter, err error) {
	exit, status := classify(err)
	body, err := json.Marshal(failure{Code: exit, Text: Text(err)})
	if err != nil { // a struct of a number and a string always encodes
		status = http.StatusInternalServerError
	}
	s.send(w, status, body)
}

func (s *Server) send(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		s.log.Debug("answer not delivered", "err", err)
	}
}
