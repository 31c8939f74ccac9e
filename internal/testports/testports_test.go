package testports

import (
	"net"
	"testing"
)

// Two owners are as two processes: their claims are listeners.
func TestNobodyGetsAPortTwice(t *testing.T) {
	one, two := &owner{}, &owner{}
	t.Cleanup(func() {
		for _, b := range append(one.blocks, two.blocks...) {
			if err := b.claim.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	held := map[int]bool{}
	for range 12 {
		for _, o := range []*owner{one, two} {
			first, err := o.take(50)
			if err != nil {
				t.Fatal(err)
			}
			for port := first; port < first+50; port++ {
				if held[port] || port >= 32_768 {
					t.Fatalf("port %d is given out", port)
				}
				held[port] = true
			}
		}
	}
	if len(one.blocks) < 3 || len(two.blocks) < 3 {
		t.Errorf("600 ports of %d and %d blocks", len(one.blocks), len(two.blocks))
	}
}

func TestWhatIsLetGoIsUsedAgainLast(t *testing.T) {
	o := &owner{}
	first, err := o.take(1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = o.blocks[0].claim.Close() }()
	o.release(first, 1)
	for n := 1; len(o.blocks) == 1; n++ {
		again, err := o.take(1)
		switch {
		case err != nil:
			t.Fatal(err)
		case again == first && n < blockSize/2:
			t.Fatalf("port %d is given out again after %d others", first, n-1)
		case again == first:
			return
		}
	}
	t.Error("a port that was let go is never given out again")
}

func TestAStrangersPortIsLeftAlone(t *testing.T) {
	o := &owner{}
	first, err := o.take(1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = o.blocks[0].claim.Close() }()
	packets, err := net.ListenPacket("udp", address(first+1))
	if err != nil {
		t.Skip("somebody else has it")
	}
	defer func() { _ = packets.Close() }()
	if next, err := o.take(1); err != nil || next <= first+1 && next > first {
		t.Errorf("got port %d, %v; a stranger has %d", next, err, first+1)
	}
	for _, n := range []int{0, -1, blockSize} {
		if _, err := o.take(n); err == nil {
			t.Errorf("%d ports are given out", n)
		}
	}
}

func TestTakenPortsCanBeListenedOn(t *testing.T) {
	for range 3 {
		listener, err := net.Listen("tcp", Address(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
	}
}
