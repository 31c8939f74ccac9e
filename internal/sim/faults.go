package sim

import (
	"slices"
	"time"
)

// faultKind is a kind of thing that goes wrong.
type faultKind uint8

const (
	faultKill       faultKind = iota // kill -9 of a process
	faultPower                       // a machine loses power, and unsynced pages with it
	faultPause                       // a process stands still
	faultCut                         // a way between machines is cut, one or both directions
	faultSlowLink                    // a way between machines is slow
	faultSlowDisk                    // syncs take long
	faultSync                        // a sync fails
	faultReplace                     // a disk is replaced by an empty one
	faultController                  // the active controller changes
	faultStop                        // a process stops cleanly and starts again
	faultDecay                       // a bit flips on the disk; storage mode alone
	faultCrash                       // a process or its machine dies within an operation on the disk; storage mode alone
	faultKinds
)

func (k faultKind) String() string {
	return [faultKinds]string{
		"kill", "power loss", "pause", "cut link", "slow link", "slow disk", "failed sync", "new disk", "controller change",
		"clean stop", "decay", "crash inside",
	}[k]
}

// fault is one that was brought about; it counts once it had an effect.
type fault struct {
	kind   faultKind
	nodes  []int
	bitten bool
	over   bool
}

// faults brings things about and counts what of it bit.
type faults struct {
	w      *world
	open   []*fault
	bitten [faultKinds]int
	made   [faultKinds]int
	ended  bool
	undo   []func() // what heals the faults that still hold
}

// bite notes that a fault of a kind on one of the nodes had an effect.
func (f *faults) bite(kind faultKind, nodes ...int) {
	for _, x := range f.open {
		if x.kind == kind && !x.bitten && slices.ContainsFunc(nodes, func(n int) bool { return slices.Contains(x.nodes, n) }) {
			x.bitten = true
			f.bitten[kind]++
		}
	}
}

func (f *faults) total() int {
	n := 0
	for _, v := range f.bitten {
		n += v
	}
	return n
}

func (f *faults) begin(kind faultKind, nodes ...int) *fault {
	f.open = slices.DeleteFunc(f.open, func(x *fault) bool { return x.over })
	x := &fault{kind: kind, nodes: nodes}
	f.open = append(f.open, x)
	f.made[kind]++
	f.w.note(kind.String(), int64(nodes[0]), int64(nodes[len(nodes)-1]), 0, 0)
	return x
}

// hold lets a fault hold for a while; heal ends it, once.
func (f *faults) hold(x *fault, d time.Duration, heal func()) {
	once := func() {
		if !x.over {
			x.over = true
			heal()
		}
	}
	f.undo = append(f.undo, once)
	f.w.after(d, once)
}

// inject brings about the next fault, and so on until the end.
func (f *faults) inject() {
	if f.ended {
		return
	}
	w := f.w
	calm := w.cfg.calm
	if late := w.now - w.cfg.virtual; late > 0 { // a schedule that has not come to much gets more time between faults
		calm += late / 8
	}
	w.after(w.between(calm/4, calm*2), f.inject)
	n := w.brokers[w.intn(len(w.brokers))]
	switch roll := w.intn(100); {
	case roll < 6:
		f.stop(n)
	case roll < 11:
		f.crashInside(n)
	case roll < 19:
		f.kill(n)
	case roll < 28:
		f.power(n)
	case roll < 31:
		f.several()
	case roll < 46:
		f.pause(n)
	case roll < 64:
		f.cut(n)
	case roll < 73:
		f.slowLink(n)
	case roll < 80:
		f.slowDisk(n)
	case roll < 86:
		f.moveController()
	case roll < 90:
		f.failSync(n)
	case roll < 92:
		f.replaceDisk(n)
	default:
		f.leader()
	}
}

// leader hits the leader of a partition, where it hurts most.
func (f *faults) leader() {
	w := f.w
	p := w.parts[w.intn(len(w.parts))]
	st, ok := w.raft.latest().Partition(p.tp)
	if !ok || w.nodeOf(st.Leader) == nil {
		return
	}
	n := w.nodeOf(st.Leader)
	switch w.intn(4) {
	case 0:
		f.kill(n)
	case 1:
		f.pause(n)
	case 2:
		f.power(n)
	default:
		f.isolate(n)
	}
}

func (f *faults) kill(n *node) {
	if !n.up {
		return
	}
	x := f.begin(faultKill, n.index)
	if slices.ContainsFunc(n.broker.replicas, func(r *replica) bool { return r != nil }) {
		f.bite(faultKill, n.index)
	}
	x.over = true
	n.die(false)
	f.restartLater(n)
}

// restartLater starts a node's next process after a while.
func (f *faults) restartLater(n *node) {
	inc := n.inc
	d := f.w.between(50*time.Millisecond, time.Second)
	if f.w.chance(0.4) {
		d = f.w.between(time.Second, 7*time.Second)
	}
	f.w.after(d, func() {
		if !n.up && n.inc == inc {
			n.boot()
		}
	})
}

func (f *faults) power(n *node) {
	if !n.hostUp || !f.mayLosePower(n) {
		return
	}
	x := f.begin(faultPower, n.index)
	n.die(true)
	f.restartLater(n)
	f.hold(x, 30*time.Second, func() {})
}

