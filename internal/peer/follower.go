package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/config"
	"github.com/penstock-io/penstock/internal/controller"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/wire"
)

// silence is how long a source may send nothing, not even progress, before another one is asked.
const silence = 2500 * time.Millisecond

// FollowerConfig is what following the metadata log needs.
type FollowerConfig struct {
	NodeID      model.NodeID
	ClusterID   model.UUID // zero where not known yet
	Voters      []config.Voter
	Loader      *metadata.Loader
	Controllers *Controllers // learns who is active
	Clock       lifecycle.Clock
	Logger      *slog.Logger
}

// Follow keeps the loader up with the metadata log, over a stream from one of the voters, in a goroutine of group. It is for
// nodes that are no voters. Metadata that this version does not understand fails the group.
func Follow(cfg FollowerConfig, conns *Conns, group *lifecycle.Group) {
	f := &follower{cfg: cfg, conns: conns, group: group}
	group.Go("metadata", f.run)
}

type follower struct {
	cfg   FollowerConfig
	conns *Conns
	group *lifecycle.Group
}

func (f *follower) run(ctx context.Context) error {
	wait := retryMin
	for next := int(f.cfg.NodeID); ; next++ { // brokers begin at different voters
		v := f.cfg.Voters[next%len(f.cfg.Voters)]
		heard, err := f.follow(ctx, v)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if fatal(err) {
			return fmt.Errorf("metadata from node %d (%s): %w", v.ID, v.Address, err)
		}
		f.cfg.Logger.Debug("the metadata stream ended", "source", v.ID, "address", v.Address, "error", err)
		if heard {
			wait = retryMin
		}
		if err := lifecycle.Sleep(ctx, f.cfg.Clock, wait); err != nil {
			return err
		}
		wait = min(2*wait, retryMax)
	}
}

// fatal reports whether the node must stop: it cannot hold the image that the others hold.
func fatal(err error) bool {
	return errors.Is(err, metadata.ErrUnknownRecord) || errors.Is(err, metadata.ErrInvalid) ||
		model.IsCode(err, model.CodeInconsistentClusterID)
}

// follow takes frames from one voter until something is wrong with it.
func (f *follower) follow(ctx context.Context, v config.Voter) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := f.conns.Get(PurposeMetadata, v.Address)
	if err != nil {
		return false, err
	}
	if err := awaitReady(ctx, conn, v.Address); err != nil {
		return false, err
	}
	stream, err := internalv1.NewControllerServiceClient(conn).FollowMetadata(ctx, &internalv1.FollowMetadataRequest{
		ClusterId: f.cfg.ClusterID.Bytes(), NodeId: int32(f.cfg.NodeID),
		MetadataOffset: uint64(f.cfg.Loader.Image().Offset()),
	})
	if err != nil {
		return false, wire.FromStatus(err)
	}
	frames, failed := make(chan *internalv1.FollowMetadataResponse), make(chan error, 1)
	done := make(chan struct{})
	if !f.group.Go("metadata-frames", func(context.Context) error {
		defer close(done)
		receive(ctx, stream.Recv, frames, failed)
		return nil
	}) {
		return false, context.Canceled
	}
	defer func() {
		cancel()
		<-done
	}()
	return f.frames(ctx, frames, failed)
}

func (f *follower) frames(
	ctx context.Context, frames <-chan *internalv1.FollowMetadataResponse, failed <-chan error,
) (heard bool, err error) {
	timer := f.cfg.Clock.NewTimer(silence)
	defer timer.Stop()
	for {
		select {
		case frame := <-frames:
			if err := load(f.cfg.Loader, frame); err != nil {
				return heard, err
			}
			f.cfg.Controllers.learnFromMetadata(model.NodeID(frame.GetControllerId()), frame.GetControllerAddress())
			heard = true
			timer.Reset(silence)
		case err := <-failed:
			return heard, err
		case <-ctx.Done():
			return heard, ctx.Err()
		case <-timer.C():
			return heard, fmt.Errorf("nothing was heard for %v", silence)
		}
	}
}

func load(loader *metadata.Loader, frame *internalv1.FollowMetadataResponse) error {
	if snapshot := frame.GetSnapshot(); snapshot != nil {
		if err := loader.LoadSnapshot(snapshot); err != nil {
			return fmt.Errorf("load a metadata snapshot: %w", err)
		}
	}
	if err := loader.LoadEntries(frame.GetEntries()...); err != nil {
		return fmt.Errorf("load metadata entries: %w", err)
	}
	return nil
}

// FollowLocal keeps the loader up with the metadata log of the controller in this process, in a goroutine of group. Metadata
// that this version does not understand fails the group.
func FollowLocal(local *controller.Controller, loader *metadata.Loader, controllers *Controllers, group *lifecycle.Group) {
	group.Go("metadata", func(ctx context.Context) error {
		feed := local.Follow(loader.Image().Offset())
		for {
			frame, err := feed.Next(ctx)
			if err != nil {
				if ctx.Err() != nil || model.IsCode(err, model.CodeShuttingDown) {
					return nil
				}
				return fmt.Errorf("follow the metadata of the own controller: %w", err)
			}
			if frame.Snapshot != nil {
				if err := loader.LoadSnapshot(frame.Snapshot); err != nil {
					return fmt.Errorf("load a metadata snapshot: %w", err)
				}
			}
			if err := loader.LoadEntries(frame.Entries...); err != nil {
				return fmt.Errorf("load metadata entries: %w", err)
			}
			controllers.learnFromMetadata(frame.ControllerID, frame.ControllerAddress)
		}
	})
}
