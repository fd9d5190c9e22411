package kube

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// events are those of one watch. Between two they hold one byte: a client-go watcher
// holds a decoder with its buffers, and a goroutine of its own.
type events struct {
	stream io.ReadCloser
	err    error         // why there are no more
	first  [1]byte       // of the next event
	text   *json.Decoder // of events that have begun; nil between two
}

// event is what a watch tells, its object as it came.
type event struct {
	Type   watch.EventType
	Object json.RawMessage
}

// wait waits until an event begins; false: there are no more.
func (s *events) wait() bool {
	for s.text == nil && s.err == nil {
		n, err := s.stream.Read(s.first[:])
		if n > 0 && !isSpace(s.first[0]) {
			s.text = json.NewDecoder(io.MultiReader(bytes.NewReader(s.first[:]), s.stream))
			return true
		}
		s.err = err
	}
	return s.err == nil
}

// read is the event that has begun; false: it does not come to its end, or is none.
func (s *events) read() (e event, ok bool) {
	if s.err = s.text.Decode(&e); s.err != nil {
		return e, false
	}
	more, _ := io.ReadAll(s.text.Buffered()) // from memory
	if len(bytes.TrimSpace(more)) == 0 {
		s.text = nil
	}
	return e, true
}

// isSpace is what may stand between two events (RFC 8259 §2).
func isSpace(b byte) bool { return b == ' ' || b == '\t' || b == '\n' || b == '\r' }

// revision is the object's; "" where what came is no object.
func (e event) revision() string {
	var m struct {
		Metadata struct{ ResourceVersion string }
	}
	if json.Unmarshal(e.Object, &m) != nil {
		return ""
	}
	return m.Metadata.ResourceVersion
}

// problem is the error that the server ends a watch with.
func (e event) problem() error {
	var s metav1.Status
	if err := json.Unmarshal(e.Object, &s); err != nil {
		return fmt.Errorf("the server ended it with an error that is none of Kubernetes': %w", err)
	}
	return apierrors.FromObject(&s)
}
