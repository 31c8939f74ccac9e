package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/penstock-io/penstock/internal/lifecycle"
)

// Protocol is what a connection speaks, told by its first bytes.
type Protocol int

const (
	// ProtocolHTTP2 is gRPC: the preface of HTTP/2. Its bytes are seen by whoever accepts the connection.
	ProtocolHTTP2 Protocol = iota
	// ProtocolRaft is what DialRaft speaks. Its prefix is taken off.
	ProtocolRaft
)

// String returns the name of the protocol.
func (p Protocol) String() string {
	switch p {
	case ProtocolHTTP2:
		return "http2"
	case ProtocolRaft:
		return "raft"
	default:
		return fmt.Sprintf("protocol %d", int(p))
	}
}

const (
	http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	raftPrefix   = "PENSTOCK-RAFT/1\n"
	// firstBytesTimeout bounds the wait for the first bytes of a connection, and for somebody to accept it.
	firstBytesTimeout = 5 * time.Second
	// maxUndecided is how many connections may wait so at a time.
	maxUndecided = 256
)

// Mux splits one listener among protocols. It is made by [NewMux] and ends with its group.
type Mux struct {
	listener  net.Listener
	group     *lifecycle.Group
	logger    *slog.Logger
	undecided chan struct{}
	protocols []*protocolListener
}

// NewMux accepts connections of listener, which it owns from here on, in goroutines of group, and hands each to the
// listener of its protocol. Connections that begin otherwise, that send nothing for 5 s, or whose protocol has no
// listener, are closed and logged. Only protocols named here are served.
func NewMux(group *lifecycle.Group, listener net.Listener, logger *slog.Logger, protocols ...Protocol) *Mux {
	if logger == nil {
		logger = slog.Default()
	}
	m := &Mux{listener: listener, group: group, logger: logger, undecided: make(chan struct{}, maxUndecided)}
	for _, p := range protocols {
		l := &protocolListener{
			protocol: p, addr: listener.Addr(), conns: make(chan net.Conn), closed: make(chan struct{}),
		}
		l.prefix, l.replay = prefixOf(p)
		m.protocols = append(m.protocols, l)
	}
	started := group.Go("mux-close", func(ctx context.Context) error {
		<-ctx.Done()
		m.close()
		return nil
	})
	if !started || !group.Go("mux-accept", m.accept) {
		m.close()
	}
	return m
}

func prefixOf(p Protocol) (prefix []byte, replay bool) {
	switch p {
	case ProtocolHTTP2:
		return []byte(http2Preface), true
	case ProtocolRaft:
		return []byte(raftPrefix), false
	default:
		panic(fmt.Sprintf("wire: %v is not known", p))
	}
}

// Listener returns the listener for one of the protocols that NewMux was given. Closing it refuses that protocol alone;
// its Accept fails with net.ErrClosed then, and when the mux has ended.
func (m *Mux) Listener(p Protocol) net.Listener {
	for _, l := range m.protocols {
		if l.protocol == p {
			return l
		}
	}
	panic(fmt.Sprintf("wire: the mux does not serve %v", p))
}

func (m *Mux) close() {
	if err := m.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		m.logger.Warn("closing a listener failed", "address", m.listener.Addr().String(), "error", err)
	}
	for _, l := range m.protocols {
		l.shut()
	}
}

func (m *Mux) accept(ctx context.Context) error {
	for wait := time.Duration(0); ; {
		conn, err := m.listener.Accept()
		switch {
		case err == nil:
			wait = 0
			m.admit(conn)
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		default: // out of descriptors, or the like: others may go on
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			m.logger.Warn("accepting a connection failed, trying again", "address", m.listener.Addr().String(),
				"wait", wait, "error", err)
			if lifecycle.Sleep(ctx, lifecycle.RealClock(), wait) != nil {
				return nil
			}
		}
	}
}

func (m *Mux) admit(conn net.Conn) {
	select {
	case m.undecided <- struct{}{}:
	default:
		m.refuse(conn, fmt.Errorf("%d connections have not said yet what they speak", maxUndecided))
		return
	}
	started := m.group.Go("mux-sniff", func(ctx context.Context) error {
		defer func() { <-m.undecided }()
		if err := m.decide(ctx, conn); err != nil {
			m.refuse(conn, err)
		}
		return nil
	})
	if !started {
		<-m.undecided
		m.refuse(conn, net.ErrClosed)
	}
}

