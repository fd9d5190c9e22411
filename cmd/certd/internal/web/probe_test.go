package web

import (
	"context"
	"errors"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestProbes(t *testing.T) {
	ill := func(context.Context) error { return errors.New("the journal is gone") }
	for _, row := range []struct {
		name, query string
		checks      []Check
		status      int
		says        string
	}{
		{"all is well", "", []Check{{"loop", well}, {"journal", well}}, 200, "ok"},
		{"all is well, in detail", "?verbose", []Check{{"loop", well}, {"journal", well}}, 200, "[+]loop ok\n[+]journal ok\nlivez check passed\n"},
		{"one is ill", "", []Check{{"loop", well}, {"journal", ill}}, 503, "[+]loop ok\n[-]journal failed: the journal is gone\nlivez check failed\n"},
		{"the ill one is left out", "?exclude=journal", []Check{{"loop", well}, {"journal", ill}}, 200, "ok"},
		{"left out, in detail", "?verbose&exclude=journal&exclude=vault", []Check{{"loop", well}, {"journal", ill}}, 200,
			"[+]loop ok\n[+]journal excluded: ok\nwarn: there is no check \"vault\" to exclude\nlivez check passed\n"},
		{"another is left out", "?exclude=loop", []Check{{"loop", well}, {"journal", ill}}, 503, "[+]loop excluded: ok\n[-]journal failed: the journal is gone\nlivez check failed\n"},
	} {
		p := newProbe("livez", row.checks)
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest("GET", "/livez"+row.query, nil))
		if w.Code != row.status || w.Body.String() != row.says {
			t.Errorf("%s: %d %q", row.name, w.Code, w.Body)
		}
	}
}

// A check that hangs is asked once, and told of to everybody who asks.
func TestACheckThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		free := make(chan struct{})
		p := newProbe("livez", []Check{{"loop", well}, {"journal", func(context.Context) error { asked.Add(1); <-free; return nil }}})
		probe := func() (int, string) {
			w := httptest.NewRecorder()
			p.ServeHTTP(w, httptest.NewRequest("GET", "/livez", nil))
			return w.Code, w.Body.String()
		}
		for range 3 {
			begun := time.Now()
			if code, says := probe(); code != 503 || says != "[+]loop ok\n[-]journal failed: no answer in 2s\nlivez check failed\n" || time.Since(begun) != checkTimeout {
				t.Errorf("%d %q after %s", code, says, time.Since(begun))
			}
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		close(free)
		synctest.Wait()
		if code, _ := probe(); code != 200 || asked.Load() != 2 {
			t.Errorf("once it answers: %d, asked %d times", code, asked.Load())
		}
	})
}

// Two who ask at one moment get one answer, and neither a failure.
func TestWhoAsksMeanwhileWaitsForTheSameAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		p := newProbe("readyz", []Check{{"socket", func(context.Context) error { asked.Add(1); time.Sleep(time.Second); return nil }}})
		codes := make(chan int, 2)
		for range 2 {
			go func() {
				w := httptest.NewRecorder()
				p.ServeHTTP(w, httptest.NewRequest("GET", "/readyz", nil))
				codes <- w.Code
			}()
		}
		if a, b := <-codes, <-codes; a != 200 || b != 200 || asked.Load() != 1 {
			t.Errorf("%d and %d, asked %d times", a, b, asked.Load())
		}
	})
}
