package controller

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/metadata"
)

// fsm folds the committed entries into the image. Apply is the same on every controller and does no I/O.
type fsm struct {
	hub     *hub
	clock   lifecycle.Clock
	fail    func(error) // stops the node
	metrics *metrics    // nil counts nothing

	running     atomic.Bool // Raft is up: a restore is an installed snapshot, not the start
	broken      error       // set once the log held what cannot be read; Raft's goroutine only
	lastInstall time.Time
	progress    bool // an entry was applied since the last install, or what is installed goes further
}

// applied is what became of an entry: nil, metadata.ErrStaleEntry, metadata.ErrInvalid or ErrUnknownEntry, wrapped.
type applied struct{ err error }

// Apply folds one entry.
func (f *fsm) Apply(log *raft.Log) any {
	if f.broken != nil {
		return applied{err: f.broken}
	}
	entry, image, err := foldEntry(f.hub.Image(), log.Data)
	switch {
	case errors.Is(err, ErrUnknownEntry):
		f.broken = fmt.Errorf("raft index %d: %w", log.Index, err)
		f.fail(f.broken)
		return applied{err: f.broken}
	case err != nil:
		return applied{err: err}
	}
	f.progress = true
	if f.metrics != nil {
		f.metrics.entries.Inc()
	}
	f.hub.publish(image, entry)
	return applied{}
}

// foldEntry decodes an entry and applies it to the image. What cannot be decoded, or holds what this version does not know,
// is ErrUnknownEntry.
func foldEntry(image *metadata.Image, data []byte) (*internalv1.MetadataEntry, *metadata.Image, error) {
	entry := &internalv1.MetadataEntry{}
	if err := proto.Unmarshal(data, entry); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUnknownEntry, err)
	}
	next, _, err := image.Apply(entry)
	if errors.Is(err, metadata.ErrUnknownRecord) {
		return nil, nil, fmt.Errorf("%w: %w", ErrUnknownEntry, err)
	}
	return entry, next, err
}

// Snapshot captures the image; it is written later, while further entries are applied.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if f.broken != nil {
		return nil, f.broken
	}
	return &fsmSnapshot{image: f.hub.Image()}, nil
}

// Restore replaces the image by a snapshot's.
func (f *fsm) Restore(source io.ReadCloser) error {
	image, err := readSnapshot(source)
	if err = errors.Join(err, source.Close()); err != nil {
		f.broken = err
		f.fail(err)
		return err
	}
	if f.running.Load() {
		// A newer snapshot is progress too: another leader's, or of one that took its next while this node installed the last.
		f.progress = f.progress || image.Offset() > f.hub.Image().Offset()
		f.countInstall()
	}
	f.hub.reset(image)
	return nil
}

// countInstall stops the node when a second snapshot is installed within a minute that is no newer, and nothing was applied in between.
func (f *fsm) countInstall() {
	if f.metrics != nil {
		f.metrics.installs.Inc()
	}
	now := f.clock.Now()
	if !f.lastInstall.IsZero() && now.Sub(f.lastInstall) < time.Minute && !f.progress {
		f.fail(ErrSnapshotLoop)
	}
	f.lastInstall, f.progress = now, false
}

// Snapshot files begin with a magic number and a version; see docs/format/metadata.md.
const (
	snapshotMagic   = "PSMDSNAP"
	snapshotVersion = 1
	snapshotHeader  = len(snapshotMagic) + 4
)

type fsmSnapshot struct{ image *metadata.Image }

// Persist writes the image.
func (s *fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	if err := writeSnapshot(sink, s.image); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release does nothing: images are garbage collected.
func (s *fsmSnapshot) Release() {}

func writeSnapshot(w io.Writer, image *metadata.Image) error {
	header := binary.BigEndian.AppendUint32([]byte(snapshotMagic), snapshotVersion)
	body, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(header, image.Snapshot())
	if err != nil {
		return fmt.Errorf("controller: encode the snapshot: %w", err)
	}
	if _, err := w.Write(body); err != nil {
		return fmt.Errorf("controller: write the snapshot: %w", err)
	}
	return nil
}

func readSnapshot(r io.Reader) (*metadata.Image, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("controller: read the snapshot: %w", err)
	}
	if len(data) < snapshotHeader || !bytes.HasPrefix(data, []byte(snapshotMagic)) {
		return nil, fmt.Errorf("%w: not a metadata snapshot", ErrUnknownEntry)
	}
	if v := binary.BigEndian.Uint32(data[len(snapshotMagic):]); v != snapshotVersion {
		return nil, fmt.Errorf("%w: snapshot of version %d", ErrUnknownEntry, v)
	}
	snapshot := &internalv1.MetadataSnapshot{}
	if err := proto.Unmarshal(data[snapshotHeader:], snapshot); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnknownEntry, err)
	}
	image, err := metadata.FromSnapshot(snapshot)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnknownEntry, err)
	}
	return image, nil
}
