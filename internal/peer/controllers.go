package peer

import (
	"context"
	"errors"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/config"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/wire"
)

const (
	callTimeout    = 10 * time.Second       // of a call whose context has no deadline
	connectTimeout = time.Second            // to wait for a connection before the next controller is tried
	answerTime     = 250 * time.Millisecond // of the caller's deadline, to carry the answer back
	retryMin       = 20 * time.Millisecond
	retryMax       = 250 * time.Millisecond
)

// Controllers finds the active controller among the configured voters: from what nodes say that are not it, and from what the
// metadata stream tells. It is safe for concurrent use.
type Controllers struct {
	conns  *Conns
	clock  lifecycle.Clock
	voters []config.Voter

	metadataHeard atomic.Int64 // in nanoseconds since the Unix epoch; 0 before the first time

	mu      sync.Mutex
	active  config.Voter  // ID is NoNode where unknown
	learned chan struct{} // closed when another one became active
	next    int           // which voter to ask when none is known to be active
}

// NewControllers returns a way to the active controller among voters, of which there is at least one.
func NewControllers(conns *Conns, voters []config.Voter, clock lifecycle.Clock) *Controllers {
	return &Controllers{
		conns: conns, clock: clock, voters: voters, active: config.Voter{ID: model.NoNode}, learned: make(chan struct{}),
	}
}

// Active returns the active controller as far as this node knows; the id is NoNode where it does not.
func (c *Controllers) Active() (model.NodeID, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.active.ID, c.active.Address
}

// Learn takes what another node says of the active controller; NoNode says nothing.
func (c *Controllers) Learn(id model.NodeID, address string) {
	if id == model.NoNode {
		return
	}
	if address == "" {
		for _, v := range c.voters {
			if v.ID == id {
				address = v.Address
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	next := config.Voter{ID: id, Address: address}
	if address == "" || c.active == next {
		return
	}
	c.active = next
	close(c.learned)
	c.learned = make(chan struct{})
}

// MetadataHeard is when the source of metadata spoke last while it knew an active controller; zero before the first time. What
// it has not sent by then it did not have: an older image is not known to be current.
func (c *Controllers) MetadataHeard() time.Time {
	if at := c.metadataHeard.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// learnFromMetadata takes what a frame of the metadata stream says of the active controller.
func (c *Controllers) learnFromMetadata(id model.NodeID, address string) {
	if id != model.NoNode {
		c.metadataHeard.Store(c.clock.Now().UnixNano())
	}
	c.Learn(id, address)
}

// news is closed when another controller became active.
func (c *Controllers) news() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.learned
}

// pause waits before the next attempt: for d, for news of the active controller, or for an early end.
func (c *Controllers) pause(ctx context.Context, d time.Duration, early <-chan struct{}) error {
	timer := c.clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.news():
	case <-early:
	case <-timer.C():
	}
	return nil
}

// target returns whom to ask now.
func (c *Controllers) target() config.Voter {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.active.ID != model.NoNode {
		return c.active
	}
	v := c.voters[c.next%len(c.voters)]
	c.next++
	return v
}

// forget gives up the belief that v is active.
func (c *Controllers) forget(v config.Voter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.active == v {
		c.active = config.Voter{ID: model.NoNode}
	}
}

// learnFrom looks for a hint at the active controller in err, which v answered, and reports whether it names another one.
func (c *Controllers) learnFrom(v config.Voter, err error) bool {
	c.forget(v)
	var remote *wire.RemoteError
	if !errors.As(err, &remote) || remote.Err.Code != model.CodeNotController || remote.Leader.GetHost() == "" {
		return false
	}
	hint := config.Voter{
		ID:      model.NodeID(remote.Leader.GetLeaderId()),
		Address: net.JoinHostPort(remote.Leader.GetHost(), strconv.Itoa(int(remote.Leader.GetPort()))),
	}
	if hint == v {
		return false
	}
	c.Learn(hint.ID, hint.Address)
	return true
}

// timeout is how long a call may take: a little less than its caller waits, who is to hear why nothing came of it.
func (c *Controllers) timeout(ctx context.Context) time.Duration {
	deadline, bounded := ctx.Deadline()
	if !bounded {
		return callTimeout
	}
	left := deadline.Sub(c.clock.Now())
	return left - min(left/8, answerTime)
}

// call runs fn against the active controller until it succeeds, fails for a reason of its own, or ctx ends (after 10 s where
// it has no deadline); then the error is NO_QUORUM, not definite where the last controller asked never answered. Where once is set, fn is not run again after an attempt of unknown outcome.
func (c *Controllers) call(ctx context.Context, once bool, fn func(ctx context.Context, to internalv1.ControllerServiceClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout(ctx))
	defer cancel()
	var last error
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		v := c.target()
		conn, err := c.connect(ctx, v)
		if err == nil {
			err = wire.FromStatus(fn(ctx, internalv1.NewControllerServiceClient(conn)))
			if err == nil {
				c.Learn(v.ID, v.Address)
				return nil
			}
			switch {
			case model.CodeOf(err) == model.CodeRequestTimedOut: // the controller may see the end of ctx before this node does
				return silent()
			case !tryElsewhere(err):
				return err
			}
			if once && !definite(err) {
				return model.Errorf(model.CodeUnknownOutcome,
					"the controller was lost while it worked; look whether the change took effect: %v", err)
			}
		}
		last = err
		if c.learnFrom(v, err) && ctx.Err() == nil {
			continue
		}
		if c.pause(ctx, wait, nil) != nil {
			return model.Errorf(model.CodeNoQuorum,
				"no active controller answered in time; see that a majority of the controllers runs: %v", last)
		}
	}
}

// silent is the failure of a request that a controller took and never answered, as one does without a majority.
func silent() error {
	return &wire.RemoteError{
		Err: model.Errorf(model.CodeNoQuorum, "the controller did not decide in time; see that a majority of the controllers runs, and "+
			"look whether the change took effect"),
		Retryable: true,
	}
}

// connect returns a connection that is up, so that a call over it certainly did not start where this fails.
func (c *Controllers) connect(ctx context.Context, v config.Voter) (*grpc.ClientConn, error) {
	conn, err := c.conns.Get(PurposeControl, v.Address)
	if err != nil {
		return nil, err
	}
	return conn, awaitReady(ctx, conn, v.Address)
}

func awaitReady(ctx context.Context, conn *grpc.ClientConn, address string) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	for {
		state := conn.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.Idle:
			conn.Connect()
		case connectivity.TransientFailure, connectivity.Shutdown:
			return model.Errorf(model.CodeBrokerNotAvailable, "the peer listener %s cannot be reached", address)
		case connectivity.Connecting:
		default:
		}
		if !conn.WaitForStateChange(ctx, state) {
			return model.Errorf(model.CodeBrokerNotAvailable, "the peer listener %s does not answer", address)
		}
	}
}

// tryElsewhere reports whether the failure says that another node is to be asked, or the same one later.
func tryElsewhere(err error) bool {
	switch model.CodeOf(err) { //nolint:exhaustive // all others are the answer itself
	case model.CodeNotController, model.CodeBrokerNotAvailable, model.CodeShuttingDown, model.CodeNoQuorum:
		return true
	default:
		return false
	}
}

// definite reports whether the failed attempt certainly had no effect.
func definite(err error) bool {
	switch model.CodeOf(err) { //nolint:exhaustive // others are not retried
	case model.CodeNotController, model.CodeShuttingDown:
		return true
	default:
		return false
	}
}
