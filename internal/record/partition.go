package record

import "encoding/binary"

// Murmur2 is the 32-bit hash of Kafka's default partitioner (MurmurHash 2.0, seed 0x9747b28c).
func Murmur2(data []byte) uint32 {
	const (
		seed uint32 = 0x9747b28c
		m    uint32 = 0x5bd1e995
		r           = 24
	)
	h := seed ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		k := binary.LittleEndian.Uint32(data) * m
		k = (k ^ k>>r) * m
		h = h*m ^ k
	}
	switch len(data) {
	case 3:
		h ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		h = (h ^ uint32(data[0])) * m
	default:
	}
	h = (h ^ h>>13) * m
	return h ^ h>>15
}

// Partition returns the partition of 0..n-1 that Kafka's default partitioner gives a record with this key: the murmur2
// hash without its sign bit, modulo n. n below 1 gives 0. Records without a key are for the caller to spread.
func Partition(key []byte, n int32) int32 {
	if n < 1 {
		return 0
	}
	return int32(Murmur2(key)&0x7fffffff) % n
}
