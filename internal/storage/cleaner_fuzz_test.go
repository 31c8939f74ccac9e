package storage

import (
	"bytes"
	"math"
	"path"
	"testing"
)

// Whatever stands in the file of the clean point, it is read as what was written or as nothing.
func FuzzCleanPoint(f *testing.F) {
	f.Add(cleanPoint{firstDirty: 1234, horizon: math.MaxInt64}.encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		p, ok := decodeCleanPoint(data)
		if ok && !bytes.Equal(p.encode(), data) {
			t.Errorf("%x was read as %+v", data, p)
		}
		if !ok && len(data) == 0 && p.firstDirty != 0 {
			t.Errorf("%+v of nothing", p)
		}
	})
}

// Names of new segments are read as they were made, and nothing else is taken for one.
func FuzzSwapName(f *testing.F) {
	f.Add(path.Base(swapName("", 0, 17)))
	f.Add("00000000000000000000-00000000000000000017.swap")
	f.Add("-0000000000000000001-00000000000000000017.swap")
	f.Fuzz(func(t *testing.T, name string) {
		base, end, ok := parseSwapName(name)
		if ok && (base < 0 || end <= base || path.Base(swapName("", base, end)) != name) {
			t.Errorf("%q was read as [%d, %d)", name, base, end)
		}
		if at, ok := ofSource(name, 5); ok && at < 0 {
			t.Errorf("%q is of offset %d", name, at)
		}
	})
}
