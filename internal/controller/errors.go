package controller

import (
	"errors"
	"fmt"

	"github.com/penstock-io/penstock/internal/model"
)

var (
	// ErrHungDisk says that a write to the Raft log did not end in time. The process must exit: a leader with a hung disk
	// would hold its leadership for ever.
	ErrHungDisk = errors.New("the disk of the controller's log hangs")
	// ErrLogFailed says that a write to the Raft log failed. What the disk holds is not known any more; the process must exit.
	ErrLogFailed = errors.New("a write to the controller's log failed")
	// ErrSnapshotLoop says that snapshots are installed again and again without progress. A restart breaks the loop.
	ErrSnapshotLoop = errors.New("snapshots are installed again and again without progress")
	// ErrUnknownEntry says that the metadata log holds what this version cannot read. The node must be upgraded.
	ErrUnknownEntry = errors.New("the metadata log holds an entry that this version does not know")
)

// NotControllerError names the active controller to a caller that asked another node. It is the cause of every
// NOT_CONTROLLER error of this package.
type NotControllerError struct {
	ID      model.NodeID // NoNode where it is not known
	Address string       // peer address
}

// Error says who is the active controller.
func (e *NotControllerError) Error() string {
	if e.ID == model.NoNode {
		return "no active controller is known"
	}
	return fmt.Sprintf("the active controller is node %d at %s", e.ID, e.Address)
}

func (c *Controller) notController() error {
	id, address, known := c.ActiveController()
	if !known {
		id = model.NoNode
	}
	return model.Errorf(model.CodeNotController, "node %d is not the active controller: %w", c.cfg.NodeID,
		&NotControllerError{ID: id, Address: address})
}

func errStopping() error {
	return model.Errorf(model.CodeShuttingDown, "the controller is stopping; ask another one")
}
