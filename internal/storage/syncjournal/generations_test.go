package syncjournal

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

// lose makes a page of a file be of random bytes.
func lose(t *testing.T, disk *fsys.Mem, name string, page int64) {
	t.Helper()
	f, err := disk.Open(name)
	must(t, err)
	_, err = f.Overwrite(page*pageBytes, bytes.Repeat([]byte{0xa5}, pageBytes))
	must(t, errors.Join(err, f.Close()))
}

// The turn to the next generation, cut off at each of its operations: one of the two headers is whole, nothing is damaged.
func TestTurnIsCutOffAnywhere(t *testing.T) {
	for k := int64(1); k <= 6; k++ {
		for seed := range uint64(60) {
			disk := newDisk(t, seed)
			j := ready(t, disk)
			n := 0
			for ; j.Generation() < 2; n++ {
				write(t, j, frame(1, n, 9000))
			}
			must(t, j.Release(1))
			var live []Frame
			c, err := Read(disk, testDir)
			must(t, err)
			must(t, c.Each(func(f Frame) error {
				f.Data = bytes.Clone(f.Data)
				live = append(live, f)
				return nil
			}))
			for j.position+3*pageBytes+j.reserve() <= j.dataEnd() {
				live = append(live, frame(1, n, 9000))
				write(t, j, frame(1, n, 9000))
				n++
			}
			disk.CrashAt(disk.Ops() + k)
			next := frame(1, n, 9000)
			if _, err := j.Write([]Frame{next}); !errors.Is(err, fsys.ErrCrashed) {
				t.Fatalf("operation %d: %v", k, err)
			}
			disk = disk.Crash()
			frames, _ := found(t, disk)
			if len(frames) == len(live)+1 && k >= 5 { // the round reached the disk, without its sync
				live = append(live, next)
			}
			wantFound(t, disk, live...)
		}
	}
}

// The end of a closed generation is lost: what came before is doubtful only where a round that forgot is among the lost.
func TestLostEndOfAClosedGenerationThatForgot(t *testing.T) {
	for _, forgets := range []bool{false, true} {
		disk := newDisk(t, 1)
		j := ready(t, disk)
		write(t, j, frame(1, 1, 10), frame(2, 1, 10))
		n := int64(2)
		for ; j.position+2*pageBytes+j.reserve() <= j.dataEnd(); n++ {
			write(t, j, frame(3, int(n), 10))
		}
		if forgets {
			must(t, j.Forget([]model.TopicPartition{logOf(2)}))
		} else {
			write(t, j, frame(3, int(n), 10))
		}
		last := j.round
		write(t, j, frame(4, 1, 30_000)) // the next generation
		if j.Generation() != 2 {
			t.Fatal("no turn")
		}
		name := path.Join(testDir, fileNames[1])
		lose(t, disk, name, int64(last)) //nolint:gosec // small
		if forgets {
			lose(t, disk, name, int64(last)-1) //nolint:gosec // small
		}
		frames, c := found(t, disk)
		if len(c.Damage) != 1 || c.Torn || c.Damage[0].LastRound != last {
			t.Fatalf("forgets %t: damage %v, torn %t", forgets, c.Damage, c.Torn)
		}
		if doubtful := c.Ends[logOf(1)].Doubtful; doubtful != forgets || c.Ends[logOf(4)].Doubtful || (len(frames) == 1) != forgets {
			t.Fatalf("forgets %t: found %q, ends %v", forgets, frames, c.Ends)
		}
	}
}

// A round that forgot is lost in the newer generation: the ends that the older one gives are doubtful too.
func TestDoubtReachesIntoTheEarlierGeneration(t *testing.T) {
	disk := newDisk(t, 1)
	j := ready(t, disk)
	write(t, j, frame(1, 1, 10))
	for n := 1; j.Generation() == 1; n++ {
		write(t, j, frame(2, n, 9000))
	}
	page := j.position / pageBytes
	must(t, j.Forget([]model.TopicPartition{logOf(2)}))
	write(t, j, frame(3, 1, 10))
	lose(t, disk, path.Join(testDir, fileNames[0]), page)
	frames, c := found(t, disk)
	if fmt.Sprint(frames) != fmt.Sprint([]string{describe(frame(3, 1, 10))}) || !c.Ends[logOf(1)].Doubtful || c.Ends[logOf(3)].Doubtful {
		t.Fatalf("found %q, ends %v", frames, c.Ends)
	}
}

