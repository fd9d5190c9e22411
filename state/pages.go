package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
)

// bbolt's file format, version 2, in the byte order of the machine
// (go.etcd.io/bbolt/internal/common: meta.go, page.go, bucket.go).
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	pageHeader    = 16 // id 8, flags 2, count 2, overflow 4
	elementSize   = 16
	bucketSize    = 16 // root page 8, sequence 8
	metaSize      = 64
	minPage       = 1 << 10
	maxPage       = 1 << 16
	branchPage    = 0x01
	leafPage      = 0x02
	metaPage      = 0x04
	freelistPage  = 0x10
	bucketElement = 0x01
	noFreelist    = math.MaxUint64
)

var order = binary.NativeEndian

// boltMeta is what one of the two meta pages says.
type boltMeta struct {
	pageSize             uint32
	root, freelist, high uint64 // page numbers; high is one past the last page in use
	txid                 uint64
}

// checkPages proves that bbolt can walk the file without running astray: both
// meta pages are whole, each page in use is reached exactly once, keys are in
// order where a search expects them, and what is free is free. bbolt itself
// trusts its pages; a loop among them exhausts the stack, and a page that is
// in use and on the free list loses data at the next commit.
//
// A process that dies while it writes leaves both meta pages whole, for each
// fits into one sector. So one that is not is damage, although bbolt would go
// back to the other one, and with it to before the last commit.
func checkPages(file io.ReaderAt, size int64) error {
	m, err := readMetas(file, size)
	if err != nil {
		return err
	}
	if m.high < 4 || m.high > uint64(size)/uint64(m.pageSize) {
		return fmt.Errorf("it has %d bytes, and %d pages of %d are in use: %w", size, m.high, m.pageSize, ErrDamaged)
	}
	w := walker{size: uint64(m.pageSize), high: m.high, seen: make([]bool, m.high)}
	w.data = make([]byte, w.high*w.size)
	if _, err := file.ReadAt(w.data, 0); err != nil {
		return fmt.Errorf("read its pages: %w", err)
	}
	w.seen[0], w.seen[1] = true, true
	if err := w.walk(m); err != nil {
		return fmt.Errorf("%w: %w", err, ErrDamaged)
	}
	return nil
}