// mayLosePower spares brokers while another one has lost its page cache and not said so: records of os-mode topics would have
// no copy left, which is no fault of the rules.
func (f *faults) mayLosePower(n *node) bool {
	return !f.w.hasOS || !slices.ContainsFunc(f.w.brokers, func(o *node) bool { return o != n && o.lostCache })
}

// stop stops a process cleanly.
func (f *faults) stop(n *node) {
	if !n.up || n.frozen || n.broker.stopping {
		return
	}
	x := f.begin(faultStop, n.index)
	n.broker.stop()
	f.hold(x, 10*time.Second, func() {})
}

// crashInside lets a process, or its machine, die within one of the next operations on its disk. Without a real disk it is a
// kill.
func (f *faults) crashInside(n *node) {
	if n.disk.mem == nil || !n.up || !f.mayLosePower(n) {
		f.kill(n)
		return
	}
	x := f.begin(faultCrash, n.index)
	n.disk.haltPower = f.w.chance(0.5)
	n.disk.mem.CrashAt(n.disk.mem.Ops() + 1 + int64(f.w.intn(60)))
	f.hold(x, 5*time.Second, func() { n.disk.mem.CrashAt(0) })
}

// several hits all brokers at once, or most of them.
func (f *faults) several() {
	power := !f.w.hasOS && f.w.chance(0.4)
	for _, n := range f.w.brokers {
		switch {
		case f.w.chance(0.15):
		case power:
			f.power(n)
		default:
			f.kill(n)
		}
	}
}

func (f *faults) pause(n *node) {
	if !n.up || n.frozen {
		return
	}
	x := f.begin(faultPause, n.index)
	n.freeze()
	d := f.w.between(50*time.Millisecond, 1500*time.Millisecond)
	if f.w.chance(0.3) {
		d = f.w.between(1500*time.Millisecond, 8*time.Second)
	}
	f.hold(x, d, n.thaw)
}

func (f *faults) lasting() time.Duration {
	if f.w.chance(0.4) {
		return f.w.between(2*time.Second, 9*time.Second)
	}
	return f.w.between(50*time.Millisecond, 2*time.Second)
}

// cut cuts one broker from another: one way or both.
func (f *faults) cut(n *node) {
	o := f.w.brokers[f.w.intn(len(f.w.brokers))]
	if o == n {
		f.isolate(n)
		return
	}
	x := f.begin(faultCut, n.index, o.index)
	both := f.w.chance(0.6)
	f.w.net.cut(n, o)
	if both {
		f.w.net.cut(o, n)
	}
	f.hold(x, f.lasting(), func() {
		f.w.net.heal(n, o)
		if both {
			f.w.net.heal(o, n)
		}
	})
}

// isolate cuts a broker from all others, and sometimes from clients: in, out, or both.
func (f *faults) isolate(n *node) {
	x := f.begin(faultCut, n.index)
	in, out, clients := true, true, f.w.chance(0.3)
	switch f.w.intn(4) {
	case 0:
		in = false
	case 1:
		out = false
	}
	var heal []func()
	for _, o := range f.w.nodes {
		if o == n || (o.client && !clients) {
			continue
		}
		if out {
			f.w.net.cut(n, o)
			heal = append(heal, func() { f.w.net.heal(n, o) })
		}
		if in {
			f.w.net.cut(o, n)
			heal = append(heal, func() { f.w.net.heal(o, n) })
		}
	}
	f.hold(x, f.lasting(), func() {
		for _, h := range heal {
			h()
		}
	})
}

func (f *faults) slowLink(n *node) {
	o := f.w.brokers[f.w.intn(len(f.w.brokers))]
	if o == n {
		return
	}
	x := f.begin(faultSlowLink, o.index)
	d := f.w.between(5*time.Millisecond, 600*time.Millisecond)
	f.w.net.slow[n.index][o.index] += d
	f.hold(x, f.lasting(), func() { f.w.net.slow[n.index][o.index] -= d })
}

func (f *faults) slowDisk(n *node) {
	x := f.begin(faultSlowDisk, n.index)
	n.disk.slow = true
	f.hold(x, f.lasting(), func() { n.disk.slow = false })
}

func (f *faults) moveController() {
	candidates := f.w.raft.candidates()
	if f.w.raft.leader == nil || len(candidates) == 0 {
		return
	}
	x := f.begin(faultController, f.w.raft.leader.index)
	f.w.raft.elect(candidates[f.w.intn(len(candidates))])
	x.over = true
}

func (f *faults) failSync(n *node) {
	if n.disk.failSyncs > 0 || f.w.decays.open() {
		return
	}
	x := f.begin(faultSync, n.index)
	n.disk.failSyncs = 1
	f.hold(x, 5*time.Second, func() { n.disk.failSyncs = 0 })
}

// replaceDisk puts an empty disk in: a machine that is lost for good.
func (f *faults) replaceDisk(n *node) {
	if !n.hostUp || f.w.decays.open() || slices.ContainsFunc(f.w.brokers, func(o *node) bool { return o.replaced }) {
		return
	}
	x := f.begin(faultReplace, n.index)
	f.bite(faultReplace, n.index)
	x.over = true
	n.die(true)
	n.disk.failed = true
	f.restartLater(n)
}

// end ends all faults for good.
func (f *faults) end() {
	f.ended = true
	for _, heal := range f.undo {
		heal()
	}
	f.undo = nil
	for _, n := range f.w.brokers {
		n.thaw()
		n.disk.slow, n.disk.failSyncs = false, 0
		if !n.up {
			n.boot()
		}
	}
}
