package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// checkTimeout is how long one check may take. Kubelets wait for one second
// unless told otherwise; a person wants to be told which check it is.
const checkTimeout = 2 * time.Second

// A Check is one thing that a probe asks about.
type Check struct {
	Name string
	// Ask returns nil where it is well. It may hang: nobody waits for it for more
	// than two seconds, and it is not asked again before it has answered.
	Ask func(context.Context) error
}

// probe answers as the probes of Kubernetes do: 200 where all checks pass, 503
// where one does not; ?verbose has a line for each, ?exclude=NAME leaves one out.
type probe struct {
	name   string
	checks []*asked
}

func newProbe(name string, checks []Check) probe {
	p := probe{name: name}
	for _, c := range checks {
		p.checks = append(p.checks, &asked{Check: c})
	}
	return p
}

func (p *probe) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	excluded := q["exclude"]
	errs := make([]error, len(p.checks))
	var all sync.WaitGroup
	for i, c := range p.checks {
		if !slices.Contains(excluded, c.Name) {
			all.Go(func() { errs[i] = c.ask() })
		}
	}
	all.Wait()
	var lines strings.Builder
	for i, c := range p.checks {
		switch {
		case slices.Contains(excluded, c.Name):
			fmt.Fprintf(&lines, "[+]%s excluded: ok\n", c.Name)
		case errs[i] == nil:
			fmt.Fprintf(&lines, "[+]%s ok\n", c.Name)
		default:
			fmt.Fprintf(&lines, "[-]%s failed: %v\n", c.Name, errs[i])
		}
	}
	for _, name := range excluded {
		if !slices.ContainsFunc(p.checks, func(c *asked) bool { return c.Name == name }) {
			fmt.Fprintf(&lines, "warn: there is no check %.50q to exclude\n", name)
		}
	}
	if errors.Join(errs...) != nil {
		http.Error(w, lines.String()+p.name+" check failed", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if !q.Has("verbose") {
		fmt.Fprint(w, "ok")
		return
	}
	fmt.Fprintf(w, "%s%s check passed\n", &lines, p.name)
}

// asked is a check that is asked once at a time, whoever wants to know.
type asked struct {
	Check

	mu     sync.Mutex
	answer *answer // that is still awaited
}

type answer struct {
	done chan struct{}
	err  error
}

func (a *asked) ask() error {
	a.mu.Lock()
	now := a.answer
	if now == nil {
		now = &answer{done: make(chan struct{})}
		a.answer = now
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
			defer cancel()
			now.err = a.Ask(ctx)
			a.mu.Lock()
			a.answer = nil
			a.mu.Unlock()
			close(now.done)
		}()
	}
	a.mu.Unlock()
	timeout := time.NewTimer(checkTimeout)
	defer timeout.Stop()
	select {
	case <-now.done:
		return now.err
	case <-timeout.C:
		return fmt.Errorf("no answer in %s", checkTimeout)
	}
}
