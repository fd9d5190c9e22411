package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/check"
	"certd.internal/deploy/rbac"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// scripted is a Service with a fixed fleet.
type scripted struct {
	st     rotation.FleetStatus
	rotate error
	bad    uint64
	t      testing.TB
	// settles is how many checks find something wrong that is right thereafter.
	settles int

	mu     sync.Mutex
	asked  []api.RotateRequest
	inits  []api.InitRequest
	took   []string // what imports brought
	taken  api.ImportRequest
	anchor bool
	pauses []api.Pause
}

func (s *scripted) Status(context.Context) (rotation.FleetStatus, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.st
	st.Trust.Active = nil
	if s.anchor {
		st.Trust.Active = healthy().Trust.Active
	}
	return st, nil
}

func (s *scripted) Plan(_ context.Context, until time.Time, ifStopped bool) (rotation.Plan, error) {
	p := plan()
	p.Until = until
	p.Items = slices.DeleteFunc(p.Items, func(i rotation.PlanItem) bool { return i.At.After(until) })
	if !ifStopped {
		p.Breaks = nil
	}
	return p, nil
}

func (s *scripted) History(_ context.Context, q api.HistoryQuery) (rotation.HistoryList, error) {
	list := rotation.HistoryList{APIVersion: rotation.APIVersion, Kind: "HistoryList", Fleet: "acme-mesh", Source: s.st.Source, Items: []rotation.HistoryItem{}}
	for _, e := range entries() {
		if e.Seq > q.After && !e.At.Before(q.Since) && (q.Cluster == "" || e.Cluster == q.Cluster) {
			list.Items = append(list.Items, e)
		}
	}
	if n := len(list.Items); q.Limit > 0 && n > q.Limit {
		list.Items = list.Items[n-q.Limit:]
	}
	return list, nil
}

func (s *scripted) Verify(context.Context) (api.VerifyReport, error) {
	r := api.VerifyReport{Entries: 4, First: 1, Last: 4, Head: digest, BadSeq: s.bad}
	if s.bad != 0 {
		r.Problem = "its hash does not cover it"
	}
	return r, nil
}

func (s *scripted) Verification(context.Context) (rotation.Verification, error) {
	var names []string
	for _, c := range s.st.Clusters {
		names = append(names, c.Name)
	}
	switch {
	case s.rotate != nil:
		return rotation.Verification{}, s.rotate
	case s.st.State == rotation.StateOK:
		return verified(names...), nil
	case s.st.State == rotation.StateUnknown:
		doc := verified(names...)
		doc.State = rotation.StateUnknown
		return doc, nil
	}
	return cutOff(names...), nil
}

// Check judges evidence of a fleet like the status: healthy, or not.
func (s *scripted) Check(_ context.Context, sel check.Select) (check.Report, error) {
	if s.rotate != nil {
		return check.Report{}, s.rotate
	}
	if s.settles > 0 {
		s.settles--
		return s.checks("overdue", sel), nil
	}
	return s.checks(map[rotation.State]string{rotation.StateOK: "healthy", rotation.StateUnknown: "unseen"}[s.st.State], sel), nil
}

func (s *scripted) checks(which string, sel check.Select) check.Report {
	return check.Judge(checkEvidence(s.t, which, len(s.st.Clusters)), sel)
}

func (s *scripted) Export(_ context.Context, cluster string) (api.ClusterExport, error) {
	e := exported()
	switch e.Cluster = cluster; {
	case cluster == "vm-pool":
		e.Directory, e.Webhooks = true, false
	case !slices.ContainsFunc(s.st.Clusters, func(c rotation.ClusterStatus) bool { return c.Name == cluster }):
		return e, fmt.Errorf("cluster %q is not configured: %w", cluster, api.ErrUsage)
	case cluster == "stage-eu-1":
		e.WebhookCAPEM = ""
	}
	if !s.anchor {
		e.BundlePEM = ""
	}
	return e, nil
}

