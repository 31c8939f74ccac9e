package syncjournal

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"

	"github.com/penstock-io/penstock/internal/fsys"
)

// ItemKind says what an Item of Dump is.
type ItemKind string

// The kinds of items.
const (
	// ItemHeader is one of the two headers of a file.
	ItemHeader ItemKind = "header"
	// ItemRound is a round, whose frames follow.
	ItemRound ItemKind = "round"
	// ItemData is a frame with bytes of a segment.
	ItemData ItemKind = "data"
	// ItemForget is a frame that makes the earlier ones of its log void.
	ItemForget ItemKind = "forget"
	// ItemDamage is a place that cannot be read and was acknowledged.
	ItemDamage ItemKind = "damage"
	// ItemEnd is where the rounds of a generation end.
	ItemEnd ItemKind = "end"
)

// Item is one thing that lies in a file of the journal.
type Item struct {
	Kind ItemKind
	// File and Position say where it is.
	File     string
	Position int64
	// Generation and Round are those it belongs to; 0 where that means nothing. LastRound is that of damage which takes several.
	Generation, Round, LastRound uint64
	// Sound says of a header that it can be believed. A crash may leave one of the two that cannot.
	Sound bool
	// Live says that the next start takes it into account: of a frame with data, that it is written to its segment, of
	// a header, that it is not older than the other.
	Live bool
	// Bytes is the length of a round with its header, or of a file.
	Bytes int64
	// OldestLive and Newest are what a header or a round says of live generations.
	OldestLive, Newest uint64
	// ClosedRounds and ClosedForgets are what a header says of the generation before; Frames and Forgets what a round says of itself
	// and of the rounds before it.
	ClosedRounds, ClosedForgets, Frames, Forgets uint64
	// Frame is the frame; its Data are valid until visit returns, and nil in one that forgets.
	Frame Frame
	// Torn says of the end that an unfinished round lies there: it was never acknowledged.
	Torn bool
	// Fault is what is wrong there, or empty.
	Fault string
}

// Dump shows all that the files of a directory hold to visit, file by file from the older generation on, also what is not live any
// more; a missing directory holds nothing. Damage is an item, and what can be read around it follows. It ends with the first error of
// visit. Other errors are those of Read. Memory is bounded as that of Read is.
func Dump(fsy fsys.FS, dir string, visit func(Item) error) (err error) {
	c, err := Read(fsy, dir)
	if err != nil {
		return err
	}
	d := &dump{contents: c, visit: visit, damage: slices.Clone(c.Damage)}
	var files [2]*journalFile
	defer func() {
		for _, f := range files {
			if f != nil {
				err = errors.Join(err, f.file.Close())
			}
		}
	}()
	last := uint64(0)
	order := []int{0, 1}
	for i := range files {
		if files[i], err = openJournalFile(fsy, dir, i, true); err != nil {
			return err
		}
		if f := files[i]; f != nil && f.whole {
			last = max(last, f.head.last)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(generationOf(files[a]), generationOf(files[b])) })
	for _, i := range order {
		if err := d.file(files, i, last); err != nil {
			return fmt.Errorf("show the sync journal %s: %w", path.Join(dir, fileNames[i]), err)
		}
	}
	return d.damageUpTo("", math.MaxInt64) // of files that are not there
}

func generationOf(f *journalFile) uint64 {
	if f == nil || !f.whole {
		return 0
	}
	return f.head.generation
}

// dump is the state of one Dump.
type dump struct {
	contents *Contents
	visit    func(Item) error
	damage   []*DamageError // not shown yet
	buf      []byte
}

// file shows the file of an index.
func (d *dump) file(files [2]*journalFile, index int, last uint64) error {
	f := files[index]
	if f == nil {
		return nil
	}
	if err := d.headers(f); err != nil {
		return err
	}
	g := generationOf(f)
	if g == 0 {
		return d.damageUpTo(f.name, math.MaxInt64)
	}
	at := slices.IndexFunc(d.contents.parts, func(p *part) bool { return p.generation == g })
	if at >= 0 {
		return d.rounds(f, d.contents.parts[at], at)
	}
	p, err := d.contents.readPart(files, g, last)
	if err != nil {
		return err
	}
	return d.rounds(f, p, -1)
}

