package sim

import (
	"slices"
	"time"

	"github.com/penstock-io/penstock/internal/model"
)

// node is a machine with one process on it: a broker, for some with a controller, or a client.
type node struct {
	w      *world
	id     model.NodeID
	index  int
	client bool

	up     bool // the process runs
	hostUp bool // the machine has power
	inc    int  // number of the process
	frozen bool
	late   []func() // what a frozen process will do when it goes on

	clockOffset time.Duration
	clockRate   float64 // speed of its timers

	replaced, lostCache         bool // what was lost and has not been said at a registration yet
	everReplaced, everLostCache bool

	disk   *disk
	broker *broker
	voter  *voter // nil where it has no vote
}

// run does something in process inc, now or when it goes on after a pause; never once it has died.
func (n *node) run(inc int, fn func()) {
	if !n.up || n.inc != inc {
		return
	}
	if n.frozen {
		n.w.faults.bite(faultPause, n.index)
		n.late = append(n.late, fn)
		return
	}
	fn()
}

// after is a timer of the process.
func (n *node) after(d time.Duration, fn func()) {
	inc := n.inc
	n.w.after(time.Duration(float64(d)*n.clockRate), func() { n.run(inc, fn) })
}

// every is a periodic timer of the process.
func (n *node) every(d time.Duration, fn func()) {
	n.after(d, func() {
		fn()
		n.every(d, fn)
	})
}

// mono is the process's clock for durations.
func (n *node) mono() time.Duration {
	return time.Duration(float64(n.w.now)/n.clockRate) + n.clockOffset
}

// wall is the process's clock for dates.
func (n *node) wall() time.Time { return time.UnixMilli(1_700_000_000_000).Add(n.mono()) }

// freeze stops the process until thaw.
func (n *node) freeze() { n.frozen = true }

func (n *node) thaw() {
	if !n.frozen {
		return
	}
	n.frozen = false
	late, inc := n.late, n.inc
	n.late = nil
	for i, fn := range late {
		if !n.up || n.inc != inc {
			return
		}
		if n.frozen {
			n.late = append(n.late, late[i:]...)
			return
		}
		fn()
	}
}

// network is what lies between nodes.
type network struct {
	w     *world
	cuts  [][]int           // how many faults cut the way from one node to another
	slow  [][]time.Duration // what faults add to the delay
	conns []*conn
}

func newNetwork(w *world, n int) *network {
	net := &network{w: w}
	for range n {
		net.cuts = append(net.cuts, make([]int, n))
		net.slow = append(net.slow, make([]time.Duration, n))
	}
	return net
}

func (net *network) cutFrom(from, to *node) bool { return net.cuts[from.index][to.index] > 0 }

// linked says whether both ways are open.
func (net *network) linked(a, b *node) bool { return !net.cutFrom(a, b) && !net.cutFrom(b, a) }

func (net *network) delay(from, to *node) time.Duration {
	if from == to {
		return net.w.between(5*time.Microsecond, 50*time.Microsecond)
	}
	d := net.w.between(100*time.Microsecond, 800*time.Microsecond)
	if net.w.chance(0.02) {
		d += net.w.between(time.Millisecond, 30*time.Millisecond)
	}
	if extra := net.slow[from.index][to.index]; extra > 0 {
		net.w.faults.bite(faultSlowLink, to.index)
		d += net.w.between(extra/2, extra)
	}
	return d
}

// datagram is one message on its own: it may overtake others, and is lost where the way is cut or the receiver's process is
// another than when it was sent.
func (net *network) datagram(from, to *node, fn func()) {
	inc := to.inc
	net.w.after(net.delay(from, to), func() {
		if net.cutFrom(from, to) {
			net.w.faults.bite(faultCut, from.index, to.index)
			return
		}
		if to.hostUp {
			to.run(inc, fn)
		}
	})
}

// callStatus says how a call ended.
type callStatus uint8

const (
	callAnswered callStatus = iota
	callRefused             // nobody listened: it had no effect
	callTimedOut            // it may have had its effect, or still have it
)

// call sends a request and waits. done is called once, in the process that asked.
func (net *network) call(from, to *node, timeout time.Duration, serve func(answer func(any)), done func(any, callStatus)) {
	over := false
	end := func(v any, s callStatus) {
		if !over {
			over = true
			done(v, s)
		}
	}
	from.after(timeout, func() { end(nil, callTimedOut) })
	if !to.up {
		if to.hostUp && net.linked(from, to) {
			from.after(2*net.delay(from, to), func() { end(nil, callRefused) })
		}
		return
	}
	fromInc := from.inc
	net.datagram(from, to, func() {
		serve(func(v any) {
			if from.inc == fromInc {
				net.datagram(to, from, func() { end(v, callAnswered) })
			}
		})
	})
}

// conn is a stream between two processes: in order each way, and what a cut link holds up arrives late, unless an end has
// given up on it.
type conn struct {
	net    *network
	ends   [2]*node
	incs   [2]int
	open   [2]bool
	last   [2]time.Duration // when the latest of what an end sent arrives
	held   [2][]func()
	closed [2]func() // told when an end closes, but by itself
}

