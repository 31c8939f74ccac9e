package wire

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/mem"
)

const (
	// unpooledBytes is the size up to which gRPC itself never returns buffers to a pool.
	unpooledBytes = 1 << 10
	minTierBits   = 11 // 2 KiB
	maxTierBits   = 24 // 16 MiB
	tierCount     = maxTierBits - minTierBits + 1
)

// Pool hands out byte buffers whose capacity is the next power of two, from 2 KiB to 16 MiB, and takes them back. It
// never clears a buffer: what Get returns holds arbitrary bytes. Smaller and larger buffers are allocated and left to
// the garbage collector. It implements mem.BufferPool and is safe for concurrent use.
type Pool struct {
	tiers    [tierCount]tier
	small    atomic.Uint64
	oversize atomic.Uint64
	debug    *tracker // nil outside tests
}

type tier struct {
	pool   sync.Pool
	gets   atomic.Uint64
	misses atomic.Uint64
	puts   atomic.Uint64
	_      [64]byte // tiers are counted by different cores
}

// PoolStats counts what a Pool did since it was made.
type PoolStats struct {
	Gets     uint64 // buffers of pooled sizes handed out
	Misses   uint64 // those among them that had to be allocated
	Puts     uint64 // buffers taken back
	Small    uint64 // buffers of up to 1 KiB, which are not pooled
	Oversize uint64 // buffers above 16 MiB, which are not pooled
}

var _ mem.BufferPool = (*Pool)(nil)

// NewPool returns an empty pool.
func NewPool() *Pool { return &Pool{} }

var defaultPool = NewPool()

// DefaultPool is the pool that [ServerOptions] and [DialOptions] use where none is named. It is ours alone: gRPC's own
// default stays as it is.
func DefaultPool() *Pool { return defaultPool }

// tierOf returns the tier for length, which is negative below the first and tierCount or more above the last.
func tierOf(length int) int { return bits.Len(uint(max(length, 1)-1)) - minTierBits }

// Get returns a buffer of the given length (>= 0) with arbitrary contents.
func (p *Pool) Get(length int) *[]byte {
	if length <= unpooledBytes {
		p.small.Add(1)
		b := make([]byte, length)
		return &b
	}
	i := max(tierOf(length), 0)
	if i >= tierCount {
		p.oversize.Add(1)
		b := make([]byte, length)
		return &b
	}
	t := &p.tiers[i]
	t.gets.Add(1)
	b, ok := t.pool.Get().(*[]byte)
	if !ok {
		t.misses.Add(1)
		fresh := make([]byte, 1<<(minTierBits+i))
		b = &fresh
	}
	if p.debug != nil {
		p.debug.get((*b)[:cap(*b)], ok)
	}
	*b = (*b)[:length]
	return b
}

// Put takes back a buffer that Get returned. The caller gives up the buffer; it is overwritten by others.
func (p *Pool) Put(b *[]byte) {
	size := cap(*b)
	i := tierOf(size)
	if i < 0 || i >= tierCount || size&(size-1) != 0 {
		return // too small, too large, or not of this pool
	}
	t := &p.tiers[i]
	*b = (*b)[:size]
	if p.debug != nil {
		p.debug.put(*b)
	}
	t.puts.Add(1)
	t.pool.Put(b)
}

// Alloc returns a payload of n bytes with one reference, and its bytes, which the caller may write until it shows the
// payload to anybody else. They hold arbitrary bytes at first.
func (p *Pool) Alloc(n int) (Payload, []byte) {
	if n == 0 {
		return Payload{}, nil
	}
	b := p.Get(n)
	data := *b
	return Payload{bufs: mem.BufferSlice{mem.NewBuffer(b, p)}, size: n}, data
}

// Stats returns the counters.
func (p *Pool) Stats() PoolStats {
	s := PoolStats{Small: p.small.Load(), Oversize: p.oversize.Load()}
	for i := range p.tiers {
		t := &p.tiers[i]
		s.Puts += t.puts.Load()
		s.Gets += t.gets.Load()
		s.Misses += t.misses.Load()
	}
	return s
}
