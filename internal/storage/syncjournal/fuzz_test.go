package syncjournal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"path"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

// putFileCRC makes the checksum of a file header right.
func putFileCRC(b []byte) {
	binary.BigEndian.PutUint32(b[fileHeaderBytes-4:], crc32.Checksum(b[:fileHeaderBytes-4], castagnoli))
}

// mendChecksums makes the checksums right of what looks like a header, so that lengths, counts and numbers are what is
// fuzzed.
func mendChecksums(b []byte) {
	be := binary.BigEndian
	for at := 0; at+fileHeaderBytes <= len(b); at += pageBytes {
		page := b[at:]
		switch be.Uint32(page) {
		case fileMagic:
			putFileCRC(page)
		case roundMagic:
			be.PutUint32(page[roundCRCAt:], crc32.Checksum(page[:roundCRCAt], castagnoli))
			for frame := page[roundHeaderBytes:]; len(frame) >= frameHeaderBytes; {
				size := frameHeaderBytes + int64(be.Uint32(frame[4:]))
				if size > int64(len(frame)) {
					break
				}
				sum := crc32.Checksum(frame[:frameCRCAt], castagnoli)
				be.PutUint32(frame[frameCRCAt:], crc32.Update(sum, castagnoli, frame[frameHeaderBytes:size]))
				if frame = frame[size:]; len(frame) == 0 || frame[0] == 0 {
					break
				}
			}
		}
	}
}

// small is a journal of few pages, as the fuzzer's corpus wants it.
func small(f *testing.F, work func(j *Journal)) (a, b []byte) {
	disk := newDisk(f, 1)
	j := openTest(f, disk)
	j.fileSize = 5 * pageBytes
	must(f, j.Clear())
	must(f, j.Prepare())
	work(j)
	return contents(f, disk, path.Join(testDir, fileNames[0])), contents(f, disk, path.Join(testDir, fileNames[1]))
}

// FuzzRead gives Read files that were edited anywhere (each edit is a place of two bytes and a value), cut, and given right
// checksums again or not: it neither panics nor delivers more than the files hold, Each finds again what Read has found, and
// a journal can be opened, cleared and written.
func FuzzRead(f *testing.F) {
	var bases [][2][]byte
	add := func(work func(j *Journal)) {
		a, b := small(f, work)
		for _, mend := range []bool{false, true} {
			f.Add(uint8(len(bases)), []byte{}, uint16(0), uint16(0), mend) //nolint:gosec // few
			f.Add(uint8(len(bases)), []byte{0, 70, 1, 0x10, 0x00, 0xff, 0x90, 7, 3}, uint16(5000), uint16(9), mend)
		}
		bases = append(bases, [2][]byte{a, b})
	}
	add(func(*Journal) {})
	add(func(j *Journal) { write(f, j, frame(1, 1, 10), frame(2, 1, 5000)) })
	add(func(j *Journal) {
		for n := range 3 {
			write(f, j, frame(n, n, 10))
		}
		must(f, j.Forget([]model.TopicPartition{logOf(1)}))
		must(f, j.Release(1))
		write(f, j, frame(1, 3, 10))
	})
	f.Fuzz(func(t *testing.T, base uint8, edits []byte, cutA, cutB uint16, mend bool) {
		files := bases[int(base)%len(bases)]
		disk, total := newDisk(t, 1), 0
		must(t, disk.MkdirAll(testDir))
		for i, cut := range []uint16{cutA, cutB} {
			data := bytes.Clone(files[i][:max(0, len(files[i])-int(cut))])
			edit(data, edits, i)
			if mend {
				mendChecksums(data)
			}
			file, err := disk.Create(path.Join(testDir, fileNames[i]))
			must(t, err)
			_, err = file.Append(data)
			must(t, errors.Join(err, file.Close()))
			total += len(data)
		}
		checkAnyRead(t, disk, total)
	})
}

// edit puts values at places: the highest bit says in which file, the rest where in it.
func edit(data, edits []byte, index int) {
	for ; len(edits) >= 3; edits = edits[3:] {
		at := int(binary.BigEndian.Uint16(edits))
		if at>>15 == index && at&0x7fff < len(data) {
			data[at&0x7fff] = edits[2]
		}
	}
}

// checkAnyRead is what holds for any files.
func checkAnyRead(t *testing.T, disk *fsys.Mem, total int) {
	t.Helper()
	c, err := Read(disk, testDir)
	if errors.Is(err, ErrVersion) {
		return
	}
	must(t, err)
	size, ends := 0, make(map[model.TopicPartition]int64)
	must(t, c.Each(func(f Frame) error {
		size += len(f.Data)
		ends[f.Log] = max(ends[f.Log], f.EndOffset)
		return f.check()
	}))
	if size > total || int64(size) > c.Bytes {
		t.Fatalf("%d bytes delivered, %d announced, the files have %d", size, c.Bytes, total)
	}
	for log, end := range ends {
		if got := c.Ends[log]; got.Offset < end || got.Offset > end && !got.Doubtful {
			t.Fatalf("%s ends at %+v, its frames at %d", log, got, end)
		}
	}
	j := ready(t, disk)
	if _, err := j.Write([]Frame{frame(1, 1, 10)}); err != nil {
		t.Fatal(err)
	}
	wantFound(t, disk, frame(1, 1, 10))
}
