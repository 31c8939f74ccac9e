package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/wire"
)

// Config says how to reach a cluster. Only Bootstrap is required.
type Config struct {
	// Bootstrap lists addresses (host:port) of brokers to ask first; one that answers is enough.
	Bootstrap []string
	// ClientID names this client to the brokers, for their logs and quotas; at most 256 bytes.
	ClientID string
	// Logger takes what the client has to say; nil means slog.Default.
	Logger *slog.Logger
	// DialTimeout bounds setting up one connection; 0 means 5 s.
	DialTimeout time.Duration
	// RequestTimeout bounds one request of administration or metadata, retries included; 0 means 15 s.
	RequestTimeout time.Duration
	// MaxMessageBytes is the largest answer accepted; 0 means 16 MiB.
	MaxMessageBytes int
}

// Client is a connection to a cluster. It is safe for concurrent use.
type Client struct {
	config Config
	logger *slog.Logger
	clock  lifecycle.Clock
	group  *lifecycle.Group
	pool   *wire.Pool
	meta   *metadataCache

	mu     sync.Mutex
	conns  map[string]*brokerConn // by address; nil once closed
	next   int                    // rotates over the brokers to ask
	closed bool
}

// A connection to a machine that hangs is given up after these two; gRPC allows no less than 10 s for the first.
const (
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 3 * time.Second
)

// silence is how long an answer may be out before the metadata is asked whether it will ever come.
const silence = time.Second

// maxConns bounds the connections kept; those to addresses no longer known go first.
const maxConns = 1024

// Dial returns a client and checks that one of the bootstrap addresses answers, within ctx.
func Dial(ctx context.Context, config Config) (*Client, error) {
	return dial(ctx, config, wire.DefaultPool())
}

func dial(ctx context.Context, config Config, pool *wire.Pool) (*Client, error) {
	if len(config.Bootstrap) == 0 {
		return nil, newError(model.CodeInvalidRequest, true, "no bootstrap address is given: name at least one host:port")
	}
	for _, address := range config.Bootstrap {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return nil, newError(model.CodeInvalidRequest, true, "the bootstrap address %q is not host:port: %w", address, err)
		}
	}
	config.DialTimeout = orDefault(config.DialTimeout, 5*time.Second)
	config.RequestTimeout = orDefault(config.RequestTimeout, 15*time.Second)
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	c := &Client{
		config: config, logger: config.Logger, clock: lifecycle.RealClock(), pool: pool,
		conns: make(map[string]*brokerConn), next: rand.IntN(len(config.Bootstrap)), //nolint:gosec // spreads load
	}
	c.group = lifecycle.New(wire.WithClientID(context.Background(), config.ClientID), "client", c.logger)
	c.meta = newMetadataCache(c)
	if err := c.meta.refresh(ctx, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("no bootstrap broker answers: %w", err), c.Close())
	}
	if !c.group.Go("metadata", c.meta.watch) || !c.group.Go("metadata-refresh", c.meta.refreshLoop) {
		return nil, ErrClosed
	}
	return c, nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// closeTimeout bounds how long Close waits for goroutines that hang in a callback.
const closeTimeout = 10 * time.Second

// Close ends the client with its producers and consumers, without flushing them (see [Producer.Close]), and waits for
// everything it started.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	conns := c.conns
	c.conns = nil
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := c.group.Stop(ctx)
	for _, conn := range conns {
		err = errors.Join(err, conn.Close())
	}
	return err
}

// context returns a context for a call: bounded by ctx and by the client's life, with the client id.
func (c *Client) context(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(wire.WithClientID(ctx, c.config.ClientID))
	stop := context.AfterFunc(c.group.Context(), func() { cancel(ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// candidates returns the addresses to ask, beginning with another one each time.
func (c *Client) candidates() []string {
	addresses := c.meta.addresses()
	c.mu.Lock()
	c.next++
	from := c.next
	c.mu.Unlock()
	out := make([]string, 0, len(addresses)+len(c.config.Bootstrap))
	seen := make(map[string]bool)
	for _, list := range [][]string{addresses, c.config.Bootstrap} {
		for i := range list {
			if a := list[(from+i)%len(list)]; !seen[a] {
				seen[a] = true
				out = append(out, a)
			}
		}
	}
	return out
}

const (
	backoffStart = 20 * time.Millisecond
	backoffMax   = 500 * time.Millisecond
)

// backoff returns how long to wait after so many failures in a row, with jitter.
func backoff(failures int) time.Duration {
	d := backoffMax
	if failures < 6 {
		d = min(backoffStart<<max(failures-1, 0), backoffMax)
	}
	return d/2 + rand.N(d/2+1) //nolint:gosec // jitter
}

// call runs f against one broker after the other until it succeeds, fails for good, or may have had an effect that must not
// happen twice (again says that it may); all within ctx and RequestTimeout.
func (c *Client) call(ctx context.Context, again bool, f func(context.Context, *grpc.ClientConn) error) error {
	ctx, cancel := c.context(ctx)
	defer cancel()
	ctx, stop := context.WithTimeout(ctx, c.config.RequestTimeout)
	defer stop()
	var last error
	for round := 1; ; round++ {
		candidates := c.candidates()
		for i, address := range candidates {
			err := c.attempt(ctx, address, c.patience(ctx, len(candidates)-i), f)
			if err == nil {
				return nil
			}
			var e *Error
			typed := errors.As(err, &e)
			// What a broker said tells more than that another one cannot be reached, or that the time was over.
			if last == nil || ctx.Err() == nil && !(typed && e.is(model.CodeBrokerNotAvailable, model.CodeRequestTimedOut)) {
				last = err
			}
			switch {
			case typed && e.is(model.CodeRequestTimedOut) && !e.Definite && !again:
				return unclear(last)
			case !typed, !e.Retryable, !e.Definite && !again:
				return err
			}
		}
		if lifecycle.Sleep(ctx, c.clock, backoff(round)) != nil {
			return last
		}
	}
}

// unclear is the failure of attempts that ran out of time: the reason that one of them heard, but the outcome of the last one is
// not known.
func unclear(reason error) error {
	var e *Error
	if !errors.As(reason, &e) || !e.Definite {
		return reason
	}
	out := *e
	out.Definite = false
	out.Detail += "; the last attempt was not answered in time, look whether it took effect"
	return &out
}

// patience is how long a connection is waited for where so many addresses are left to ask: one that hangs, or takes
// connections and stays silent, must not use up the time of the others. The attempt to connect goes on meanwhile.
func (c *Client) patience(ctx context.Context, left int) time.Duration {
	wait := c.config.DialTimeout
	if left <= 1 {
		return wait
	}
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, deadline.Sub(c.clock.Now())/time.Duration(left))
	}
	return min(wait, silence)
}

func (c *Client) attempt(ctx context.Context, address string, patience time.Duration, f func(context.Context, *grpc.ClientConn) error) error {
	conn, err := c.connectedWithin(ctx, address, patience)
	if err == nil {
		err = toError(f(ctx, conn))
	}
	if errors.Is(context.Cause(ctx), ErrClosed) {
		return ErrClosed
	}
	return err
}

func addressOf(host string, port int32) string {
	if host == "" {
		return ""
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}
