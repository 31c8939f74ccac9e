package syncjournal

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

// checkDump fails unless Dump calls the same frames live and the same places damaged as Read does. found calls it for every directory
// that a test looks at.
func checkDump(t testing.TB, fsy fsys.FS, frames []string, c *Contents) {
	t.Helper()
	live, damage := []string{}, 0
	must(t, Dump(fsy, testDir, func(i Item) error {
		if i.File == "" || i.Position < 0 {
			t.Fatalf("%+v has no place", i)
		}
		switch {
		case i.Kind == ItemData && i.Live:
			live = append(live, describe(i.Frame))
		case i.Kind == ItemDamage && i.Live:
			damage++
		}
		return nil
	}))
	if !slices.Equal(live, frames) || damage != len(c.Damage) {
		t.Fatalf("the dump shows %d live frames and %d damaged places, want %d and %d\n%.1000q\n%.1000q",
			len(live), damage, len(frames), len(c.Damage), live, frames)
	}
}

// dumped is what Dump shows, a line an item.
func dumped(t *testing.T, fsy fsys.FS) []string {
	t.Helper()
	var lines []string
	must(t, Dump(fsy, testDir, func(i Item) error {
		line := fmt.Sprintf("%s %d: %s %d/%d", strings.TrimPrefix(i.File, testDir+"/"), i.Position, i.Kind, i.Generation, i.Round)
		if i.Kind == ItemData || i.Kind == ItemForget {
			line += fmt.Sprintf(" log %d %d@%d+%d end %d", i.Frame.Log.Partition, i.Frame.SegmentBase, i.Frame.Position, len(i.Frame.Data), i.Frame.EndOffset)
		}
		for _, mark := range []struct {
			name string
			on   bool
		}{{" live", i.Live}, {" torn", i.Torn}, {" bad", i.Fault != "" || i.Kind == ItemHeader && !i.Sound}} {
			if mark.on {
				line += mark.name
			}
		}
		lines = append(lines, line)
		return nil
	}))
	return lines
}

func wantDumped(t *testing.T, fsy fsys.FS, want ...string) {
	t.Helper()
	if got := dumped(t, fsy); !slices.Equal(got, want) {
		t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestDumpShowsWhatCountsAndWhatDoesNot(t *testing.T) {
	disk := newDisk(t, 1)
	j := ready(t, disk)
	write(t, j, frame(1, 1, 10), frame(2, 1, 20))
	must(t, j.Forget([]model.TopicPartition{logOf(1)}))
	heads := []string{"0.journal 0: header 0/0 live", "0.journal 61440: header 0/0 live"}
	rounds := func(live string) []string {
		return []string{
			"1.journal 4096: round 1/1" + live, "1.journal 4160: data 1/1 log 1 1@100+10 end 1", "1.journal 4250: data 1/1 log 2 2@100+20 end 1" + live,
			"1.journal 8192: round 1/2" + live, "1.journal 8256: forget 1/2 log 1 0@0+0 end 0" + live, "1.journal 12288: round 1/3" + live,
		}
	}
	headers := []string{"1.journal 0: header 1/0 live", "1.journal 61440: header 1/0 live"}
	whole := slices.Concat(heads, headers, rounds(" live"), []string{"1.journal 16384: end 1/0 live"})
	wantDumped(t, disk, whole...)

	damaged := disk.Clone(1)
	lose(t, damaged, testDir+"/1.journal", 1)
	lose(t, damaged, testDir+"/1.journal", 15)
	wantDumped(t, damaged, slices.Concat(heads, []string{headers[0], "1.journal 61440: header 0/0 bad", "1.journal 4096: damage 1/1 live bad"},
		rounds(" live")[3:], []string{"1.journal 16384: end 1/0 live"})...)

	j = openTest(t, disk)
	must(t, j.Clear()) // what was replayed is void, and can be seen all the same
	wantDumped(t, disk, slices.Concat(heads, headers, rounds(""), []string{"1.journal 16384: end 1/0"})...)
}

func TestDumpOfAMissingDirectoryIsEmpty(t *testing.T) {
	wantDumped(t, newDisk(t, 1))
}
