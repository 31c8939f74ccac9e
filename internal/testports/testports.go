package testports

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

// A process owns whole blocks of ports. Its claim to one is a listener on the block's first port, which ends with the process at the
// latest, however that ends.
const (
	lowest    = 10_000
	blockSize = 200
	blocks    = 113 // the last ends below 32,768, where Linux begins with outgoing connections
	largest   = blockSize - 1
)

var ours = &owner{}

// Take returns the first of n neighbouring ports, of which nobody else gets one before the end of the test. All were free for TCP and
// UDP just now. There are at most 199.
func Take(t testing.TB, n int) int {
	t.Helper()
	first, err := ours.take(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.release(first, n) })
	return first
}

// Address returns host:port of one port, as Take does.
func Address(t testing.TB) string {
	t.Helper()
	return address(Take(t, 1))
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// owner is what this process owns.
type owner struct {
	mu     sync.Mutex
	blocks []*block
}

// block is a run of ports behind the claim. The next search begins where the last one ended: what was just let go is used again last.
type block struct {
	claim net.Listener
	first int
	taken [blockSize]bool
	next  int
}

func (o *owner) take(n int) (int, error) {
	if n < 1 || n > largest {
		return 0, errors.New("testports: a number of ports that no block has")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, b := range o.blocks {
		if port, ok := b.take(n); ok {
			return port, nil
		}
	}
	for {
		b, err := o.claim()
		if err != nil {
			return 0, err
		}
		if port, ok := b.take(n); ok {
			return port, nil
		}
	}
}

// claim takes a block that nobody has. It begins anywhere: what a process that was killed has left behind may go on speaking to ports.
func (o *owner) claim() (*block, error) {
	start := rand.IntN(blocks) //nolint:gosec // any block will do
	for i := range blocks {
		first := lowest + (start+i)%blocks*blockSize
		listener, err := net.Listen("tcp", address(first))
		if err != nil {
			continue
		}
		b := &block{claim: listener, first: first, next: 1}
		o.blocks = append(o.blocks, b)
		return b, nil
	}
	return nil, errors.New("testports: all blocks of ports are taken")
}

func (o *owner) release(first, n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, b := range o.blocks {
		if first > b.first && first < b.first+blockSize {
			for i := range n {
				b.taken[first-b.first+i] = false
			}
		}
	}
}

func (b *block) take(n int) (int, bool) {
	for range blockSize {
		at := b.next
		if b.next++; b.next == blockSize {
			b.next = 1
		}
		if at+n > blockSize || !b.free(at, n) {
			continue
		}
		for i := range n {
			b.taken[at+i] = true
		}
		if b.next = at + n; b.next == blockSize {
			b.next = 1
		}
		return b.first + at, true
	}
	return 0, false
}

// free reports whether n ports are neither taken nor used by a stranger.
func (b *block) free(at, n int) bool {
	for i := range n {
		if b.taken[at+i] || !unused(b.first+at+i) {
			return false
		}
	}
	return true
}

func unused(port int) bool {
	listener, err := net.Listen("tcp", address(port))
	if err != nil {
		return false
	}
	packets, err := net.ListenPacket("udp", address(port))
	if err != nil {
		_ = listener.Close()
		return false
	}
	return errors.Join(listener.Close(), packets.Close()) == nil
}