func (m *Mux) refuse(conn net.Conn, why error) {
	level := slog.LevelWarn
	if errors.Is(why, io.EOF) || errors.Is(why, net.ErrClosed) {
		level = slog.LevelDebug // a probe, or our own end
	}
	m.logger.Log(context.Background(), level, "connection closed", "remote", conn.RemoteAddr().String(), "local", conn.LocalAddr().String(), "reason", why)
	closeQuietly(conn)
}

// closeQuietly closes what is given up anyway: its error changes nothing.
func closeQuietly(conn net.Conn) { _ = conn.Close() }

// decide reads the first bytes and hands the connection over.
func (m *Mux) decide(ctx context.Context, conn net.Conn) error {
	stop := context.AfterFunc(ctx, func() { closeQuietly(conn) })
	defer stop()
	if err := conn.SetReadDeadline(time.Now().Add(firstBytesTimeout)); err != nil {
		return fmt.Errorf("setting a deadline: %w", err)
	}
	l, seen, err := m.sniff(conn)
	if err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("clearing a deadline: %w", err)
	}
	if l.replay {
		conn = &replayConn{Conn: conn, seen: seen}
	}
	if !stop() {
		return net.ErrClosed
	}
	return l.hand(ctx, conn)
}

// sniff reads byte ranges until exactly one prefix is there in full, and never beyond it.
func (m *Mux) sniff(conn io.Reader) (*protocolListener, []byte, error) {
	longest := 0
	for _, l := range m.protocols {
		longest = max(longest, len(l.prefix))
	}
	seen := make([]byte, 0, longest)
	for {
		next := longest
		possible := false
		for _, l := range m.protocols {
			if bytes.Equal(seen, l.prefix) {
				return l, seen, nil
			}
			if len(seen) < len(l.prefix) && bytes.HasPrefix(l.prefix, seen) {
				next, possible = min(next, len(l.prefix)), true
			}
		}
		if !possible {
			return nil, nil, fmt.Errorf("it begins with %q, which no protocol of this port does", seen)
		}
		n, err := conn.Read(seen[len(seen):next])
		seen = seen[:len(seen)+n]
		if err != nil && n == 0 {
			return nil, nil, fmt.Errorf("it ended or fell silent after %d bytes: %w", len(seen), err)
		}
	}
}

// protocolListener is the net.Listener of one protocol.
type protocolListener struct {
	protocol Protocol
	prefix   []byte
	replay   bool
	addr     net.Addr
	conns    chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func (l *protocolListener) hand(ctx context.Context, conn net.Conn) error {
	timer := lifecycle.RealClock().NewTimer(firstBytesTimeout)
	defer timer.Stop()
	select {
	case l.conns <- conn:
		return nil
	case <-l.closed:
		return fmt.Errorf("the listener for %v: %w", l.protocol, net.ErrClosed)
	case <-timer.C():
		return fmt.Errorf("nobody accepted %v for %v", l.protocol, firstBytesTimeout)
	case <-ctx.Done():
		return net.ErrClosed
	}
}

func (l *protocolListener) shut() { l.once.Do(func() { close(l.closed) }) }

// Accept implements net.Listener.
func (l *protocolListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "accept", Net: l.addr.Network(), Addr: l.addr, Err: net.ErrClosed}
	}
}

// Close implements net.Listener.
func (l *protocolListener) Close() error {
	l.shut()
	return nil
}

// Addr implements net.Listener.
func (l *protocolListener) Addr() net.Addr { return l.addr }

// replayConn yields the bytes that were looked at again.
type replayConn struct {
	net.Conn
	seen []byte
}

// Read implements net.Conn.
func (c *replayConn) Read(p []byte) (int, error) {
	if len(c.seen) > 0 {
		n := copy(p, c.seen)
		c.seen = c.seen[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// DialRaft opens a connection for Raft to the peer listener at address and sends the prefix. ctx bounds both.
func DialRaft(ctx context.Context, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connecting to the peer listener %s: %w", address, err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		err = conn.SetWriteDeadline(deadline)
	}
	if err == nil {
		_, err = io.WriteString(conn, raftPrefix)
	}
	if err == nil {
		err = conn.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		closeQuietly(conn)
		return nil, fmt.Errorf("greeting the peer listener %s: %w", address, err)
	}
	return conn, nil
}