func (s *scripted) Adopt(_ context.Context, r api.AdoptRequest) (api.AdoptReply, error) {
	reply := api.AdoptReply{Results: []api.AdoptResult{}}
	for _, name := range r.Clusters {
		if name == "stage-eu-1" {
			reply.Results = append(reply.Results, api.AdoptResult{Cluster: name, Refused: "adopt stage-eu-1: certd looks after it already: not now", Writes: []string{}, Notes: []string{}})
			continue
		}
		end := now.AddDate(0, 0, 40)
		reply.Results = append(reply.Results, api.AdoptResult{Cluster: name, Ends: &end,
			Anchor: &rotation.AnchorStatus{ID: "x1", Subject: "root.linkerd.cluster.local", SHA256: digest, NotAfter: now.AddDate(8, 0, 0)},
			Writes: []string{"ConfigMap linkerd-identity-trust-roots: annotations and a label; its data stays as it is"},
			Notes:  []string{"certd does not have the key of its trust anchor and cannot renew its issuer"}})
	}
	return reply, nil
}

func (s *scripted) Pause(_ context.Context, r api.PauseRequest) (api.PauseReply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reply := api.PauseReply{Pauses: []api.Pause{}, Ended: []api.Pause{}}
	if r.Resume {
		if len(s.pauses) == 0 {
			return reply, fmt.Errorf("resume: nothing is paused: %w", api.ErrNotNow)
		}
		reply.Ended = s.pauses
		if !r.DryRun {
			s.pauses = nil
		}
		return reply, nil
	}
	p := api.Pause{Since: now, By: "lee@cli", Reason: r.Reason}
	if len(r.Clusters) > 0 {
		p.Cluster = r.Clusters[0]
	}
	if r.Seconds > 0 {
		until := now.Add(time.Duration(r.Seconds) * time.Second)
		p.Until = &until
	}
	reply.Pauses = append(slices.Clone(s.pauses), p)
	if !r.DryRun {
		s.pauses = reply.Pauses
	}
	return reply, nil
}

func (s *scripted) ChangeTrust(_ context.Context, r api.ChangeRequest) (api.ChangeReply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reply := api.ChangeReply{Steps: []string{"key acme-mesh-anchor-2 does not exist yet"}}
	now := s.st.Trust.Rotation
	if idle := now.Phase == "idle"; idle != (r.Order == api.ChangeBegin) {
		return reply, fmt.Errorf("trust %s: the trust anchor is not being changed, or is already: %w", r.Order, api.ErrNotNow)
	}
	next := *now
	switch r.Order {
	case api.ChangeBegin:
		next = rotation.RotationStatus{Phase: "bridge", Stage: "bridge", Number: 2, Of: 6, SafeToStop: true, From: "g1", To: "g2", Actor: "lee@cli", Reason: r.Reason, WaitingFor: []string{"prod-us-1: its issuer is to have two certificates"}}
		next.Manual = r.Manual
		if next.Compromised = r.Compromised; r.Compromised {
			next.Stage, next.Phase, next.Number = "restart", "restart", 4
			reply.Costs = []string{"prod-eu-1: 40 meshed pods have to be restarted"}
		}
		reply.Anchor = &rotation.AnchorStatus{ID: "g2", Subject: "root.linkerd.cluster.local 2026-2", SHA256: digest, Key: rotation.KeyStatus{Backend: "vault-transit", Name: "acme-mesh-anchor-2"}}
	case rotation.ChangeHold:
		next.Held = true
	case rotation.ChangeResume:
		next.Held = false
	case rotation.ChangeRollback:
		next.From, next.To, next.Back, next.Phase = now.To, now.From, true, "rollback"
	case rotation.ChangeAdvance:
		if r.Outsiders {
			break
		}
		if len(r.Without) == 0 && !now.Manual {
			return reply, fmt.Errorf("trust advance: name the clusters to go on without: --without CLUSTER: %w", api.ErrUsage)
		}
		next.Without = r.Without
	case rotation.ChangeApprove:
		if r.Approves != now.From {
			return reply, fmt.Errorf("trust approve: %q is not what is retired: the change from %s to %s retires %s: %w", r.Approves, now.From, now.To, now.From, api.ErrUsage)
		}
		if r.Reason == "mine" {
			return reply, fmt.Errorf("trust approve: approve that g1 is retired: lee@cli began the change, and so it takes somebody else: %w", api.ErrDenied)
		}
		next.Approval = &rotation.ApprovalStatus{Of: now.From, Not: "lee@cli", By: "kim@cli", At: after(0), Reason: r.Reason}
	}
	reply.Rotation = next
	if !r.DryRun {
		s.st.Trust.Rotation = &next
	}
	return reply, nil
}

