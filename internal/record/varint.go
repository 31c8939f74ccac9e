package record

import (
	"encoding/binary"
	"math/bits"
)

// Kafka's varints are zigzag and little-endian in groups of 7 bits: lengths and offset deltas are 32 bits wide in at
// most 5 bytes, timestamp deltas 64 bits in at most 10. The decoders return next = -1 for anything else.

const (
	maxVarint32Bytes = 5
	maxVarint64Bytes = 10
)

func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

// varint32 decodes at p[i:]; next is the position after it.
func varint32(p []byte, i int) (v int64, next int) {
	if i < len(p) && p[i] < 0x80 {
		return unzigzag(uint64(p[i])), i + 1
	}
	return varintTwo(p, i, maxVarint32Bytes, 0x0f)
}

// varint64 decodes at p[i:]; next is the position after it.
func varint64(p []byte, i int) (v int64, next int) {
	if i < len(p) && p[i] < 0x80 {
		return unzigzag(uint64(p[i])), i + 1
	}
	return varintTwo(p, i, maxVarint64Bytes, 0x01)
}

// varintTwo takes the short way for the lengths of ordinary records.
func varintTwo(p []byte, i, maxBytes int, lastMax byte) (v int64, next int) {
	if i+1 < len(p) && p[i+1] < 0x80 && p[i] >= 0x80 {
		return unzigzag(uint64(p[i]&0x7f) | uint64(p[i+1])<<7), i + 2
	}
	return varintLong(p, i, maxBytes, lastMax)
}

// varintLong decodes at most maxBytes bytes, of which the last possible one may not exceed lastMax.
func varintLong(p []byte, i, maxBytes int, lastMax byte) (v int64, next int) {
	var u uint64
	for n := 0; n < maxBytes && i+n < len(p); n++ {
		c := p[i+n]
		u |= uint64(c&0x7f) << (7 * n)
		if c < 0x80 {
			if n == maxBytes-1 && c > lastMax {
				return 0, -1
			}
			return unzigzag(u), i + n + 1
		}
	}
	return 0, -1
}

// varintSize returns how many bytes binary.PutVarint needs for v.
func varintSize(v int64) int {
	u := uint64(v)<<1 ^ uint64(v>>63)
	return (bits.Len64(u|1) + 6) / 7
}

// putVarint writes v at p[i:] and returns the position after it.
func putVarint(p []byte, i int, v int64) int {
	if v >= -64 && v < 64 {
		p[i] = byte(v<<1 ^ v>>63)
		return i + 1
	}
	return putVarintLong(p, i, v)
}

func putVarintLong(p []byte, i int, v int64) int {
	if v >= -1<<13 && v < 1<<13 {
		u := v<<1 ^ v>>63
		p[i], p[i+1] = byte(u)|0x80, byte(u>>7)
		return i + 2
	}
	return i + binary.PutVarint(p[i:], v)
}
