package peer

import (
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/wire"
)

// Purpose keeps kinds of traffic on connections of their own.
type Purpose int

// The purposes of connections.
const (
	PurposeControl     Purpose = iota // requests to the controller, probes
	PurposeSession                    // heartbeats
	PurposeMetadata                   // the metadata stream
	PurposeReplication                // in-sync replication
	PurposeCatchUp                    // replicas that catch up
)

// String names the purpose.
func (p Purpose) String() string {
	switch p {
	case PurposeControl:
		return "control"
	case PurposeSession:
		return "session"
	case PurposeMetadata:
		return "metadata"
	case PurposeReplication:
		return "replication"
	case PurposeCatchUp:
		return "catch-up"
	default:
		return fmt.Sprintf("purpose %d", int(p))
	}
}

type connKey struct {
	purpose Purpose
	address string
}

// Conns keeps one connection for each address and purpose. It is safe for concurrent use.
type Conns struct {
	limits wire.Limits
	mu     sync.Mutex
	conns  map[connKey]*grpc.ClientConn
	closed bool
}

// NewConns returns an empty cache of connections with the limits.
func NewConns(limits wire.Limits) *Conns {
	return &Conns{limits: limits, conns: map[connKey]*grpc.ClientConn{}}
}

// Get returns the connection to the peer listener at address (host:port), which is made at its first use and made anew by
// itself after it broke. The cache owns it.
func (c *Conns) Get(purpose Purpose, address string) (*grpc.ClientConn, error) {
	key := connKey{purpose, address}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, model.Errorf(model.CodeShuttingDown, "the node is stopping")
	}
	if conn, ok := c.conns[key]; ok {
		return conn, nil
	}
	conn, err := grpc.NewClient("passthrough:///"+address, wire.DialOptions(c.limits)...)
	if err != nil {
		return nil, fmt.Errorf("connect to the peer listener %s: %w", address, err)
	}
	c.conns[key] = conn
	return conn, nil
}

// Close ends all connections and what runs over them. Get fails from then on.
func (c *Conns) Close() error {
	c.mu.Lock()
	conns := c.conns
	c.conns, c.closed = nil, true
	c.mu.Unlock()
	var errs []error
	for key, conn := range conns {
		if err := conn.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close the %v connection to %s: %w", key.purpose, key.address, err))
		}
	}
	return errors.Join(errs...)
}