// headers shows both headers of a file.
func (d *dump) headers(f *journalFile) error {
	b := make([]byte, pageBytes)
	places := []int64{0, max(0, f.size/pageBytes-1) * pageBytes}
	for _, at := range slices.Compact(places) {
		item := Item{Kind: ItemHeader, File: f.name, Position: at}
		n, err := f.file.ReadAt(b, at)
		if err != nil && !errors.Is(err, io.EOF) {
			if processEnds(err) {
				return err
			}
			item.Fault = err.Error()
		} else if head, ok, err := decodeFileHeader(b[:n]); err == nil && ok {
			item.Sound, item.Generation, item.Bytes, item.OldestLive, item.Newest = true, head.generation, head.size, head.liveFrom, head.last
			item.ClosedRounds, item.ClosedForgets = head.closedRounds, head.closedForgets
			item.Live = f.head == head
		}
		if err := d.visit(item); err != nil {
			return err
		}
	}
	return nil
}

// rounds shows the rounds of a generation; index is its place among the live ones, -1 where it is none.
func (d *dump) rounds(f *journalFile, p *part, index int) (err error) {
	d.buf, err = d.contents.eachRound(p, d.buf, func(i int, h roundHeader, body []byte) error {
		at := p.rounds[i].position
		if err := d.damageUpTo(f.name, at); err != nil {
			return err
		}
		round := Item{
			Kind: ItemRound, File: f.name, Position: at, Generation: p.generation, Round: h.round, Live: index >= 0, Bytes: h.length,
			OldestLive: h.liveFrom, Frames: uint64(h.frames), Forgets: h.forgets,
		}
		if err := d.visit(round); err != nil {
			return err
		}
		return d.frames(round, i, index, h, body)
	})
	if err != nil {
		return err
	}
	if err := d.damageUpTo(f.name, math.MaxInt64); err != nil {
		return err
	}
	if index < 0 { // its damage does no harm any more
		for _, e := range p.damage {
			if err := d.visit(itemOf(e, false)); err != nil {
				return err
			}
		}
	}
	return d.visit(Item{Kind: ItemEnd, File: f.name, Position: p.end, Generation: p.generation, Live: index >= 0, Torn: p.torn})
}

// frames shows the frames of a round.
func (d *dump) frames(round Item, i, index int, h roundHeader, body []byte) (failed error) {
	at := round.Position + roundHeaderBytes
	err := h.decodeFrames(body, func(kind byte, f Frame) {
		item := Item{
			Kind: ItemForget, File: round.File, Position: at, Generation: round.Generation, Round: round.Round, Live: index >= 0, Frame: f,
		}
		if kind == frameData {
			item.Kind, item.Live = ItemData, index >= 0 && d.contents.live(index, i, f.Log)
		}
		at += frameHeaderBytes + int64(len(f.Data))
		if failed == nil {
			failed = d.visit(item)
		}
	})
	return errors.Join(failed, err)
}

// damageUpTo shows the damage of a file, all that is left where none is named, that lies before a position.
func (d *dump) damageUpTo(file string, position int64) error {
	left := d.damage[:0]
	for _, e := range d.damage {
		if file != "" && (e.File != file || e.Position >= position) {
			left = append(left, e)
			continue
		}
		if err := d.visit(itemOf(e, true)); err != nil {
			return err
		}
	}
	d.damage = left
	return nil
}

func itemOf(e *DamageError, live bool) Item {
	return Item{
		Kind: ItemDamage, File: e.File, Position: e.Position, Generation: e.Generation, Round: e.FirstRound, LastRound: e.LastRound, Live: live,
		Fault: e.Reason,
	}
}
