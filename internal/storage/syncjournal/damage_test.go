package syncjournal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

// restState is a directory at rest: what Read finds in it while it is whole, and what it may find when the last round
// cannot be read, which nothing tells from a round that was never finished.
type restState struct {
	name         string
	disk         *fsys.Mem
	live, before []string
}

// restStates are directories in which generations are closed and open, released and forgotten in.
func restStates(t testing.TB) []restState {
	t.Helper()
	var states []restState
	build := func(name string, seed uint64, last func(j *Journal)) {
		disk := newDisk(t, seed)
		j := ready(t, disk)
		n := 0
		for j.Generation() < 4 {
			n++
			if _, err := j.Write([]Frame{frame(n%6, n, 700), frame((n+1)%6, n, 3000)}); errors.Is(err, ErrFull) {
				must(t, j.Release(j.OldestLive()))
			}
			if n%9 == 0 {
				must(t, j.Forget([]model.TopicPartition{logOf(n / 9 % 6)}))
			}
		}
		write(t, j, frame(1, 900, 100), frame(2, 900, 5000))
		before, _ := found(t, disk)
		last(j)
		live, c := found(t, disk)
		if len(c.Damage) > 0 || len(live) == 0 && name != "is clear" {
			t.Fatalf("%s: %d parts, damage %v", name, len(c.parts), c.Damage)
		}
		states = append(states, restState{name, disk, live, before})
	}
	build("ends with data", 1, func(j *Journal) { write(t, j, frame(3, 901, 6000), frame(1, 901, 100)) })
	build("ends with a round that forgets", 2, func(j *Journal) {
		must(t, j.Forget([]model.TopicPartition{logOf(1), logOf(4)}))
	})
	build("ends with a release", 3, func(j *Journal) { must(t, j.Release(j.OldestLive())) })
	build("is clear", 4, func(j *Journal) { must(t, j.Clear()) })
	states[1].before, states[3].before = states[1].live, states[3].live
	states[2].before = states[2].live[:len(states[2].live)-2]
	return states
}

// check looks at what is found in a damaged directory: everything; or everything but the last round; or less, with
// damage. Never anything that is not live.
func (s restState) check(t *testing.T, what string, disk fsys.FS) (verdict string) {
	t.Helper()
	frames, c := found(t, disk)
	switch {
	case len(c.Damage) > 0:
		at := 0
		for _, f := range frames {
			i := slices.Index(s.live[at:], f)
			if i < 0 {
				t.Fatalf("%s: %s: %s is not live, or not there; damage %v", s.name, what, f, c.Damage)
			}
			at += i + 1
		}
		for _, d := range c.Damage {
			if !errors.Is(d, ErrDamaged) || !strings.HasPrefix(d.File, testDir) || d.Reason == "" || d.Error() == "" {
				t.Fatalf("%s: %s: %+v", s.name, what, d)
			}
		}
		if len(frames) == len(s.live) {
			return "damage, nothing missing"
		}
		return "damage"
	case slices.Equal(frames, s.live):
		return "exact"
	case slices.Equal(frames, s.before):
		return "without the last round"
	}
	t.Fatalf("%s: %s: found %d frames, %d are live, %d without the last round\n%.1000q\n%.1000q", s.name, what,
		len(frames), len(s.live), len(s.before), frames, s.live)
	return ""
}