func (s *scripted) TestReceiver(_ context.Context, r api.ReceiverTest) (api.ReceiverTestReply, error) {
	switch r.Receiver {
	case "ops":
		return api.ReceiverTestReply{Receiver: r.Receiver, ID: "msg_1", At: now}, nil
	case "soc":
		return api.ReceiverTestReply{}, fmt.Errorf("debug notify: soc has not taken the test: tell the webhook at soc.example: it answers 503 Service Unavailable: %w", api.ErrUnavailable)
	}
	return api.ReceiverTestReply{}, fmt.Errorf("debug notify: receiver %q: there are ops, soc: there is no such receiver: %w", r.Receiver, api.ErrUsage)
}

func (s *scripted) RenewTrust(_ context.Context, r api.RenewRequest) (api.RenewReply, error) {
	reply := api.RenewReply{Before: *s.st.Trust.Active, After: *s.st.Trust.Active}
	if !r.DryRun {
		if r.Reason == "too soon" {
			return reply, fmt.Errorf("renew trust anchor g1: nothing to gain: %w", api.ErrNotNow)
		}
		reply.After.NotAfter = reply.After.NotAfter.AddDate(10, 0, 0)
	}
	return reply, nil
}

func (s *scripted) Trust(context.Context) (api.TrustList, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := generations()
	list.Source = s.st.Source
	if !s.anchor {
		list.Items = list.Items[:0]
	}
	return list, nil
}

func (s *scripted) Rotate(_ context.Context, r api.RotateRequest) (api.RotateReply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, r)
	var reply api.RotateReply
	if s.rotate != nil {
		return reply, s.rotate
	}
	for _, c := range r.Clusters {
		res := api.RotateResult{Cluster: c, Detail: "asked for"}
		switch {
		case r.DryRun:
			res.Detail = fmt.Sprintf("would be given a new %s now", r.Target)
		case r.Wait && c == "prod-us-1":
			res = api.RotateResult{Cluster: c, Result: rotation.Failed, Detail: "connection refused"}
		case r.Wait:
			res = api.RotateResult{Cluster: c, Result: rotation.OK, Serial: "5e91"}
			if r.Target == rotation.TargetWebhooks {
				res.Serial = "7c02, 7c03"
			}
		}
		reply.Results = append(reply.Results, res)
	}
	return reply, nil
}

func (s *scripted) LogLevel(_ context.Context, r api.LogLevelRequest) (api.LogLevel, error) {
	l := api.LogLevel{APIVersion: rotation.APIVersion, Kind: "LogLevel", Level: "info", Configured: "info"}
	if r.Level != "" {
		l.Level, l.Until = r.Level, after(time.Duration(r.Seconds)*time.Second)
	}
	return l, nil
}

func (s *scripted) Diagnosis(context.Context) (api.Diagnosis, error) {
	return api.Diagnosis{APIVersion: rotation.APIVersion, Kind: "Diagnosis", At: now, Version: "1.0.0", PID: 812, Goroutines: "goroutine 1 [running]:", Logs: []string{`{"msg":"certd runs"}`}}, nil
}

func (s *scripted) Snapshot(context.Context) (api.Snapshot, error) {
	return api.Snapshot{APIVersion: rotation.APIVersion, Kind: "JournalSnapshot", Fleet: "acme-mesh", Data: []byte("pages")}, nil
}

