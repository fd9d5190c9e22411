package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"certd.internal/rotation"
)

// drilled is quick with issuers that outlive two changes, in a namespace of its own.
const drilled = `
defaults:
  linkerd: {namespace: NAMESPACE, createNamespace: true, leafLifetime: 10s, clockSkew: 1s, clockError: 1s}
  repair: 1m
  issuer: {schedule: "*/3 * * * *", rotate: every-firing, lifetime: 3h, renewBefore: 1h, spread: 0s}
  webhooks: {projection: 10s, settle: 2s, probeEvery: 5s, manage: MANAGE}
`

// drill is a fleet in the lab in which something goes wrong while the trust anchor
// is changed. It shares the lab's API servers with others, and has a way of its own
// to each.
type drill struct {
	*site
	*follower
	t     *testing.T
	p     *proxies
	gates []*tcpGate
}

// setting is what drills differ in.
type setting struct {
	clusters int
	lag      string // how long after a Secret or ConfigMap its files change
	manage   string // webhooks: auto or none
	more     string // configuration
}

var usual = setting{clusters: 3, manage: "none"}

// newDrill is a fleet of linked clusters whose trust anchor can be changed, with
// proxies that connect to each other, until the test ends.
func newDrill(t *testing.T, set setting) *drill {
	_, name, _ := strings.Cut(t.Name(), "/")
	ns := "drill-" + name
	s := newSiteIn(t, ns, set.clusters, strings.NewReplacer("NAMESPACE", ns, "MANAGE", set.manage).Replace(drilled)+set.more)
	d := &drill{site: s, t: t, p: &proxies{s: s, every: time.Second}}
	for i := range s.kube {
		gate, path := s.newGate(t, i)
		gate.open()
		d.gates = append(d.gates, gate)
		s.edit(s.lab.Clusters[i].CertdKubeconfig, path)
	}
	s.must("init", "--config", "certd.yaml", "--yes")
	daemon := s.run()
	s.eventually(3*time.Minute, func() string {
		for i := range s.kube {
			if s.secret(i) == nil || s.bundle(i) == nil {
				return "no issuer in " + s.lab.Clusters[i].Name
			}
		}
		return ""
	})
	for i := range s.kube {
		s.installIdentity(i, "-leaf-lifetime", "10s")
		if set.lag != "" {
			slow := fmt.Appendf(nil, `{"spec":{"template":{"metadata":{"annotations":{"lab/projection-lag":%q}}}}}`, set.lag)
			if _, err := s.kube[i].AppsV1().Deployments(ns).Patch(t.Context(), "linkerd-identity", types.StrategicMergePatchType, slow, metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		d.p.mesh(i, 1+i%2)
	}
	d.p.talking()
	daemon.term() // a start counts at once
	d.follower = &follower{s: s, p: d.p, d: s.run(), pause: 3 * time.Second, killed: time.Now()}
	return d
}

// begin begins a change as soon as it can be: on a busy machine a replica may have
// started with what was there before, and it takes certd some minutes to see that.
func (d *drill) begin() {
	d.t.Helper()
	d.eventually(15*time.Minute, func() string {
		out, errs, code := d.certd("trust", "rotate", "--config", "certd.yaml", "--yes", "--reason", "drill")
		if code != 0 {
			time.Sleep(2 * time.Second)
			return out + errs
		}
		return ""
	})
}

// leads checks where it has led to: one anchor, of the generation given, everywhere
// and alone, every promise kept, and nobody refused.
func (d *drill) leads(want string) {
	d.t.Helper()
	spent := false
	d.eventually(4*time.Minute, func() string {
		time.Sleep(time.Second)
		st, _ := d.status()
		spent = false // a schedule of minutes and three changes may take what signatures an hour has
		for _, c := range st.Clusters {
			spent = spent || len(c.Findings) == 1 && c.Findings[0].ID == "SignatureBudget"
		}
		if st.State != rotation.StateOK && !spent || st.Trust.Active == nil || st.Trust.Active.ID != want || len(st.Trust.Others) > 0 {
			b, _ := json.Marshal(st)
			return string(b)
		}
		return ""
	})
	for i := range d.kube {
		for what, text := range map[string]string{"bundle": d.bundle(i).Data["ca-bundle.crt"], "ca.crt": string(d.secret(i).Data["ca.crt"]), "tls.crt": string(d.secret(i).Data["tls.crt"])} {
			if n := strings.Count(text, "BEGIN CERTIFICATE"); n != 1 {
				d.t.Errorf("cluster %d: %s holds %d certificates", i, what, n)
			}
		}
	}
	d.eventually(2*time.Minute, func() string {
		time.Sleep(time.Second)
		if doc, code := d.verified(); doc.Pairs.Accepted != len(d.kube)*len(d.kube) || code > 1 && !spent {
			return fmt.Sprintf("exit %d: %+v: %+v", code, doc.Pairs, doc.Promises)
		}
		return ""
	})
	d.must("history", "--verify", "--config", "certd.yaml")
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	if len(d.p.refused) > 0 {
		d.t.Errorf("%d refused: %v", len(d.p.refused), d.p.refused[:min(5, len(d.p.refused))])
	}
}

// Whatever goes wrong while the trust anchor is changed in three clusters with real
// parts, nobody refuses anybody, and what it ends in is whole.
func TestDrills(t *testing.T) {
	for name, run := range map[string]func(*testing.T){
		"back-from-bridge":  func(t *testing.T) { turnedAround(t, "bridge") },
		"back-from-spread":  func(t *testing.T) { turnedAround(t, "spread") },
		"back-from-restart": func(t *testing.T) { turnedAround(t, "restart") },
		"back-from-finish":  func(t *testing.T) { turnedAround(t, "finish") },
		"unreachable":       unreachableForAStage,
		"away":              awayForTwoChanges,
		"dead-watch":        deadWatch,
		"hidden-finish":     func(t *testing.T) { hiddenUntil(t, "finish") },
		"hidden-retire":     func(t *testing.T) { hiddenUntil(t, "retire") },
		"restless":          restless,
		"wave":              waveOfTwoThousand,
		"story":             toldAlike,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t)
		})
	}
}

