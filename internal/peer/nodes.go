package peer

import (
	"maps"
	"sync"

	"github.com/penstock-io/penstock/internal/config"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// Nodes knows the peer addresses of nodes: what they registered goes before what is configured, and that before what the
// gossip says. It is safe for concurrent use and is a metadata.Publisher.
type Nodes struct {
	mu         sync.RWMutex
	configured map[model.NodeID]string
	registered map[model.NodeID]string
	hinted     map[model.NodeID]string
}

// NewNodes returns an address book that knows the configured voters.
func NewNodes(voters []config.Voter) *Nodes {
	n := &Nodes{
		configured: map[model.NodeID]string{}, registered: map[model.NodeID]string{}, hinted: map[model.NodeID]string{},
	}
	for _, v := range voters {
		n.configured[v.ID] = v.Address
	}
	return n
}

// Publish takes the addresses of the registered brokers.
func (n *Nodes) Publish(image *metadata.Image, delta *metadata.Delta) {
	if !delta.All && len(delta.Brokers) == 0 {
		return
	}
	registered := map[model.NodeID]string{}
	for _, b := range image.Brokers() {
		registered[b.ID] = b.PeerAddress
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.registered = registered
}

// Hint takes an address from the gossip.
func (n *Nodes) Hint(id model.NodeID, address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hinted[id] = address
}

// Address returns the peer address of a node; false where nobody knows it.
func (n *Nodes) Address(id model.NodeID) (string, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	for _, book := range []map[model.NodeID]string{n.registered, n.configured, n.hinted} {
		if address, ok := book[id]; ok && address != "" {
			return address, true
		}
	}
	return "", false
}

// Known returns all addresses, by node; the caller owns the map.
func (n *Nodes) Known() map[model.NodeID]string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	known := maps.Clone(n.hinted)
	maps.Copy(known, n.configured)
	maps.Copy(known, n.registered)
	return known
}
