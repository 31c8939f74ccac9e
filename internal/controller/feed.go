package controller

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

const (
	ringEntries  = 8192
	ringBytes    = 16 << 20
	frameEntries = 512
	frameBytes   = 1 << 20
)

// hub holds the current image and the latest entries, and wakes the feeds.
type hub struct {
	mu      sync.Mutex
	image   *metadata.Image
	ring    []ringEntry // consecutive; the last one made the image
	bytes   int
	leader  model.NodeID
	wake    chan struct{} // closed at every change
	stopped bool

	snapshotMu sync.Mutex // held alone
	snapshot   *internalv1.MetadataSnapshot
}

type ringEntry struct {
	entry *internalv1.MetadataEntry
	size  int
}

func newHub() *hub {
	return &hub{image: metadata.Empty(), leader: model.NoNode, wake: make(chan struct{})}
}

// Image is the current image.
func (h *hub) Image() *metadata.Image {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.image
}

func (h *hub) publish(image *metadata.Image, entry *internalv1.MetadataEntry) {
	size := proto.Size(entry)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.image = image
	h.ring = append(h.ring, ringEntry{entry: entry, size: size})
	h.bytes += size
	for len(h.ring) > 1 && (len(h.ring) > ringEntries || h.bytes > ringBytes) {
		h.bytes -= h.ring[0].size
		h.ring[0] = ringEntry{}
		h.ring = h.ring[1:]
	}
	h.wakeAll()
}

func (h *hub) reset(image *metadata.Image) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.image, h.ring, h.bytes = image, nil, 0
	h.wakeAll()
}

func (h *hub) setLeader(id model.NodeID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.leader != id {
		h.leader = id
		h.wakeAll()
	}
}

func (h *hub) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped = true
	h.wakeAll()
}

func (h *hub) wakeAll() {
	close(h.wake)
	h.wake = make(chan struct{})
}

// snapshotOf encodes an image once, however many feeds want it.
func (h *hub) snapshotOf(image *metadata.Image) *internalv1.MetadataSnapshot {
	h.snapshotMu.Lock()
	defer h.snapshotMu.Unlock()
	if h.snapshot == nil || model.MetadataOffset(h.snapshot.GetMetadataOffset()) != image.Offset() {
		h.snapshot = image.Snapshot()
	}
	return h.snapshot
}

// FeedFrame is a step of a feed: a snapshot, entries, or progress alone. Its messages are shared and must not be changed.
type FeedFrame struct {
	// Snapshot replaces everything where it is not nil.
	Snapshot *internalv1.MetadataSnapshot
	// Entries follow, in order.
	Entries []*internalv1.MetadataEntry
	// CommittedOffset is the metadata offset that this controller has applied.
	CommittedOffset model.MetadataOffset
	// ControllerID is the active controller as far as this one knows; NoNode where it does not.
	ControllerID model.NodeID
	// ControllerAddress is its peer address.
	ControllerAddress string
}

// Feed follows the metadata log as this controller applies it. It is not safe for concurrent use.
type Feed struct {
	controller *Controller
	offset     model.MetadataOffset
	leader     model.NodeID // as last told
	told       time.Time    // when the last frame was given; zero before the first
}

// Follow returns a feed of what comes after the metadata offset. It needs no closing.
func (c *Controller) Follow(from model.MetadataOffset) *Feed {
	return &Feed{controller: c, offset: from, leader: model.NoNode}
}

// Next waits for the next frame: at once the first time and where there is something new, within the progress interval
// otherwise. The errors are those of ctx, and SHUTTING_DOWN.
func (f *Feed) Next(ctx context.Context) (FeedFrame, error) {
	cfg := f.controller.cfg
	for {
		frame, ready, wake, err := f.poll()
		if err != nil {
			return FeedFrame{}, err
		}
		now := cfg.Clock.Now()
		left := cfg.ProgressInterval - now.Sub(f.told)
		if ready || f.told.IsZero() || left <= 0 {
			f.told, f.leader = now, frame.ControllerID
			return frame, nil
		}
		if err := waitFor(ctx, cfg.Clock, wake, left); err != nil {
			return FeedFrame{}, err
		}
	}
}

func waitFor(ctx context.Context, clock lifecycle.Clock, wake <-chan struct{}, d time.Duration) error {
	timer := clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-wake:
	case <-timer.C():
	}
	return nil
}

// poll makes a frame of what there is; ready says that it holds news.
func (f *Feed) poll() (frame FeedFrame, ready bool, wake <-chan struct{}, err error) {
	h := f.controller.hub
	h.mu.Lock()
	image, leader := h.image, h.leader
	wake = h.wake
	stopped := h.stopped
	entries, covered := h.after(f.offset)
	h.mu.Unlock()
	if stopped {
		return FeedFrame{}, false, nil, errStopping()
	}
	frame = FeedFrame{CommittedOffset: image.Offset(), ControllerID: leader}
	if v, ok := f.controller.cfg.voter(leader); ok {
		frame.ControllerAddress = v.Address
	}
	switch {
	case f.offset >= image.Offset():
		return frame, leader != f.leader, wake, nil
	case covered:
		frame.Entries = entries
		f.offset += model.MetadataOffset(len(entries))
	default:
		frame.Snapshot = h.snapshotOf(image)
		f.offset = image.Offset()
	}
	return frame, true, wake, nil
}

// after returns entries that follow the offset, as many as fit a frame; false where the ring does not reach back so far.
func (h *hub) after(offset model.MetadataOffset) ([]*internalv1.MetadataEntry, bool) {
	if len(h.ring) == 0 || offset >= h.image.Offset() {
		return nil, false
	}
	first := model.MetadataOffset(h.ring[0].entry.GetDecidedOn())
	if offset < first {
		return nil, false
	}
	var entries []*internalv1.MetadataEntry
	size := 0
	for _, e := range h.ring[offset-first:] {
		if len(entries) > 0 && (len(entries) == frameEntries || size+e.size > frameBytes) {
			break
		}
		entries = append(entries, e.entry)
		size += e.size
	}
	return entries, true
}
