package memory

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/backendtest"
	"certd.internal/backends/kube/payload"
	"certd.internal/pki"
	"certd.internal/rotation"
)

const hookLag = 90 * time.Second

func tapSpec() rotation.WebhookSpec {
	return rotation.WebhookSpec{Name: "tap", Service: "tap", Namespace: "linkerd-viz", Secret: "tap-k8s-tls", DNSNames: []string{"tap.linkerd-viz.svc"},
		Check: rotation.CheckAvailable, Objects: []rotation.ObjectRef{{Kind: rotation.KindAPIService, Name: "v1alpha1.tap.linkerd.io"}}}
}

// hookWorld is a cluster with one webhook, which certd has taken over.
type hookWorld struct {
	*Cluster
	t    *testing.T
	spec rotation.WebhookSpec
	ca   *backendtest.WebhookCA
}

func newHookWorld(t *testing.T, in WebhookInstall) *hookWorld {
	spec, cfg := tapSpec(), clusterConfig()
	cfg.Existing, cfg.Lag, cfg.APILag, cfg.Webhooks = true, hookLag, 5*time.Second, []rotation.WebhookSpec{spec}
	w := &hookWorld{NewCluster(cfg), t, spec, backendtest.NewWebhookCA(t)}
	in.Secret = backendtest.ChartPair(t, spec.DNSNames[0])
	in.CABundle = in.Secret[payload.TLSCert]
	w.InstallWebhook(spec, in)
	w.trust(pki.ParseCASet(in.CABundle).Union(w.ca.Set()))
	time.Sleep(time.Minute)
	w.serve()
	time.Sleep(2 * max(in.Lag, hookLag))
	w.trust(w.ca.Set())
	time.Sleep(time.Minute)
	w.sound("after the takeover")
	return w
}

