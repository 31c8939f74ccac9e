package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/storage"
)

// bootIDFile names the running boot of the machine, where the system has such a file.
const bootIDFile = "/proc/sys/kernel/random/boot_id"

// minFeatureLevel is the lowest feature level that this version can run with.
const minFeatureLevel = 1

// Errors of a data directory that cannot be used as configured.
var (
	// ErrDirectoryInUse says that another process has the data directory locked.
	ErrDirectoryInUse = errors.New("the data directory is in use")
	// ErrOtherNode says that the directory belongs to a node of another number.
	ErrOtherNode = errors.New("the data directory belongs to another node")
	// ErrOtherCluster says that the directory belongs to another cluster.
	ErrOtherCluster = errors.New("the data directory belongs to another cluster")
)

// startState is what the directory says about the time before this start; the registration confesses it.
type startState struct {
	replicas  []*internalv1.ReplicaState // what recovery found, with a reason where a seat is lost
	allLost   string
	osLost    bool
	confessed bool
}

// openDirectory locks the data directory, checks whose it is, and takes the mark of a clean shutdown off.
func (n *Node) openDirectory(context.Context) error {
	dir, err := storage.OpenDir(fsys.OS(), n.cfg.DataDir, storage.DirOptions{
		ReserveBytes: storage.DefaultReserveBytes, MinFreeBytes: storage.DefaultMinFreeBytes,
		MaxOpenFiles: n.cfg.OpenFiles, BacklogReads: n.cfg.BacklogReads,
		SyncJournalBytes: n.cfg.SyncJournalBytes,
	})
	if errors.Is(err, fsys.ErrLocked) {
		return fmt.Errorf("%w: %w; stop the other process, or set data.dir", ErrDirectoryInUse, err)
	}
	if err != nil {
		return err
	}
	n.dir = dir
	n.tellOfJournal(dir.Report())
	n.tellOfReplay(dir.Report().Replay)
	meta := dir.Meta()
	if meta.NodeID != model.NoNode && meta.NodeID != n.cfg.NodeID {
		return fmt.Errorf("%w: %s is of node %d and this is node %d; set node.id or data.dir",
			ErrOtherNode, n.cfg.DataDir, meta.NodeID, n.cfg.NodeID)
	}
	boot := bootID()
	n.start.osLost = dir.LostPageCache(boot)
	if dir.Report().Created {
		n.start.allLost = "the data directory is new"
	}
	// Until the loss is confessed the directory keeps the boot it was last used in: the next start must find out again.
	if n.start.osLost {
		boot = meta.BootID
	}
	if err := dir.ClearClean(boot); err != nil {
		return err
	}
	return dir.UpdateMeta(func(m *storage.Meta) { m.NodeID = n.cfg.NodeID })
}

// tellOfJournal says what was wrong with the journal: it is written anew at once, and nothing tells of it later.
func (n *Node) tellOfJournal(report storage.DirReport) {
	switch {
	case report.JournalMissing:
		n.log.Warn("the checkpoints journal is missing or empty and there are logs: each is checked whole, which takes long, and begins with "+
			"its first segment; high watermarks begin at 0. Nothing whole is cut off a log, and what is bad is served as damaged. Look for what "+
			"removed it, and at the disk", "directory", n.cfg.DataDir)
	case report.JournalDamagedBytes == 0:
	case report.JournalTorn:
		n.log.Info("the end of the checkpoints journal was cut off: a write that a crash interrupted, never acknowledged",
			"bytes", report.JournalDamagedBytes)
	default:
		n.log.Warn("the checkpoints journal is damaged: what stands before the damage was used, so positions may be older than the truth "+
			"and more of the logs is checked; nothing whole is cut off one. Look at the disk", "directory", n.cfg.DataDir, "bytes", report.JournalDamagedBytes)
	}
}

// tellOfSeats says that the list of lost seats could not be believed.
func (n *Node) tellOfSeats(allLost string) {
	if allLost != "" {
		n.log.Warn("the list of seats that earlier starts have lost is damaged: which they were is not known, so every replica of this directory "+
			"gives up its seat and comes into sync again; look at the disk", "file", filepath.Join(n.cfg.DataDir, seatsName))
	}
}

