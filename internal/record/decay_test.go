package record

import (
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

// The one bit that explains a CRC is found wherever it is, and only it.
func TestFlippedBitIsFound(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for range 2000 {
		b := make([]byte, 1+rng.IntN(3000))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		was := crc32.Checksum(b, castagnoli)
		bit := rng.Int64N(int64(8 * len(b)))
		b[bit/8] ^= 1 << (bit % 8)
		difference := was ^ crc32.Checksum(b, castagnoli)
		if got, ok := FlippedBit(difference, int64(len(b))); !ok || got != bit {
			t.Fatalf("bit %d of %d bytes: %d, %t", bit, len(b), got, ok)
		}
		other := rng.Int64N(int64(8 * len(b)))
		if other == bit {
			continue
		}
		b[other/8] ^= 1 << (other % 8)
		if got, ok := FlippedBit(was^crc32.Checksum(b, castagnoli), int64(len(b))); ok {
			t.Fatalf("bits %d and %d of %d bytes pass for bit %d", bit, other, len(b), got)
		}
	}
}