func (s *scripted) Init(_ context.Context, r api.InitRequest) (api.InitReply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inits = append(s.inits, r)
	reply := api.InitReply{APIVersion: rotation.APIVersion, Kind: "Ceremony", Fleet: "acme-mesh", At: now, Created: !s.anchor && !r.DryRun, DryRun: r.DryRun, Operator: r.Operator, Witnesses: append([]string{}, r.Witnesses...),
		Anchor: *healthy().Trust.Active, BundlePEM: "-----BEGIN CERTIFICATE-----\n", Steps: []string{"Vault answers and is unsealed"}}
	s.anchor = s.anchor || !r.DryRun
	return reply, nil
}

// Import stands for the daemon package's, for a journal without a daemon.
func (s *scripted) Import(r api.ImportRequest) (api.InitReply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	whose := "another's"
	if pki.CanSign(r.Key, r.Certificate) {
		whose = "its own"
	}
	s.taken = r
	s.took = append(s.took, fmt.Sprintf("subject=%s reason=%s dryRun=%t key=%s", r.Certificate.Subject.CommonName, r.Reason, r.DryRun, whose))
	reply := api.InitReply{APIVersion: rotation.APIVersion, Kind: "TrustImport", Fleet: "acme-mesh", At: now, Created: !s.anchor && !r.DryRun, DryRun: r.DryRun, Witnesses: []string{},
		Anchor: *healthy().Trust.Active, Steps: []string{"key acme-mesh-anchor-1 does not exist yet"}, Warnings: []string{"the anchor ends in 50d: linkerd check warns below 60 days"}}
	reply.Anchor.Key.CheckedAt = nil
	if s.anchor {
		reply.Anchor.Key.CheckedAt = &now
	}
	s.anchor = s.anchor || !r.DryRun
	return reply, nil
}

// configs is a configuration that is as the test says.
type configs struct{ invalid bool }

func (c configs) Validate(string) ConfigReport {
	if c.invalid {
		return ConfigReport{Problems: []string{`certd.yaml:9:22: defaults.issuer.schedule: "0 0 31 2 *" never fires`}, Warnings: []string{"certd.yaml:8:3: defaults.issuer.lifetime: is short"}}
	}
	return ConfigReport{Valid: []string{"valid · 3 clusters", `  prod-eu-1  issuer  "0 3 * * *"`}}
}

func (c configs) Values(string) ([]ConfigValue, error) {
	if c.invalid {
		return nil, fmt.Errorf("certd.yaml:9:22: never fires: %w", ErrConfig)
	}
	return []ConfigValue{{"name", "acme-mesh", "certd.yaml:3:7"}, {"stateDir", "/var/lib/certd", "default"}}, nil
}
func (configs) Schema() []byte  { return []byte("{\"type\": \"object\"}\n") }
func (configs) Example() []byte { return []byte("apiVersion: certd/v1\n") }

// testedClusters are three clusters, of which the second is not counted in, and
// the third lacks what certd needs.
type testedClusters struct{}

func (testedClusters) Clusters(string) (list []api.ConfiguredCluster, err error) {
	for _, name := range three {
		tier, _, _ := strings.Cut(name, "-")
		list = append(list, api.ConfiguredCluster{Name: name, Groups: []string{tier}, Labels: map[string]string{"tier": tier}, Namespace: "linkerd", Target: "kubeconfig /etc/certd/kube/" + name})
	}
	return list, nil
}

func (testedClusters) TestClusters(_ context.Context, _ string, names []string) (tests []api.ClusterTest, err error) {
	for _, name := range names {
		tests = append(tests, api.ClusterTest{Cluster: name, Reachable: true, Version: "v1.35.1", LookMilliseconds: 41, ClockSkewMilliseconds: 400, Rights: []api.ClusterRight{
			{Verb: "patch", Resource: "secrets", Name: "linkerd-identity-issuer", Namespace: "linkerd", Has: name != "stage-eu-1", Manifest: "certd.yaml"},
			{Verb: "list", Resource: "pods", Has: name != "prod-us-1", Manifest: "certd-proxies.yaml", Lost: "pods that trust other anchors than the bundle cannot be counted"},
		}})
	}
	return tests, nil
}

