package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"certd.internal/pki"
	"certd.internal/rotation"
	"certd.internal/state"
)

// Issuers of the short timing are all due by the long one, and none of the long by the short.
const (
	shortTiming = "  issuer: {lifetime: 7d, renewBefore: 84h}\n"
	longTiming  = "  issuer: {lifetime: 14d, renewBefore: 8d}\n"
	longer      = 13 * 24 * time.Hour // than any issuer of the short timing lives
)

// recovery is a fleet whose daemon is killed again and again, and whose journal is lost.
type recovery struct {
	*certd
	socket *http.Client
	// What work takes from when it is begun: until the first intent, and until all is done.
	// The first is that people ask for, the second that of a changed configuration.
	spans [2]span
	// signed is how many signatures Vault's audit log had when the journal began.
	signed int
}

type span struct{ lead, end time.Duration }

// crash is what one kill in the middle of work left, and what came of it.
type crash struct {
	done  int                      // clusters with their new issuer when it came
	open  []rotation.PendingIntent // that the daemon left
	took  map[string]time.Duration // from the start of the next until a cluster is as was begun
	wrong []string                 // what was lost, or done twice
}

// newRecovery starts a daemon over all clusters of a lab, and has them enrolled.
func newRecovery(ctx context.Context, root string, l *lab) (r *recovery, err error) {
	c, err := newCertd(ctx, root, l)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(c.dir, "certd.sock")
	r = &recovery{certd: c, socket: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}}}}
	if err := c.configure(shortTiming); err != nil {
		return nil, err
	}
	if err := c.start(); err != nil {
		return nil, err
	}
	if err := c.well(ctx, time.Time{}); err != nil {
		return r, err
	}
	return r, r.calm(ctx)
}

// calm measures how long work takes that nothing disturbs.
func (r *recovery) calm(ctx context.Context) error {
	for way := range r.spans {
		before, err := r.history(ctx, 0)
		if err != nil {
			return err
		}
		began := time.Now()
		if way == 0 {
			_, err = r.run(ctx, "rotate", "issuer", "--all", "--yes", "--wait", "--reason", "measured")
		} else if err = r.reconfigure(longTiming); err == nil {
			_, err = r.converge(ctx, began, renewed, nil, 0)
		}
		if err != nil {
			return err
		}
		after, err := r.history(ctx, last(before))
		if err != nil {
			return err
		}
		s := span{lead: time.Hour}
		for _, e := range after {
			if e.Step == rotation.StepSign || e.Step == rotation.StepIssuer {
				s.lead, s.end = min(s.lead, e.IntentAt.Sub(began)), max(s.end, e.At.Sub(began))
			}
		}
		if s.end <= s.lead {
			return fmt.Errorf("the history tells of no work: %d entries", len(after))
		}
		r.spans[way] = s
	}
	return nil
}

// renewed tells whether a cluster has what the long timing asks for; whole, whether it is as
// it should be by whatever there is.
func renewed(c rotation.ClusterStatus) bool {
	return whole(c) && c.Issuer.Delivered.NotAfter.Sub(c.Issuer.Delivered.NotBefore) > longer
}

func whole(c rotation.ClusterStatus) bool {
	return c.State == rotation.StateOK && c.Reachable != nil && *c.Reachable && c.NextStep == nil && c.Issuer != nil && c.Issuer.Delivered != nil
}

