package metadata

import (
	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
)

// Draft is an entry in the making, and the image as it will be once the entry is committed. Several requests are decided into
// one draft, each on the image with the records of the earlier ones in it. It is not safe for concurrent use.
type Draft struct {
	base, image *Image
	timeMs      int64
	records     []*internalv1.MetadataRecord
}

// Draft begins an entry on the image. Its time is nowMs, in milliseconds since the Unix epoch, or the time of the last entry
// where that is later.
func (i *Image) Draft(nowMs int64) *Draft {
	return &Draft{base: i, image: i, timeMs: max(nowMs, i.timeMs)}
}

// Image is the image with the records so far: the base itself while there are none.
func (d *Draft) Image() *Image { return d.image }

// Offset is the offset of the image by which everything that was decided so far is in force.
func (d *Draft) Offset() model.MetadataOffset { return d.image.offset }

// NextOffset is the offset of the entry, whether it has records already or not.
func (d *Draft) NextOffset() model.MetadataOffset { return d.base.offset + 1 }

// Len is the number of records so far.
func (d *Draft) Len() int { return len(d.records) }

// Add puts records into the entry, all or, with an error (ErrInvalid, ErrUnknownRecord), none. The draft keeps the records.
func (d *Draft) Add(records ...*internalv1.MetadataRecord) error {
	if len(records) == 0 {
		return nil
	}
	ed := newEdit(d.image)
	ed.img.offset = d.base.offset + 1
	ed.img.timeMs = d.timeMs
	for _, r := range records {
		if err := checkKnown(r); err != nil {
			return err
		}
		if err := ed.apply(r); err != nil {
			return err
		}
	}
	if err := ed.finish(); err != nil {
		return err
	}
	d.image = ed.img
	d.records = append(d.records, records...)
	return nil
}

// Entry returns the entry, or nil while it has no records.
func (d *Draft) Entry(cause, actor string) *internalv1.MetadataEntry {
	if len(d.records) == 0 {
		return nil
	}
	return &internalv1.MetadataEntry{
		DecidedOn: uint64(d.base.offset), Cause: cause, Actor: actor, TimeMs: d.timeMs, Records: d.records,
	}
}