func (testedClusters) Manifest(_ string, r api.ManifestRequest) ([]byte, error) {
	if !slices.Contains(three, r.Cluster) {
		return nil, fmt.Errorf("clusters rbac: cluster %q is not configured: %w", r.Cluster, api.ErrUsage)
	}
	return rbac.Manifest(rbac.Cluster{Namespace: "linkerd", CheckNamespace: "certd", Viz: r.Viz, Policies: r.Policies}), nil
}

// world is what a script sets up with its own commands:
//
//	daemon FLEET       a daemon that knows the fleet listens on $SOCKET
//	journal FLEET      a journal without a daemon
//	set KEY VALUE      stdin, interactive, badseq, settles, rotate-error, config, anchor, passphrase
//	exits CODE ARG...  runs certd and wants that exit code
//	token              prints the token that the last init brought
//	imported           prints what the last trust import brought, and whether the key is wiped since
type world struct {
	t           testing.TB
	service     *scripted
	local       bool
	stdin       string
	interactive bool
	invalid     bool
	broken      bool
	width       int
	passphrase  string
}

func fleetOf(name string) rotation.FleetStatus {
	return map[string]func() rotation.FleetStatus{
		"healthy": func() rotation.FleetStatus { return healthy("prod-eu-1", "prod-us-1", "stage-eu-1") },
		"overdue": overdue, "unreachable": unreachable, "journal": fromJournal, "watched": watchedOnly, "none": noAnchor, "large": large, "broken": broken,
		"hooked": hooked, "untrusted": untrusted,
		"dark": func() rotation.FleetStatus {
			return with(healthy("prod-eu-1"), "prod-eu-1", func(c *rotation.ClusterStatus) { c.State = rotation.StateUnknown })
		},
	}[name]()
}

func TestScripts(t *testing.T) {
	worlds := sync.Map{}
	of := func(ts *testscript.TestScript) *world {
		w, _ := worlds.LoadOrStore(ts.Getenv("WORK"), &world{t: t})
		return w.(*world)
	}
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(e *testscript.Env) error {
			// A socket's path must be short.
			dir, err := os.MkdirTemp("", "certd")
			if err != nil {
				return err
			}
			e.Defer(func() { os.RemoveAll(dir) })
			e.Setenv("SOCKET", filepath.Join(dir, "s"))
			e.Setenv("TZ", "Europe/Berlin")
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("LANG", "C.UTF-8")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon": func(ts *testscript.TestScript, _ bool, args []string) {
				w := of(ts)
				w.service = &scripted{t: t, st: fleetOf(args[0]), anchor: args[0] != "none"}
				l, err := api.Listen(ts.Getenv("SOCKET"))
				ts.Check(err)
				ctx, cancel := context.WithCancel(context.Background())
				done := make(chan error, 1)
				go func() { done <- api.NewServer(w.service, slog.New(slog.DiscardHandler)).Serve(ctx, l) }()
				ts.Defer(func() {
					cancel()
					ts.Check(<-done)
				})
			},
			"journal": func(ts *testscript.TestScript, _ bool, args []string) {
				w := of(ts)
				w.local, w.service = true, &scripted{t: t, st: fleetOf(args[0]), anchor: args[0] != "none"}
			},
			"set": func(ts *testscript.TestScript, _ bool, args []string) {
				w := of(ts)
				switch value := args[1]; args[0] {
				case "stdin":
					w.stdin = value + "\n"
				case "passphrase":
					w.passphrase = value
				case "interactive":
					w.interactive = value == "yes"
				case "settles":
					n, err := strconv.Atoi(value)
					ts.Check(err)
					w.service.settles = n
				case "badseq":
					n, err := strconv.ParseUint(value, 10, 64)
					ts.Check(err)
					w.service.bad = n
				case "rotate-error":
					w.service.rotate = fmt.Errorf("rotate: %w", map[string]error{"denied": api.ErrDenied, "notnow": api.ErrNotNow, "other": errors.New("the disk is full"), "timeout": api.ErrTimeout, "unavailable": api.ErrUnavailable}[value])
				case "config":
					w.invalid, w.broken = value == "invalid", value == "broken"
				default:
					ts.Fatalf("set %s: unknown", args[0])
				}
			},
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				if got := invoke(ts, of(ts), args[1:]); strconv.Itoa(got) != args[0] {
					ts.Fatalf("certd %s: exit %d, want %s", strings.Join(args[1:], " "), got, args[0])
				}
			},
			"token": func(ts *testscript.TestScript, _ bool, _ []string) {
				s := of(ts).service
				s.mu.Lock()
				defer s.mu.Unlock()
				if len(s.inits) == 0 {
					ts.Fatalf("no init came")
				}
				r := s.inits[len(s.inits)-1]
				fmt.Fprintf(ts.Stdout(), "token=%s reason=%s", r.Token, r.Reason)
			},
			"imported": func(ts *testscript.TestScript, _ bool, _ []string) {
				s := of(ts).service
				s.mu.Lock()
				defer s.mu.Unlock()
				fmt.Fprintf(ts.Stdout(), "%s wiped=%t\n", s.took[len(s.took)-1], !pki.CanSign(s.taken.Key, s.taken.Certificate))
			},
			"asked": func(ts *testscript.TestScript, _ bool, _ []string) {
				s := of(ts).service
				s.mu.Lock()
				defer s.mu.Unlock()
				for _, r := range s.asked {
					fmt.Fprintf(ts.Stdout(), "%s %s reason=%s wait=%v dryRun=%v\n", r.Target, strings.Join(r.Clusters, ","), r.Reason, r.Wait, r.DryRun)
				}
			},
		},
	})
}