// readMetas reads both meta pages and returns the later one.
func readMetas(file io.ReaderAt, size int64) (boltMeta, error) {
	var start [minPage]byte
	n, err := file.ReadAt(start[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return boltMeta{}, fmt.Errorf("read its first page: %w", err)
	}
	if n < len(start) {
		return boltMeta{}, fmt.Errorf("it has only %d bytes: %w", size, ErrDamaged)
	}
	if order.Uint32(start[pageHeader:]) != boltMagic {
		if second, err := magicAnywhere(file); err != nil {
			return boltMeta{}, err
		} else if second || len(bytes.Trim(start[:], "\x00")) == 0 {
			return boltMeta{}, fmt.Errorf("page 0 has been overwritten: %w", ErrDamaged)
		}
		return boltMeta{}, fmt.Errorf("it is no bbolt file: %w", ErrForeign)
	}
	first, err := parseMeta(start[:], 0)
	if err != nil {
		return boltMeta{}, err
	}
	if _, err := file.ReadAt(start[:], int64(first.pageSize)); err != nil {
		return boltMeta{}, fmt.Errorf("it has only %d bytes: %w", size, ErrDamaged)
	}
	second, err := parseMeta(start[:], 1)
	if err != nil {
		return boltMeta{}, err
	}
	if first.pageSize != second.pageSize {
		return boltMeta{}, fmt.Errorf("its meta pages disagree: %w", ErrDamaged)
	}
	if second.txid > first.txid {
		return second, nil
	}
	return first, nil
}

// magicAnywhere tells whether a second meta page shows that this was a bbolt file.
func magicAnywhere(file io.ReaderAt) (bool, error) {
	for at := int64(minPage); at <= maxPage; at *= 2 {
		var word [4]byte
		_, err := file.ReadAt(word[:], at+pageHeader)
		switch {
		case errors.Is(err, io.EOF):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("read its second page: %w", err)
		case order.Uint32(word[:]) == boltMagic:
			return true, nil
		}
	}
	return false, nil
}

func parseMeta(page []byte, id uint64) (boltMeta, error) {
	b := page[pageHeader:]
	m := boltMeta{
		pageSize: order.Uint32(b[8:]),
		root:     order.Uint64(b[16:]),
		freelist: order.Uint64(b[32:]),
		high:     order.Uint64(b[40:]),
		txid:     order.Uint64(b[48:]),
	}
	sum := fnv.New64a()
	sum.Write(b[:metaSize-8])
	switch {
	case order.Uint64(page) != id || order.Uint16(page[8:]) != metaPage || order.Uint32(b) != boltMagic:
		return m, fmt.Errorf("page %d is no meta page: %w", id, ErrDamaged)
	case order.Uint64(b[metaSize-8:]) != sum.Sum64():
		return m, fmt.Errorf("page %d does not match its checksum: %w", id, ErrDamaged)
	case order.Uint32(b[4:]) != boltVersion:
		return m, fmt.Errorf("it is a bbolt file of version %d, and certd reads version %d: %w", order.Uint32(b[4:]), boltVersion, ErrForeign)
	case m.pageSize < minPage || m.pageSize > maxPage || m.pageSize&(m.pageSize-1) != 0:
		return m, fmt.Errorf("its pages have %d bytes: %w", m.pageSize, ErrDamaged)
	}
	return m, nil
}

// walker goes through all pages in use.
type walker struct {
	data []byte
	size uint64 // of a page
	high uint64
	seen []bool // by page number: reached, or free
}

func (w *walker) walk(m boltMeta) error {
	roots := map[string]uint64{}
	if err := w.tree(m.root, nil, nil, roots); err != nil {
		return fmt.Errorf("the list of buckets: %w", err)
	}
	for name, root := range roots {
		if root == 0 {
			continue // an inline bucket: its page was checked where it stands
		}
		if err := w.tree(root, nil, nil, nil); err != nil {
			return fmt.Errorf("bucket %s: %w", name, err)
		}
	}
	if err := w.freelist(m.freelist); err != nil {
		return err
	}
	for id, seen := range w.seen {
		if !seen {
			return fmt.Errorf("page %d is neither in use nor free", id)
		}
	}
	return nil
}

// page claims a page and those that continue it.
func (w *walker) page(id uint64) ([]byte, error) {
	if id < 2 || id >= w.high {
		return nil, fmt.Errorf("there is no page %d", id)
	}
	header := w.data[id*w.size:]
	last := id + uint64(order.Uint32(header[12:]))
	if order.Uint64(header) != id || last >= w.high {
		return nil, fmt.Errorf("page %d is not what it says", id)
	}
	for i := id; i <= last; i++ {
		if w.seen[i] {
			return nil, fmt.Errorf("page %d is in use twice", i)
		}
		w.seen[i] = true
	}
	return w.data[id*w.size : (last+1)*w.size], nil
}

// tree checks the page and all below. Keys are at least lo and less than hi,
// where not nil. The root pages of buckets go into roots; where that is nil,
// no bucket may be.
func (w *walker) tree(id uint64, lo, hi []byte, roots map[string]uint64) error {
	page, err := w.page(id)
	if err != nil {
		return err
	}
	if order.Uint16(page[8:]) == leafPage {
		if err := checkLeaf(page, lo, hi, roots); err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		return nil
	}
	if order.Uint16(page[8:]) != branchPage {
		return fmt.Errorf("page %d is neither leaf nor branch", id)
	}
	count := uint64(order.Uint16(page[10:]))
	if count == 0 || pageHeader+count*elementSize > uint64(len(page)) {
		return fmt.Errorf("page %d cannot have %d branches", id, count)
	}
	keys, children := make([][]byte, count+1), make([]uint64, count)
	for i := range count {
		at := pageHeader + i*elementSize
		e := page[at:]
		key, ok := slice(page, at+uint64(order.Uint32(e)), uint64(order.Uint32(e[4:])))
		if !ok || !between(key, lo, hi) || i > 0 && bytes.Compare(keys[i-1], key) >= 0 {
			return fmt.Errorf("page %d: branch %d is out of place", id, i)
		}
		keys[i], children[i] = key, order.Uint64(e[8:])
	}
	keys[count] = hi
	for i, child := range children {
		if err := w.tree(child, keys[i], keys[i+1], roots); err != nil {
			return err
		}
	}
	return nil
}

func checkLeaf(page, lo, hi []byte, roots map[string]uint64) error {
	count := uint64(order.Uint16(page[10:]))
	if pageHeader+count*elementSize > uint64(len(page)) {
		return fmt.Errorf("it cannot have %d records", count)
	}
	var before []byte
	for i := range count {
		at := pageHeader + i*elementSize
		e := page[at:]
		flags, pos := order.Uint32(e), at+uint64(order.Uint32(e[4:]))
		keySize, valueSize := uint64(order.Uint32(e[8:])), uint64(order.Uint32(e[12:]))
		key, ok := slice(page, pos, keySize)
		if !ok || !between(key, lo, hi) || i > 0 && bytes.Compare(before, key) >= 0 {
			return fmt.Errorf("record %d is out of place", i)
		}
		before = key
		value, ok := slice(page, pos+keySize, valueSize)
		if !ok {
			return fmt.Errorf("record %d has no room for its value", i)
		}
		if isBucket := roots != nil; isBucket != (flags == bucketElement) || flags > bucketElement {
			return fmt.Errorf("record %d has flags %#x", i, flags)
		}
		if roots == nil {
			continue
		}
		if len(value) < bucketSize {
			return fmt.Errorf("bucket %q has no root", key)
		}
		root := order.Uint64(value)
		roots[string(key)] = root
		if root != 0 {
			continue
		}
		inline := value[bucketSize:]
		if len(inline) < pageHeader || order.Uint16(inline[8:]) != leafPage {
			return fmt.Errorf("bucket %q has no page", key)
		}
		if err := checkLeaf(inline, nil, nil, nil); err != nil {
			return fmt.Errorf("bucket %q: %w", key, err)
		}
	}
	return nil
}

// freelist claims the pages that are free, and those that list them.
func (w *walker) freelist(id uint64) error {
	if id == noFreelist {
		return errors.New("it has no free list")
	}
	page, err := w.page(id)
	if err != nil {
		return fmt.Errorf("free list: %w", err)
	}
	if order.Uint16(page[8:]) != freelistPage {
		return fmt.Errorf("page %d is no free list", id)
	}
	count, list := uint64(order.Uint16(page[10:])), page[pageHeader:]
	if count == 0xFFFF { // then the first number is the count
		count, list = order.Uint64(list), list[8:]
	}
	if count > uint64(len(list))/8 {
		return fmt.Errorf("the free list cannot have %d pages", count)
	}
	for i := range count {
		free := order.Uint64(list[i*8:])
		if free < 2 || free >= w.high || w.seen[free] {
			return fmt.Errorf("page %d is on the free list and in use, or there twice", free)
		}
		w.seen[free] = true
	}
	return nil
}

// slice returns n bytes of a page, if it has them.
func slice(page []byte, at, n uint64) ([]byte, bool) {
	if at > uint64(len(page)) || n > uint64(len(page))-at {
		return nil, false
	}
	return page[at : at+n], true
}

func between(key, lo, hi []byte) bool {
	return bytes.Compare(key, lo) >= 0 && (hi == nil || bytes.Compare(key, hi) < 0)
}
