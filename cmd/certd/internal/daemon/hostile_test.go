package daemon

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"certd.internal/.ci/scoreboard"
	"certd.internal/backends/kube"
	"certd.internal/backends/kube/payload"
	"certd.internal/backends/memory"
	"certd.internal/pki"
	"certd.internal/rotation"
	"certd.internal/state"
)

// apiServer is as much of a Kubernetes API server as certd needs to look after an issuer and a
// bundle: namespaces, ConfigMaps and Secrets with compare-and-set, and watches
// that tell of nothing.
type apiServer struct {
	uid string

	mu       sync.Mutex
	objects  map[string]map[string]any // by path
	revision int
	writes   []write
	tokens   map[string]bool // that were presented
}

// write is one that came in.
type write struct {
	method, path string
	object       map[string]any
}

func newAPIServer(uid string) *apiServer {
	s := &apiServer{uid: uid, objects: map[string]map[string]any{}, tokens: map[string]bool{}}
	for _, name := range []string{"kube-system", "linkerd"} {
		s.put("/api/v1/namespaces/"+name, map[string]any{"kind": "Namespace", "apiVersion": "v1", "metadata": map[string]any{"name": name}})
	}
	return s
}

func (s *apiServer) put(path string, o map[string]any) {
	s.revision++
	m := o["metadata"].(map[string]any)
	m["uid"], m["resourceVersion"] = path+" of "+s.uid, fmt.Sprint(s.revision)
	s.objects[path] = o
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if r.URL.Query().Get("watch") != "" {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return
	}
	s.mu.Lock()
	s.tokens[r.Header.Get("Authorization")] = true
	code, answer := s.answer(r, body)
	text, err := json.Marshal(answer)
	s.mu.Unlock()
	if err != nil {
		code = http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(text)
}

func (s *apiServer) answer(r *http.Request, body []byte) (int, any) {
	refused := func(code int, reason string) (int, any) {
		return code, map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": r.URL.Path + ": " + reason, "code": code}
	}
	var sent map[string]any
	if len(body) > 0 && r.Method == http.MethodPost { // in protobuf
		o, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
		if err == nil {
			body, err = json.Marshal(o)
		}
		if err != nil {
			return refused(http.StatusBadRequest, "BadRequest")
		}
	}
	if len(body) > 0 && json.Unmarshal(body, &sent) != nil {
		return refused(http.StatusBadRequest, "BadRequest")
	}
	path := r.URL.Path
	if r.Method != http.MethodGet {
		s.writes = append(s.writes, write{r.Method, path, sent})
	}
	have := s.objects[path]
	switch {
	case path == "/version":
		return http.StatusOK, map[string]any{"gitVersion": "v1.36.3"}
	case r.Method == http.MethodPost:
		path += "/" + sent["metadata"].(map[string]any)["name"].(string)
		if s.objects[path] != nil {
			return refused(http.StatusConflict, "AlreadyExists")
		}
		s.put(path, sent)
		return http.StatusCreated, sent
	case have == nil:
		return refused(http.StatusNotFound, "NotFound")
	case r.Method == http.MethodPatch:
		m, old := sent["metadata"].(map[string]any), have["metadata"].(map[string]any)
		if v, ok := m["resourceVersion"]; ok && v != old["resourceVersion"] {
			return refused(http.StatusConflict, "Conflict")
		}
		for k, v := range have {
			if _, ok := sent[k]; !ok {
				sent[k] = v
			}
		}
		s.put(path, sent)
		return http.StatusOK, sent
	}
	if path == "/api/v1/namespaces/kube-system" {
		have = maps.Clone(have)
		m := maps.Clone(have["metadata"].(map[string]any))
		m["uid"] = s.uid
		have["metadata"] = m
	}
	return http.StatusOK, have
}

func (s *apiServer) data(path string) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.objects[path]
	if o == nil {
		return nil
	}
	d, _ := o["data"].(map[string]any)
	return maps.Clone(d)
}

func (s *apiServer) since(n int) []write {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.writes[n:])
}

