package storage

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// sideOf is what DumpSide shows of a directory.
func sideOf(t testing.TB, fsy fsys.FS, dir string) []SideEntry {
	t.Helper()
	o, err := OpenOffline(fsy, dir)
	must(t, err)
	var all []SideEntry
	must(t, o.DumpSide(func(e SideEntry) error {
		all = append(all, e)
		return nil
	}))
	return all
}

// kindsOf counts entries by what they are, those with a fault as "bad".
func kindsOf(entries []SideEntry) map[string]int {
	kinds := map[string]int{}
	for _, e := range entries {
		kinds[e.Kind]++
		if e.Fault != "" {
			kinds["bad"]++
		}
	}
	return kinds
}

func TestDumpSideShowsEverySideFile(t *testing.T) {
	states := append(flipStates(t), compactedFlipState(t), journaledFlipState(t), damagedFlipState(t))
	want := map[string]string{
		journalName: "checkpoints-positions-and-all-epochs", "1.journal": "sync-journal-data", producersSuffix: "producers",
		offsetIndexSuffix: "offset-index", timeIndexSuffix: "time-index", digestSuffix: "digest", marksName: "damaged", cleanPointName: "compacted",
	}
	seen := map[string]bool{}
	for _, st := range states {
		entries := sideOf(t, st.mem, "data")
		for name, kind := range want {
			for _, f := range st.files {
				if !strings.HasSuffix(f.Name, name) {
					continue
				}
				if slices.ContainsFunc(entries, func(e SideEntry) bool { return e.File == f.Name && e.Kind == kind }) {
					seen[kind] = true
				} else if kind != "sync-journal-data" { // not all of these have frames
					t.Errorf("%s: nothing of kind %s is shown of %s", st.name, kind, f.Name)
				}
			}
		}
		if kinds := kindsOf(entries); kinds["bad"] > 0 || kinds["log-state"] != 1 {
			t.Errorf("%s: %v", st.name, kinds)
		}
		for _, e := range entries {
			var back struct {
				File, Kind string
				Position   *int64
			}
			raw, err := json.Marshal(e)
			if err := errors.Join(err, json.Unmarshal(raw, &back)); err != nil || back.File != e.File || back.Kind != e.Kind || back.Position == nil {
				t.Fatalf("%s: %v", raw, err)
			}
		}
	}
	if len(seen) != len(want) {
		t.Errorf("only these were there: %v", seen)
	}
}

// What the frames of the journal come to is what an opening takes from it.
func TestDumpSideShowsWhatTheJournalComesTo(t *testing.T) {
	st := damagedFlipState(t)
	for _, e := range sideOf(t, st.mem, "data") {
		if e.Kind == "log-state" {
			want := fmt.Sprintf("log-state log=%s lost=true recovery_point=%d high_watermark=%d log_start_offset=0 replayed_to=0 epochs=1:0 epochs_whole=true rows=0",
				testPartition(0), st.end, st.end)
			if e.String() != want {
				t.Fatalf("got %s, want %s", e, want)
			}
			return
		}
	}
	t.Fatal("it is not shown")
}

// A flipped bit in a side file is shown as damage of that file, at or before the bit, and everything else is shown as before.
func TestDumpSideGoesOnBehindDamage(t *testing.T) {
	for _, st := range append(flipStates(t), compactedFlipState(t), journaledFlipState(t), damagedFlipState(t)) {
		sound := sideOf(t, st.mem, "data")
		for _, f := range st.files {
			if !slices.ContainsFunc(sound, func(e SideEntry) bool { return e.File == f.Name }) {
				continue
			}
			for _, part := range []int64{0, 1, 2, 3, 5, 7} {
				at := f.Size * part / 8
				if strings.Contains(f.Name, sharedName) {
					at = min(at, 4096+200) // where something lies
				}
				mem := st.mem.Clone(1)
				must(t, mem.Flip(f.Name, at, 1))
				entries := sideOf(t, mem, "data")
				told := slices.ContainsFunc(entries, func(e SideEntry) bool {
					return e.File == f.Name && e.Position <= at && (e.Fault != "" || strings.Contains(e.String(), "believed=false"))
				})
				if !told && path.Dir(f.Name) != "data/"+sharedName { // there it may lie where nothing is
					t.Errorf("%s: %s: a flip at %d is not told of: %v", st.name, f.Name, at, entries)
				}
				for _, e := range sound {
					if e.File != f.Name && e.Kind != "log-state" && !slices.ContainsFunc(entries, func(x SideEntry) bool { return x.String() == e.String() }) {
						t.Errorf("%s: %s: with a flip at %d, %s: %s is not shown", st.name, f.Name, at, e.File, e)
					}
				}
			}
		}
	}
}

