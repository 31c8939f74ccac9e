package storage

import (
	"hash/maphash"
)

const (
	offsetSlotBytes = 24
	offsetMapMin    = 1 << 10 // slots
)

// offsetMap holds the latest offset of each key, by 128 bits of a hash of the key that is seeded anew by each process: two
// keys of a log are taken for one with a probability of less than 2^-80 even for 2^24 keys, and nobody can choose such keys.
// What is decided does not depend on the seed. It grows up to its bound, and then takes no more keys. It is for one goroutine.
type offsetMap struct {
	seeds    [2]maphash.Seed
	slots    []offsetSlot
	used     int
	maxSlots int
}

type offsetSlot struct {
	high, low uint64
	next      int64 // offset + 1; 0 for a free slot
}

// newOffsetMap returns an empty map that takes maxBytes at most (and half as much more while it grows), but at least 24 KiB.
func newOffsetMap(maxBytes int64) *offsetMap {
	m := &offsetMap{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, maxSlots: offsetMapMin}
	for int64(m.maxSlots)*2*offsetSlotBytes <= maxBytes {
		m.maxSlots *= 2
	}
	return m
}

// reset empties the map and lets go of its memory.
func (m *offsetMap) reset() { m.slots, m.used = nil, 0 }

// slot is what put wants to know of a key and its offset.
func (m *offsetMap) slot(key []byte, offset int64) offsetSlot {
	return offsetSlot{high: maphash.Bytes(m.seeds[0], key), low: maphash.Bytes(m.seeds[1], key), next: offset + 1}
}

// put notes an offset of a key, later than those before; false says that there is no room for another key.
func (m *offsetMap) put(k offsetSlot) bool {
	if m.slots == nil {
		m.slots = make([]offsetSlot, offsetMapMin)
	}
	s := m.find(k.high, k.low)
	if s.next == 0 {
		if m.used >= len(m.slots)/4*3 {
			if len(m.slots) >= m.maxSlots {
				return false
			}
			m.grow()
			s = m.find(k.high, k.low)
		}
		m.used++
	}
	*s = k
	return true
}

// latest returns the latest offset of a key, or -1.
func (m *offsetMap) latest(key []byte) int64 {
	if m.used == 0 {
		return -1
	}
	return m.find(maphash.Bytes(m.seeds[0], key), maphash.Bytes(m.seeds[1], key)).next - 1
}

// find returns the slot of a hash, or the free one where it belongs.
func (m *offsetMap) find(high, low uint64) *offsetSlot {
	mask := uint64(len(m.slots) - 1)
	for i := low & mask; ; i = (i + 1) & mask {
		if s := &m.slots[i]; s.next == 0 || (s.high == high && s.low == low) {
			return s
		}
	}
}

func (m *offsetMap) grow() {
	old := m.slots
	m.slots = make([]offsetSlot, 2*len(old))
	for _, s := range old {
		if s.next != 0 {
			*m.find(s.high, s.low) = s
		}
	}
}
