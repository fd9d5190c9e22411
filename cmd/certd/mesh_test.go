package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	mrand "math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/rotation"
)

// mesh creates so many meshed pods in a cluster, until the test ends.
func (p *proxies) mesh(i, pods int) {
	t, core, ctx := p.s.t, p.s.kube[i].CoreV1(), context.Background()
	t.Helper()
	if _, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: p.s.meshed()}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	if _, err := core.ServiceAccounts(p.s.meshed()).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	for n := range pods {
		x := &proxy{cluster: i, name: fmt.Sprintf("app-%d-%d", i, n)}
		p.create(x)
		p.add(x)
		t.Cleanup(func() {
			now := int64(0)
			if err := core.Pods(p.s.meshed()).Delete(ctx, x.name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil && !apierrors.IsNotFound(err) {
				t.Error(err)
			}
		})
	}
}

// add has a proxy talk with the others.
func (p *proxies) add(x *proxy) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, x)
}

// talking has the proxies connect to each other all the time, until it is ended.
func (p *proxies) talking() (end func()) {
	stop, talking := make(chan struct{}), sync.WaitGroup{}
	talking.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(cmp.Or(p.every, 250*time.Millisecond)):
				p.talk()
			}
		}
	})
	end = sync.OnceFunc(func() { close(stop); talking.Wait() })
	p.s.t.Cleanup(end)
	return end
}

// through follows a change of the trust anchor to its end, in the stages that are
// wanted, with certd killed every 45 seconds. It returns the daemon that runs then,
// and how often it was killed.
func (s *site) through(d *process, p *proxies, want string) (_ *process, kills int) {
	s.t.Helper()
	f := &follower{s: s, p: p, d: d, pause: time.Second, killed: time.Now()}
	f.toTheEnd(15 * time.Minute)
	if strings.Join(f.stages, " ") != want {
		s.t.Errorf("it went through %v", f.stages)
	}
	if pairs := len(s.kube) * len(s.kube); f.verdicts[rotation.PairAccepted] < 10*pairs {
		s.t.Errorf("too few pairs were said to be accepted to show anything: %v", f.verdicts)
	}
	return f.d, f.kills
}

// follower is the person at a change of the trust anchor: pods are created anew in
// an order of chance as certd asks for it, and certd is asked now and then whether
// all accept each other, and killed every 45 seconds.
type follower struct {
	s     *site
	p     *proxies
	d     *process
	pause time.Duration                     // between two looks
	each  func(st rotation.FleetStatus)     // at each look; nil: nothing
	may   func(v rotation.PairVerdict) bool // a pair may be said to be refused; nil: none

	killEvery time.Duration // 0: 45 seconds

	stages   []string
	kills    int
	killed   time.Time
	asked    time.Time
	verdicts map[rotation.PairState]int
	unknown  map[string]int // why, with the stage
}

// toTheEnd follows the change until there is none.
func (f *follower) toTheEnd(within time.Duration) {
	t := f.s.t
	t.Helper()
	begun := time.Now()
	f.verdicts, f.unknown, f.asked = map[rotation.PairState]int{}, map[string]int{}, begun
	killsBefore := f.kills
	for ; ; time.Sleep(f.pause) {
		st, err := api.NewClient(filepath.Join(f.s.dir, "certd.sock")).Status(context.Background())
		if err != nil {
			continue // it was killed a moment ago
		}
		r := st.Trust.Rotation
		if f.each != nil {
			f.each(st)
		}
		if r.Phase == "idle" {
			break
		}
		if len(f.stages) == 0 || f.stages[len(f.stages)-1] != r.Stage {
			f.stages = append(f.stages, r.Stage)
			t.Logf("%s: stage %s", time.Since(begun).Round(time.Second), r.Stage)
		}
		if time.Since(begun) > within {
			b, _ := json.Marshal(st)
			t.Fatalf("it does not end: %s", b)
		}
		f.restart(st)
		f.verify(r.Stage)
		if time.Since(f.killed) > cmp.Or(f.killEvery, 45*time.Second) {
			f.d.cmd.Process.Kill()
			<-f.d.done
			f.d, f.killed = f.s.run(), time.Now()
			f.kills++
		}
	}
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	t.Logf("%d handshakes in %s, certd killed %d times, verdicts on pairs: %v", f.p.handshakes, time.Since(begun).Round(time.Second), f.kills, f.verdicts)
	for why, n := range f.unknown {
		t.Logf("unknown %d times: %s", n, why)
	}
	if f.kills == killsBefore {
		t.Error("certd was not killed once")
	}
	if refused := f.p.refused; len(refused) > 0 {
		t.Errorf("%d refused: %v", len(refused), refused[:min(5, len(refused))])
	}
}

// restart creates some of the pods anew that certd asks for. One that has the
// bundle of the moment is not what is meant: it was counted before.
func (f *follower) restart(st rotation.FleetStatus) {
	f.s.t.Helper()
	for _, c := range st.Clusters {
		if c.Proxies == nil || st.Trust.Rotation.Stage != "restart" {
			continue
		}
		for _, o := range c.Proxies.Restart {
			if mrand.IntN(3) > 0 {
				continue // another time
			}
			for _, x := range f.p.all {
				if o.Name == x.name && !x.kept && f.s.lab.Clusters[x.cluster].Name == c.Name && x.text != f.s.bundle(x.cluster).Data["ca-bundle.crt"] {
					f.p.create(x)
				}
			}
		}
	}
}

// verify asks certd, every seven seconds, whether all accept each other.
func (f *follower) verify(stage string) {
	f.s.t.Helper()
	if time.Since(f.asked) < 7*f.pause || time.Since(f.killed) < 5*time.Second {
		return
	}
	f.asked = time.Now()
	doc, _ := f.s.verified()
	for _, v := range doc.Matrix {
		f.verdicts[v.State]++
		switch {
		case v.State == rotation.PairRefused && (f.may == nil || !f.may(v)):
			f.s.t.Errorf("stage %s: %s -> %s is said to be refused: %s", stage, v.Peer, v.Verifier, v.Why)
		case v.State == rotation.PairUnknown:
			f.unknown[stage+": "+v.Why]++
		}
	}
}

// eachCreatedTwice checks that each pod was created anew once.
func (p *proxies) eachCreatedTwice() {
	p.s.t.Helper()
	for _, x := range p.all {
		if x.made != 2 {
			p.s.t.Errorf("%s was created %d times", x.name, x.made)
		}
	}
}
