package syncjournal

import (
	"errors"
	"fmt"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

// bothLive is a journal whose two files hold live generations, with frames of logs 1 and 2 in each.
func bothLive(t *testing.T, seed uint64) (disk *fsys.Mem, j *Journal, ofTwo []Frame) {
	t.Helper()
	disk = newDisk(t, seed)
	j = ready(t, disk)
	for n := 0; j.Generation() < 2 || len(ofTwo)%2 == 1; n++ {
		frames := []Frame{frame(1, n, 3000), frame(2, n, 5000)}
		write(t, j, frames...)
		ofTwo = append(ofTwo, frames[1])
	}
	return disk, j, ofTwo
}

// What one log loses by it is lost by no other, and damage of the round that forgets brings nothing back.
func TestForgettingWhatWasFound(t *testing.T) {
	for seed := range uint64(20) {
		disk, _, ofTwo := bothLive(t, seed)
		disk = disk.Crash()
		_, c := found(t, disk)
		at := c.parts[len(c.parts)-1].end
		must(t, c.Forget([]model.TopicPartition{logOf(1), logOf(5)}))
		must(t, c.Forget([]model.TopicPartition{logOf(1)})) // nothing is left to forget
		disk = disk.Crash()
		wantFound(t, disk, ofTwo...)
		must(t, disk.Flip("data/sync-journal/"+fileNames[0], at+100, 3))
		if frames, c := found(t, disk); len(c.Damage) == 0 || len(frames) > 0 {
			t.Fatalf("%d frames, damage %v", len(frames), c.Damage)
		}
	}
}

// A round that a crash cut short is written over.
func TestForgettingBehindATornRound(t *testing.T) {
	torn := 0
	for seed := range uint64(60) {
		disk, j, ofTwo := bothLive(t, seed)
		disk.CrashAt(disk.Ops() + 2)
		if _, err := j.Write([]Frame{frame(1, 99, 9000)}); !errors.Is(err, fsys.ErrCrashed) {
			t.Fatal(err)
		}
		disk = disk.Crash()
		_, c := found(t, disk)
		if c.Torn {
			torn++
		}
		must(t, c.Forget([]model.TopicPartition{logOf(1)}))
		wantFound(t, disk.Crash(), ofTwo...)
	}
	if torn < 5 {
		t.Fatalf("%d torn rounds", torn)
	}
}

// Where the room that is left for it is used up, or something is damaged, nothing is written.
func TestForgettingWithoutRoomOrBehindDamage(t *testing.T) {
	disk, j, ofTwo := bothLive(t, 3)
	var err error
	for n := 0; err == nil; n++ {
		log := frame(3, n, 10)
		j.written[log.Log] = j.generation.Load()
		err = j.Forget([]model.TopicPartition{log.Log})
	}
	wantIs(t, err, ErrFull)
	disk = disk.Crash()
	_, c := found(t, disk)
	disk.SetInjector(func(op fsys.Op, name string) error {
		if op == fsys.OpOverwrite {
			t.Errorf("%s is written", name)
		}
		return nil
	})
	wantIs(t, c.Forget([]model.TopicPartition{logOf(1)}), ErrFull)
	frames, _ := found(t, disk)
	if len(frames) != 2*len(ofTwo) {
		t.Fatalf("%d frames are left", len(frames))
	}
	disk.SetInjector(nil)
	lose(t, disk, fmt.Sprint("data/sync-journal/", fileNames[1]), 1)
	_, c = found(t, disk)
	wantIs(t, c.Forget([]model.TopicPartition{logOf(2)}), ErrDamaged)
}