// Damage in the body of a round that others follow is no torn end.
func TestDamageIsNotTorn(t *testing.T) {
	disk := newDisk(t, 1)
	j := ready(t, disk)
	for n := range 3 {
		write(t, j, frame(1, n, 100))
	}
	must(t, disk.Flip(path.Join(testDir, fileNames[1]), 2*pageBytes+roundHeaderBytes+frameHeaderBytes+5, 1))
	if _, c := found(t, disk); len(c.Damage) != 1 || c.Torn {
		t.Fatalf("damage %v, torn %t", c.Damage, c.Torn)
	}
}

// A file that was put back from a copy holds an older generation than the other one counts on.
func TestAnOlderCopyOfAFileIsDamage(t *testing.T) {
	disk := newDisk(t, 1)
	j := ready(t, disk)
	write(t, j, frame(1, 1, 10))
	name := path.Join(testDir, fileNames[1])
	old := contents(t, disk, name)
	for n := 1; j.Generation() < 4; n++ {
		if _, err := j.Write([]Frame{frame(2, n, 9000)}); errors.Is(err, ErrFull) {
			must(t, j.Release(j.OldestLive()))
		}
	}
	f, err := disk.Open(name)
	must(t, err)
	_, err = f.Overwrite(0, old)
	must(t, errors.Join(err, f.Close()))
	frames, c := found(t, disk)
	if len(c.Damage) != 1 || c.Damage[0].Generation != 3 || len(frames) > 0 {
		t.Fatalf("found %q, damage %v", frames, c.Damage)
	}
}

// The header of a round and its first page are there, behind them lie frames of the lap before, of the same lengths.
func TestFramesOfAnEarlierLapDoNotCount(t *testing.T) {
	disk := newDisk(t, 1)
	j := ready(t, disk)
	const first = pageBytes - roundHeaderBytes - frameHeaderBytes // the second frame begins with a page
	round := func(n int) []Frame { return []Frame{frame(1, n, first), frame(2, n, 500)} }
	write(t, j, round(1)...)
	name := path.Join(testDir, fileNames[1])
	old := contents(t, disk, name)[2*pageBytes : 3*pageBytes]
	must(t, j.Release(1))
	write(t, j, frame(3, 1, 10))
	must(t, j.Release(2))
	write(t, j, round(2)...)
	if j.Generation() != 3 || j.round != 1 {
		t.Fatalf("generation %d, round %d", j.Generation(), j.round)
	}
	f, err := disk.Open(name)
	must(t, err)
	_, err = f.Overwrite(2*pageBytes, old)
	must(t, errors.Join(err, f.Close()))
	wantFound(t, disk)
}

// The older file is put back as it was before its generation was released: the rounds written since say that it was.
func TestRoundsSayWhatWasReleased(t *testing.T) {
	disk := newDisk(t, 1)
	j := ready(t, disk)
	write(t, j, frame(1, 1, 10))
	for n := 1; j.Generation() == 1; n++ {
		write(t, j, frame(2, n, 9000))
	}
	name := path.Join(testDir, fileNames[1])
	old := contents(t, disk, name)
	must(t, j.Release(1))
	write(t, j, frame(3, 1, 10))
	f, err := disk.Open(name)
	must(t, err)
	_, err = f.Overwrite(0, old)
	must(t, errors.Join(err, f.Close()))
	if frames, c := found(t, disk); len(frames) != 2 || len(c.Damage) > 0 {
		t.Fatalf("found %q, damage %v", frames, c.Damage)
	}
}
