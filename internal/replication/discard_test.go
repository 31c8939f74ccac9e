package replication

import (
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

// slowCopies is a file system on which making a temporary copy of a segment takes as long as a test wants.
type slowCopies struct {
	fsys.FS
	begun chan struct{} // one for each copy that begins
	goOn  chan struct{} // closed, or one for each that may go on
}

func (s *slowCopies) Create(name string) (fsys.File, error) {
	if strings.HasSuffix(name, ".log.kept") {
		s.begun <- struct{}{}
		<-s.goOn
	}
	return s.FS.Create(name)
}

// newDiscardTest has broker 2 in the midst of copying what is intact of a damaged segment.
func newDiscardTest(t *testing.T) (d *damageTest, slow *slowCopies, file string) {
	t.Helper()
	d = newDamageTest(t, nil, 1, 2, 3)
	d.nodes[2].stop(true)
	d.fence(2)
	slow = &slowCopies{FS: d.nodes[2].mem, begun: make(chan struct{}, 10), goOn: make(chan struct{})}
	d.nodes[2].fs = slow
	d.nodes[2].start()
	eventually(t, "broker 2 is in sync", func() bool { return len(d.partition(d.tp).ISR) == 3 })
	file = d.flip(2, 20)
	d.scrub(2)
	select {
	case <-slow.begun:
	case <-time.After(time.Minute):
		t.Fatal("nothing is put aside")
	}
	return d, slow, file
}

// While what is intact of a damaged segment is copied, images are taken in and the replica answers.
func TestDiscardingDamageHoldsUpNobody(t *testing.T) {
	d, slow, file := newDiscardTest(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.configure(d.tp, "retention.ms", "1000000")
		if _, err := d.mgrOf(2).PartitionState(d.tp); err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		close(slow.goOn)
		<-done
		t.Fatal("an image waits for the copy of a segment")
	}
	close(slow.goOn)
	d.mended(2, file, FoundByScrub, 1, 2, 3)
}

// A role that changes meanwhile ends it: nothing is cut in an epoch in which it was not decided, and in the next it is done anew.
func TestDiscardingEndsWithItsEpoch(t *testing.T) {
	d, slow, file := newDiscardTest(t)
	end := d.log(2).LogEndOffset()
	d.lead(d.tp, 3, 1, 3)
	slow.goOn <- struct{}{}
	select {
	case <-slow.begun:
	case <-time.After(time.Minute):
		t.Fatal("it is not begun anew")
	}
	if now := d.log(2).LogEndOffset(); now != end || d.metric(d.mgrOf(2).metrics.discards) != 0 {
		t.Fatalf("the log ends at %d, was %d", now, end)
	}
	close(slow.goOn)
	d.mended(2, file, FoundByScrub, 1, 2, 3)
	if p := d.partition(d.tp); p.Leader != model.NodeID(3) {
		t.Fatalf("%+v", p)
	}
}