// crash kills the daemon (SIGKILL) at a moment by chance while it renews all issuers, starts
// it again, and waits until all is as was begun. Renewals that a person asks for without
// --wait are told to be "asked for", no more, and are held in memory: of these the next
// daemon owes what has an intent in the journal. Renewals that the configuration asks for it
// owes all.
func (r *recovery) crash(ctx context.Context, random *rand.Rand, configured bool) (c crash, err error) {
	goal, way := whole, 0
	if configured {
		goal, way = renewed, 1
		if err := r.reconfigure(shortTiming); err != nil {
			return c, err
		}
		if _, err := r.run(ctx, "rotate", "issuer", "--all", "--yes", "--wait", "--reason", "measured"); err != nil {
			return c, err
		}
	}
	before, err := r.history(ctx, 0)
	if err != nil {
		return c, err
	}
	old, err := r.issuers(ctx)
	if err != nil {
		return c, err
	}
	moment := time.After(r.spans[way].lead + time.Duration(random.Int64N(int64(r.spans[way].end-r.spans[way].lead))))
	asked := make(chan error, 1)
	if configured {
		asked <- nil
		err = r.reconfigure(longTiming)
	} else {
		go func() {
			_, err := r.run(ctx, "rotate", "issuer", "--all", "--yes", "--reason", "measured")
			asked <- err
		}()
	}
	if err != nil {
		return c, err
	}
	<-moment
	if err := r.kill(); err != nil {
		return c, err
	}
	<-asked // that it was not answered, or not asked any more, is no matter
	left, err := r.journal(func(j *state.Journal) (err error) { c.open, err = j.Pending(); return err })
	if err != nil {
		return c, err
	}
	there, err := r.issuers(ctx)
	if err != nil {
		return c, err
	}
	began := time.Now()
	if err := r.start(); err != nil {
		return c, err
	}
	if c.took, err = r.converge(ctx, began, goal, c.open, left[len(left)-1].Seq); err != nil {
		return c, err
	}
	entries, err := r.quiet(ctx)
	if err != nil {
		return c, err
	}
	// Each entry is still there, each signature is known, and none was made for nothing but
	// where a crash lost the key.
	for i, e := range left {
		if entries[i].Hash != e.Hash {
			c.wrong = append(c.wrong, fmt.Sprintf("entry %d was there when certd was killed, and is not", e.Seq))
		}
	}
	made, lost := map[string]int{}, map[string]int{}
	for _, e := range entries[len(before):] {
		if e.Intent.Step == rotation.StepSign && e.Result != rotation.Abandoned {
			made[e.Intent.Cluster]++
			if e.Seq <= left[len(left)-1].Seq && there[e.Intent.Cluster] == old[e.Intent.Cluster] {
				lost[e.Intent.Cluster] = 1
			}
		}
	}
	for _, p := range c.open {
		if p.Step == rotation.StepSign {
			lost[p.Cluster] = 1
		}
	}
	for name := range r.names() {
		if made[name] > 1+lost[name] || !configured && made[name] > 1 {
			c.wrong = append(c.wrong, fmt.Sprintf("%s: signed %d times", name, made[name]))
		}
		if there[name] != old[name] {
			c.done++
		}
	}
	more, err := r.compare(ctx, entries)
	c.wrong = append(c.wrong, more...)
	return c, err
}

// lose kills the daemon, removes the journal and all that is beside it, starts the daemon
// again, and returns how long it takes until all clusters are known again and well, and
// what is otherwise than before.
func (r *recovery) lose(ctx context.Context) (took time.Duration, wrong []string, err error) {
	before, err := r.issuers(ctx)
	if err != nil {
		return 0, nil, err
	}
	if err := r.kill(); err != nil {
		return 0, nil, err
	}
	signs, err := r.signatures()
	if err != nil {
		return 0, nil, err
	}
	r.signed = len(signs)
	if err := os.RemoveAll(filepath.Join(r.dir, "state")); err != nil {
		return 0, nil, err
	}
	began := time.Now()
	if err := r.start(); err != nil {
		return 0, nil, err
	}
	each, err := r.converge(ctx, began, whole, nil, 0)
	if err != nil {
		return 0, nil, err
	}
	for _, d := range each {
		took = max(took, d)
	}
	entries, err := r.quiet(ctx)
	if err != nil {
		return took, nil, err
	}
	for _, e := range entries {
		if e.Intent.Step == rotation.StepSign {
			wrong = append(wrong, fmt.Sprintf("%s: signed anew: %s", e.Intent.Cluster, e.Intent.Reason))
		}
	}
	after, err := r.issuers(ctx)
	if err != nil {
		return took, nil, err
	}
	for name := range r.names() {
		if before[name] != after[name] {
			wrong = append(wrong, fmt.Sprintf("%s: issuer %s became %s", name, before[name], after[name]))
		}
	}
	more, err := r.compare(ctx, entries)
	return took, append(wrong, more...), err
}

