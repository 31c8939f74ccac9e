package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// sweepScript runs against a fresh file system and stops at the first error. It notes what was appended and what is
// durable as it goes.
type sweepState struct {
	appended [][]byte
	durable  int64
}

func sweepScript(mem *fsys.Mem, st *sweepState, script string, t testing.TB) error {
	d, err := OpenDir(mem, "data", testDirOptions())
	if err != nil {
		return err
	}
	l, err := d.CreateLog(testPartition(0), Config{SegmentBytes: 1000, IndexIntervalBytes: 100})
	if err != nil {
		return err
	}
	for i, op := range script {
		switch op {
		case 'a':
			data, h := makeBatch(t, noProducer, i, 2, 150, int64(1000+i))
			res, err := l.AppendLeader([][]byte{data}, h, 1, 1)
			if err != nil {
				return err
			}
			st.appended = append(st.appended, stamped(data, res.BaseOffset, 1))
		case 's':
			end, err := l.Sync()
			if err != nil {
				return err
			}
			st.durable = end
		case 'c':
			if err := d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: 0}); err != nil {
				return err
			}
		case 't':
			st.durable = min(st.durable, 4)
			if _, err := l.TruncateTo(4); err != nil {
				return err
			}
			st.appended = st.appended[:2]
		case 'x':
			if err := l.Close(true); err != nil {
				return err
			}
			st.durable = int64(2 * len(st.appended))
			if l, _, err = d.OpenLog(testPartition(0), Config{SegmentBytes: 1000, IndexIntervalBytes: 100}); err != nil {
				return err
			}
		}
	}
	return d.Close()
}

// sweepScripts are three by hand and the rest drawn: a append, s sync, c checkpoint, x clean close and open.
func sweepScripts() []string {
	scripts := []string{"aaasaaaacaaas", "aasctaaasc", "aaaaxaaasxaa"}
	rng := rand.New(rand.NewPCG(7, 7))
	for len(scripts) < 20 {
		script := make([]byte, 4+rng.IntN(12))
		for i := range script {
			script[i] = "aaaaaassccx"[rng.IntN(11)]
		}
		scripts = append(scripts, string(script))
	}
	return scripts
}

// Every operation of every script fails once, by an I/O error and by a crash within it; after a power loss and after a
// kill the durable prefix is there, and nothing but a prefix of what was appended.
func TestEveryOperationFailsOnce(t *testing.T) {
	for _, script := range sweepScripts() {
		for _, fault := range []string{"error", "crash"} {
			t.Run(script+"/"+fault, func(t *testing.T) {
				count := fsys.NewMem(1, fsys.MemOptions{})
				if err := sweepScript(count, &sweepState{}, script, t); err != nil {
					t.Fatal(err)
				}
				for k := int64(1); k <= count.Ops(); k++ {
					for _, power := range []bool{false, true} {
						sweepOnce(t, script, fault, k, power)
					}
				}
			})
		}
	}
}

func sweepOnce(t *testing.T, script, fault string, k int64, power bool) {
	t.Helper()
	mem := fsys.NewMem(uint64(k), fsys.MemOptions{}) //nolint:gosec // k is positive
	if fault == "error" {
		mem.FailAt(k, fmt.Errorf("injected: %w", syscall.EIO))
	} else {
		mem.CrashAt(k)
	}
	var st sweepState
	cut := 0
	_ = sweepScript(mem, &st, script, t)
	if bytes.ContainsRune([]byte(script), 't') {
		cut = 2 // a truncation that failed half-way may have removed anything from there on
	}
	if power {
		mem = mem.Crash()
	} else {
		mem = mem.CrashProcess()
	}
	d, err := OpenDir(mem, "data", testDirOptions())
	if err != nil {
		t.Fatalf("operation %d: the directory does not open: %v", k, err)
	}
	l, _, err := d.OpenLog(testPartition(0), Config{SegmentBytes: 1000})
	if errors.Is(err, ErrNoLog) && st.durable == 0 {
		return
	}
	if err != nil {
		t.Fatalf("operation %d: the log does not open: %v", k, err)
	}
	least := st.durable
	if cut > 0 {
		least = min(least, int64(2*cut))
	}
	if l.LogEndOffset() < least {
		t.Fatalf("operation %d, power loss %t: the log ends at %d, %d was durable", k, power, l.LogEndOffset(), least)
	}
	got := readAll(t, l, 1<<20)
	want := bytes.Join(st.appended, nil)
	if cut == 0 && !bytes.HasPrefix(want, got) {
		t.Fatalf("operation %d, power loss %t: %d bytes are no prefix of the %d appended", k, power, len(got), len(want))
	}
}
