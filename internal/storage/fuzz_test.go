package storage

import (
	"bytes"
	"errors"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

func FuzzJournal(f *testing.F) {
	data := appendEpochsFrame(journalHeader(), testPartition(1), logState{recoveryPoint: 3, highWatermark: 2, logStart: 1, epochs: []EpochStart{{1, 0}}})
	f.Add(data)
	f.Add(appendFrame(appendFrame(bytes.Clone(data), journalFrameLost, testPartition(3)), journalFrameTold, testPartition(1)))
	whole := logState{recoveryPoint: 3, highWatermark: 2, epochs: []EpochStart{{1, 0}}, whole: true, rows: []headRow{{3, 9, 200, 7}, {12, 20, 0, unknownHeads}}}
	f.Add(appendLogFrames(journalHeader(), testPartition(1), whole))
	f.Add(appendStateFrame(bytes.Clone(data), testPartition(2), logState{recoveryPoint: 1, highWatermark: 1, logStart: 1}))
	f.Fuzz(func(t *testing.T, data []byte) {
		states, good := decodeJournal(data)
		if good < 0 || good > len(data) {
			t.Fatalf("believed %d of %d bytes", good, len(data))
		}
		_ = journalTorn(data, good) // whatever it says
		if again, n := decodeJournal(data[:good]); n != good || len(again) != len(states) {
			t.Fatalf("the believed part reads as %d states, %d bytes", len(again), n)
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add(encodeIndex([]indexEntry{{1, 2}, {3, 4}}, indexKindOffset), false, int64(3))
	f.Add(encodeIndex([]indexEntry{{1000, 0}, {1001, 7}}, indexKindTime), true, int64(1000))
	f.Fuzz(func(t *testing.T, data []byte, times bool, key int64) {
		kind := byte(indexKindOffset)
		if times {
			kind = indexKindTime
		}
		entries, err := decodeIndex(data, kind)
		mem := fsys.NewMem(1, fsys.MemOptions{})
		must(t, mem.MkdirAll("d"))
		must(t, writeHint(mem, "d/x", data))
		e, found, lookErr := lookupIndexFile(mem, "d/x", kind, key)
		if lookErr != nil && !errors.Is(lookErr, errIndexDoubt) {
			t.Fatal(lookErr)
		}
		if at := floorEntry(entries, key); err == nil && (lookErr != nil || found != (at >= 0) || (found && e != entries[at])) {
			t.Fatalf("key %d: looked up %+v (%t, %v), read %+v", key, e, found, lookErr, entries)
		}
		for i := 1; i < len(entries); i++ {
			if entries[i].key <= entries[i-1].key {
				t.Fatalf("keys fall at %d (%v)", i, err)
			}
		}
	})
}

func FuzzProducerSnapshot(f *testing.F) {
	s := newProducerState()
	s.apply(header(1, 0, 0, 2, 0), 5)
	f.Add(s.encode(snapshotInfo{offset: 2}))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, info, err := decodeProducers(data)
		if err == nil && !bytes.Equal(s.encode(info), data) && len(s.byID) <= 1 {
			t.Fatalf("%+v does not encode to what it was read from", info)
		}
	})
}

func FuzzMeta(f *testing.F) {
	f.Add(encodeMeta(Meta{NodeID: 3, BootID: "x"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := decodeMeta(data); err == nil {
			if again, err := decodeMeta(encodeMeta(m)); err != nil || again != m {
				t.Fatalf("%+v reads back as %+v, %v", m, again, err)
			}
		}
	})
}
