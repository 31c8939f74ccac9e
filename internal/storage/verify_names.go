package storage

import (
	"encoding/binary"
	"hash/crc32"
	"path"
	"strings"

	"github.com/penstock-io/penstock/internal/fsys"
)

// Names of the data directory that other packages own.
const (
	controllerName = "controller"
	seatsLostName  = "seats.lost" // a CRC-32C and what it covers
	seatsLostMax   = 64 << 20
)

// verifyRootNames notes what does not belong into a data directory, and what lies there on account of a loss.
func (o *Offline) verifyRootNames(root string) error {
	infos, err := o.fs.List(root)
	if err != nil {
		return err
	}
	for _, info := range infos {
		name := path.Join(root, info.Name)
		switch info.Name {
		case lockName, metaFileName, journalName, reserveName, seenTimeName, topicsName, sharedName, controllerName:
		case unsureName:
			o.note(SeverityNote, name, -1, -1, "logs of which more may have been durable than the journal knows: it was damaged or missing at an earlier start",
				"nothing whole is cut off them")
		case seatsLostName:
			data, err := readFile(o.fs, name, seatsLostMax)
			if err != nil {
				return err
			}
			if len(data) < crc32.Size || binary.BigEndian.Uint32(data) != crc32.Checksum(data[crc32.Size:], castagnoli) {
				o.note(SeverityFault, name, 0, -1, "the list of lost seats is damaged", "every replica of the directory gives up its seat")
				continue
			}
			o.note(SeverityNote, name, -1, -1, "seats that an earlier start has lost, and that the controller does not know of yet", "told again at the registration")
		default:
			what, recovery := "not a file of a data directory", "ignored"
			if strings.HasSuffix(info.Name, tempSuffix) || info.Name == seatsLostName+".partial" {
				what, recovery = "a file that was not finished", "written anew when it is needed"
			}
			o.note(SeverityNote, name, -1, -1, what, recovery)
		}
	}
	return nil
}

// otherFile notes what lies in a log's directory and is neither a segment nor a hint of one.
func (v *logVerifier) otherFile(name string, info fsys.FileInfo) error {
	note := func(what, recovery string) error {
		v.o.note(SeverityNote, name, -1, -1, what, recovery)
		return nil
	}
	switch {
	case info.Dir:
		return note("a directory", "ignored")
	case info.Name == osModeMarker:
		return nil
	case info.Name == cleanPointName:
		data, err := readFile(v.o.fs, name, 1<<10)
		if _, ok := decodeCleanPoint(data); err != nil || !ok {
			v.o.note(SeverityHint, name, 0, -1, "it cannot be believed", "the log is compacted from its beginning")
		}
		return nil
	case info.Name == marksName:
		data, err := readFile(v.o.fs, name, marksMax)
		marks, ok := decodeMarks(data)
		if err != nil || !ok {
			v.o.note(SeverityHint, name, 0, -1, "the list of damage cannot be believed", "the scrub finds the damage again")
			return nil
		}
		v.places = marks
		return note("a list of what a running broker found damaged", "looked at again, and fetched anew from the leader")
	case strings.HasSuffix(info.Name, corruptSuffix):
		return note("a damaged segment that was set aside", "kept, not used; remove it by hand when it is not wanted")
	case strings.HasSuffix(info.Name, tempSuffix):
		return note("a file that was not finished", "removed")
	case strings.HasSuffix(info.Name, cleanSuffix):
		return note("a compaction that was not finished", "removed")
	case strings.HasSuffix(info.Name, swapSuffix):
		return note("a compacted segment whose change of places was not finished", "it takes the place of the segments that it was made of")
	case strings.HasSuffix(info.Name, segmentSuffix+keptSuffix):
		return note("the intact beginning of a damaged segment", "it becomes the segment where that is gone, else removed")
	default:
		return note("not a file of a log", "ignored")
	}
}