func (w *hookWorld) look() rotation.Webhook {
	w.t.Helper()
	o, err := w.Observe(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return o.Webhooks[0]
}

// trust has certd write the caBundle.
func (w *hookWorld) trust(cas pki.CASet) {
	w.t.Helper()
	if _, err := w.WriteCABundle(w.t.Context(), rotation.CABundleWrite{Spec: w.spec, Object: w.spec.Objects[0], Revision: w.look().Objects[0].Revision, CAs: cas}); err != nil {
		w.t.Fatal(err)
	}
}

// serve has certd write a new certificate under the CA.
func (w *hookWorld) serve() {
	w.t.Helper()
	cred := w.ca.Serving(w.t, w.spec.DNSNames...)
	if _, err := w.WriteWebhook(w.t.Context(), rotation.WebhookWrite{Spec: w.spec, Revision: w.look().Secret.Revision, Credential: &cred, CAs: w.ca.Set()}); err != nil {
		w.t.Fatal(err)
	}
}

// reload has certd ask for the files to be swapped once more.
func (w *hookWorld) reload(token string) {
	w.t.Helper()
	if _, err := w.WriteWebhook(w.t.Context(), rotation.WebhookWrite{Spec: w.spec, Revision: w.look().Secret.Revision, CAs: w.ca.Set(), Reload: token}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *hookWorld) restart() {
	w.t.Helper()
	if err := w.Restart(w.t.Context(), w.spec.Namespace, rotation.ObjectRef{Kind: "Deployment", Name: "tap"}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *hookWorld) probe() rotation.WebhookEvidence {
	return w.ProbeWebhooks(w.t.Context(), []rotation.WebhookSpec{w.spec})["tap"]
}

// current says of each replica, in a letter, whether it serves what is in the
// Secret (c), something else (o) or nothing (-).
func (w *hookWorld) current() string {
	want := w.look().Facts.Chain
	var b strings.Builder
	for _, r := range w.probe().Replicas {
		switch {
		case r.Served == nil:
			b.WriteByte('-')
		case len(want) > 0 && r.Served[0].Equal(want[0]):
			b.WriteByte('c')
		default:
			b.WriteByte('o')
		}
	}
	return b.String()
}

func (w *hookWorld) serves(when, want string) {
	w.t.Helper()
	if got := w.current(); got != want {
		w.t.Errorf("%s: replicas serve %s; want %s", when, got, want)
	}
}

func (w *hookWorld) sound(when string) {
	w.t.Helper()
	for _, v := range w.ForgetViolations() {
		w.t.Errorf("%s: %s", when, v)
	}
}

// violated wants violations, all brought about by one.
func (w *hookWorld) violated(when, by string, n int) {
	w.t.Helper()
	all := w.ForgetViolations()
	if len(all) != n {
		w.t.Errorf("%s: %d violations; want %d: %v", when, len(all), n, all)
	}
	for _, v := range all {
		if v.By != by {
			w.t.Errorf("%s: %s; want it to be by %s", when, v, by)
		}
	}
}

func TestSimulatedWebhook(t *testing.T) {
	for _, row := range []struct {
		name string
		in   WebhookInstall
		test func(w *hookWorld)
	}{
		{"volumes show a change one after another", WebhookInstall{}, func(w *hookWorld) {
			w.serve()
			for _, want := range []string{"ooo", "coo", "cco", "ccc"} {
				w.serves("in the course of a change", want)
				time.Sleep(hookLag / 3)
			}
			w.sound("under one CA")
		}},
		{"the first replica of two takes half the time", WebhookInstall{Replicas: 2, Lag: time.Hour}, func(w *hookWorld) {
			w.serve()
			time.Sleep(30 * time.Minute)
			w.serves("after half an hour", "co")
		}},
		{"a new CA in the right order breaks nothing", WebhookInstall{}, func(w *hookWorld) {
			old := w.ca.Set()
			w.ca = backendtest.NewWebhookCA(w.t)
			w.trust(old.Union(w.ca.Set()))
			time.Sleep(5 * time.Second)
			w.serve()
			time.Sleep(hookLag)
			w.trust(w.ca.Set())
			time.Sleep(time.Hour)
			w.sound("after a new CA")
		}},
		{"serving before it is trusted is caught, at the first volume", WebhookInstall{}, func(w *hookWorld) {
			w.ca = backendtest.NewWebhookCA(w.t)
			begun := time.Now()
			w.serve()
			time.Sleep(hookLag - time.Second)
			if all := w.Violations(); len(all) != 4 || !all[0].At.Equal(begun.Add(hookLag/3)) {
				w.t.Errorf("violations %v; want those of two replicas from %s on", all, begun.Add(hookLag/3))
			}
			if n := len(w.Broken()); n != 4 {
				w.t.Errorf("%d calls fail; want 4 of 6", n)
			}
			time.Sleep(time.Second)
			w.violated("a new leaf too early", ByCertd, 6)
		}},
		{"serving before the last API server has learnt is caught", WebhookInstall{Lag: time.Second}, func(w *hookWorld) {
			time.Sleep(time.Hour)
			old := w.ca.Set()
			w.ca = backendtest.NewWebhookCA(w.t)
			w.trust(old.Union(w.ca.Set()))
			w.serve()
			time.Sleep(time.Hour)
			w.violated("without a settle", ByCertd, 3) // at the second API server alone
			if n := len(w.Broken()); n != 0 {
				w.t.Errorf("%d calls fail for good", n)
			}
		}},
		{"dropping a CA while it is served is caught at once", WebhookInstall{}, func(w *hookWorld) {
			w.trust(backendtest.NewWebhookCA(w.t).Set())
			w.violated("at once", ByCertd, 3)
			time.Sleep(5 * time.Second)
			w.violated("at the second API server", ByCertd, 3)
		}},
		{"dropping a CA while a deaf replica serves under it is caught", WebhookInstall{}, func(w *hookWorld) {
			old := w.ca.Set()
			w.Deafen("tap", 1)
			w.ca = backendtest.NewWebhookCA(w.t)
			w.trust(old.Union(w.ca.Set()))
			time.Sleep(time.Minute)
			w.serve()
			time.Sleep(time.Hour)
			w.serves("a deaf one", "coc")
			w.sound("while both are trusted")
			w.trust(w.ca.Set())
			time.Sleep(time.Hour)
			w.violated("without a look at what is served", ByCertd, 2)
		}},
		{"an expired certificate is caught when it expires", WebhookInstall{}, func(w *hookWorld) {
			end := w.look().Facts.Chain[0].NotAfter
			time.Sleep(time.Until(end))
			w.sound("until the end")
			time.Sleep(time.Hour)
			all := w.Violations()
			if len(all) != 6 || !all[0].At.Equal(end.Add(1)) {
				w.t.Errorf("violations %v; want all, right after %s", all, end)
			}
			w.violated("afterwards", ByTime, 6)
		}},
		{"a clock that runs on is caught", WebhookInstall{}, func(w *hookWorld) {
			w.SetClockSkew(1000 * time.Hour)
			w.violated("with a skewed clock", ByWorld, 6)
			w.SetClockSkew(0)
			if n := len(w.Broken()); n != 0 {
				w.t.Errorf("%d calls fail by the right time", n)
			}
		}},
		{"an upgrade of the chart is told apart from certd's doing", WebhookInstall{}, func(w *hookWorld) {
			pair := backendtest.ChartPair(w.t, w.spec.DNSNames[0])
			w.InstallWebhook(w.spec, WebhookInstall{Secret: pair, CABundle: pair[payload.TLSCert]})
			time.Sleep(hookLag)
			w.violated("an upgrade", "helm", 6)
			if hook := w.look(); hook.Secret.Writers[0].Name != "helm" || hook.Objects[0].Writers[0].Name != "helm" || hook.WrittenAt.IsZero() {
				w.t.Errorf("Secret %+v, object %+v, written at %s", hook.Secret, hook.Objects[0], hook.WrittenAt)
			}
			before := w.look().Secret.Revision
			w.InstallWebhook(w.spec, WebhookInstall{Secret: pair, CABundle: pair[payload.TLSCert]})
			if after := w.look().Secret.Revision; after != before || len(w.Broken()) > 0 {
				w.t.Errorf("the same upgrade once more: revision %s after %s", after, before)
			}
		}},
		{"a deaf replica hears nothing until its pod is replaced", WebhookInstall{}, func(w *hookWorld) {
			w.Deafen("tap", 2)
			w.serve()
			time.Sleep(hookLag)
			w.reload("1")
			time.Sleep(hookLag)
			w.serves("deaf", "cco")
			before := w.probe().Replicas[2]
			w.RestartPod("tap", 2)
			w.serves("in a new pod", "ccc")
			if after := w.probe().Replicas[2]; after.Pod == before.Pod || !after.Started.Equal(time.Now()) {
				w.t.Errorf("pod %s since %s after %s", after.Pod, after.Started, before.Pod)
			}
			w.serve()
			time.Sleep(hookLag)
			w.serves("after one more change", "ccc")
		}},
		{"what was under way to a pod is lost with it", WebhookInstall{}, func(w *hookWorld) {
			w.serve()
			time.Sleep(10 * time.Second)
			w.serve()
			w.RestartPod("tap", 0)
			w.serves("in a new pod", "coo")
			time.Sleep(hookLag/3 - 10*time.Second)
			w.serves("when the old one would have seen the first change", "coo")
		}},
		{"a replica that missed one change takes up the next", WebhookInstall{}, func(w *hookWorld) {
			w.MissNext("tap", 0)
			w.serve()
			time.Sleep(hookLag)
			w.serves("one missed", "occ")
			w.reload("1")
			time.Sleep(hookLag)
			w.serves("after a reload", "ccc")
		}},
		{"a write that leaves the data alone swaps no files", WebhookInstall{}, func(w *hookWorld) {
			w.MissNext("tap", 0)
			w.Edit("linkerd-viz/tap-k8s-tls", "kubectl-edit", func(_ map[string][]byte, m *rotation.Marks) { m.Epoch = 9 })
			time.Sleep(hookLag)
			w.serve()
			time.Sleep(hookLag)
			w.serves("after marks and one change", "occ")
		}},
		{"a watching server keeps what it has when the new pair does not load", WebhookInstall{}, func(w *hookWorld) {
			w.Edit("linkerd-viz/tap-k8s-tls", "kubectl-edit", func(data map[string][]byte, _ *rotation.Marks) { data[payload.TLSKey] = []byte("garbage") })
			time.Sleep(hookLag)
			w.sound("with a damaged Secret")
			w.RestartPod("tap", 0)
			if r := w.probe().Replicas[0]; r.Ready || r.Served != nil || r.Evidence == "" {
				w.t.Errorf("a pod started with garbage: %+v", r)
			}
			w.sound("with two pods of three")
			w.serve()
			time.Sleep(hookLag)
			w.serves("after the repair", "ccc")
		}},
		{"a rereading server serves nothing when the pair does not load", WebhookInstall{Reload: ReloadReread}, func(w *hookWorld) {
			w.Edit("linkerd-viz/tap-k8s-tls", "kubectl-edit", func(data map[string][]byte, _ *rotation.Marks) { data[payload.TLSKey] = []byte("garbage") })
			time.Sleep(hookLag)
			w.serves("with a damaged Secret", "---")
			w.violated("with a damaged Secret", "kubectl-edit", 6)
			w.serve()
			time.Sleep(hookLag)
			w.serves("after the repair", "ccc")
			w.sound("after the repair")
		}},
		{"pods are replaced one after another", WebhookInstall{}, func(w *hookWorld) {
			w.Deafen("tap", 0)
			w.Deafen("tap", 1)
			w.Deafen("tap", 2)
			w.serve()
			time.Sleep(hookLag)
			w.restart()
			for _, want := range []string{"coo", "cco", "ccc"} {
				w.serves("in the course of a rollout", want)
				time.Sleep(rolloutPace)
			}
			w.sound("after a rollout")
		}},
		{"a Secret that nobody can start with stops a rollout", WebhookInstall{}, func(w *hookWorld) {
			w.Delete("linkerd-viz/tap-k8s-tls")
			time.Sleep(hookLag)
			w.restart()
			time.Sleep(time.Hour)
			w.serves("without a Secret", "ooo")
			w.sound("without a Secret")
			w.serve()
			time.Sleep(time.Hour)
			w.serves("with a Secret again", "ccc")
			for _, r := range w.probe().Replicas {
				if time.Since(r.Started) > time.Hour {
					w.t.Errorf("%s is still there", r.Pod)
				}
			}
		}},
		{"a pod may start with what its Secret was", WebhookInstall{StaleStarts: true}, func(w *hookWorld) {
			w.serve()
			time.Sleep(hookLag * 2 / 3)
			w.serves("before the restart", "cco")
			w.RestartPod("tap", 0)
			w.serves("after a stale start", "oco")
			time.Sleep(hookLag / 3)
			w.serves("when the last volume shows it", "ccc")
		}},
		{"what cannot be reached is not seen", WebhookInstall{}, func(w *hookWorld) {
			w.Unreachable("tap", true)
			w.serves("out of reach", "---")
			if r := w.probe().Replicas[0]; r.Evidence != "unreachable" || !r.Ready || r.Owner.Name != "tap" {
				w.t.Errorf("replica %+v", r)
			}
		}},
		{"the check tells what the calls come to", WebhookInstall{}, func(w *hookWorld) {
			if e := w.probe(); e.Check.State != "yes" || !e.At.Equal(time.Now()) {
				w.t.Errorf("evidence %+v", e)
			}
			w.SetCABundle(w.spec.Objects[0], "kubectl-edit", nil)
			if e := w.probe(); e.Check.State != "no" || !strings.Contains(e.Check.Evidence, "failed calling webhook") {
				w.t.Errorf("check %+v", e.Check)
			}
			w.SetCheck("tap", "unknown", "not permitted")
			if e := w.probe(); e.Check.State != "unknown" || e.Check.Evidence != "not permitted" {
				w.t.Errorf("check %+v", e.Check)
			}
		}},
		{"a probe that fails knows nothing", WebhookInstall{}, func(w *hookWorld) {
			w.SetFaults(func(call Call) ClusterFault {
				if call == CallProbe {
					return ClusterFault{Err: rotation.ErrUnavailable, Delay: 3 * time.Second}
				}
				return ClusterFault{}
			})
			begun := time.Now()
			if e := w.probe(); e.Check.State != "unknown" || len(e.Replicas) != 1 || e.Replicas[0].Served != nil || !e.At.Equal(begun) {
				w.t.Errorf("evidence %+v", e)
			}
		}},
		{"writes are counted, a lost answer included", WebhookInstall{}, func(w *hookWorld) {
			before := w.Writes()
			w.SetFaults(func(Call) ClusterFault { return ClusterFault{Err: rotation.ErrOutcomeUnknown, Lost: true} })
			rev := w.Cluster.objects["APIService/v1alpha1.tap.linkerd.io"].revision
			_, err := w.WriteCABundle(w.t.Context(), rotation.CABundleWrite{Spec: w.spec, Object: w.spec.Objects[0], Revision: rev, Epoch: 4, CAs: w.ca.Set()})
			if !errors.Is(err, rotation.ErrOutcomeUnknown) {
				w.t.Error(err)
			}
			w.SetFaults(nil)
			if after := w.Writes(); after["APIService/v1alpha1.tap.linkerd.io"]-before["APIService/v1alpha1.tap.linkerd.io"] != 1 || after["tap-k8s-tls"] != 1 {
				w.t.Errorf("writes %v after %v", after, before)
			}
		}},
		{"rivals are seen", WebhookInstall{Ignore: true}, func(w *hookWorld) {
			w.SetRenewer("tap", "Certificate linkerd-viz/tap")
			w.SetInjector(w.spec.Objects[0], "Secret linkerd-viz/tap-k8s-tls")
			if hook := w.look(); hook.Renewer == "" || hook.Objects[0].Injector == "" || !hook.Objects[0].Ignores {
				w.t.Errorf("renewer %q, object %+v", hook.Renewer, hook.Objects[0])
			}
		}},
		{"what an API server is yet to learn is void once the object is another", WebhookInstall{}, func(w *hookWorld) {
			w.SetCABundle(w.spec.Objects[0], "kubectl-edit", backendtest.NewWebhookCA(w.t).Set().PEM())
			w.violated("a reset", "kubectl-edit", 3)
			time.Sleep(2 * time.Second)
			w.RemoveWebhook("tap")
			w.InstallWebhook(w.spec, WebhookInstall{CABundle: w.ca.Set().PEM()})
			time.Sleep(time.Minute)
			w.sound("in a new object")
		}},
		{"a webhook that goes takes its violations with it, and its kept Secret waits", WebhookInstall{}, func(w *hookWorld) {
			w.RemoveWebhook("tap")
			if n := len(w.Admissions("")); n != 0 {
				w.t.Errorf("%d calls of a webhook that is gone", n)
			}
			w.sound("when it is gone")
			w.InstallWebhook(w.spec, WebhookInstall{CABundle: w.ca.Set().PEM()})
			time.Sleep(hookLag)
			w.serves("when it is back", "ccc")
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { row.test(newHookWorld(t, row.in)) })
		})
	}
}

// certd's Secret has Keep, without the test's saying so: a namespace that goes
// takes it along all the same, and the pods.
func TestSimulatedWebhookInADeletedNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := rotation.LinkerdWebhooks()[0]
		cfg := clusterConfig()
		cfg.Webhooks = []rotation.WebhookSpec{spec}
		c := NewCluster(cfg)
		pair := backendtest.ChartPair(t, "linkerd-proxy-injector.linkerd.svc")
		c.InstallWebhook(spec, WebhookInstall{Secret: pair, CABundle: pair[payload.TLSCert]})
		if n := len(c.Broken()) + len(c.Violations()); n != 0 || len(c.Admissions("proxy-injector")) != 6 {
			t.Errorf("%d calls fail of %v", n, c.Admissions(""))
		}
		c.DeleteNamespace()
		if all := c.Violations(); len(all) != 2 || all[0].By != ByWorld {
			t.Errorf("violations %v; want that there are no endpoints", all)
		}
		o, err := c.Observe(t.Context())
		if err != nil || o.Namespace || len(o.Webhooks[0].Objects) != 1 || o.Webhooks[0].Secret.Exists {
			t.Errorf("observed %+v, %v", o.Webhooks[0], err)
		}
		c.InstallWebhook(spec, WebhookInstall{Secret: pair, CABundle: pair[payload.TLSCert]})
		if all := c.Broken(); len(all) != 0 || len(c.Admissions("")) != 6 {
			t.Errorf("%v fail of %v", all, c.Admissions(""))
		}
	})
}

// A certificate that is written before each API server trusts its CA, or a CA that goes while
// kubelets may still show a certificate under it, is caught, also where no pod starts then.
func TestAPodThatStartsNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newHookWorld(t, WebhookInstall{})
		tooSoon := func() {
			next := backendtest.NewWebhookCA(t)
			w.trust(w.ca.Set().Union(next.Set()))
			time.Sleep(time.Second)
			w.ca = next
			w.serve()
		}
		tooSoon()
		time.Sleep(2 * hookLag)
		w.sound("the second API server knew before a pod showed the certificate")
		w.Entitle()
		w.sound("at rest")
		tooSoon()
		w.violated("before the second API server knows", ByCertd, 1)
		time.Sleep(5 * time.Second)
		w.restart()
		time.Sleep(hookLag - 6*time.Second)
		w.sound("each pod has the certificate")
		w.trust(w.ca.Set())
		w.violated("while a kubelet may show the former one", ByCertd, 1)
	})
}
