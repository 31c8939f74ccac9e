package sim

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	ccore "github.com/penstock-io/penstock/internal/controller/core"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication/core"
	"github.com/penstock-io/penstock/internal/storage"
)

// Mode says what keeps the records.
type Mode uint8

// The modes of the simulation.
const (
	// ModeCore keeps them in model logs.
	ModeCore Mode = iota
	// ModeStorage keeps them in the real partition log, on the file system in memory.
	ModeStorage
)

// String names the mode as the flags do.
func (m Mode) String() string {
	if m == ModeStorage {
		return "storage"
	}
	return "core"
}

// What a schedule must reach to count.
const (
	minFaults  = 5
	minVirtual = 30 * time.Second
	minRecords = 300
)

// Result is what came of a schedule.
type Result struct {
	// Seed and Mode name the schedule.
	Seed uint64
	Mode Mode
	// Failures are the broken promises, the first ones in order; none is good.
	Failures []string
	// Trace is the hash of everything that happened, Steps how much that was, Virtual how long it took in the cluster.
	Trace   uint64
	Steps   int
	Virtual time.Duration
	// Records were appended by leaders, Acked of them acknowledged with acks=all.
	Records, Acked int64
	// Faults counts by kind the faults that had an effect.
	Faults map[string]int
	// FaultsBitten is their sum.
	FaultsBitten int
	// LossyElections were recorded as possibly lossy, ForgivenRecords lost by them; StuckPartitions waited for an operator at the
	// end because every replica had lost its seat.
	LossyElections, ForgivenRecords, StuckPartitions int
	// Elections is how often a leadership began.
	Elections int
	// Replays is how often a process found something in its sync journal that it had to write to logs.
	Replays int
	// Void says that the schedule does not count: too little happened in it. That is a failure too.
	Void bool
}

// config is what a schedule draws first.
type config struct {
	controller ccore.Config
	core       core.Config
	logs       storage.Config
	journal    int64 // bytes of each file of the sync journal, 0 for none
	salt       uint64
	credit     int64
	frame      int64
	calm       time.Duration // between faults, about
	virtual    time.Duration // of faults
}

// world is the cluster of one schedule.
type world struct {
	*engine
	mode    Mode
	cfg     config
	net     *network
	raft    *raft
	oracle  *oracle
	faults  *faults
	decays  *decays
	nodes   []*node // brokers, then clients
	brokers []*node // by id
	voters  []*node
	parts   []*partition
	hasOS   bool

	producers []*producer
	consumers []*consumer
	producing bool
	produced  int64
	replays   int
	void      bool
}

func (w *world) storage() bool { return w.mode == ModeStorage }

func (w *world) uuid() model.UUID {
	var u model.UUID
	for i := range u {
		u[i] = byte(w.rng.Uint32())
	}
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return u
}

// Run plays the schedule of a seed. trace, unless nil, gets a line for everything that happens.
func Run(mode Mode, seed uint64, trace io.Writer) Result {
	w := newWorld(mode, seed, trace)
	w.play()
	return w.result(seed)
}

func newWorld(mode Mode, seed uint64, trace io.Writer) *world {
	w := &world{engine: newEngine(seed, trace), mode: mode}
	w.cfg = config{
		core: core.Config{
			LagTimeMax: w.between(500*time.Millisecond, 3*time.Second), RejoinMin: w.between(50*time.Millisecond, time.Second),
			RejoinMax: w.between(time.Second, 4*time.Second), RetryMax: w.between(200*time.Millisecond, time.Second),
		},
		controller: ccore.Config{SessionTimeout: w.between(time.Second, 3*time.Second)},
		logs: storage.Config{
			SegmentBytes: pick[int64](w.engine, 2<<10, 16<<10, 1<<20), IndexIntervalBytes: 512,
		},
		credit: pick[int64](w.engine, 500, 2000, 1<<20), frame: pick[int64](w.engine, 200, 1000, 64<<10),
		calm:    w.between(700*time.Millisecond, 3*time.Second),
		virtual: minVirtual + w.between(0, 10*time.Second),
	}
	if mode == ModeStorage && seed%3 == 0 { // not drawn: what other seeds stand for stays
		w.cfg.journal, w.cfg.salt = 64<<10, seed+1
	}
	w.oracle = &oracle{w: w}
	w.faults, w.decays = &faults{w: w}, newDecays(w, seed)
	brokers := pick(w.engine, 3, 3, 4, 5)
	const maxClients = 12
	for i := range brokers + maxClients {
		n := &node{
			w: w, id: model.NodeID(i), index: i, clockRate: 0.98 + 0.04*w.rng.Float64(),
			clockOffset: w.between(0, time.Hour),
		}
		w.nodes = append(w.nodes, n)
		if i >= brokers {
			n.client, n.up, n.hostUp = true, true, true
			continue
		}
		n.disk = newDisk(n)
		w.brokers = append(w.brokers, n)
		if i < 3 {
			n.voter = &voter{n: n}
			w.voters = append(w.voters, n)
		}
	}
	w.net = newNetwork(w, len(w.nodes))
	w.raft = newRaft(w)
	return w
}

