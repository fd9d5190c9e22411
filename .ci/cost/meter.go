package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
)

// reading is what the meters show at one moment. All but RSS only grow.
type reading struct {
	at       time.Time
	requests float64            // to the API server, watches only once they end
	kinds    map[string]float64 // of these, by verb and resource
	writes   float64            // of these
	puts     float64            // into etcd
	put      float64            // bytes of these
	// CPU seconds: of the program that is measured, of the API server, and of the lab, in
	// which etcd is.
	cpu, apiserver, etcd float64
	sent, received       float64 // bytes to and from the API server
	opened               float64 // connections to it
	signed, vault        float64 // signatures, and all requests that Vault has logged
	rss, peak            float64 // bytes; of the program
}

// since is what happened between two readings. rss and peak are as they are now.
func (r reading) since(o reading) reading {
	kinds := map[string]float64{}
	for k, n := range r.kinds {
		if more := n - o.kinds[k]; more > 0 {
			kinds[k] = more
		}
	}
	return reading{r.at, r.requests - o.requests, kinds, r.writes - o.writes, r.puts - o.puts, r.put - o.put,
		r.cpu - o.cpu, r.apiserver - o.apiserver, r.etcd - o.etcd, r.sent - o.sent, r.received - o.received, r.opened - o.opened,
		r.signed - o.signed, r.vault - o.vault, r.rss, r.peak}
}

// meters read what one program, the one with that process ID, costs in one lab.
type meters struct {
	api       *kubernetes.Clientset
	relay     *relay
	etcd      *http.Client // to its unix socket
	apiserver int          // process IDs
	lab       int
	auditLog  string // Vault's
}

func etcdOverSocket(path string) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}}}
}

func (m *meters) read(ctx context.Context, pid int) (r reading, err error) {
	r.kinds = map[string]float64{}
	text, err := m.api.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return r, fmt.Errorf("read the API server's metrics: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		labels, value, ok := metric(line, "apiserver_request_total")
		// /metrics and /readyz have no resource. Leases are the API server's own: it renews the
		// one that says it is there; certd, which runs without leaderElection here, has none.
		if !ok || strings.Contains(labels, `,resource=""`) || strings.Contains(labels, `,resource="leases"`) {
			continue
		}
		r.requests += value
		kind := regexp.MustCompile(`[,{](resource|verb)="([^"]*)"`).FindAllStringSubmatch(labels, -1)
		if len(kind) != 2 {
			return r, fmt.Errorf("apiserver_request_total has other labels than resource and verb: %s", labels)
		}
		r.kinds[kind[1][2]+" "+kind[0][2]] += value
		if verb := kind[1][2]; verb != "GET" && verb != "LIST" && verb != "WATCH" {
			r.writes += value
		}
	}
	resp, err := m.etcd.Get("http://etcd/metrics")
	if err != nil {
		return r, fmt.Errorf("read etcd's metrics: %w", err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if _, v, ok := metric(lines.Text(), "etcd_mvcc_put_total"); ok {
			r.puts = v
		}
		if _, v, ok := metric(lines.Text(), "etcd_debugging_mvcc_total_put_size_in_bytes"); ok {
			r.put = v
		}
	}
	for _, p := range []struct {
		pid int
		cpu *float64
	}{{pid, &r.cpu}, {m.apiserver, &r.apiserver}, {m.lab, &r.etcd}} {
		if p.pid == 0 {
			continue // it has yet to be started
		}
		if *p.cpu, err = cpuSeconds(p.pid); err != nil {
			return r, err
		}
	}
	if pid != 0 {
		if r.rss, err = procField(pid, "status", "VmRSS"); err == nil {
			r.peak, err = procField(pid, "status", "VmHWM")
		}
		if err != nil {
			return r, err
		}
	}
	r.sent, r.received, r.opened = float64(m.relay.sent.Load()), float64(m.relay.received.Load()), float64(m.relay.opened.Load())
	r.signed, r.vault, err = logged(m.auditLog)
	r.at = time.Now()
	return r, err
}

// metric reads a line of Prometheus' text.
func metric(line, name string) (labels string, value float64, ok bool) {
	rest, ok := strings.CutPrefix(line, name)
	if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
		return "", 0, false
	}
	i := strings.LastIndexByte(strings.TrimSpace(rest), ' ')
	value, err := strconv.ParseFloat(strings.TrimSpace(rest)[i+1:], 64)
	return rest[:max(i, 0)], value, err == nil
}

// cpuSeconds is what a process has used, its ended children not among it (proc(5)).
func cpuSeconds(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	user, err := strconv.ParseFloat(fields[11], 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseFloat(fields[12], 64)
	const ticks = 100 // a second, on all that Linux runs on today
	return (user + system) / ticks, err
}

// procField is a number of /proc/PID/status, of io; kB are made bytes.
func procField(pid int, file, name string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`(?m)^` + name + `:\s*(\d+)( kB)?`).FindSubmatch(b)
	if m == nil {
		return 0, fmt.Errorf("/proc/%d/%s has no %s", pid, file, name)
	}
	v, err := strconv.ParseFloat(string(m[1]), 64)
	if len(m[2]) > 0 {
		v *= 1024
	}
	return v, err
}

// logged counts the signatures and all the requests in Vault's audit log.
func logged(path string) (signed, all float64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Type    string
			Request struct{ Path string }
		}
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Type != "response" {
			continue // the line being written now, or a request, which its response repeats
		}
		all++
		if strings.Contains(e.Request.Path, "/sign/") {
			signed++
		}
	}
	return signed, all, lines.Err()
}