// Any single bit, flipped anywhere: exactly the live frames, or damage that is named, also where it lies in the last round. Never a
// frame that was forgotten, released or never written, and never fewer in silence.
func TestSingleBitFlips(t *testing.T) {
	const seed = 5
	flips := 2000
	if testing.Short() {
		flips = 400
	}
	t.Logf("%d flips a state, seed %d", flips, seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, s := range restStates(t) {
		verdicts := make(map[string]int)
		for range flips {
			name := path.Join(testDir, fileNames[rng.IntN(2)])
			at, bit := rng.Int64N(testFile), uint(rng.IntN(8)) //nolint:gosec // small
			must(t, s.disk.Flip(name, at, bit))
			what := fmt.Sprintf("bit %d of byte %d of %s", bit, at, name)
			verdict := s.check(t, what, s.disk)
			if verdict == "without the last round" && len(s.before) < len(s.live) {
				t.Fatalf("%s: %s: the flipped round is taken for an unfinished one", s.name, what)
			}
			verdicts[verdict]++
			must(t, s.disk.Flip(name, at, bit))
		}
		t.Logf("%s: %v", s.name, verdicts)
		if s.name == "ends with data" && verdicts["damage"] == 0 {
			t.Errorf("%s: the flips did not bite: %v", s.name, verdicts)
		}
	}
}

// Every bit of every header: the other copy says the same, nothing is lost.
func TestFlippedHeadersLoseNothing(t *testing.T) {
	for _, s := range restStates(t) {
		for _, base := range fileNames {
			for _, copyAt := range []int64{0, testFile - pageBytes} {
				for i := range int64(fileHeaderBytes * 8) {
					name, at, bit := path.Join(testDir, base), copyAt+i/8, uint(i%8) //nolint:gosec // small
					must(t, s.disk.Flip(name, at, bit))
					if got := s.check(t, fmt.Sprintf("bit %d of byte %d of %s", bit, at, name), s.disk); got != "exact" {
						t.Fatalf("%s: bit %d of byte %d of %s: %s", s.name, bit, at, name, got)
					}
					must(t, s.disk.Flip(name, at, bit))
				}
			}
		}
	}
}

// Pages that are overwritten by anything, or cannot be read: the same, and what cannot be read is no unfinished round.
func TestLostPages(t *testing.T) {
	const seed = 6
	rng := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	for _, s := range restStates(t) {
		verdicts := make(map[string]int)
		for page := range int64(testFile / pageBytes) {
			for _, base := range fileNames {
				for _, how := range []string{"unreadable", "zero", "random", "copied"} {
					name := path.Join(testDir, base)
					disk := s.disk.Clone(1)
					pages := int64(1)
					if how == "unreadable" {
						pages += rng.Int64N(2)
					}
					at, size := page*pageBytes, min(pages, testFile/pageBytes-page)*pageBytes
					spoil(t, disk, name, how, at, size, rng)
					what := fmt.Sprintf("%s, %d bytes at %d, %s", name, size, at, how)
					verdict := s.check(t, what, disk)
					if how == "unreadable" && verdict == "without the last round" {
						t.Fatalf("%s: %s: an unreadable page is taken for an unfinished round", s.name, what)
					}
					verdicts[verdict]++
				}
			}
		}
		t.Logf("%s: %v", s.name, verdicts)
	}
}

// spoil damages a part of a file.
func spoil(t *testing.T, disk *fsys.Mem, name, how string, at, size int64, rng *rand.Rand) {
	t.Helper()
	if how == "unreadable" {
		must(t, disk.BreakRead(name, at, size))
		return
	}
	f, err := disk.Open(name)
	must(t, err)
	b := make([]byte, size)
	switch how {
	case "random":
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
	case "copied": // the page before, as a misdirected write leaves it
		_, err := f.ReadAt(b, max(0, at-pageBytes))
		must(t, err)
	}
	_, err = f.Overwrite(at, b)
	must(t, errors.Join(err, f.Close()))
}

// A file that is gone, empty, cut short or another one.
func TestLostFiles(t *testing.T) {
	for _, s := range restStates(t) {
		for i, base := range fileNames {
			name := path.Join(testDir, base)
			for how, spoilFile := range map[string]func(disk *fsys.Mem) error{
				"removed": func(disk *fsys.Mem) error { return disk.Remove(name) },
				"empty":   func(disk *fsys.Mem) error { return truncate(disk, name, 0) },
				"cut":     func(disk *fsys.Mem) error { return truncate(disk, name, 3*pageBytes+17) },
				"swapped": func(disk *fsys.Mem) error { return disk.Rename(path.Join(testDir, fileNames[1-i]), name) },
			} {
				disk := s.disk.Clone(1)
				must(t, spoilFile(disk))
				verdict := s.check(t, how+" "+name, disk)
				if verdict != "exact" && !strings.HasPrefix(verdict, "damage") {
					t.Fatalf("%s: %s %s: %s", s.name, how, name, verdict)
				}
				j := ready(t, disk) // and it goes on
				write(t, j, frame(1, 1000, 10))
				wantFound(t, disk.Crash(), frame(1, 1000, 10))
			}
		}
	}
}

func truncate(disk *fsys.Mem, name string, size int64) error {
	f, err := disk.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// Where a round that forgot may be lost, frames before it are not delivered, and their ends are doubtful; where only data
// are lost the others come back.
func TestDamageMakesDoubtfulOnlyWhatMayBeForgotten(t *testing.T) {
	for _, forgets := range []bool{false, true} {
		disk := newDisk(t, 1)
		j := ready(t, disk)
		first, second, third := frame(1, 1, 10), frame(2, 2, 10), frame(3, 3, 10)
		write(t, j, first)
		if forgets {
			write(t, j, frame(4, 1, 10))
			must(t, j.Forget([]model.TopicPartition{logOf(4)}))
		} else {
			write(t, j, second)
			write(t, j, frame(4, 1, 10))
			write(t, j, frame(4, 2, 10))
		}
		write(t, j, third)
		must(t, disk.Flip(path.Join(testDir, fileNames[1]), 3*pageBytes+100, 1)) // the third round
		frames, c := found(t, disk)
		want, ends := []string{describe(third)}, "map[1:{1 true} 3:{3 false} 4:{1 true}]"
		if !forgets {
			want, ends = []string{describe(first), describe(second), describe(frame(4, 2, 10)), describe(third)},
				"map[1:{1 false} 2:{2 false} 3:{3 false} 4:{2 false}]"
		}
		got := make(map[int32]End)
		for log, end := range c.Ends {
			got[log.Partition] = end
		}
		if !slices.Equal(frames, want) || fmt.Sprint(got) != ends {
			t.Fatalf("forgets %t: found %q, ends %v", forgets, frames, got)
		}
		if len(c.Damage) != 1 || c.Damage[0].Position != 3*pageBytes || c.Damage[0].FirstRound != 3 || c.Damage[0].LastRound != 3 ||
			c.Damage[0].Generation != 1 {
			t.Fatalf("forgets %t: damage %+v", forgets, c.Damage)
		}
	}
}

// A closed generation is known to be whole: what is missing at its end is damage.
func TestMissingEndOfAClosedGenerationIsDamage(t *testing.T) {
	disk := newDisk(t, 1)
	j := ready(t, disk)
	n := 0
	for j.Generation() < 2 {
		n++
		write(t, j, frame(1, n, 100))
	}
	must(t, disk.Flip(path.Join(testDir, fileNames[1]), int64(n-1)*pageBytes+5, 1))
	frames, c := found(t, disk)
	if len(frames) != n-1 || len(c.Damage) != 1 || c.Damage[0].FirstRound != uint64(n-1) || c.Torn { //nolint:gosec // small
		t.Fatalf("%d of %d frames, damage %v, torn %t", len(frames), n, c.Damage, c.Torn)
	}
}

// A write that reaches the medium in sectors of 512 bytes, any of them: the round is there or it is not.
func TestTornSectors(t *testing.T) {
	const seed = 8
	rng := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	verdicts := make(map[string]int)
	for run := range 300 {
		disk := newDisk(t, 1)
		j := ready(t, disk)
		for j.Generation() < 3 { // over the bytes of an earlier lap
			if _, err := j.Write([]Frame{frame(1, 1+run, 3000)}); errors.Is(err, ErrFull) {
				must(t, j.Release(1))
			}
		}
		name := path.Join(testDir, fileNames[1])
		old := contents(t, disk, name)
		before, _ := found(t, disk)
		write(t, j, frame(1, 2, 1+rng.IntN(9000)), frame(2, 2, 1+rng.IntN(100)))
		after, _ := found(t, disk)
		torn := contents(t, disk, name)
		odds := rng.IntN(9)
		for at := 0; at < len(torn); at += 512 {
			if rng.IntN(8) >= odds {
				copy(torn[at:at+512], old[at:])
			}
		}
		f, err := disk.Open(name)
		must(t, err)
		_, err = f.Overwrite(0, torn)
		must(t, errors.Join(err, f.Close()))
		switch frames, c := found(t, disk); {
		case len(c.Damage) > 0:
			t.Fatalf("run %d: damage %v", run, c.Damage)
		case slices.Equal(frames, before):
			verdicts[fmt.Sprintf("before, torn %t", c.Torn)]++
		case slices.Equal(frames, after):
			verdicts["after"]++
		default:
			t.Fatalf("run %d: found %q", run, frames)
		}
	}
	if t.Logf("%v", verdicts); verdicts["before, torn true"] == 0 || verdicts["after"] == 0 {
		t.Fatal("the tears did not bite")
	}
}

// contents is all of a file.
func contents(t testing.TB, fsy fsys.FS, name string) []byte {
	t.Helper()
	f, err := fsy.OpenRead(name)
	must(t, err)
	size, err := f.Size()
	must(t, err)
	b := make([]byte, size)
	if size > 0 {
		_, err = f.ReadAt(b, 0)
	}
	must(t, errors.Join(err, f.Close()))
	return b
}

// Bytes that a client sends may look like a round, but they do not have the salt.
func TestDataThatLooksLikeARoundIsNone(t *testing.T) {
	disk := newDisk(t, 1)
	j := ready(t, disk)
	write(t, j, frame(1, 1, 10))
	forged := roundHeader{
		length: roundHeaderBytes + frameHeaderBytes + 1, frames: 1, generation: 1, salt: testSalt + 1, round: 9, liveFrom: 1,
	}
	f := Frame{Log: logOf(5), EndOffset: 1, Data: []byte("x")}
	b := append(forged.appendFrame(forged.append(nil), frameData, f), f.Data...)
	page := append(b, make([]byte, pageBytes-len(b))...)
	data := slices.Concat(make([]byte, pageBytes-roundHeaderBytes-frameHeaderBytes), page, page)
	write(t, j, Frame{Log: logOf(2), EndOffset: 1, Data: data})
	for bit := range uint(2) { // the round that holds it is lost, and by more than one bit: it looks like the end
		must(t, disk.Flip(path.Join(testDir, fileNames[1]), 2*pageBytes, bit))
	}
	wantFound(t, disk, frame(1, 1, 10))

	forged.salt = testSalt // the search does look there
	b = append(forged.appendFrame(forged.append(nil), frameData, f), f.Data...)
	file, err := disk.Open(path.Join(testDir, fileNames[1]))
	must(t, err)
	_, err = file.Overwrite(3*pageBytes, b)
	must(t, errors.Join(err, file.Close()))
	if _, c := found(t, disk); len(c.Damage) == 0 {
		t.Fatal("a later round was not found: the test proves nothing")
	}
}

func TestANewerVersionIsRefused(t *testing.T) {
	disk := newDisk(t, 1)
	j := ready(t, disk)
	write(t, j, frame(1, 1, 10))
	b := j.files[1].head.encode()
	b[7] = 2
	putFileCRC(b)
	_, err := j.files[1].file.Overwrite(0, b)
	must(t, err)
	_, err = Read(disk, testDir)
	wantIs(t, err, ErrVersion)
	_, err = Open(disk, testDir, Options{})
	wantIs(t, err, ErrVersion)
}

// A header whose numbers cannot be together is not believed, whatever its checksum says: a generation that is not live
// must never be written to.
func TestImpossibleHeadersAreNotBelieved(t *testing.T) {
	for name, h := range map[string]fileHeader{
		"no size":                          {liveFrom: 1},
		"a generation that has not begun":  {size: testFile, generation: 2, last: 1, liveFrom: 1},
		"live from after the next":         {size: testFile, generation: 2, last: 2, liveFrom: 4},
		"live from before the first":       {size: testFile, generation: 2, last: 2},
		"numbers that would begin anew":    {size: testFile, generation: 2, last: 1 << 63, liveFrom: 1},
		"a generation of the other's file": {size: testFile, generation: 1, last: 1, liveFrom: 1},
	} {
		disk := newDisk(t, 1)
		j := ready(t, disk)
		must(t, j.files[0].writeHeader(h))
		must(t, j.Close())
		if _, c := found(t, disk); len(c.Damage) != 1 {
			t.Errorf("%s: damage %v", name, c.Damage)
		}
		j = ready(t, disk)
		write(t, j, frame(1, 1, 10))
		wantFound(t, disk, frame(1, 1, 10))
	}
}