// converge waits until each cluster is as goal has it and all that was open is closed by
// entries after a number, and returns when that was, since began. It asks over and over,
// so that each is right to a few hundredths of a second.
func (r *recovery) converge(ctx context.Context, began time.Time, goal func(rotation.ClusterStatus) bool, open []rotation.PendingIntent, after uint64) (map[string]time.Duration, error) {
	took, unlike := map[string]time.Duration{}, ""
	open = slices.Clone(open)
	err := wait(ctx, 5*time.Minute, "what was begun to be done", func() (bool, error) {
		var st rotation.FleetStatus
		if err := r.get(ctx, "status", &st); err != nil {
			unlike = err.Error()
			return false, nil // it does not answer yet
		}
		if len(open) > 0 {
			items, err := r.history(ctx, after)
			if err != nil {
				return false, err
			}
			open = slices.DeleteFunc(open, func(p rotation.PendingIntent) bool {
				return slices.ContainsFunc(items, func(i rotation.HistoryItem) bool {
					return i.Step == p.Step && i.Cluster == p.Cluster && i.Serial == p.Serial && i.IntentAt.Equal(p.At)
				})
			})
		}
		now := time.Since(began)
		for _, c := range st.Clusters {
			if _, done := took[c.Name]; done {
				continue
			}
			if goal(c) && !slices.ContainsFunc(open, func(p rotation.PendingIntent) bool { return p.Cluster == c.Name || p.Cluster == "" }) {
				took[c.Name] = now
			} else {
				unlike = fmt.Sprintf("%s is %s, %+v", c.Name, c.State, c.Findings)
			}
		}
		return len(took) == r.lab.n && len(open) == 0, nil
	})
	if err != nil {
		err = fmt.Errorf("%w: %d clusters of %d are, %d intents are open: %s (%s)", err, len(took), r.lab.n, len(open), unlike, r.log.Name())
	}
	return took, err
}

// quiet waits until the journal holds no open intent, and returns its entries.
func (r *recovery) quiet(ctx context.Context) (entries []rotation.Entry, err error) {
	err = wait(ctx, time.Minute, "the journal to have no open intent", func() (bool, error) {
		j, err := state.OpenCopy(filepath.Join(r.dir, "state"), r.dir, state.Options{Fleet: "cost"})
		if err != nil {
			return false, nil // it is being written
		}
		defer j.Close()
		open, err := j.Pending()
		if err != nil || len(open) > 0 {
			return false, err
		}
		if v, err := j.Verify(); err != nil || v.Problem != "" {
			return false, fmt.Errorf("the chain does not hold: %s %w", v.Problem, err)
		}
		entries, err = j.Entries(state.Filter{})
		return true, err
	})
	return entries, err
}

// compare holds the journal against the world: what each cluster has is what certd says, and
// an issuer with its key; what Vault signed is in the journal, once.
func (r *recovery) compare(ctx context.Context, entries []rotation.Entry) (wrong []string, err error) {
	issuers, err := r.issuers(ctx)
	if err != nil {
		return nil, err
	}
	var st rotation.FleetStatus
	if err := r.get(ctx, "status", &st); err != nil {
		return nil, err
	}
	for _, c := range st.Clusters {
		if c.Issuer == nil || c.Issuer.Delivered == nil || !sameSerial(c.Issuer.Delivered.Serial, issuers[c.Name]) {
			wrong = append(wrong, fmt.Sprintf("%s has issuer %q, of which certd does not say so: %+v", c.Name, issuers[c.Name], c.Issuer))
		}
		// What came before a lost journal is met in the world, not entered.
		if r.signed == 0 && !slices.ContainsFunc(entries, func(e rotation.Entry) bool {
			return e.Intent.Cluster == c.Name && e.Intent.Step == rotation.StepIssuer && e.Result == rotation.OK && sameSerial(e.Intent.Serial, issuers[c.Name])
		}) {
			wrong = append(wrong, fmt.Sprintf("%s has issuer %q, and no entry says that it was delivered", c.Name, issuers[c.Name]))
		}
	}
	known, asked := map[string]bool{}, map[string]int{}
	for _, e := range entries {
		if e.Intent.Digest != "" {
			known[e.Intent.Digest] = true
			if asked[e.Intent.Digest]++; e.Result == rotation.Failed || e.Result == rotation.Abandoned {
				asked[e.Intent.Digest]--
			}
		}
	}
	signs, err := r.signatures()
	if err != nil {
		return nil, err
	}
	made := map[string]int{}
	for _, digest := range signs[r.signed:] {
		if made[digest]++; !known[digest] || made[digest] > asked[digest] {
			wrong = append(wrong, fmt.Sprintf("Vault signed %s %d times, and the journal has %d of it", digest, made[digest], asked[digest]))
		}
	}
	for _, e := range entries {
		if e.Intent.Digest != "" && e.Result == rotation.OK && made[e.Intent.Digest] == 0 {
			wrong = append(wrong, fmt.Sprintf("entry %d is of a signature that Vault has not made", e.Seq))
		}
	}
	return wrong, nil
}