// tellOfReplay says what was written to the segments from the sync journal.
func (n *Node) tellOfReplay(replay storage.Replay) {
	for _, damage := range replay.Damage {
		n.log.Error("the sync journal is damaged: it may have held the last copy of what replicas have acknowledged, so all of this "+
			"directory give up their seats; look at the disk", "error", damage)
	}
	if replay.Frames > 0 {
		n.log.Info("replayed the sync journal", "partitions", replay.Logs, "frames", replay.Frames, "bytes", replay.Bytes)
	}
	if replay.Deferred > 0 {
		n.log.Error("the disk has no room for all that the sync journal brings back after the power loss: these logs stay closed, and "+
			"nothing of them is lost; delete or trim topics, or make the disk larger", "partitions", replay.Deferred, "bytes", replay.DeferredBytes)
	}
}

func bootID() string {
	text, err := os.ReadFile(bootIDFile)
	if err != nil {
		return "" // not known: a directory that was not closed cleanly then counts as of another boot
	}
	return strings.TrimSpace(string(text))
}

// takeCluster puts the cluster id on file and lets the gossip begin, or refuses another one than that on file.
func (n *Node) takeCluster(id model.UUID) error {
	if id.IsZero() {
		return nil
	}
	if own := n.dir.Meta().ClusterID; !own.IsZero() && own != id {
		return fmt.Errorf("%w: %s is of cluster %s, the controllers are of %s; set controllers or data.dir",
			ErrOtherCluster, n.cfg.DataDir, own, id)
	}
	if err := n.dir.UpdateMeta(func(m *storage.Meta) { m.ClusterID = id }); err != nil {
		return err
	}
	n.gossip.Join(id)
	return nil
}

// registration describes this incarnation to the controller.
func (n *Node) registration() *internalv1.RegisterBrokerRequest {
	meta := n.dir.Meta()
	req := &internalv1.RegisterBrokerRequest{
		ClusterId: meta.ClusterID.Bytes(), PreviousBrokerEpoch: int64(meta.BrokerEpoch),
		Registration: &internalv1.BrokerRegistrationRecord{
			BrokerId: int32(n.cfg.NodeID), IncarnationId: n.incarnation.Bytes(), DirectoryId: meta.DirectoryID.Bytes(),
			Listeners: n.listeners.records(), PeerAddress: n.cfg.PeerListener.Advertised, Rack: n.cfg.Rack,
			MinFeatureLevel: minFeatureLevel, MaxFeatureLevel: metadata.MaxFeatureLevel,
		},
	}
	if !n.start.confessed {
		req.LostSeats, req.AllSeatsLostReason, req.OsModeSeatsLost = n.start.replicas, n.start.allLost, n.start.osLost
	}
	return req
}

// registered puts the registration on file before anything goes on under it.
func (n *Node) registered(_ context.Context, resp *internalv1.RegisterBrokerResponse) error {
	id, err := model.UUIDFromBytes(resp.GetClusterId())
	if err != nil {
		return err
	}
	if err := n.takeCluster(id); err != nil {
		return err
	}
	epoch := model.BrokerEpoch(resp.GetBrokerEpoch())
	if err := n.dir.UpdateMeta(func(m *storage.Meta) { m.BrokerEpoch, m.BootID = epoch, bootID() }); err != nil {
		return err
	}
	if !n.start.confessed {
		if err := errors.Join(n.dir.LossesRecorded(), keepSeats(fsys.OS(), n.cfg.DataDir, nil)); err != nil {
			return err
		}
		n.start.confessed = true
	}
	n.replicas.SetBrokerEpoch(epoch)
	return nil
}

// Probe says who lives here; it is server.Identity.
func (n *Node) Probe() *internalv1.ProbeResponse {
	meta := n.dir.Meta()
	resp := &internalv1.ProbeResponse{
		NodeId: int32(n.cfg.NodeID), IncarnationId: n.incarnation.Bytes(), ClusterId: meta.ClusterID.Bytes(),
		DirectoryId: meta.DirectoryID.Bytes(),
	}
	if n.quorum != nil {
		resp.QuorumState = internalv1.QuorumState(n.quorum.QuorumState())
		if id := n.quorum.ClusterID(); !id.IsZero() {
			resp.ClusterId = id.Bytes()
		}
	}
	return resp
}
