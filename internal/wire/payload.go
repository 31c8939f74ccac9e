package wire

import (
	"unsafe"

	"google.golang.org/grpc/mem"
)

// Payload is a run of immutable bytes in pieces, counted by reference; the zero value is empty. Copies of a Payload share
// the reference: one of them frees it. See the package comment for ownership.
type Payload struct {
	bufs mem.BufferSlice
	size int
}

// NewPayload wraps slices without copying them; they must never change again. Such a payload needs no Free (and may
// have one): the garbage collector owns the bytes.
func NewPayload(slices ...[]byte) Payload {
	p := Payload{bufs: make(mem.BufferSlice, 0, len(slices))}
	for _, s := range slices {
		if len(s) > 0 {
			p.bufs = append(p.bufs, mem.SliceBuffer(s))
			p.size += len(s)
		}
	}
	return p
}

// BufferPayload makes a payload of buffers and takes over the reference to each that the caller held.
func BufferPayload(bufs mem.BufferSlice) Payload { return Payload{bufs: bufs, size: bufs.Len()} }

// Len returns the number of bytes.
func (p Payload) Len() int { return p.size }

// Bytes returns the pieces in a new slice; they must not be changed.
func (p Payload) Bytes() [][]byte { return p.AppendBytes(make([][]byte, 0, len(p.bufs))) }

// AppendBytes appends the pieces to dst; they must not be changed.
func (p Payload) AppendBytes(dst [][]byte) [][]byte {
	for _, b := range p.bufs {
		dst = append(dst, b.ReadOnlyData())
	}
	return dst
}

// Ref adds a reference and returns the payload for the new holder.
func (p Payload) Ref() Payload {
	p.bufs.Ref()
	return p
}

// Free gives up one reference. Bytes of a payload whose last reference is gone must not be touched.
func (p Payload) Free() { p.bufs.Free() }

// Slice returns the bytes from start to end (exclusive, 0 <= start <= end <= Len) with a reference of their own.
func (p Payload) Slice(start, end int) Payload {
	if start < 0 || end < start || end > p.size {
		panic("wire: slice of a payload out of range")
	}
	s := Payload{size: end - start}
	for _, b := range p.bufs {
		n := b.Len()
		if from, to := max(start, 0), min(end, n); from < to {
			s.bufs = append(s.bufs, b.Slice(from, to))
		}
		start, end = start-n, end-n
	}
	return s
}

// Materialize returns a copy of all bytes in one piece; nil where there are none.
func (p Payload) Materialize() []byte { return p.bufs.Materialize() }

// Contiguous returns all bytes in one piece: the bytes themselves where they are one piece, a copy otherwise. They must
// not be changed and are valid while the payload is.
func (p Payload) Contiguous() []byte {
	if len(p.bufs) == 1 {
		return p.bufs[0].ReadOnlyData()
	}
	return p.bufs.Materialize()
}

// Part returns the payload of data alone: a part of p where data lies within one of its pieces, whatever the capacities of
// the slices are, else a payload that the garbage collector owns. It takes over the caller's reference to p.
func (p Payload) Part(data []byte) Payload {
	defer p.Free()
	if len(data) == 0 {
		return Payload{}
	}
	for _, b := range p.bufs {
		whole := b.ReadOnlyData()
		if begin, ok := within(whole, data); ok {
			return Payload{bufs: mem.BufferSlice{b.Slice(begin, begin+len(data))}, size: len(data)}
		}
	}
	return NewPayload(data)
}

// within returns where data, which is not empty, begins in whole.
func within(whole, data []byte) (begin int, ok bool) {
	first := uintptr(unsafe.Pointer(unsafe.SliceData(whole)))                                 //nolint:gosec // compared, never turned back into a pointer
	at := uintptr(unsafe.Pointer(unsafe.SliceData(data)))                                     //nolint:gosec // compared, never turned back into a pointer
	if at < first || at-first > uintptr(len(whole)) || len(data) > len(whole)-int(at-first) { //nolint:gosec // checked on the way
		return 0, false
	}
	return int(at - first), true //nolint:gosec // at most len(whole)
}
