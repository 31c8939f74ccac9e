package controller

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/telemetry"
)

// streams is the raft.StreamLayer over an injected listener and dialer. It keeps the accepted connections in order to close
// them: Raft's transport leaves them to the other side.
type streams struct {
	net.Listener
	address string
	dial    func(ctx context.Context, address string) (net.Conn, error)
	ended   chan struct{} // has a token after an accepted connection ended

	mu     sync.Mutex
	conns  map[*trackedConn]struct{}
	closed bool
}

type trackedConn struct {
	net.Conn
	owner *streams
}

// voterAddr is the address under which the other voters know this one.
type voterAddr string

// Network is tcp.
func (voterAddr) Network() string { return "tcp" }

// String is the configured peer address.
func (a voterAddr) String() string { return string(a) }

// Addr is the address under which the other voters know this one.
func (s *streams) Addr() net.Addr { return voterAddr(s.address) }

// Dial opens a connection to another voter.
func (s *streams) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return s.dial(ctx, string(address))
}

// Accept waits for a connection of another voter.
func (s *streams) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tracked := &trackedConn{Conn: conn, owner: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, closeAfter(conn, net.ErrClosed)
	}
	s.conns[tracked] = struct{}{}
	return tracked, nil
}

func closeAfter(conn net.Conn, err error) error {
	if closeErr := conn.Close(); closeErr != nil {
		return closeErr
	}
	return err
}

// Close closes the listener and all accepted connections.
func (s *streams) Close() error {
	s.mu.Lock()
	conns := s.conns
	s.conns, s.closed = map[*trackedConn]struct{}{}, true
	s.mu.Unlock()
	err := s.Listener.Close()
	for c := range conns {
		_ = c.Conn.Close() // the other side learns what it needs either way
	}
	return err
}

// Read reads from the connection and notes its end.
func (c *trackedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		select {
		case c.owner.ended <- struct{}{}:
		default:
		}
	}
	return n, err
}

// Close closes the connection.
func (c *trackedConn) Close() error {
	c.owner.mu.Lock()
	delete(c.owner.conns, c)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}

// transport is Raft's network transport; it also notes which voters have answered as followers, and spares Raft the long
// waits between attempts to reach a voter that is away.
type transport struct {
	*raft.NetworkTransport
	streams *streams
	absent  absences

	mu       sync.Mutex
	answered map[raft.ServerID]bool
}

// addresses finds voters by id, so that a changed address in the configuration holds from the next start on.
type addresses map[raft.ServerID]raft.ServerAddress

// ServerAddr returns the configured address of a voter.
func (a addresses) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	address, ok := a[id]
	if !ok {
		return "", model.Errorf(model.CodeBrokerIDNotRegistered, "voter %s has no configured address", id)
	}
	return address, nil
}

func newTransport(cfg Config) *transport {
	self, _ := cfg.voter(cfg.NodeID)
	layer := &streams{
		Listener: cfg.Listener, address: self.Address, dial: cfg.Dial, conns: map[*trackedConn]struct{}{},
		ended: make(chan struct{}, 1),
	}
	known := addresses{}
	for _, v := range cfg.Voters {
		known[serverID(v.ID)] = raft.ServerAddress(v.Address)
	}
	network := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider: known,
		Logger:                telemetry.HCLog(cfg.libraries).Named("raft-net"),
		Stream:                layer,
		MaxPool:               3,
		MaxRPCsInFlight:       1, // pipelining can stall a follower
		Timeout:               max(cfg.ElectionTimeout*4, time.Second),
	})
	return &transport{NetworkTransport: network, streams: layer, answered: map[raft.ServerID]bool{}, absent: newAbsences()}
}

// AppendEntries sends entries, or a heartbeat, to a follower.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest,
	resp *raft.AppendEntriesResponse,
) error {
	err := t.NetworkTransport.AppendEntries(id, target, args, resp)
	heartbeat := len(args.Entries) == 0 && args.PrevLogEntry == 0 && args.LeaderCommitIndex == 0
	switch {
	case err == nil:
		t.absent.reached(id)
	case !heartbeat:
		t.absent.failed(id)
	}
	if err == nil && resp.Success {
		t.mu.Lock()
		t.answered[id] = true
		t.mu.Unlock()
	}
	return err
}

// heardOf reports whether every voter but this one has answered as a follower of this one.
func (t *transport) heardOf(voters []Voter, self model.NodeID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, v := range voters {
		if v.ID != self && !t.answered[serverID(v.ID)] {
			return false
		}
	}
	return true
}
