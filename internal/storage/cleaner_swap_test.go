package storage

import (
	"errors"
	"fmt"
	"math"
	"path"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// smallFile makes a file of a few bytes, synced but for its name.
func smallFile(t *testing.T, fsy fsys.FS, name, content string) {
	t.Helper()
	f, err := fsy.Create(name)
	must(t, err)
	_, err = f.Append([]byte(content))
	must(t, errors.Join(err, f.SyncData(), f.Close()))
}

// contentOf is what a file holds, "" where there is none.
func contentOf(t *testing.T, fsy fsys.FS, name string) string {
	t.Helper()
	data, err := readFile(fsy, name, 100)
	if !fsys.IsNotExist(err) {
		must(t, err)
	}
	return string(data)
}

// A process dies between the rename to .swap and the sync of that name. The next one removes no source before the name is durable: at
// every power loss within its settling the records lie in the sources or in the new segment.
func TestTheNameOfASwapIsDurableBeforeItsSourcesGo(t *testing.T) {
	mem := fsys.NewMem(1, fsys.MemOptions{})
	must(t, mem.MkdirAll("log"))
	first, second, swap := path.Join("log", fileName(0, segmentSuffix)), path.Join("log", fileName(5, segmentSuffix)), swapName("log", 0, 9)
	smallFile(t, mem, first, "first")
	smallFile(t, mem, second, "second")
	smallFile(t, mem, "log/new"+cleanSuffix, "all")
	must(t, errors.Join(mem.SyncDir("log"), mem.SyncDir("/")))
	must(t, mem.Rename("log/new"+cleanSuffix, swap))
	mem = mem.CrashProcess()
	k := int64(1)
	for crashed := true; crashed; k++ {
		crashed = false
		for seed := range uint64(100) {
			m := mem.Clone(seed)
			m.CrashAt(m.Ops() + k)
			if _, _, err := listSettled(m, "log"); errors.Is(err, fsys.ErrCrashed) {
				crashed = true
			} else if err != nil {
				t.Fatal(err)
			}
			m = m.Crash()
			sources := contentOf(t, m, first) == "first" && contentOf(t, m, second) == "second"
			if !sources && contentOf(t, m, swap) != "all" && contentOf(t, m, first) != "all" {
				t.Fatalf("operation %d, seed %d: records are lost: %v", k, seed, mustList(t, m, "log"))
			}
		}
	}
	if k < 6 {
		t.Fatalf("%d operations", k)
	}
}

// compactedGroup is a log of three segments that were compacted into one, by a cleaning whose every operation hook sees.
func compactedGroup(t *testing.T, seed uint64, hook fsys.Injector) *keyedLog {
	t.Helper()
	x := newKeyedLog(t, t.Fatalf, fsys.NewMem(seed, fsys.MemOptions{}), Config{SegmentBytes: 400})
	must(t, x.create())
	for i := range 10 {
		x.put(t, 1, fmt.Sprintf("key-%d", i%2), []byte(strings.Repeat("v", 100)))
	}
	x.seal(t)
	x.log.Reconfigure(Config{SegmentBytes: 10_000})
	x.mem.SetInjector(hook)
	err := x.clean(NewCleaner(CleanerOptions{}), x.end, math.MaxInt)
	x.mem.SetInjector(nil)
	if err != nil && !errors.Is(err, fsys.ErrCrashed) {
		t.Fatal(err)
	}
	return x
}

// A cleaning that is done has given the new segment its name for good, also where the disk has no room for the hints that follow.
func TestTheNewSegmentHasItsNameForGood(t *testing.T) {
	for seed := range uint64(20) {
		named, refused := false, false
		x := compactedGroup(t, seed, func(op fsys.Op, name string) error {
			named = named || op == fsys.OpRename && strings.HasSuffix(name, swapSuffix)
			if named && op == fsys.OpCreate {
				refused = true
				return fsys.ErrNoSpace
			}
			return nil
		})
		if x.log.SegmentCount() != 2 || !refused {
			t.Fatalf("%d segments, refused %t", x.log.SegmentCount(), refused)
		}
		x.mem = x.mem.Crash()
		for _, info := range mustList(t, x.mem, x.log.path) {
			if strings.HasSuffix(info.Name, swapSuffix) {
				t.Fatalf("seed %d: %s is left", seed, info.Name)
			}
		}
	}
}

// The batches of producers that a cleaning removes stay known: once the sources may go, a power loss at any operation leaves a snapshot
// at the end of the new segment.
func TestProducersSurviveTheChangeOfPlaces(t *testing.T) {
	first, last := int64(0), int64(0) // operations
	whole := compactedGroup(t, 0, func(op fsys.Op, name string) error {
		if last++; op == fsys.OpRename && strings.HasSuffix(name, cleanSuffix) {
			first = last
		}
		return nil
	})
	want := describeProducers(whole.log.producers)
	if first == 0 || len(whole.log.producers.byID[1].ring) != 10 {
		t.Fatalf("the sources changed places at operation %d of %d, %s", first, last, want)
	}
	for k := first; k <= last; k++ {
		for seed := range uint64(4) {
			n := int64(0)
			x := compactedGroup(t, seed, func(fsys.Op, string) error {
				if n++; n >= k {
					return fsys.ErrCrashed
				}
				return nil
			})
			_, l, report := reopened(t, x.mem.Crash(), 0, x.cfg)
			if got := describeProducers(l.producers); got != want || report.Damage != nil {
				t.Fatalf("operation %d, seed %d: %s, want %s", k, seed, got, want)
			}
		}
	}
}
