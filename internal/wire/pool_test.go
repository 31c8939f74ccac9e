package wire

import (
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/mem"
)

func TestPoolTiersArePowersOfTwo(t *testing.T) {
	p := NewPool()
	for _, c := range []struct{ length, capacity int }{
		{1025, 2048},
		{2048, 2048},
		{2049, 4096},
		{16 << 10, 16 << 10},
		{16<<10 + 1, 32 << 10},
		{1<<20 - 1, 1 << 20},
		{1<<20 + 1, 2 << 20},
		{16 << 20, 16 << 20},
	} {
		b := p.Get(c.length)
		if len(*b) != c.length || cap(*b) != c.capacity {
			t.Errorf("Get(%d): len %d, cap %d, want cap %d", c.length, len(*b), cap(*b), c.capacity)
		}
		p.Put(b)
	}
	for _, length := range []int{0, 1, 1024, 16<<20 + 1} {
		if b := p.Get(length); len(*b) != length {
			t.Errorf("Get(%d): len %d", length, len(*b))
		} else {
			p.Put(b)
		}
	}
	s := p.Stats()
	if s.Gets != 8 || s.Puts != 8 || s.Small != 3 || s.Oversize != 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestPoolNeverClears(t *testing.T) {
	p := NewPool()
	// sync.Pool may drop what it is given; it keeps some of a hundred.
	for range 100 {
		b := p.Get(4096)
		if (*b)[4095] == 7 {
			return
		}
		(*b)[4095] = 7
		p.Put(b)
	}
	t.Fatal("no buffer came back as it was put")
}

func TestPoolIsSafeForConcurrentUse(t *testing.T) {
	p := NewDebugPool()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 300 {
				n := 1025 + (g*7919+i*104729)%60000
				b := p.Get(n)
				(*b)[0], (*b)[n-1] = byte(g), byte(i)
				if (*b)[0] != byte(g) || (*b)[n-1] != byte(i) {
					t.Error("a buffer is shared")
				}
				p.Put(b)
			}
		})
	}
	wg.Wait()
	if leaks := p.Leaks(); len(leaks) != 0 {
		t.Errorf("%d leaks", len(leaks))
	}
}

func mustPanic(t *testing.T, want string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		text, _ := recover().(string)
		if !strings.Contains(text, want) {
			t.Errorf("panic %q, want one with %q", text, want)
		}
	}()
	f()
}

func TestDebugPoolFindsDoubleFreeAndLateWrite(t *testing.T) {
	p := NewDebugPool()
	b := p.Get(5000)
	again := (*b)[:1]
	p.Put(b)
	if again[0] != poison {
		t.Error("a returned buffer is not poisoned")
	}
	mustPanic(t, "freed twice", func() { p.Put(b) })
	foreign := make([]byte, 4096)
	mustPanic(t, "never of this pool", func() { p.Put(&foreign) })
	mustPanic(t, "written to after", func() { p.debug.get([]byte{poison, 1}, true) })
}

func TestDebugPoolNamesLeaks(t *testing.T) {
	p := NewDebugPool()
	payload, _ := p.Alloc(5000)
	leaks := p.Leaks()
	if len(leaks) != 1 || !strings.Contains(leaks[0], "TestDebugPoolNamesLeaks") {
		t.Fatalf("leaks: %q", leaks)
	}
	payload.Free()
	if leaks := p.Leaks(); len(leaks) != 0 {
		t.Fatalf("after Free: %q", leaks)
	}
}

func TestPayloadOwnership(t *testing.T) {
	p := NewDebugPool()
	a, data := p.Alloc(3000)
	for i := range data {
		data[i] = byte(i)
	}
	b, more := p.Alloc(2000)
	for i := range more {
		more[i] = byte(i + 3000)
	}
	joined := BufferPayload(append(append(mem.BufferSlice{}, a.bufs...), b.bufs...))
	if joined.Len() != 5000 {
		t.Fatalf("length %d", joined.Len())
	}
	part := joined.Slice(2990, 3010)
	other := joined.Ref()
	joined.Free()
	if got := part.Materialize(); len(got) != 20 || got[0] != byte(2990%256) || got[19] != byte(3009%256) {
		t.Errorf("slice: %v", got)
	}
	if part.Len() != 20 || len(part.Bytes()) != 2 {
		t.Errorf("slice has %d bytes in %d pieces", part.Len(), len(part.Bytes()))
	}
	other.Free()
	if len(p.Leaks()) != 2 {
		t.Error("a slice does not hold its bytes")
	}
	part.Free()
	if leaks := p.Leaks(); len(leaks) != 0 {
		t.Errorf("%d leaks", len(leaks))
	}
	mustPanic(t, "out of range", func() { NewPayload([]byte("abc")).Slice(1, 4) })
}

// TestPartKeepsItsBuffer takes parts of payloads whose size is no power of two, by slices of any capacity: the buffer must
// not go back to the pool before the part is freed.
func TestPartKeepsItsBuffer(t *testing.T) {
	const size = 100_000
	pool := NewPool()
	for _, cut := range []func(b []byte) []byte{
		func(b []byte) []byte { return b[:0:len(b)][:500] },
		func(b []byte) []byte { return b[4096:70_000:80_000] },
		func(b []byte) []byte { return b },
		func(b []byte) []byte { return b[size-1:] },
	} {
		payload, buf := pool.Alloc(size)
		data := cut(buf)
		before := pool.Stats().Puts
		part := payload.Part(data)
		if pool.Stats().Puts != before {
			t.Fatalf("the buffer of a part of %d bytes went back to the pool", len(data))
		}
		if got := part.Contiguous(); len(got) != len(data) || &got[0] != &data[0] || part.Len() != len(data) {
			t.Fatalf("a part of %d bytes was copied or misplaced", len(data))
		}
		part.Free()
		if pool.Stats().Puts != before+1 {
			t.Fatal("the buffer did not go back with its part")
		}
	}
	payload, _ := pool.Alloc(size)
	before := pool.Stats().Puts
	if own := payload.Part([]byte("elsewhere")); string(own.Contiguous()) != "elsewhere" || pool.Stats().Puts != before+1 {
		t.Fatal("bytes from elsewhere must stand alone and free the payload")
	}
}
