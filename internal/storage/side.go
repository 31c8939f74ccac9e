package storage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/storage/syncjournal"
)

// SideEntry is one thing that a file beside the segments holds.
type SideEntry struct {
	// File and Position say where it is; Position is -1 where it was put together of several places.
	File     string
	Position int64
	// Kind says what it is.
	Kind string
	// Fields are what it says, in order.
	Fields []SideField
	// Fault is what is wrong there, or empty.
	Fault string
}

// SideField is a named value: a number, a string, a truth value, or a list.
type SideField struct {
	Name  string
	Value any
}

// String is the entry for people, without its file and position.
func (e SideEntry) String() string {
	var b strings.Builder
	b.WriteString(e.Kind)
	for _, f := range e.Fields {
		fmt.Fprintf(&b, " %s=%v", f.Name, f.Value)
	}
	if e.Fault != "" {
		b.WriteString(" DAMAGED: " + e.Fault)
	}
	return b.String()
}

// MarshalJSON makes one object of file, position, kind, fields and fault.
func (e SideEntry) MarshalJSON() ([]byte, error) {
	fields := append([]SideField{{"file", e.File}, {"position", e.Position}, {"kind", e.Kind}}, e.Fields...)
	if e.Fault != "" {
		fields = append(fields, SideField{"fault", e.Fault})
	}
	var b bytes.Buffer
	b.WriteByte('{')
	for i, f := range fields {
		name, err := json.Marshal(f.Name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(f.Value)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// pairs is a list of two numbers each, which people see the ends of.
type pairs [][2]int64

// String shows the first and the last.
func (p pairs) String() string {
	switch len(p) {
	case 0:
		return "none"
	case 1:
		return fmt.Sprintf("%d:%d", p[0][0], p[0][1])
	}
	return fmt.Sprintf("%d:%d..%d:%d", p[0][0], p[0][1], p[len(p)-1][0], p[len(p)-1][1])
}

// epochPairs are epochs with their start offsets, all of which people see.
type epochPairs []EpochStart

// String is epoch:start, separated by commas.
func (p epochPairs) String() string {
	if len(p) == 0 {
		return "none"
	}
	var b strings.Builder
	for i, e := range p {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d:%d", e.Epoch, e.StartOffset)
	}
	return b.String()
}

// MarshalJSON makes a list of pairs, as pairs are.
func (p epochPairs) MarshalJSON() ([]byte, error) {
	list := make([][2]int64, 0, len(p))
	for _, e := range p {
		list = append(list, [2]int64{int64(e.Epoch), e.StartOffset})
	}
	return json.Marshal(list)
}

// errVisit tells an error of the visitor from one of a file.
type errVisit struct{ error }

func (e errVisit) Unwrap() error { return e.error }

// sideDump is the state of one DumpSide.
type sideDump struct {
	o     *Offline
	visit func(SideEntry) error
}

// DumpSide shows all that the files beside the segments hold to visit: the sync journal, checkpoints.journal frame by frame and what
// they come to for each log, and of each log its marks of damage, producer snapshots, indexes and digests. Beneath a partition's
// directory it shows what concerns that one alone. What cannot be believed is an entry with a fault, and what can be read around it
// follows. It ends with the first error of visit. Memory is bounded by one round of the sync journal, one frame or snapshot, and what is
// known of each log.
func (o *Offline) DumpSide(visit func(SideEntry) error) error {
	d := sideDump{o: o, visit: func(e SideEntry) error {
		if err := visit(e); err != nil {
			return errVisit{err}
		}
		return nil
	}}
	if root := o.root(); root != "" {
		shared := path.Join(root, sharedName)
		if err := d.settle(shared, d.shared(shared)); err != nil {
			return err
		}
		journal := path.Join(root, journalName)
		if err := d.settle(journal, d.journal(journal)); err != nil {
			return err
		}
	}
	for _, l := range o.logs {
		if err := d.settle(l.path, d.log(l)); err != nil {
			return err
		}
	}
	return nil
}

// settle makes an entry of an error that concerns one file, and gives those of the visitor back.
func (d sideDump) settle(name string, err error) error {
	var own errVisit
	if err == nil || fsys.IsNotExist(err) {
		return nil
	}
	if errors.As(err, &own) {
		return own.error
	}
	if err := d.visit(SideEntry{File: name, Position: -1, Kind: "unreadable", Fault: err.Error()}); err != nil {
		return d.settle(name, err)
	}
	return nil
}

// wanted says whether what concerns a log is to be shown.
func (d sideDump) wanted(tp model.TopicPartition) bool { return d.o.data || tp == d.o.logs[0].tp }

// shared shows the sync journal.
func (d sideDump) shared(dir string) error {
	return syncjournal.Dump(d.o.fs, dir, func(i syncjournal.Item) error {
		e := SideEntry{File: i.File, Position: i.Position, Kind: "sync-journal-" + string(i.Kind), Fault: i.Fault}
		e.Fields = []SideField{{"generation", i.Generation}}
		switch i.Kind {
		case syncjournal.ItemHeader:
			e.Fields = append(e.Fields, SideField{"believed", i.Sound})
			if i.Sound {
				e.Fields = append(e.Fields, SideField{"counts", i.Live}, SideField{"file_size", i.Bytes}, SideField{"oldest_live", i.OldestLive},
					SideField{"newest", i.Newest}, SideField{"closed_rounds", i.ClosedRounds}, SideField{"closed_forgets", i.ClosedForgets})
			}
		case syncjournal.ItemRound:
			if !d.o.data {
				return nil
			}
			e.Fields = append(e.Fields, SideField{"round", i.Round}, SideField{"live", i.Live}, SideField{"length", i.Bytes},
				SideField{"frames", i.Frames}, SideField{"forgets_before", i.Forgets}, SideField{"oldest_live", i.OldestLive})
		case syncjournal.ItemData, syncjournal.ItemForget:
			if !d.wanted(i.Frame.Log) {
				return nil
			}
			e.Fields = append(e.Fields, SideField{"round", i.Round}, SideField{"live", i.Live}, SideField{"log", i.Frame.Log.String()})
			if i.Kind == syncjournal.ItemData {
				e.Fields = append(e.Fields, SideField{"segment_base", i.Frame.SegmentBase}, SideField{"segment_position", i.Frame.Position},
					SideField{"length", len(i.Frame.Data)}, SideField{"end_offset", i.Frame.EndOffset})
			}
		case syncjournal.ItemDamage:
			e.Fields = append(e.Fields, SideField{"first_round", i.Round}, SideField{"last_round", i.LastRound}, SideField{"live", i.Live})
		case syncjournal.ItemEnd:
			e.Fields = append(e.Fields, SideField{"live", i.Live}, SideField{"unfinished_round", i.Torn})
		}
		return d.visit(e)
	})
}

// log shows the files beside the segments of one log, by name.
func (d sideDump) log(l offlineLog) error {
	infos, err := d.o.fs.List(l.path)
	if err != nil {
		return err
	}
	slices.SortFunc(infos, func(a, b fsys.FileInfo) int { return strings.Compare(a.Name, b.Name) })
	for _, info := range infos {
		show := d.showOf(info.Name)
		if info.Dir || show == nil {
			continue
		}
		name := path.Join(l.path, info.Name)
		if err := d.settle(name, show(name)); err != nil {
			return errVisit{err}
		}
	}
	return nil
}

// showOf is what shows a file of that name in a log's directory; nil where it holds nothing to be shown.
func (d sideDump) showOf(base string) func(name string) error {
	switch {
	case base == marksName:
		return d.marks
	case base == cleanPointName:
		return d.cleanPoint
	case base == osModeMarker:
		return func(name string) error { return d.visit(SideEntry{File: name, Position: 0, Kind: "os-mode"}) }
	case strings.HasSuffix(base, producersSuffix):
		return d.producers
	case strings.HasSuffix(base, offsetIndexSuffix):
		return func(name string) error { return d.index(name, "offset-index", indexKindOffset) }
	case strings.HasSuffix(base, timeIndexSuffix):
		return func(name string) error { return d.index(name, "time-index", indexKindTime) }
	case strings.HasSuffix(base, digestSuffix):
		return d.digest
	default:
		return nil
	}
}
