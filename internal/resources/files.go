package resources

import (
	"errors"
	"fmt"

	"github.com/penstock-io/penstock/internal/config"
)

// ErrFiles says that the process may open fewer files than the configuration needs at least.
var ErrFiles = errors.New("too few open files")

// What descriptors are needed for.
const (
	ownFiles     = 64      // listeners, locks, the journal, the Raft log and its snapshots, and what the runtime takes
	filesPerNode = 16      // connections to another node and from it
	leastNodes   = 3       // a cluster may grow
	leastClients = 128     // connections of clients
	goodClients  = 1024    // and of as many as a small installation has
	leastOpen    = 256     // segments kept open
	goodOpen     = 4096    // as many as storage keeps where nobody counts
	mostOpen     = 1 << 16 // more files make no difference
)

// FilesPlan says how descriptors are divided.
type FilesPlan struct {
	OpenFiles int    // how many files of segments are kept open; 0 on a node that has none
	Warning   string // empty where there is enough
}

// PlanFiles divides the descriptors that the process may have, limit, or 0 where there is no limit, among what the configuration
// needs. Where that is too little the error wraps ErrFiles. Files with unsynced bytes stay open beyond OpenFiles, and
// so half of what is left is not planned.
func PlanFiles(cfg *config.Config, limit int64) (FilesPlan, error) {
	nodes := max(leastNodes, len(cfg.Controllers), len(cfg.GossipSeeds))
	reserved := int64(ownFiles + filesPerNode*nodes)
	least, good := reserved, reserved
	if cfg.Roles.Broker {
		reserved += leastClients
		least = reserved + int64(max(cfg.OpenFiles, leastOpen))
		good = least - leastClients + goodClients + goodOpen - leastOpen
	}
	if limit > 0 && limit < least {
		return FilesPlan{}, fmt.Errorf("%w: the process may open %d and needs %d at least; %s", ErrFiles, limit, least, filesAdvice(cfg))
	}
	var plan FilesPlan
	if limit > 0 && limit < good {
		plan.Warning = fmt.Sprintf("open files are scarce: the process may open %d, and %d are recommended; %s", limit, good, filesAdvice(cfg))
	}
	switch {
	case !cfg.Roles.Broker:
	case cfg.OpenFiles > 0:
		plan.OpenFiles = cfg.OpenFiles
	case limit == 0:
		plan.OpenFiles = goodOpen
	default:
		plan.OpenFiles = int(min(mostOpen, max(leastOpen, (limit-reserved)/2)))
	}
	return plan, nil
}

func filesAdvice(cfg *config.Config) string {
	advice := "raise the hard limit: ulimit -Hn of the shell, LimitNOFILE of a systemd unit, ulimits.nofile of a container"
	if cfg.OpenFiles > 0 {
		advice += fmt.Sprintf("; or lower storage.open.files (%d)", cfg.OpenFiles)
	}
	return advice
}
