package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"sync"
)

// Group is a set of named goroutines, and of child groups, that live and end together. It is made by [New] or
// [Group.Child] and is safe for concurrent use.
//
// A group begins to stop when [Group.Stop] is called, when one of its goroutines or children fails, or when the
// context given to New is cancelled. From then on its children are stopped one after the other, the youngest first; when
// the last has ended the group's own context is cancelled; when its last goroutine has returned the group is done.
type Group struct {
	name     string
	logger   *slog.Logger
	mu       *sync.Mutex // one mutex for the whole tree: a child's end moves its parent on
	parent   *Group
	ctx      context.Context // the group is the owner of this context
	cancel   context.CancelFunc
	stopping chan struct{}
	done     chan struct{}

	// Guarded by mu.
	unhook   func() bool
	running  map[string]int
	count    int
	children []*Group // live ones, oldest first
	stops    bool
	draining bool
	ended    bool
	err      error
}

// New returns the root of a tree of groups. Values of parent are seen by all goroutines; when parent is cancelled the
// group stops in order. The name stands in errors and log lines; a nil logger means slog.Default. The group must be
// ended by [Group.Stop] or [Group.Wait], or by cancelling parent.
func New(parent context.Context, name string, logger *slog.Logger) *Group {
	if logger == nil {
		logger = slog.Default()
	}
	g := newGroup(parent, name, logger, new(sync.Mutex))
	// The hook may run at once; it takes the mutex, so unhook is set before it acts.
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unhook = context.AfterFunc(parent, g.requestStop)
	return g
}

func newGroup(parent context.Context, name string, logger *slog.Logger, mu *sync.Mutex) *Group {
	ctx, cancel := context.WithCancel(context.WithoutCancel(parent))
	return &Group{
		name: name, logger: logger, mu: mu, ctx: ctx, cancel: cancel,
		stopping: make(chan struct{}), done: make(chan struct{}), running: make(map[string]int),
	}
}

// Child returns a new group that stops before g does. A failure in the child fails g too. A child of a group that
// already stops is born stopped: its context is cancelled and its Go refuses.
func (g *Group) Child(name string) *Group {
	child := newGroup(g.ctx, g.name+"/"+name, g.logger, g.mu)
	g.mu.Lock()
	defer g.mu.Unlock()
	child.parent = g
	g.children = append(g.children, child)
	if g.stops {
		child.beginStop()
	}
	return child
}

// Name is the path of the group from its root, such as "broker/replication".
func (g *Group) Name() string { return g.name }

// Context is cancelled when the goroutines of this group shall end. It carries the values of the context given to New
// and no deadline.
func (g *Group) Context() context.Context { return g.ctx }

// Stopping is closed when the group begins to stop, before its children are stopped.
func (g *Group) Stopping() <-chan struct{} { return g.stopping }

// Done is closed when the group has stopped and everything started in it and in its children has returned.
func (g *Group) Done() <-chan struct{} { return g.done }

// Err returns the first failure of the group or of its children, or nil while there is none.
func (g *Group) Err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// Go runs fn in a goroutine and reports whether it was started; it is refused once the group's context is cancelled.
// An error that fn returns, other than context.Canceled, stops the group, unless one has done so before; a failure
// that shall not end the group is for fn to handle. A panic in fn ends the process. Names need not be unique.
func (g *Group) Go(name string, fn func(ctx context.Context) error) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended || g.ctx.Err() != nil {
		return false
	}
	g.running[name]++
	g.count++
	go g.run(name, fn)
	return true
}

func (g *Group) run(name string, fn func(ctx context.Context) error) {
	returned := false
	var err error
	defer func() {
		if r := recover(); r != nil {
			g.crash(name, r, debug.Stack())
		}
		if !returned {
			err = errors.New("ended by runtime.Goexit")
		}
		g.finish(name, err)
	}()
	ctx := pprof.WithLabels(g.ctx, pprof.Labels("goroutine", g.name+"/"+name))
	pprof.SetGoroutineLabels(ctx)
	err = fn(ctx)
	returned = true
}

// crash ends the process: a goroutine that died half-way leaves state behind that nobody may go on with.
func (g *Group) crash(name string, reason any, stack []byte) {
	g.logger.Error("goroutine panicked, the process ends",
		"group", g.name, "goroutine", name, "panic", fmt.Sprint(reason), "stack", string(stack))
	panic(fmt.Sprintf("lifecycle: goroutine %q of group %q panicked: %v", name, g.name, reason))
}

func (g *Group) finish(name string, err error) {
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("goroutine %s/%s: %w", g.name, name, err)
		g.logger.Error("goroutine failed, its group stops", "group", g.name, "goroutine", name, "error", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.running[name]--; g.running[name] == 0 {
		delete(g.running, name)
	}
	g.count--
	if err != nil {
		g.fail(err)
	}
	g.advance()
}

// Wait blocks until the group is done and returns its first failure. It also ends a group whose goroutines have all
// returned on their own and whose children have all ended. Called from a goroutine of the group it never returns.
func (g *Group) Wait() error {
	g.mu.Lock()
	g.draining = true
	g.advance()
	g.mu.Unlock()
	<-g.done
	return g.Err()
}

// Stop stops the group and waits until it is done, at most until ctx is. Then the order of stopping is given up, all
// contexts of the tree below are cancelled at once, and the error holds a [*StillRunningError] that names what still
// runs. The error also holds the group's first failure, if there was one. Stop may be called more than once; called from
// a goroutine of the group it waits for itself until ctx is done.
func (g *Group) Stop(ctx context.Context) error {
	g.requestStop()
	select {
	case <-g.done:
		return g.Err()
	default:
	}
	select {
	case <-g.done:
		return g.Err()
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.force()
	if g.ended {
		return g.err
	}
	late := &StillRunningError{Group: g.name, Goroutines: g.names(nil), Cause: context.Cause(ctx)}
	return errors.Join(g.err, late)
}

func (g *Group) requestStop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.beginStop()
}

// The methods below need mu.

func (g *Group) beginStop() {
	if g.stops {
		return
	}
	g.stops = true
	close(g.stopping)
	g.advance()
}

// advance takes the next step of the shutdown that is possible now.
func (g *Group) advance() {
	if g.ended {
		return
	}
	if !g.stops {
		if g.draining && g.count == 0 && len(g.children) == 0 {
			g.beginStop()
		}
		return
	}
	for len(g.children) > 0 {
		youngest := g.children[len(g.children)-1]
		youngest.beginStop()
		if !youngest.ended {
			return
		}
	}
	g.cancel()
	if g.count == 0 && !g.ended {
		g.end()
	}
}

func (g *Group) end() {
	g.ended = true
	if g.unhook != nil {
		g.unhook()
	}
	close(g.done)
	if p := g.parent; p != nil {
		p.children = slices.DeleteFunc(p.children, func(c *Group) bool { return c == g })
		p.advance()
	}
}

func (g *Group) fail(err error) {
	for at := g; at != nil; at = at.parent {
		if at.err == nil {
			at.err = err
		}
		at.beginStop()
	}
}

func (g *Group) force() {
	g.beginStop()
	for _, child := range slices.Backward(slices.Clone(g.children)) {
		child.force()
	}
	g.cancel()
	g.advance()
}

func (g *Group) names(into []string) []string {
	for name, n := range g.running {
		full := g.name + "/" + name
		if n > 1 {
			full = fmt.Sprintf("%s (%d times)", full, n)
		}
		into = append(into, full)
	}
	for _, child := range g.children {
		into = child.names(into)
	}
	slices.Sort(into)
	return into
}