// hostility is the servers that certd is to be held up by, and the configured ways to them.
type hostility struct {
	t      testing.TB
	direct string        // the healthy one's address, where hostile ones send certd to
	held   atomic.Int64  // requests that hang now
	bytes  atomic.Uint64 // sent by hostile servers

	// All floods share a wire of 40 MB/s: their senders are other machines, and here they
	// would take the processors from certd.
	wire sync.Mutex
	free time.Time
}

// served starts a TLS server and returns its address and certificate.
func (h *hostility) served(handler http.Handler) (url string, ca []byte) {
	s := httptest.NewUnstartedServer(handler)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	h.t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

func (h *hostility) access(url string, ca []byte, token string) kube.Access {
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["c"] = &clientcmdapi.Cluster{Server: url, CertificateAuthorityData: ca}
	cfg.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: token}
	cfg.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	cfg.CurrentContext = "x"
	text, err := clientcmd.Write(*cfg)
	if err != nil {
		h.t.Fatal(err)
	}
	return kube.Access{Data: text}
}

// flood answers until nobody reads any more.
func (h *hostility) flood(w http.ResponseWriter, r *http.Request, kind string, chunk []byte) {
	w.Header().Set("Content-Type", kind)
	for r.Context().Err() == nil {
		h.send(len(chunk))
		n, err := w.Write(chunk)
		h.bytes.Add(uint64(n))
		if err != nil {
			return
		}
	}
}

// send waits for the wire.
func (h *hostility) send(n int) {
	h.wire.Lock()
	now := time.Now()
	if h.free.Before(now) {
		h.free = now
	}
	h.free = h.free.Add(time.Duration(n) * time.Second / (40 << 20))
	wait := h.free.Sub(now)
	h.wire.Unlock()
	time.Sleep(wait)
}

// hang answers nothing until the client goes.
func (h *hostility) hang(r *http.Request) {
	h.held.Add(1)
	defer h.held.Add(-1)
	<-r.Context().Done()
}

var filler = bytes.Repeat([]byte("x"), 64<<10)

const namespaced = `{"kind":"Namespace","apiVersion":"v1","metadata":{"uid":"`