// invoke runs a command line in this process.
func invoke(ts *testscript.TestScript, w *world, args []string) int {
	for i, a := range args {
		if strings.HasSuffix(a, ".yaml") || strings.HasSuffix(a, ".pem") || strings.HasSuffix(a, ".md") || strings.HasSuffix(a, ".json") || strings.HasSuffix(a, ".txt") || strings.HasSuffix(a, ".tar.gz") {
			args[i] = ts.MkAbs(a)
		}
	}
	a := &App{Stdin: strings.NewReader(w.stdin), Stdout: ts.Stdout(), Stderr: ts.Stderr(), Getenv: ts.Getenv, Now: func() time.Time { return now }, poll: time.Millisecond, Interactive: w.interactive, Width: w.width,
		Version: VersionInfo{"1.0.0", "abc1234", "2026-11-20T09:00:00Z", "go1.26.8", "linux/amd64"},
		Run: func(_ context.Context, path string, dev bool) error {
			fmt.Fprintf(ts.Stdout(), "running dev=%v config=%s\n", dev, path)
			return nil
		},
		Socket: func(string) (string, error) {
			if w.invalid {
				return "", fmt.Errorf("certd.yaml:9:22: never fires\ncertd.yaml:10:1: unknown field: %w", ErrConfig)
			}
			return ts.Getenv("SOCKET"), nil
		},
		Local: func(_ context.Context, _ string, write bool) (api.Service, string, func() error, error) {
			if w.broken {
				return nil, "", nil, errors.New("open journal: the disk is on fire")
			}
			if !w.local {
				return nil, "", nil, fmt.Errorf("open journal: %w", api.ErrUnavailable)
			}
			return w.service, journalNote, func() error { return nil }, nil
		},
		Check: func(_ context.Context, _ string, sel check.Select, pre bool, unanswered string) (check.Report, error) {
			e := checkEvidence(w.t, "healthy", 2)
			e.Source, e.Pre, e.Daemon, e.Unanswered = "command", pre, nil, unanswered
			if w.invalid {
				e = check.Evidence{Now: now, Problems: []string{`certd.yaml:9:22: never fires`}}
			}
			if pre {
				e.Trust, e.Fleet.Anchors, e.Keys.Anchors = nil, nil, nil
			}
			return check.Judge(e, sel), nil
		},
		Import: func(_ context.Context, _ string, r api.ImportRequest) (api.InitReply, error) {
			return w.service.Import(r)
		},
		Passphrase: func(_ context.Context, prompt string) ([]byte, error) {
			fmt.Fprintln(ts.Stderr(), prompt)
			return []byte(w.passphrase), nil
		},
		Clusters: testedClusters{},
		Config:   configs{w.invalid},
	}
	return a.run(context.Background(), args)
}