// Frames behind damage of checkpoints.journal are shown, and as not believed; an unfinished last one is no damage.
func TestDumpSideShowsFramesBehindDamage(t *testing.T) {
	st := flipStates(t)[1]
	name := "data/" + journalName
	whole, err := readFile(st.mem, name, maxJournalBytes)
	must(t, err)
	frame := appendStateFrame(nil, testPartition(0), logState{recoveryPoint: st.end, highWatermark: st.end})
	bad := slices.Clone(frame)
	bad[20] ^= 1
	put := func(tail ...[]byte) []SideEntry {
		mem := st.mem.Clone(1)
		must(t, writeFileAtomic(mem, name, append(slices.Clone(whole), slices.Concat(tail...)...)))
		return slices.DeleteFunc(sideOf(t, mem, "data"), func(e SideEntry) bool {
			return e.File != name || e.Position < int64(len(whole))
		})
	}
	check := func(entries []SideEntry, want ...string) {
		t.Helper()
		if len(entries) != len(want) {
			t.Fatalf("got %v, want %v", entries, want)
		}
		for i, e := range entries {
			if !strings.HasPrefix(e.String(), want[i]) {
				t.Fatalf("got %v, want %v", entries, want)
			}
		}
	}
	position := fmt.Sprintf("checkpoints-positions log=%s believed=", testPartition(0))
	check(put(frame), position+"true")
	check(put(frame[:30]), "checkpoints-unfinished bytes=30")
	check(put(bad, frame), fmt.Sprintf("checkpoints-damage bytes=%d DAMAGED: CRC", len(bad)), position+"false")
	check(put(frame, make([]byte, 600_000), frame), position+"true", "checkpoints-damage bytes=600000", position+"false")
}

// Beneath one partition's directory only what concerns it is shown.
func TestDumpSideOfOnePartition(t *testing.T) {
	st := journaledFlipState(t)
	d := openTestDir(t, st.mem)
	for i := range int32(2) {
		l, err := d.CreateLog(testPartition(1+i), flipConfig)
		must(t, err)
		appendTo(t, l, 1, 0, 1, 50)
		_, err = l.Sync()
		must(t, err)
		must(t, d.Checkpoint(LogCheckpoint{Log: l}))
	}
	for _, e := range sideOf(t, st.mem, st.dir) {
		for _, f := range e.Fields {
			if f.Name == "log" && f.Value != testPartition(0).String() {
				t.Fatalf("%s", e)
			}
		}
	}
	if kinds := kindsOf(sideOf(t, st.mem, st.dir)); kinds["sync-journal-data"] == 0 || kinds["log-state"] != 1 || kinds["sync-journal-round"] > 0 {
		t.Fatalf("%v", kinds)
	}
}

func TestDumpSideEndsWithTheVisitor(t *testing.T) {
	st := journaledFlipState(t)
	total := len(sideOf(t, st.mem, "data"))
	stop := errors.New("enough")
	for n := range total {
		o, err := OpenOffline(st.mem, "data")
		must(t, err)
		seen := 0
		if err := o.DumpSide(func(SideEntry) error {
			if seen++; seen > n {
				return stop
			}
			return nil
		}); !errors.Is(err, stop) || seen != n+1 {
			t.Fatalf("%d of %d: %v after %d", n, total, err, seen)
		}
	}
}
