package kube

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Events are read one by one, however the stream is cut, and what is none ends the watch.
func TestEventsAreReadAsTheyCome(t *testing.T) {
	const a, b = `{"type":"ADDED","object":{"metadata":{"resourceVersion":"7"}}}`, `{"type":"MODIFIED","object":{"metadata":{"resourceVersion":"8"}}}`
	for name, row := range map[string]struct {
		text string
		want []string
		err  string
	}{
		"one a line":          {a + "\n" + b + "\n", []string{"ADDED 7", "MODIFIED 8"}, "EOF"},
		"without lines":       {a + b, []string{"ADDED 7", "MODIFIED 8"}, "EOF"},
		"lines in an event":   {strings.ReplaceAll(a, ":", ":\r\n\t "), []string{"ADDED 7"}, "EOF"},
		"nothing":             {"", nil, "EOF"},
		"empty lines":         {"\n\n", nil, "EOF"},
		"one that is cut":     {a + b[:20], []string{"ADDED 7"}, "unexpected EOF"},
		"what is no event":    {a + "<html>", []string{"ADDED 7"}, "invalid character"},
		"no object":           {`{"type":"ADDED","object":"x"}`, []string{"ADDED "}, "EOF"},
		"a type that is none": {`{"type":7}`, nil, "cannot unmarshal"},
	} {
		for way, stream := range map[string]io.Reader{"at once": strings.NewReader(row.text), "byte by byte": iotest.OneByteReader(strings.NewReader(row.text)),
			"with its end": iotest.DataErrReader(strings.NewReader(row.text))} {
			s := &events{stream: io.NopCloser(stream)}
			var got []string
			for s.wait() {
				e, ok := s.read()
				if !ok {
					break
				}
				got = append(got, string(e.Type)+" "+e.revision())
			}
			if !slices.Equal(got, row.want) || s.err == nil || !strings.Contains(s.err.Error(), row.err) {
				t.Errorf("%s, %s: %q, then %v", name, way, got, s.err)
			}
		}
	}
}

// The error that a server ends a watch with is known for what it is.
func TestAnEventOfAnErrorIsOne(t *testing.T) {
	gone := event{Object: []byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"too old","reason":"Expired","code":410}`)}
	if err := gone.problem(); !apierrors.IsResourceExpired(err) {
		t.Errorf("error %v", err)
	}
	if err := (event{Object: []byte(`7`)}).problem(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("error %v", err)
	}
}
