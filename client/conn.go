package client

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/wire"
)

// brokerConn is the connection to one address, with the reason why it is not up: gRPC keeps that to itself, and shows no
// change while it fails again and again.
type brokerConn struct {
	*grpc.ClientConn
	address string

	mu      sync.Mutex
	waiters map[*dialWaiter]struct{}
}

type dialWaiter struct{ cancel context.CancelCauseFunc }

// dial is how gRPC reaches the broker; a failure wakes everybody who waits for the connection.
func (b *brokerConn) dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		for w := range b.waiters {
			w.cancel(err)
		}
	}
	return conn, err
}

// ready waits until the connection is up, the next attempt to make it has failed, or ctx ends.
func (b *brokerConn) ready(ctx context.Context, timeout time.Duration) error {
	if b.GetState() == connectivity.Ready {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, timeout)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := &dialWaiter{cancel: cancel}
	b.mu.Lock()
	b.waiters[w] = struct{}{}
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.waiters, w)
	}()
	b.Connect()
	b.ResetConnectBackoff()
	for {
		state := b.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.Idle:
			b.Connect()
		case connectivity.Shutdown:
			return newError(model.CodeBrokerNotAvailable, true, "the connection to %s was closed", b.address)
		case connectivity.Connecting, connectivity.TransientFailure:
		}
		if !b.WaitForStateChange(ctx, state) {
			cause := context.Cause(ctx)
			if errors.Is(cause, context.DeadlineExceeded) {
				return newError(model.CodeBrokerNotAvailable, true, "%s does not answer", b.address)
			}
			return newError(model.CodeBrokerNotAvailable, true, "cannot connect to %s: %w", b.address, cause)
		}
	}
}

// conn returns the one connection to address, which may not be up yet.
func (c *Client) conn(address string) (*brokerConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	if conn := c.conns[address]; conn != nil {
		return conn, nil
	}
	if len(c.conns) >= maxConns {
		return nil, newError(model.CodeTooManyRequests, true, "%d connections are open, no more are made", maxConns)
	}
	conn := &brokerConn{address: address, waiters: make(map[*dialWaiter]struct{})}
	options := append(wire.DialOptions(wire.Limits{
		ConnectTimeout: c.config.DialTimeout, MaxMessageBytes: c.config.MaxMessageBytes, Pool: c.pool,
		KeepaliveTime: keepaliveTime, KeepaliveTimeout: keepaliveTimeout,
	}), grpc.WithUserAgent("penstock-go-client"), grpc.WithContextDialer(conn.dial))
	var err error
	if conn.ClientConn, err = grpc.NewClient("passthrough:///"+address, options...); err != nil {
		return nil, newError(model.CodeBrokerNotAvailable, true, "cannot connect to %s: %w", address, err)
	}
	c.conns[address] = conn
	return conn, nil
}

// connected returns the connection to address once it is up. That it is not is definite: nothing was sent.
func (c *Client) connected(ctx context.Context, address string) (*grpc.ClientConn, error) {
	return c.connectedWithin(ctx, address, c.config.DialTimeout)
}

// connectedWithin is connected with another bound than DialTimeout.
func (c *Client) connectedWithin(ctx context.Context, address string, timeout time.Duration) (*grpc.ClientConn, error) {
	conn, err := c.conn(address)
	if err != nil {
		return nil, err
	}
	if err := conn.ready(ctx, timeout); err != nil {
		return nil, err
	}
	return conn.ClientConn, nil
}

// prune closes connections to addresses that keep reports false for; streams on them fail and go elsewhere.
func (c *Client) prune(keep func(address string) bool) {
	var old []*brokerConn
	c.mu.Lock()
	for address, conn := range c.conns {
		if !keep(address) {
			old = append(old, conn)
			delete(c.conns, address)
		}
	}
	c.mu.Unlock()
	for _, conn := range old {
		if err := conn.Close(); err != nil {
			c.logger.Debug("closing a connection failed", "error", err)
		}
	}
}