func TestExitCodesOfStates(t *testing.T) {
	for state, want := range map[rotation.State]int{rotation.StateOK: 0, rotation.StateWarning: 1, rotation.StateCritical: 2, rotation.StateUnknown: 3, "a word of a later version": 3} {
		if got := stateCode(state); got != want {
			t.Errorf("%s: exit %d, want %d", state, got, want)
		}
	}
}

// Ctrl-C ends what waits, with 130 and a sentence.
func TestInterrupting(t *testing.T) {
	for name, row := range map[string]struct {
		args []string
		says string
	}{
		"watching":         {[]string{"status", "--watch"}, "nothing was changed"},
		"following":        {[]string{"history", "--follow"}, "nothing was changed"},
		"a question asked": {[]string{"init"}, "nothing was changed"},
	} {
		t.Run(name, func(t *testing.T) {
			a, out, errs := testApp()
			reader, w := io.Pipe()
			defer w.Close()
			a.Stdin, a.Interactive = reader, true
			service := &scripted{st: healthy("prod-eu-1"), anchor: row.args[0] != "init"}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			looks := 0
			a.Local = func(context.Context, string, bool) (api.Service, string, func() error, error) {
				if looks++; looks == 3 || row.args[0] == "init" {
					cancel()
				}
				return service, "", func() error { return nil }, nil
			}
			if code := a.run(ctx, row.args); code != 130 || !strings.HasSuffix(errs.String(), row.says+"\n") {
				t.Errorf("exit %d, stderr %q, stdout %q", code, errs, out)
			}
			if service.inits != nil && !service.inits[len(service.inits)-1].DryRun {
				t.Error("the trust anchor was made")
			}
		})
	}
}