// dial opens a stream. Where nobody listens the near end closes soon, or late where the other machine is gone.
func (net *network) dial(from, to *node) *conn {
	c := &conn{net: net, ends: [2]*node{from, to}, incs: [2]int{from.inc, to.inc}, open: [2]bool{true, true}}
	net.conns = slices.DeleteFunc(net.conns, func(c *conn) bool { return !c.open[0] && !c.open[1] })
	net.conns = append(net.conns, c)
	switch {
	case !to.hostUp || net.cutFrom(from, to) || net.cutFrom(to, from):
		c.giveUp(0)
	case !to.up:
		c.open[1] = false
		net.w.after(2*net.delay(from, to), func() { c.drop(0) })
	}
	return c
}

// alive says whether an end can still send and receive.
func (c *conn) alive(side int) bool { return c.open[side] }

// send sends from an end to the other.
func (c *conn) send(side int, fn func()) {
	if !c.open[side] {
		return
	}
	from, to := c.ends[side], c.ends[1-side]
	at := max(c.net.w.now+c.net.delay(from, to), c.last[side])
	c.last[side] = at
	c.net.w.after(at-c.net.w.now, func() { c.arrive(side, fn) })
}

// arrive takes what an end has sent.
func (c *conn) arrive(side int, fn func()) {
	from, to := c.ends[side], c.ends[1-side]
	if c.net.cutFrom(from, to) || len(c.held[side]) > 0 {
		c.net.w.faults.bite(faultCut, from.index, to.index)
		c.held[side] = append(c.held[side], fn)
		return
	}
	switch {
	case !to.hostUp:
	case !to.up || to.inc != c.incs[1-side] || !c.open[1-side]:
		c.open[1-side] = false
		if !c.net.cutFrom(to, from) {
			c.net.w.after(c.net.delay(to, from), func() { c.drop(side) }) // a reset comes back
		}
	default:
		to.run(to.inc, func() {
			if c.open[1-side] {
				fn()
			}
		})
	}
}

// healed lets go on what a cut link held up, in order.
func (c *conn) healed(side int) {
	held := c.held[side]
	c.held[side] = nil
	for _, fn := range held {
		at := max(c.net.w.now+c.net.delay(c.ends[side], c.ends[1-side]), c.last[side])
		c.last[side] = at
		c.net.w.after(at-c.net.w.now, func() { c.arrive(side, fn) })
	}
}

// close closes an end by its process; the other hears of it behind what was sent.
func (c *conn) close(side int) {
	if !c.open[side] {
		return
	}
	c.send(side, func() { c.drop(1 - side) })
	c.open[side] = false
}

// drop closes an end from outside and tells its process.
func (c *conn) drop(side int) {
	if !c.open[side] {
		return
	}
	c.open[side] = false
	n := c.ends[side]
	if c.closed[side] != nil {
		n.run(c.incs[side], c.closed[side])
	}
}

// giveUp lets an end notice after a while that nothing comes through.
func (c *conn) giveUp(side int) {
	from, to := c.ends[side], c.ends[1-side]
	c.net.w.after(c.net.w.between(300*time.Millisecond, 4*time.Second), func() {
		if !c.net.linked(from, to) || !to.hostUp || to.inc != c.incs[1-side] {
			c.drop(side)
			c.keepalive(1 - side)
		}
	})
}

// keepalive lets an end find out that the other has given up, as soon as a packet gets through to be answered by a reset.
func (c *conn) keepalive(side int) {
	from, to := c.ends[side], c.ends[1-side]
	c.net.w.after(c.net.w.between(100*time.Millisecond, 2*time.Second), func() {
		switch {
		case !c.open[side]:
		case c.net.linked(from, to):
			c.drop(side)
		default:
			c.keepalive(side)
		}
	})
}

// cut cuts the way from one node to another until heal.
func (net *network) cut(from, to *node) {
	net.cuts[from.index][to.index]++
	for _, c := range net.conns {
		for side := range 2 {
			if c.ends[0] == from && c.ends[1] == to || c.ends[1] == from && c.ends[0] == to {
				c.giveUp(side)
			}
		}
	}
}

func (net *network) heal(from, to *node) {
	net.cuts[from.index][to.index]--
	if net.cuts[from.index][to.index] > 0 {
		return
	}
	for _, c := range net.conns {
		for side := range 2 {
			if c.ends[side] == from && c.ends[1-side] == to {
				c.healed(side)
			}
		}
	}
}

// processDied closes the streams of a process that died: the machine's kernel says so to the others, unless it died too.
func (net *network) processDied(n *node, power bool) {
	for _, c := range net.conns {
		for side := range 2 {
			if c.ends[side] != n || !c.open[side] {
				continue
			}
			if power {
				c.open[side] = false
				c.giveUp(1 - side)
			} else {
				c.close(side)
			}
		}
	}
}