// turnedAround: it is turned around in a stage. After the first of them another
// change is begun, which is the usual one.
func turnedAround(t *testing.T, stage string) {
	d := newDrill(t, usual)
	d.begin()
	turned := false
	d.each = func(st rotation.FleetStatus) {
		if r := st.Trust.Rotation; !turned && r.Stage == stage {
			time.Sleep(rand.N(10 * time.Second))
			d.must("trust", "rollback", "--config", "certd.yaml", "--yes", "--reason", "drill")
			turned = true
		}
	}
	d.toTheEnd(20 * time.Minute)
	if !turned {
		t.Errorf("stage %s was not seen, but %v", stage, d.stages)
	}
	d.leads("g1")
	for _, x := range d.p.all {
		if most := map[string]int{"bridge": 1, "spread": 1}[stage]; most > 0 && x.made > most || x.made > 3 {
			t.Errorf("%s was created %d times", x.name, x.made)
		}
	}
	if stage == "bridge" {
		d.begin()
		d.toTheEnd(20 * time.Minute)
		d.leads("g3")
		d.p.eachCreatedTwice()
	}
}

// unreachableForAStage: a cluster does not answer when a stage begins, and is waited
// for until it does.
func unreachableForAStage(t *testing.T) {
	d := newDrill(t, usual)
	d.begin()
	const away = 100 * time.Second
	var since time.Time
	var back bool
	d.each = func(st rotation.FleetStatus) {
		switch r := st.Trust.Rotation; {
		case since.IsZero() && r.Stage == "spread":
			d.gates[2].shut()
			since = time.Now()
		case !since.IsZero() && !back:
			if r.Stage != "spread" {
				t.Errorf("stage %s began without a cluster", r.Stage)
			}
			if time.Since(since) > away {
				if waits := fmt.Sprint(r.WaitingFor); !strings.Contains(waits, d.lab.Clusters[2].Name) {
					t.Errorf("it waits for %s", waits)
				}
				d.gates[2].open()
				back = true
			}
		}
	}
	d.toTheEnd(20 * time.Minute)
	if !back {
		t.Error("it ended before the cluster was back")
	}
	d.leads("g2")
	d.p.eachCreatedTwice()
}