// until runs until ok says so, a promise is broken, or the limit has passed.
func (w *world) until(limit time.Duration, ok func() bool) bool {
	end := w.now + limit
	for len(w.oracle.failures) == 0 {
		if ok() {
			return true
		}
		if w.now >= end || !w.step() {
			return false
		}
		w.oracle.after()
	}
	return false
}

// play is the story of a schedule: a cluster comes up, topics are made, faults come, faults end, and all must be well.
func (w *world) play() {
	for _, n := range w.brokers {
		n.boot()
	}
	if !w.until(30*time.Second, w.allUnfenced) {
		w.giveUp("the cluster does not come up")
		return
	}
	if !w.createTopics() {
		return
	}
	w.startClients()
	start := w.now
	w.producing = true
	w.after(w.between(0, time.Second), w.faults.inject)
	if w.storage() {
		w.decays.next()
	}
	enough := func() bool {
		return w.now-start >= w.cfg.virtual && w.faults.total() >= minFaults && w.produced >= minRecords
	}
	if !w.until(5*time.Minute, enough) {
		w.void = len(w.oracle.failures) == 0
		w.giveUp("the schedule does not count: %d faults bit, %d records after %s", w.faults.total(), w.produced, w.now-start)
		return
	}
	w.note("heal", 0, 0, 0, 0)
	w.faults.end()
	// For a while everybody still produces: to a cluster that is well.
	if !w.until(time.Second, func() bool { return false }) && len(w.oracle.failures) > 0 {
		return
	}
	w.producing = false
	if !w.until(2*time.Minute, w.allWell) {
		w.giveUp("the cluster does not recover: %s", w.unwell())
		return
	}
	w.compare()
}

func (w *world) giveUp(format string, args ...any) {
	if len(w.oracle.failures) == 0 {
		w.oracle.fail(format, args...)
	}
}

func (w *world) allUnfenced() bool {
	image := w.raft.latest()
	for _, n := range w.brokers {
		if b, ok := image.Broker(n.id); !ok || b.Fenced {
			return false
		}
	}
	return true
}

// createTopics makes the topics, by requests to the controller.
func (w *world) createTopics() bool {
	left := 1 + w.intn(4)
	for t := 0; left > 0; t++ {
		partitions := 1 + w.intn(min(left, 2))
		left -= partitions
		rf := pick(w.engine, 1, 2, 3, 3, 3, min(5, len(w.brokers)))
		mode, name := pick(w.engine, "fsync", "fsync", "os"), fmt.Sprintf("topic-%d", t)
		configs := map[string]string{"flush.mode": mode}
		settings := metadata.DefaultTopicSettings()
		if w.chance(0.5) {
			settings.MinInsyncReplicas = 1 + w.intn(min(rf, 3))
			configs["min.insync.replicas"] = fmt.Sprint(settings.MinInsyncReplicas)
		}
		if !w.createTopic(name, partitions, rf, configs) {
			return false
		}
		topic, _ := w.raft.latest().Topic(name)
		for i := range partitions {
			p := &partition{
				index: len(w.parts), tp: model.TopicPartition{TopicID: topic.ID, Partition: int32(i)}, rf: rf,
				minISR: settings.EffectiveMinISR(rf), osMode: mode == "os",
			}
			w.hasOS = w.hasOS || p.osMode && rf > 1
			w.parts = append(w.parts, p)
			w.oracle.add(p)
		}
		for _, n := range w.brokers {
			if n.up {
				n.broker.publishAll()
			}
		}
	}
	return true
}

func (w *world) createTopic(name string, partitions, rf int, configs map[string]string) bool {
	n32, rf32 := int32(partitions), int32(rf)
	req := &internalv1.CreateTopicRequest{Name: name, Partitions: &n32, ReplicationFactor: &rf32, Configs: configs}
	id := w.uuid()
	client := w.nodes[len(w.brokers)]
	var ask func()
	ask = func() {
		to := w.guessController(nil)
		w.net.call(client, to, time.Second, func(answer func(any)) {
			to.voter.ctl.ask(func(b *ccore.Batch) (any, error) { return b.CreateTopic(req, id) }, answer)
		}, func(v any, _ callStatus) {
			if a, ok := v.(ctlAnswer); !ok || a.code != model.CodeNone {
				client.after(20*time.Millisecond, ask)
			}
		})
	}
	ask()
	if !w.until(10*time.Second, func() bool { _, ok := w.raft.latest().Topic(name); return ok }) {
		w.giveUp("topic %s is not made", name)
		return false
	}
	return true
}

// startClients gives every partition one to three producers and a consumer.
func (w *world) startClients() {
	free := w.nodes[len(w.brokers):]
	for _, p := range w.parts {
		for range 1 + w.intn(2) {
			w.producers = append(w.producers, newProducer(w, free[0], p))
			free = free[1:]
		}
		w.consumers = append(w.consumers, newConsumer(w, free[0], p))
		free = free[1:]
	}
}

