package storage

import (
	"errors"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// guardedSpace is the guard of a directory on a disk where free bytes are left, and the number of its looks at the disk.
func guardedSpace(t *testing.T, minFree, free int64) (s *space, mem *fsys.Mem, looks *int) {
	t.Helper()
	mem = fsys.NewMem(1, fsys.MemOptions{Capacity: free})
	must(t, mem.MkdirAll("data"))
	looks = new(int)
	mem.SetInjector(func(op fsys.Op, _ string) error {
		if op == fsys.OpFreeBytes {
			*looks++
		}
		return nil
	})
	return &space{fs: mem, dir: "data", minFree: minFree}, mem, looks
}

// meta.properties changes on a disk without a free byte, the reserve used up long ago: a broker has to say there what it registers
// as. Whatever operation of that is the last one before a loss of power, the old content is there or the new one.
func TestMetaChangesOnAFullDisk(t *testing.T) {
	for k := int64(1); ; k++ {
		mem := fsys.NewMem(uint64(k), fsys.MemOptions{}) //nolint:gosec // small
		d := openTestDir(t, mem)
		d.space.giveUp()
		d.space.reserve = 0
		must(t, d.UpdateMeta(func(m *Meta) { m.BrokerEpoch = 9 }))
		mem.SetCapacity(1)
		before := mem.Ops()
		mem.CrashAt(before + k)
		err := d.UpdateMeta(func(m *Meta) { m.BrokerEpoch, m.CleanShutdown = 1<<40, true })
		whole := mem.Ops() < before+k
		after := mem.Crash()
		after.SetCapacity(1 << 30)
		again := openTestDir(t, after)
		if got := again.Meta().BrokerEpoch; (got != 9 && got != 1<<40) || (err == nil && got != 1<<40) {
			t.Fatalf("operation %d: broker epoch %d, %v", k, got, err)
		}
		must(t, again.Close())
		if whole {
			must(t, err)
			return
		}
	}
}

// An append that fits takes the free space down to the least at most, and one byte more is refused; that is what isFull tells.
func TestAppendsLeaveTheLeastFree(t *testing.T) {
	s, _, _ := guardedSpace(t, 1000, 1100)
	var full *SpaceError
	if err := s.take(101); !errors.As(err, &full) || full.FreeBytes != 1100 || full.MinFreeBytes != 1000 || !s.isFull() {
		t.Errorf("101 bytes of 100: %v, full %t", err, s.isFull())
	}
	s, _, _ = guardedSpace(t, 1000, 1100)
	if err := s.take(100); err != nil || s.isFull() {
		t.Errorf("100 bytes of 100: %v, full %t", err, s.isFull())
	}
}

// After a refusal what fits is taken at once.
func TestASmallerAppendFitsAfterARefusal(t *testing.T) {
	s, mem, _ := guardedSpace(t, 1000, 1500)
	for range 3 {
		if err := s.take(1 << 40); !errors.Is(err, fsys.ErrNoSpace) {
			t.Fatal(err)
		}
	}
	must(t, s.take(100))
	mem.SetCapacity(2000)
	if s.isFull() {
		t.Error("full though there is clearly more room")
	}
}

// Between two looks at the disk appends take a quarter of the room at most, and never more than one step: what others write meanwhile
// is not theirs.
func TestAppendsLookAgainBeforeTheRoomIsUsedUp(t *testing.T) {
	s, mem, looks := guardedSpace(t, 1000, 5000)
	must(t, s.take(400)) // 3600 are left
	must(t, s.take(900))
	if *looks != 1 {
		t.Fatalf("%d looks for a quarter of the room", *looks)
	}
	mem.SetCapacity(1000)
	if err := s.take(1); !errors.Is(err, fsys.ErrNoSpace) {
		t.Errorf("others have filled the disk: %v", err)
	}
	s, mem, looks = guardedSpace(t, 1000, 1<<40)
	for range 1 + spaceStep>>20 {
		must(t, s.take(1<<20))
	}
	if *looks != 1 {
		t.Fatalf("%d looks for one step", *looks)
	}
	mem.SetCapacity(1000)
	if err := s.take(1); !errors.Is(err, fsys.ErrNoSpace) {
		t.Errorf("others have filled a large disk: %v", err)
	}
}

// Space is asked for ahead only where the last look has shown that it is a small part of what is free.
func TestPreallocationIsASmallPartOfWhatIsFree(t *testing.T) {
	s, _, _ := guardedSpace(t, 1000, 9100)
	must(t, s.take(100))
	if !s.mayPreallocate(1012) || s.mayPreallocate(1013) {
		t.Error("an eighth of 8100 bytes is the bound")
	}
	if s, _, _ := guardedSpace(t, 0, 10); !s.mayPreallocate(1 << 30) {
		t.Error("without a guard the file system decides")
	}
}

// A disk that was full is one with room again an eighth beyond the least, not before.
func TestADiskThatWasFullNeedsClearlyMoreRoom(t *testing.T) {
	s, mem, looks := guardedSpace(t, 800, 800)
	if s.isFull() || *looks != 0 {
		t.Errorf("nothing was refused, %d looks", *looks)
	}
	s.noteRefused(errors.New("another"))
	if s.isFull() {
		t.Error("another error is none of space")
	}
	s.noteRefused(&SpaceError{})
	for free, want := range map[int64]bool{700: true, 900: true} {
		mem.SetCapacity(free)
		if s.isFull() != want {
			t.Errorf("%d bytes free: full %t", free, !want)
		}
	}
	mem.SetCapacity(901)
	if s.isFull() || s.full.Load() {
		t.Error("901 bytes free: full")
	}
}

// The reserve takes its room also where the system cannot ask for it ahead.
func TestReserveWithoutPreallocation(t *testing.T) {
	for _, without := range []bool{false, true} {
		mem := fsys.NewMem(1, fsys.MemOptions{NoPreallocate: without})
		must(t, mem.MkdirAll("data"))
		s := &space{fs: mem, dir: "data", reserve: 5000}
		must(t, s.keep())
		if info, err := mem.Stat("data/" + reserveName); err != nil || info.Size != 5000 {
			t.Errorf("without preallocation %t: %d bytes, %v", without, info.Size, err)
		}
	}
}
