package record

import "testing"

// The vectors are those of Kafka's own test of its murmur2.
func TestMurmur2Vectors(t *testing.T) {
	for key, want := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		if got := int32(Murmur2([]byte(key))); got != want {
			t.Errorf("%q: %d, want %d", key, got, want)
		}
		if got, positive := Partition([]byte(key), 7), (want&0x7fffffff)%7; got != positive {
			t.Errorf("%q: partition %d, want %d", key, got, positive)
		}
	}
	if got := Partition([]byte("x"), 0); got != 0 {
		t.Errorf("no partitions: %d", got)
	}
}