// manners are how a hostile API server may behave.
func (h *hostility) manners(foreign []byte) []struct {
	name string
	of   func() kube.Access
} {
	answering := func(f http.HandlerFunc) func() kube.Access {
		return func() kube.Access {
			url, ca := h.served(f)
			return h.access(url, ca, "hostile")
		}
	}
	// poisoned is an API server that answers in good order, and lies.
	poisoned := func(bundle []byte, epoch string) func() kube.Access {
		return func() kube.Access {
			s := newAPIServer(fmt.Sprint(rand.Text()))
			marks := map[string]any{payload.AnnotationFleet: "acme", payload.AnnotationEpoch: epoch}
			s.put("/api/v1/namespaces/linkerd/configmaps/"+rotation.BundleObject, map[string]any{"kind": "ConfigMap", "apiVersion": "v1",
				"metadata": map[string]any{"name": rotation.BundleObject, "namespace": "linkerd", "annotations": marks}, "data": map[string]any{payload.BundleKey: string(bundle)}})
			url, ca := h.served(s)
			return h.access(url, ca, "hostile")
		}
	}
	listening := func(each func(net.Conn)) func() kube.Access {
		return func() kube.Access {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				h.t.Fatal(err)
			}
			h.t.Cleanup(func() { l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go each(c)
				}
			}()
			_, ca := foreignCA(h.t)
			return h.access("https://"+l.Addr().String(), ca, "hostile")
		}
	}
	bomb := squeezed(h.t)
	return []struct {
		name string
		of   func() kube.Access
	}{
		{"hangs", answering(func(_ http.ResponseWriter, r *http.Request) { h.hang(r) })},
		{"sends a byte a second", answering(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for range time.Tick(time.Second) {
				if _, err := w.Write([]byte("{")); err != nil || r.Context().Err() != nil {
					return
				}
				_ = http.NewResponseController(w).Flush()
			}
		})},
		{"never ends an object", answering(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, namespaced)
			h.flood(w, r, "application/json", filler)
		})},
		{"never ends a watch", answering(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("watch") == "" {
				http.NotFound(w, r)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"type":"ADDED","object":{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"`)
			h.flood(w, r, "application/json", filler)
		})},
		{"tells of a change all the time", answering(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("watch") == "" {
				http.NotFound(w, r)
				return
			}
			h.flood(w, r, "application/json", []byte(`{"type":"MODIFIED","object":{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"x","resourceVersion":"1"}}}`+"\n"))
		})},
		{"answers 100 MB", answering(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, namespaced)
			for range 100 << 20 / len(filler) {
				h.send(len(filler))
				n, err := w.Write(filler)
				if h.bytes.Add(uint64(n)); err != nil {
					return
				}
			}
			_, _ = io.WriteString(w, `"}}`)
		})},
		{"sends what unpacks to a hundred times its size", answering(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb)
		})},
		{"answers garbage", answering(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(strings.Repeat("[{\"\x00\xff", 1000)))
		})},
		{"answers garbage in binary", answering(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf")
			_, _ = w.Write(append([]byte("k8s\x00"), filler...))
		})},
		{"sends headers without end", answering(func(w http.ResponseWriter, _ *http.Request) {
			for i := range 100 {
				w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("y", 4000))
			}
		})},
		{"asks for three thousand years of patience", answering(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "99999999999")
			w.WriteHeader(http.StatusTooManyRequests)
		})},
		{"asks for no patience", answering(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
		})},
		{"answers 500", answering(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })},
		{"answers 503", answering(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		})},
		{"sends certd to the healthy cluster", answering(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, h.direct+r.URL.Path, http.StatusTemporaryRedirect)
		})},
		{"breaks off", answering(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })},
		{"is refused", func() kube.Access {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				h.t.Fatal(err)
			}
			l.Close()
			_, ca := foreignCA(h.t)
			return h.access("https://"+l.Addr().String(), ca, "hostile")
		}},
		{"takes connections and says nothing", listening(func(c net.Conn) { h.held.Add(1); defer h.held.Add(-1); _, _ = io.Copy(io.Discard, c) })},
		{"speaks no TLS", listening(func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.7\r\n"); c.Close() })},
		{"has another's certificate", func() kube.Access {
			url, _ := h.served(newAPIServer("another"))
			_, ca := foreignCA(h.t)
			return h.access(url, ca, "hostile")
		}},
		{"shows garbage for a bundle", poisoned([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n\xff\x00"), "1")},
		{"shows 500 certificates", poisoned(bytes.Repeat(foreign, 500), "1")},
		{"shows a foreign anchor as the fleet's", poisoned(foreign, "1")},
		{"shows the largest epoch", poisoned(foreign, "18446744073709551615")},
		{"has its clock three hours late", answering(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", time.Now().Add(-3*time.Hour).UTC().Format(http.TimeFormat))
			http.NotFound(w, r)
		})},
	}
}

// squeezed is 100 MiB of an object's name, packed.
func squeezed(t testing.TB) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, namespaced)
	for range 100 << 20 / len(filler) {
		if _, err := z.Write(filler); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// foreignCA is a CA that nobody here knows.
func foreignCA(t testing.TB) (*x509.Certificate, []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root.linkerd.cluster.local"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// oneOf is a fleet of one healthy cluster and so many hostile ones, through which certd goes
// with the wiring of the daemon's loop.
type oneOf struct {
	t       testing.TB
	h       *hostility
	dir     string
	keys    *memory.Keys
	healthy *apiServer
	access  kube.Access
	foreign []byte

	took    []time.Duration // each renewal in the healthy one
	again   int             // how often one was asked for again
	written []write         // to it
	hung    int64           // requests that still hung when that was done
	heap    uint64          // bytes in use by then
	anchors []rotation.Anchor
}

const well = "zz-well" // the last by name

// newOneOf makes the fleet's anchor and the healthy cluster. Two of one directory and one set of
// keys are twins.
func newOneOf(t testing.TB, from *oneOf) *oneOf {
	o := &oneOf{t: t, h: &hostility{t: t}, dir: t.TempDir(), healthy: newAPIServer("healthy"), keys: memory.NewKeys()}
	if from != nil {
		o.keys, o.foreign = from.keys, from.foreign
		if err := os.CopyFS(o.dir, os.DirFS(from.dir)); err != nil {
			t.Fatal(err)
		}
	} else {
		_, o.foreign = foreignCA(t)
		j := o.journal()
		if _, _, err := (rotation.Ceremony{Journal: j, Creator: o.keys, Signer: o.keys, Policy: o.policy(nil), Actor: "lee@cli", Reason: "certd init", Say: func(string, ...any) {}}).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	url, ca := o.h.served(o.healthy)
	o.h.direct = url
	o.access = o.h.access(url, ca, "healthy")
	return o
}

func (o *oneOf) journal() *state.Journal {
	j, err := state.Open(o.dir, state.Options{Fleet: "acme", NoSync: true, Reserve: -1})
	if err != nil {
		o.t.Fatal(err)
	}
	return j
}

func (o *oneOf) policy(hostile []string) rotation.FleetPolicy {
	schedule, err := rotation.ParseSchedule("0 3 * * *", time.UTC)
	if err != nil {
		o.t.Fatal(err)
	}
	p := rotation.FleetPolicy{Fleet: "acme", KeyPrefix: "acme", Trust: rotation.TrustPolicy{Lifetime: 87600 * time.Hour, Backdate: 10 * time.Minute, RenewBefore: 17520 * time.Hour}}
	for _, name := range append(slices.Clone(hostile), well) {
		p.Clusters = append(p.Clusters, rotation.Policy{Cluster: name, Namespace: "linkerd", TrustDomain: "cluster.local", LeafLifetime: 24 * time.Hour, ClockSkew: 20 * time.Second, Repair: 12 * time.Hour,
			Issuer: rotation.RenewalPolicy{Lifetime: 168 * time.Hour, RenewBefore: 84 * time.Hour, Backdate: 10 * time.Minute, Schedule: schedule}})
	}
	return p
}

// live has certd run over the healthy cluster and so many hostile ones, and renews the issuer of
// the healthy one again and again.
func (o *oneOf) live(hostile, times int) {
	t := o.t
	accesses := map[string]kube.Access{}
	manners := o.h.manners(o.foreign)
	for i := range hostile {
		accesses[fmt.Sprintf("hostile-%03d", i)] = manners[i%len(manners)].of()
	}
	names := slices.Sorted(maps.Keys(accesses))
	accesses[well] = o.access
	clusters := map[string]rotation.Cluster{}
	quiet := slog.New(slog.DiscardHandler)
	for name, a := range accesses {
		c, err := kube.New(kube.Config{Cluster: name, Namespace: "linkerd", TrustDomain: "cluster.local", Access: a}, quiet)
		if err != nil {
			t.Fatal(err)
		}
		clusters[name] = c
	}
	j := o.journal()
	defer j.Close()
	loop, err := rotation.NewReconciler(rotation.Options{Journal: j, Keys: o.keys, Policy: o.policy(names), Clusters: clusters, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for range times {
		begun := time.Now()
		for renewed := false; !renewed; {
			select {
			case r := <-loop.Rotate(rotation.TargetIssuer, []string{well}, rotation.Request{Actor: "lee@cli", Reason: "drill"}):
				if renewed = r.Result == rotation.OK; !renewed { // this host's fault, if it has no processor to spare
					t.Logf("asked again: %+v", r)
					if o.again++; o.again > 20 {
						t.Fatal("the healthy cluster is not renewed")
					}
					time.Sleep(time.Second)
				}
			case <-time.After(5 * time.Minute):
				t.Fatalf("the healthy cluster is not renewed within five minutes: %+v", loop.Status().Findings)
			}
		}
		o.took = append(o.took, time.Since(begun))
		time.Sleep(600 * time.Millisecond) // one pass of a cluster is as far from the next
	}
	o.hung = o.h.held.Load()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	o.heap = m.HeapInuse + m.StackInuse
	o.written = o.healthy.since(0)
	if o.anchors, err = j.Anchors(); err != nil {
		t.Fatal(err)
	}
}

// alike are the writes without what is another in each life: the issuer's key, its certificate,
// and the marks that tell of them.
func alike(writes []write) (lines []string) {
	for _, w := range writes {
		if strings.HasSuffix(w.path, "/events") { // they tell people, as well as may be
			continue
		}
		text, err := json.Marshal(w.object)
		if err != nil {
			return []string{err.Error()}
		}
		var o map[string]any
		_ = json.Unmarshal(text, &o)
		m, _ := o["metadata"].(map[string]any)
		if marks, ok := m["annotations"].(map[string]any); ok {
			for _, mark := range []string{payload.AnnotationEpoch, payload.AnnotationSerial} {
				if _, ok := marks[mark]; ok {
					marks[mark] = "…"
				}
			}
		}
		if d, ok := o["data"].(map[string]any); ok {
			for _, key := range []string{payload.TLSCert, payload.TLSKey, payload.CrtPEM, payload.KeyPEM} {
				if _, ok := d[key]; ok {
					d[key] = "…"
				}
			}
		}
		text, err = json.Marshal(o)
		if err != nil {
			return []string{err.Error()}
		}
		lines = append(lines, w.method+" "+w.path+" "+string(text))
	}
	return lines
}

// Line R13: a cluster alone, and its twin to which 499 hostile API servers are added: certd sends
// both the same, and the second does not wait for the others. How long it takes is a benchmark of
// a host on which all of these servers run, too.
func TestAHealthyClusterAmongHostileOnes(t *testing.T) {
	run := scoreboard.Start(t, "R13", 1)
	for range run.Seeds() {
		hostile, times := 499, 7 // ten signatures an hour are certd's own limit
		if !run.Long() {
			hostile, times = 50, 3
		}
		first := newOneOf(t, nil)
		alone, among := newOneOf(t, first), newOneOf(t, first)
		for _, o := range []*oneOf{alone, among} { // it is enrolled in peace
			o.live(0, 1)
			o.took = nil
		}
		alone.live(0, times)
		among.live(hostile, times)
		a, b := alike(alone.written), alike(among.written)
		changed := 0
		for i := range max(len(a), len(b)) {
			switch {
			case i >= len(a):
				changed++
				t.Errorf("among hostile clusters it is written, too: %s", b[i])
			case i >= len(b):
				changed++
				t.Errorf("among hostile clusters it is not written: %s", a[i])
			case a[i] != b[i]:
				changed++
				t.Errorf("write %d is\n%s\nalone, and\n%s\namong hostile clusters", i, a[i], b[i])
			}
		}
		if among.hung == 0 {
			t.Error("nothing hung when the healthy cluster was done: it does not show that it did not wait")
		}
		if len(among.healthy.tokens) != 1 || !among.healthy.tokens["Bearer healthy"] {
			t.Errorf("the healthy cluster was shown the credentials of others: %v", among.healthy.tokens)
		}
		if len(among.anchors) != 1 || !among.anchors[0].Certificate.Equal(alone.anchors[0].Certificate) {
			t.Errorf("the fleet has %d anchors", len(among.anchors))
		}
		if got := among.healthy.data("/api/v1/namespaces/linkerd/configmaps/" + rotation.BundleObject)[payload.BundleKey]; got != string(pki.EncodeCertificates(among.anchors[0].Certificate)) {
			t.Errorf("its bundle is %v", got)
		}
		run.Add("hostile clusters", uint64(hostile))
		run.Add("renewals among them", uint64(times))
		run.Add("renewals asked for again", uint64(among.again))
		run.Add("writes compared", uint64(len(b)))
		run.Add("writes that differ", uint64(changed))
		for what, o := range map[string]*oneOf{"alone": alone, "among them": among} {
			all := slices.Sorted(slices.Values(o.took))
			run.Most("first renewal "+what+", ms", float64(o.took[0].Microseconds())/1000)
			run.Most("median renewal "+what+", ms", float64(all[len(all)/2].Microseconds())/1000)
			run.Most("slowest renewal "+what+", ms", float64(all[len(all)-1].Microseconds())/1000)
			run.Most("memory in use "+what+", servers included, MiB", float64(o.heap>>20))
		}
		t.Logf("alone %v, among hostile ones %v; %d requests hung in the end, %d MiB were sent by hostile servers", alone.took, among.took, among.hung, among.h.bytes.Load()>>20)
	}
}
