package storage

import (
	"bytes"
	"testing"
)

func FuzzJournal(f *testing.F) {
	data := appendEpochsFrame(journalHeader(), testPartition(1), logState{recoveryPoint: 3, highWatermark: 2, logStart: 1, epochs: []EpochStart{{1, 0}}})
	f.Add(data)
	f.Add(appendFrame(appendFrame(bytes.Clone(data), journalFrameLost, testPartition(3)), journalFrameTold, testPartition(1)))
	f.Add(appendStateFrame(bytes.Clone(data), testPartition(2), logState{recoveryPoint: 1, highWatermark: 1, logStart: 1}))
	f.Fuzz(func(t *testing.T, data []byte) {
		states, good := decodeJournal(data)
		if good < 0 || good > len(data) {
			t.Fatalf("believed %d of %d bytes", good, len(data))
		}
		if again, n := decodeJournal(data[:good]); n != good || len(again) != len(states) {
			t.Fatalf("the believed part reads as %d states, %d bytes", len(again), n)
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add(encodeIndex([]indexEntry{{1, 2}, {3, 4}}, indexKindOffset))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := decodeIndex(data, indexKindOffset)
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