func sameSerial(a, b string) bool { return strings.EqualFold(a, b) && a != "" }

func (r *recovery) names() map[string]bool {
	names := map[string]bool{}
	for i := range r.lab.n {
		names[clusterName(i)] = true
	}
	return names
}

// issuers are the serials of what the API server has, by cluster.
func (r *recovery) issuers(ctx context.Context) (map[string]string, error) {
	list, err := r.lab.meters.api.CoreV1().Secrets("").List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, rotation.IssuerObject).String()})
	if err != nil {
		return nil, fmt.Errorf("read the issuers: %w", err)
	}
	serials := map[string]string{}
	for _, s := range list.Items {
		pair, err := tls.X509KeyPair(s.Data["tls.crt"], s.Data["tls.key"])
		if err != nil {
			return nil, fmt.Errorf("the issuer in %s: %w", s.Namespace, err)
		}
		serials[strings.TrimPrefix(s.Namespace, "linkerd-")] = pki.Serial(pair.Leaf)
	}
	if len(serials) != r.lab.n {
		return nil, fmt.Errorf("%d clusters of %d have an issuer", len(serials), r.lab.n)
	}
	return serials, nil
}

// signatures are the digests that Vault signed, as its audit log has them.
func (r *recovery) signatures() (digests []string, err error) {
	f, err := os.Open(r.lab.vault.AuditLog)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if !bytes.Contains(lines.Bytes(), []byte("/sign/")) {
			continue
		}
		var e struct {
			Type, Error string
			Request     struct {
				Path string
				Data struct{ Input string }
			}
		}
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Type != "response" || e.Error != "" || !strings.Contains(e.Request.Path, "/sign/") {
			continue
		}
		digest, err := base64.StdEncoding.DecodeString(e.Request.Data.Input)
		if err != nil {
			return nil, fmt.Errorf("read what was signed in the audit log of Vault: %w", err)
		}
		digests = append(digests, hex.EncodeToString(digest))
	}
	return digests, lines.Err()
}

// journal opens what a dead daemon left, and returns its entries.
func (r *recovery) journal(read func(*state.Journal) error) (entries []rotation.Entry, err error) {
	j, err := state.Open(filepath.Join(r.dir, "state"), state.Options{Fleet: "cost", ReadOnly: true, LockTimeout: 5 * time.Second})
	if err != nil {
		return nil, err
	}
	defer j.Close()
	if entries, err = j.Entries(state.Filter{}); err == nil && len(entries) == 0 {
		err = errors.New("the journal is empty")
	}
	return entries, errors.Join(err, read(j))
}

// reconfigure changes the issuers' timing and has the daemon read it.
func (r *recovery) reconfigure(timing string) error {
	if err := r.configure(timing); err != nil {
		return err
	}
	return r.cmd.Process.Signal(syscall.SIGHUP)
}

// kill ends the daemon without a word to it.
func (r *recovery) kill() error {
	cmd := r.cmd
	r.cmd = nil
	if err := cmd.Process.Kill(); err != nil {
		return fmt.Errorf("certd ended by itself: %w (%s)", err, r.log.Name())
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		return fmt.Errorf("certd ended by itself: %w (%s)", err, r.log.Name())
	}
	return nil
}

// history are the entries after a number, the oldest first.
func (r *recovery) history(ctx context.Context, after uint64) ([]rotation.HistoryItem, error) {
	var list rotation.HistoryList
	err := r.get(ctx, fmt.Sprintf("history?after=%d", after), &list)
	slices.SortFunc(list.Items, func(a, b rotation.HistoryItem) int { return int(a.Seq) - int(b.Seq) })
	return list.Items, err
}

func last(items []rotation.HistoryItem) uint64 {
	if len(items) == 0 {
		return 0
	}
	return items[len(items)-1].Seq
}

// get asks the daemon over its socket: a command for each question would take more of the
// processors than the daemon does.
func (r *recovery) get(ctx context.Context, what string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://certd/v1/"+what, nil)
	if err != nil {
		return err
	}
	resp, err := r.socket.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask for %s: %s", what, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}
