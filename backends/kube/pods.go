package kube

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// podsType is the form in which a census asks for pods. A stream of JSON, decoded
// into a struct of the few fields needed, took six times as long to decode, and is
// more work for the API server, too.
const podsType = runtime.ContentTypeProtobuf

// The parts of an answer that matter here. Each is a field of protobuf that has
// a length: Kubernetes puts an object into an envelope, behind four bytes
// (apimachinery, pkg/runtime/generated.proto: Unknown; api, core/v1/generated.proto:
// PodList). Field numbers never change.
const (
	envelopeMagic = "k8s\x00"
	envelopeType  = 1 // TypeMeta
	envelopeRaw   = 2
	listMeta      = 1
	listItem      = 2
	maxField      = 1<<29 - 1
)

// readPods reads a PodList as it arrives, hands each pod over, and returns the
// token of the next page, "" after the last. Only one pod is in memory at a time,
// and it alone is bounded: an honest page may have any size up to 500 times what
// etcd takes for one object, so that a bound on pages would either refuse what is
// right or bound nothing.
func readPods(body io.Reader, each func(*corev1.Pod) error) (next string, err error) {
	p := parts{bufio.NewReader(body), nil}
	magic := make([]byte, len(envelopeMagic))
	if _, err := io.ReadFull(p.in, magic); err != nil {
		return "", cutOff(err)
	}
	if string(magic) != envelopeMagic {
		return "", fmt.Errorf("the answer is not of type %s", podsType)
	}
	var kind runtime.TypeMeta
	var meta metav1.ListMeta
	listed := false
	for {
		field, size, err := p.next()
		switch {
		case err == io.EOF && !listed:
			return "", io.ErrUnexpectedEOF
		case err == io.EOF && kind.Kind == "PodList":
			return meta.Continue, nil
		case err == io.EOF: // a Status would look like no pods
			return "", fmt.Errorf("the answer is a %.40q and no PodList", kind.Kind)
		case err != nil:
			return "", err
		case field == envelopeType:
			err = p.read(size, kind.Unmarshal)
		case field == envelopeRaw && listed: // whoever reads the last, as upstream does, sees others
			err = errors.New("the answer holds two lists")
		case field == envelopeRaw:
			listed, err = true, p.list(size, &meta, each)
		default:
			err = p.read(size, nil)
		}
		if err != nil {
			return "", err
		}
	}
}

// parts reads fields that have a length, one after the other.
type parts struct {
	in  *bufio.Reader
	buf []byte
}

// list reads the size bytes of a PodList.
func (p *parts) list(size uint64, meta *metav1.ListMeta, each func(*corev1.Pod) error) error {
	if size > 1<<40 {
		return errors.New("the answer's length makes no sense")
	}
	whole := p.in
	defer func() { p.in = whole }()
	part := &io.LimitedReader{R: whole, N: int64(size)}
	p.in = bufio.NewReader(part)
	for {
		field, size, err := p.next()
		switch {
		case err == io.EOF && part.N > 0:
			return io.ErrUnexpectedEOF
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case field == listMeta:
			err = p.read(size, meta.Unmarshal)
		case field == listItem:
			pod := &corev1.Pod{}
			if err = p.read(size, pod.Unmarshal); err == nil {
				err = each(pod)
			}
		default:
			err = p.read(size, nil)
		}
		if err != nil {
			return err
		}
	}
}

// next returns the number and the length of the next field; io.EOF where there
// is none.
func (p *parts) next() (field, size uint64, err error) {
	tag, err := binary.ReadUvarint(p.in)
	if err != nil {
		return 0, 0, err // a lone first byte gives io.ErrUnexpectedEOF
	}
	if tag&7 != 2 {
		return 0, 0, fmt.Errorf("the answer has a field of wire type %d, where Kubernetes has none", tag&7)
	}
	// Where others take a number modulo 2³², it might be one that is passed over here: pods
	// would be missing.
	if field = tag >> 3; field == 0 || field > maxField {
		return 0, 0, fmt.Errorf("the answer has a field of number %d, which protobuf does not have", field)
	}
	if size, err = binary.ReadUvarint(p.in); err != nil {
		return 0, 0, cutOff(err)
	}
	return field, size, nil
}

// read hands the next size bytes over; they hold until the next call.
func (p *parts) read(size uint64, unmarshal func([]byte) error) error {
	if size > maxAnswer {
		return fmt.Errorf("an item of the list is larger than %d MiB", maxAnswer>>20)
	}
	if uint64(cap(p.buf)) < size {
		p.buf = make([]byte, size)
	}
	text := p.buf[:size]
	if _, err := io.ReadFull(p.in, text); err != nil {
		return cutOff(err)
	}
	if unmarshal == nil {
		return nil
	}
	return unmarshal(text)
}

// cutOff is an error in the middle of something, where an end is none.
func cutOff(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