// awayForTwoChanges: a cluster is gone on without, and left behind by two changes.
// Its pods and the others may refuse each other meanwhile. When it is back, it is
// brought along without being asked for.
func awayForTwoChanges(t *testing.T) {
	d := newDrill(t, usual)
	gone := d.lab.Clusters[2].Name
	var cut atomic.Bool
	d.p.excused = func(client, server *proxy) bool { return cut.Load() && (client.cluster == 2) != (server.cluster == 2) }
	d.may = func(v rotation.PairVerdict) bool { return (v.Peer == gone) != (v.Verifier == gone) }
	cut.Store(true)
	d.begin()
	d.gates[2].shut()
	said := map[string]bool{}
	d.each = func(st rotation.FleetStatus) {
		if r := st.Trust.Rotation; (r.Stage == "bridge" || r.Stage == "retire") && !said[r.Stage] {
			d.eventually(time.Minute, func() string {
				out, errs, code := d.certd("trust", "advance", "--without", gone, "--config", "certd.yaml", "--yes", "--reason", "drill")
				if code != 0 {
					return out + errs
				}
				return ""
			})
			said[r.Stage] = true
		}
	}
	d.toTheEnd(20 * time.Minute)
	if len(said) != 2 {
		t.Fatalf("it was said in %v that %s is gone on without", said, gone)
	}
	d.each = nil
	d.begin()
	d.toTheEnd(20 * time.Minute)
	if st, _ := d.status(); st.Trust.Active.ID != "g3" {
		t.Errorf("after two changes: %+v", st.Trust.Active)
	}
	d.gates[2].open()
	d.eventually(5*time.Minute, func() string {
		if st, _ := d.status(); st.Trust.Rotation.Phase == "idle" {
			time.Sleep(2 * time.Second)
			return "it is back, and nothing begins"
		}
		return ""
	})
	d.toTheEnd(20 * time.Minute)
	time.Sleep(10 * time.Second) // what leaves live
	cut.Store(false)
	d.leads("g3")
}