func TestWatchingAPipePrintsChangesOnly(t *testing.T) {
	a, out, _ := testApp()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	looks := 0
	a.Local = func(context.Context, string, bool) (api.Service, string, func() error, error) {
		looks++
		st := healthy("prod-eu-1", "prod-us-1", "stage-eu-1")
		switch {
		case looks > 6:
			st = notServed()
		case looks > 3:
			st = overdue()
		}
		if looks == 9 {
			cancel()
		}
		return &scripted{st: st, anchor: true}, "", func() error { return nil }, nil
	}
	a.run(ctx, []string{"status", "-w"})
	golden(t, "watch-pipe", strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n"))
}

func TestWatchingATerminalRedrawsIt(t *testing.T) {
	a, out, _ := testApp()
	a.Terminal, a.Width = true, 80
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	looks := 0
	a.Local = func(context.Context, string, bool) (api.Service, string, func() error, error) {
		if looks++; looks == 3 {
			cancel()
		}
		return &scripted{st: healthy("prod-eu-1"), anchor: true}, "", func() error { return nil }, nil
	}
	if code := a.run(ctx, []string{"status", "-w"}); code != 130 {
		t.Errorf("exit %d", code)
	}
	screens := strings.Split(out.String(), "\x1b[H")
	if len(screens) != 3 || !strings.HasPrefix(screens[1], "\x1b[2J") || strings.HasPrefix(screens[2], "\x1b[2J") || !strings.HasSuffix(screens[2], "\x1b[J") {
		t.Errorf("drawn: %q", screens)
	}
}

// A terminal may be lower than the fleet is long, and change its size.
func TestWatchingKeepsToTheTerminal(t *testing.T) {
	a, out, _ := testApp()
	a.Terminal, a.Width = true, 80
	sizes := [][2]int{{100, 24}, {60, 8}, {60, 200}}
	a.Size = func() (int, int) {
		size := sizes[0]
		sizes = sizes[1:]
		return size[0], size[1]
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	looks := 0
	a.Local = func(context.Context, string, bool) (api.Service, string, func() error, error) {
		if looks++; looks == 4 {
			cancel()
		}
		return &scripted{st: overdue(), anchor: true}, "", func() error { return nil }, nil
	}
	a.run(ctx, []string{"status", "-w", "-A"})
	screens := strings.Split(out.String(), "\x1b[H")[1:]
	if len(screens) != 3 {
		t.Fatalf("%d screens", len(screens))
	}
	for i, size := range [][2]int{{100, 24}, {60, 8}, {60, 200}} {
		if n := strings.Count(screens[i], "\n"); n >= size[1] {
			t.Errorf("%d lines on a terminal of %d", n, size[1])
		}
		for l := range strings.SplitSeq(strings.TrimSuffix(screens[i], "\x1b[J"), "\n") {
			if l = strings.TrimSuffix(strings.TrimPrefix(l, "\x1b[2J"), "\x1b[K"); cells(l) > size[0] {
				t.Errorf("%d columns on a terminal of %d: %q", cells(l), size[0], l)
			}
		}
	}
	if !strings.Contains(screens[1], " more lines (certd status)") || strings.Contains(screens[2], " more lines") {
		t.Errorf("what is cut off: %q, %q", screens[1], screens[2])
	}
}

// A daemon that is started anew, and a journal that is written meanwhile: the
// screen goes on, and says what is the matter.
func TestWatchingATerminalOutlivesErrors(t *testing.T) {
	a, out, errs := testApp()
	a.Terminal, a.Width = true, 80
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	looks := 0
	a.Local = func(context.Context, string, bool) (api.Service, string, func() error, error) {
		switch looks++; looks {
		case 2:
			return nil, "", nil, errors.New("open journal: another process holds it")
		case 4:
			cancel()
		}
		return &scripted{st: healthy("prod-eu-1"), anchor: true}, "", func() error { return nil }, nil
	}
	a.run(ctx, []string{"status", "-w"})
	screens := strings.Split(out.String(), "\x1b[H")[1:]
	if len(screens) != 3 || !strings.Contains(screens[1], "another process holds it") || !strings.Contains(screens[2], "prod-eu-1") || strings.Contains(errs.String(), "another process") {
		t.Errorf("drawn: %q; beside it: %q", screens, errs)
	}
}

func TestColoursFollowTheEnvironment(t *testing.T) {
	for name, row := range map[string]struct {
		flag     string
		env      map[string]string
		terminal bool
		want     bool
	}{
		"a terminal":                     {"auto", nil, true, true},
		"a pipe":                         {"auto", nil, false, false},
		"NO_COLOR":                       {"auto", map[string]string{"NO_COLOR": "1"}, true, false},
		"NO_COLOR before CLICOLOR_FORCE": {"auto", map[string]string{"NO_COLOR": "1", "CLICOLOR_FORCE": "1"}, true, false},
		"CLICOLOR_FORCE in a pipe":       {"auto", map[string]string{"CLICOLOR_FORCE": "1"}, false, true},
		"FORCE_COLOR=0":                  {"auto", map[string]string{"FORCE_COLOR": "0"}, false, false},
		"a dumb terminal":                {"auto", map[string]string{"TERM": "dumb"}, true, false},
		"the flag before all":            {"always", map[string]string{"NO_COLOR": "1"}, false, true},
		"the flag on a terminal":         {"never", nil, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			a, _, _ := testApp()
			env := maps.Clone(row.env)
			a.Getenv = func(k string) string { return env[k] }
			a.Terminal, a.colorFlag = row.terminal, row.flag
			if got := a.style().color; got != row.want {
				t.Errorf("colours: %v", got)
			}
		})
	}
}
