package storage

import (
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/storage/syncjournal"
)

// offlineReplay is what the sync journal would bring back of one log.
type offlineReplay struct {
	end, bytes     int64
	lacks          int64 // what the segments must grow by
	deferred       bool  // the disk has no room for that: the log stays closed
	base, position int64 // of the first byte, and the segment it lies in
}

// covers says whether what is wrong at a position of a segment, where offset is expected, is written anew by the replay.
func (r *offlineReplay) covers(s *segment, position, offset int64) bool {
	return r != nil && offset < r.end && (s.base > r.base || s.base == r.base && position >= r.position)
}

// ToReplay says of how many logs the sync journal holds bytes that their segments may lack, and how many bytes: the next start
// writes them there. Dump and Verify see the segments as they are.
func (o *Offline) ToReplay() (logs int, bytes int64, err error) {
	_, err = o.readShared()
	for _, r := range o.replays {
		bytes += r.bytes
	}
	return len(o.replays), bytes, err
}

// readShared reads the sync journal, if there is a data directory around.
func (o *Offline) readShared() (*syncjournal.Contents, error) {
	o.replays = map[model.TopicPartition]*offlineReplay{}
	root := o.root()
	if root == "" {
		return &syncjournal.Contents{}, nil
	}
	contents, err := syncjournal.Read(o.fs, path.Join(root, sharedName))
	if err != nil {
		return nil, err
	}
	err = contents.Each(func(f syncjournal.Frame) error {
		r := o.replays[f.Log]
		if r == nil {
			r = &offlineReplay{base: f.SegmentBase, position: f.Position}
			o.replays[f.Log] = r
		}
		r.bytes += int64(len(f.Data))
		r.end = max(r.end, f.EndOffset)
		return nil
	})
	if err != nil {
		return contents, err
	}
	return contents, o.findDeferred(root, contents)
}

// findDeferred says which logs the next start would leave closed, were it now.
func (o *Offline) findDeferred(root string, contents *syncjournal.Contents) error {
	d := &Dir{fs: o.fs, path: root, space: &space{fs: o.fs, dir: root}}
	needs, err := replayNeeds(o.fs, contents, d.logDir)
	if err != nil {
		return err
	}
	free, err := o.fs.FreeBytes(root)
	if err != nil {
		return err
	}
	found, err := d.scanTopics(false)
	if err != nil {
		return err
	}
	free += contents.IdleBytes()
	left := leftOut(needs, free-bookkeeping(len(found)))
	if info, err := o.fs.Stat(path.Join(root, reserveName)); err == nil && info.Size > 0 {
		if left = leftOut(needs, free); len(left) > 0 {
			left = leftOut(needs, free+info.Size-bookkeeping(len(found)))
		}
	}
	for tp, r := range o.replays {
		_, deferred := left[tp]
		r.lacks, r.deferred = needs[tp], deferred || len(left) > 0 && len(contents.Damage) > 0
	}
	return nil
}

// verifyShared tells what the sync journal holds, and what of it cannot be read.
func (o *Offline) verifyShared(root string) error {
	name := path.Join(root, sharedName)
	contents, err := o.readShared()
	if contents == nil {
		return err
	}
	if err != nil {
		o.note(SeverityNote, name, -1, -1, fmt.Sprintf("it cannot be read whole: %v", err), "looked at again at the next start; beside a running broker it changes")
	}
	for _, d := range contents.Damage {
		o.note(SeverityFault, d.File, d.Position, -1, d.Error(), "what stands around it is used; every replica of the directory gives up its seat")
	}
	there := map[model.TopicPartition]bool{}
	for _, l := range o.logs {
		there[l.tp] = true
	}
	for _, tp := range slices.SortedFunc(maps.Keys(o.replays), comparePartitions) {
		r := o.replays[tp]
		switch {
		case there[tp] && r.deferred:
			o.note(SeverityNote, name, -1, r.end-1,
				fmt.Sprintf("it holds %d bytes of %s up to that offset, and the disk has no room for the %d that its segments lack", r.bytes, tp, r.lacks),
				"the log stays closed until there is room, and nothing is lost: delete or trim topics, or make the disk larger")
		case there[tp]:
			o.note(SeverityNote, name, -1, r.end-1, fmt.Sprintf("it holds %d bytes of %s up to that offset, which its segments may lack", r.bytes, tp),
				"written to the segments before the log is opened")
		case o.data:
			o.note(SeverityFault, name, -1, r.end-1, fmt.Sprintf("the log of %s is gone, of which it holds %d bytes", tp, r.bytes),
				"the replica gives up its seat and fetches from the leader")
		}
	}
	return nil
}