// deadWatch: a replica of linkerd-identity notices no change of its files any more,
// and proxies get their certificates from it until somebody helps. Certd does. (A change
// does not begin before it has: TestAStuckReplicaHoldsAChangeUp.)
func deadWatch(t *testing.T) {
	d := newDrill(t, usual)
	d.begin()
	dead := d.pods(0)[0]
	if _, err := d.kube[0].CoreV1().Pods(d.ns).Patch(t.Context(), dead.Name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"lab/ignore-reloads":"true"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	loaded := d.secret(0)
	d.p.mu.Lock()
	d.p.all[0].asks = func() *corev1.Secret {
		for _, pod := range d.pods(0) {
			if pod.UID == dead.UID && pod.DeletionTimestamp == nil {
				return loaded
			}
		}
		return d.secret(0)
	}
	d.p.mu.Unlock()
	d.toTheEnd(25 * time.Minute)
	d.leads("g2")
	d.p.eachCreatedTwice()
	if slices.ContainsFunc(d.pods(0), func(p corev1.Pod) bool { return p.UID == dead.UID }) {
		t.Error("the replica is still there")
	}
}

// hiddenUntil: a pod that trusts the old anchor alone is seen by nobody until a stage
// in which leaves under that anchor are made no more. As soon as it is seen, certd has
// others present what it accepts, and names it.
func hiddenUntil(t *testing.T, stage string) {
	d := newDrill(t, usual)
	x := &proxy{cluster: 1, name: "app-hidden", hidden: true}
	d.p.create(x)
	d.p.add(x)
	var suffers, mended atomic.Bool
	var first atomic.Pointer[time.Time] // that it was refused, before the stage was seen that may do that
	d.p.excused = func(client, server *proxy) bool {
		if client != x && server != x || mended.Load() {
			return false
		}
		if now := time.Now(); !suffers.Load() {
			first.CompareAndSwap(nil, &now)
		}
		return true
	}
	var seen, named, finish time.Time
	keep := true // nobody restarts it
	d.may = func(v rotation.PairVerdict) bool { return !seen.IsZero() && keep }
	d.each = func(st rotation.FleetStatus) {
		r := st.Trust.Rotation
		if r.Stage == "finish" && named.IsZero() {
			suffers.Store(true)
			if finish.IsZero() {
				finish = *r.StageAt
			}
		}
		if r.Stage == stage && seen.IsZero() {
			d.p.place(x, x.text)
			x.hidden, seen = false, time.Now()
		}
		if named.IsZero() && !seen.IsZero() && r.Stage == "restart" {
			for _, c := range st.Clusters {
				if c.Name == d.lab.Clusters[1].Name && c.Proxies != nil && slices.ContainsFunc(c.Proxies.Restart, func(o rotation.StaleOwner) bool { return o.Name == x.name }) {
					named = time.Now()
				}
			}
		}
		if !named.IsZero() && time.Since(named) > 30*time.Second && suffers.Load() {
			mended.Store(true) // its own leaf, and theirs, are under both by now
			suffers.Store(false)
			named = time.Now()
		}
		if !named.IsZero() && !suffers.Load() && time.Since(named) > 30*time.Second {
			keep = false
		}
		x.kept = keep
	}
	d.begin()
	d.toTheEnd(25 * time.Minute)
	if at := first.Load(); at != nil && at.Before(finish) {
		t.Errorf("it was refused at %s, and stage finish began at %s", at, finish)
	}
	if named.IsZero() || keep {
		t.Errorf("it was seen %s, named %s, stages %v", seen, named, d.stages)
	}
	if want := "restart finish retire"; !strings.HasSuffix(strings.Join(d.stages, " "), stage+" "+want) {
		t.Errorf("it went through %v", d.stages)
	}
	d.leads("g2")
	d.p.eachCreatedTwice()
}

// restless: replicas of linkerd-identity are deleted all the time, and those that
// follow start with what their node shows of Secret and ConfigMap, which is old. None
// finds an issuer that it does not trust.
func restless(t *testing.T) {
	d := newDrill(t, setting{clusters: 3, lag: "7s", manage: "none"})
	d.each = func(rotation.FleetStatus) {
		i := rand.IntN(len(d.kube))
		pods := d.pods(i)
		for _, pod := range pods {
			for _, c := range pod.Status.ContainerStatuses {
				if c.RestartCount > 0 {
					t.Errorf("%s in %s has crashed: %+v", pod.Name, d.lab.Clusters[i].Name, c)
				}
			}
		}
		if len(pods) > 0 && rand.IntN(4) == 0 {
			if err := d.kube[i].CoreV1().Pods(d.ns).Delete(context.Background(), pods[rand.IntN(len(pods))].Name, metav1.DeleteOptions{}); err != nil {
				t.Log(err)
			}
		}
	}
	d.begin()
	d.toTheEnd(25 * time.Minute)
	d.leads("g2")
	d.p.eachCreatedTwice()
}

// waveOfTwoThousand: certd restarts workloads of two thousand pods, some of which
// somebody else restarts at the same time, and is killed five times meanwhile. Each
// pod that was stale is created anew once, and none that was fresh.
func waveOfTwoThousand(t *testing.T) {
	const workloads, replicas, byHand, kills = 20, 100, 3, 5
	d := newDrill(t, setting{clusters: 1, manage: "auto", more: "trust: {restartWorkloads: auto, restartsAtOnce: 4}\n"})
	d.labCommand(0, "install-webhooks", "-component", "control-plane", "-namespace", d.ns, "-replicas", "2", "-failure-policy", "Fail")
	t.Cleanup(func() { d.labCommand(0, "remove-webhooks", "-component", "control-plane", "-namespace", d.ns) })
	ctx, in, apps := context.Background(), d.ns+"-wave", d.kube[0].AppsV1()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: in, Annotations: map[string]string{"linkerd.io/inject": "enabled"}}}
	if _, err := d.kube[0].CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.kube[0].CoreV1().Namespaces().Delete(ctx, in, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	born, stop := d.births(in)
	defer stop()
	name := func(i int) string { return fmt.Sprintf("w-%02d", i) }
	for i := range workloads {
		labels, many := map[string]string{"app": name(i)}, int32(replicas)
		_, err := apps.Deployments(in).Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name(i)}, Spec: appsv1.DeploymentSpec{Replicas: &many,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "x", Image: "x"}}}}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	d.eventually(5*time.Minute, func() string {
		for i := range workloads {
			if o, err := apps.Deployments(in).Get(ctx, name(i), metav1.GetOptions{}); err != nil || o.Status.ReadyReplicas != replicas {
				return fmt.Sprintf("%s: %v: %+v", name(i), err, o.Status)
			}
		}
		return ""
	})
	d.eventually(time.Minute, func() string {
		if n := born(); len(n) != workloads || n[name(0)] != replicas || n[name(workloads-1)] != replicas {
			return fmt.Sprint(n)
		}
		return ""
	})
	before := born()
	d.begin()
	killed := 0
	d.each = func(st rotation.FleetStatus) {
		if st.Trust.Rotation.Stage != "restart" {
			return
		}
		if d.killEvery == 0 {
			for i := range byHand {
				patch := fmt.Appendf(nil, `{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":%q}}}}}`, time.Now().UTC().Format(time.RFC3339))
				if _, err := apps.Deployments(in).Patch(ctx, name(workloads-1-i), types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			killed = d.kills
		}
		d.killEvery = 10 * time.Second
	}
	d.toTheEnd(25 * time.Minute)
	if n := d.kills - killed; n < kills {
		t.Errorf("certd was killed %d times during the wave", n)
	}
	d.leads("g2")
	for owner, n := range born() {
		if before[owner] != replicas || n != 2*replicas {
			t.Errorf("of %s %d pods were created before, and %d in all", owner, before[owner], n)
		}
	}
	if len(before) != workloads {
		t.Errorf("%d workloads", len(before))
	}
}

// births counts the pods that come to be in a namespace, by their label app.
func (d *drill) births(in string) (counted func() map[string]int, stop func()) {
	ctx, stop := context.WithCancel(context.Background())
	var mu sync.Mutex
	born, seen := map[types.UID]string{}, ""
	go func() {
		for ctx.Err() == nil { // API servers end a watch now and then
			pods, err := d.kube[0].CoreV1().Pods(in).Watch(ctx, metav1.ListOptions{ResourceVersion: seen})
			if err != nil {
				if ctx.Err() == nil {
					d.t.Errorf("watch pods: %v", err)
				}
				return
			}
			for e := range pods.ResultChan() {
				p, ok := e.Object.(*corev1.Pod)
				if !ok {
					continue
				}
				mu.Lock()
				born[p.UID], seen = p.Labels["app"], p.ResourceVersion
				mu.Unlock()
			}
		}
	}()
	return func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		n := map[string]int{}
		for _, app := range born {
			n[app]++
		}
		return n
	}, stop
}
