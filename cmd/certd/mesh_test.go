package main

import (
	"context"
	"encoding/json"
	"fmt"
	mrand "math/rand/v2"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"certd.internal/rotation"
)

// mesh creates so many meshed pods in a cluster, until the test ends.
func (p *proxies) mesh(i, pods int) {
	t, core, ctx := p.s.t, p.s.kube[i].CoreV1(), context.Background()
	t.Helper()
	if _, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: meshedNamespace}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	if _, err := core.ServiceAccounts(meshedNamespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	for n := range pods {
		x := &proxy{cluster: i, name: fmt.Sprintf("app-%d-%d", i, n)}
		p.create(x)
		p.all = append(p.all, x)
		t.Cleanup(func() {
			now := int64(0)
			if err := core.Pods(meshedNamespace).Delete(ctx, x.name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
				t.Error(err)
			}
		})
	}
}

// talking has the proxies connect to each other all the time, until it is ended.
func (p *proxies) talking() (end func()) {
	stop, talking := make(chan struct{}), sync.WaitGroup{}
	talking.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(250 * time.Millisecond):
				p.talk()
			}
		}
	})
	end = sync.OnceFunc(func() { close(stop); talking.Wait() })
	p.s.t.Cleanup(end)
	return end
}

// through follows a change of the trust anchor to its end: pods are created anew in
// an order of chance as certd asks for it, certd is asked now and then whether all
// accept each other, and killed every 45 seconds. It returns the daemon that runs
// then, and how often it was killed.
func (s *site) through(d *process, p *proxies, want string) (_ *process, kills int) {
	s.t.Helper()
	var stages []string
	begun, killed := time.Now(), time.Now()
	asked, verdicts, unknown := time.Now(), map[rotation.PairState]int{}, map[string]int{}
	for {
		st, _ := s.status()
		r := st.Trust.Rotation
		if r.Phase == "idle" && st.Source == "daemon" {
			break
		}
		if len(stages) == 0 || stages[len(stages)-1] != r.Stage {
			stages = append(stages, r.Stage)
			s.t.Logf("%s: stage %s", time.Since(begun).Round(time.Second), r.Stage)
		}
		if time.Since(begun) > 15*time.Minute {
			b, _ := json.Marshal(r)
			s.t.Fatalf("it does not end: %s", b)
		}
		for _, c := range st.Clusters {
			if c.Proxies == nil || r.Stage != "restart" {
				continue
			}
			for _, o := range c.Proxies.Restart {
				if mrand.IntN(3) > 0 {
					continue // another time
				}
				for _, x := range p.all {
					if o.Name == x.name && x.made == 1 {
						p.create(x)
					}
				}
			}
		}
		if time.Since(asked) > 7*time.Second && time.Since(killed) > 5*time.Second && st.Source == "daemon" {
			doc, _ := s.verified()
			for _, v := range doc.Matrix {
				verdicts[v.State]++
				switch v.State {
				case rotation.PairRefused:
					s.t.Errorf("stage %s: %s -> %s is said to be refused: %s", r.Stage, v.Peer, v.Verifier, v.Why)
				case rotation.PairUnknown:
					unknown[r.Stage+": "+v.Why]++
				}
			}
			asked = time.Now()
		}
		if time.Since(killed) > 45*time.Second {
			d.cmd.Process.Kill()
			<-d.done
			d, killed = s.run(), time.Now()
			kills++
		}
		time.Sleep(time.Second)
	}
	if strings.Join(stages, " ") != want || kills == 0 {
		s.t.Errorf("it went through %v, and certd was killed %d times", stages, kills)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.t.Logf("%d handshakes in %s, certd killed %d times, verdicts on pairs: %v", p.handshakes, time.Since(begun).Round(time.Second), kills, verdicts)
	for why, n := range unknown {
		s.t.Logf("unknown %d times: %s", n, why)
	}
	if pairs := len(s.kube) * len(s.kube); verdicts[rotation.PairAccepted] < 10*pairs {
		s.t.Errorf("too few pairs were said to be accepted to show anything: %v", verdicts)
	}
	if len(p.refused) > 0 {
		s.t.Errorf("%d refused: %v", len(p.refused), p.refused[:min(5, len(p.refused))])
	}
	return d, kills
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