// allWell says whether the cluster has recovered from everything.
func (w *world) allWell() bool { return w.unwell() == "" }

// unwell says what is still amiss.
func (w *world) unwell() string {
	image := w.raft.latest()
	for _, p := range w.parts {
		if w.halted(p) {
			continue
		}
		for _, n := range w.brokers {
			if l := n.disk.log(p.index); l != nil && l.decay != nil && !w.oracle.stuck(p) {
				return fmt.Sprintf("%s: a bit of the batch at %d is flipped on broker %d", p, l.decay.from, n.id)
			}
		}
		st, _ := image.Partition(p.tp)
		if st.Leader == model.NoNode || len(st.ISR) != len(st.Replicas) {
			return fmt.Sprintf("%s: leader %d, isr %v, elr %v, last known %v", p, st.Leader, st.ISR, st.ELR, st.LastKnown)
		}
		if text := w.behind(p, st); text != "" {
			return text
		}
	}
	for _, pr := range w.producers {
		if len(pr.sent) > 0 && !w.oracle.stuck(pr.p) && !w.halted(pr.p) {
			return fmt.Sprintf("%s: producer %d has %d batches left, the first is %s", pr.p, pr.pid, len(pr.sent), pr.sent[0].batch)
		}
	}
	for _, c := range w.consumers {
		if end := w.target(c.p); c.offset < end && !w.oracle.stuck(c.p) && !w.halted(c.p) {
			return fmt.Sprintf("%s: the consumer is at %d of %d", c.p, c.offset, end)
		}
	}
	return ""
}

// halted says whether a replica of a partition has stopped for good, after an election that was recorded as lossy.
func (w *world) halted(p *partition) bool {
	for _, n := range w.brokers {
		if r := n.broker.replica(p.index); n.up && r != nil && r.core.Role() == core.RoleStopped {
			return w.oracle.parts[p.index].forgiving
		}
	}
	return false
}

// behind says which replica of a partition is not where the others are.
func (w *world) behind(p *partition, st *metadata.Partition) string {
	end := w.target(p)
	for _, id := range st.Replicas {
		n := w.nodeOf(id)
		r := n.broker.replica(p.index)
		if !n.up || r == nil {
			return fmt.Sprintf("%s: broker %d holds nothing", p, id)
		}
		log := r.core.Log()
		if log.HighWatermark != end || log.End != end || (!p.osMode && log.Durable != log.End) {
			return fmt.Sprintf("%s: broker %d is at %s, committed are %d", p, id, r.core, end)
		}
	}
	return ""
}

// compare reads all replicas at the end: below the HighWatermark they are identical.
func (w *world) compare() {
	for _, p := range w.parts {
		pr := w.oracle.parts[p.index]
		st, _ := w.raft.latest().Partition(p.tp)
		for _, id := range st.Replicas {
			r := w.nodeOf(id).broker.replica(p.index)
			if r == nil || w.oracle.stuck(p) || w.halted(p) {
				continue
			}
			batches, err := r.log.read(0, w.target(p), 1<<30)
			if w.oracle.outcomes {
				w.oracle.kept(pr, batches)
				continue
			}
			if err != nil || len(batches) != len(pr.committed) {
				w.oracle.fail("%s on broker %d: %d batches can be read, %d were committed: %v", p, id, len(batches), len(pr.committed), err)
				return
			}
			for i, b := range batches {
				if !b.same(pr.committed[i]) {
					w.oracle.fail("%s on broker %d: %s at %d, committed was %s", p, id, b, b.base, pr.committed[i])
					return
				}
			}
		}
	}
}

func (w *world) result(seed uint64) Result {
	res := Result{
		Seed: seed, Mode: w.mode, Failures: w.oracle.failures, Trace: w.sum, Steps: w.steps, Virtual: w.now,
		Records: w.produced, Acked: int64(w.oracle.acked), FaultsBitten: w.faults.total(), Faults: map[string]int{},
		Replays: w.replays, LossyElections: w.oracle.lossy, ForgivenRecords: w.oracle.forgiven,
		Void: w.void,
	}
	for kind, n := range w.faults.bitten {
		res.Faults[faultKind(kind).String()] = n
	}
	for _, p := range w.parts {
		if w.oracle.stuck(p) {
			res.StuckPartitions++
		}
		res.Elections += len(w.oracle.parts[p.index].leaders)
	}
	return res
}

// String is one paragraph for people.
func (r Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s schedule, seed %d: %.1f virtual seconds, %d steps, %d records, %d acked, %d elections, %d faults bit, trace %016x",
		r.Mode, r.Seed, r.Virtual.Seconds(), r.Steps, r.Records, r.Acked, r.Elections, r.FaultsBitten, r.Trace)
	for _, f := range r.Failures {
		fmt.Fprintf(&b, "\n  %s", f)
	}
	return b.String()
}
