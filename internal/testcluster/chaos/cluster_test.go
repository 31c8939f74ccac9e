//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/internal/testports"
)

const (
	readyTimeout  = 60 * time.Second
	healthTimeout = 60 * time.Second
	stopTimeout   = 60 * time.Second
	buildTimeout  = 4 * time.Minute // of the programs, where nothing of them was built before
)

// cluster is a development cluster of real processes, run by broker dev or node by node.
type cluster struct {
	t       *testing.T
	bin     programs
	env     []string // for all its processes
	dir     string
	n, port int
	dev     *process         // nil unless broker dev runs
	byHand  map[int]*process // nodes that the test started itself, the latest of each
	started []*process       // everything that was ever started
	admin   *client.Client
}

// startDev starts a cluster by `broker dev` and waits for its ready line.
func startDev(t *testing.T, n int) *cluster {
	t.Helper()
	bin := thePrograms(t)
	c := newCluster(t, bin, n)
	c.startAll()
	return c
}

// newCluster prepares a cluster that does not run yet. In the short form it waits for its turn to run beside other tests:
// they mostly wait. In the long form each has the machine for itself, and so its figures.
func newCluster(t *testing.T, bin programs, n int) *cluster {
	t.Helper()
	if !*long {
		t.Parallel()
	}
	c := &cluster{t: t, bin: bin, n: n, dir: filepath.Join(t.TempDir(), "dev"), port: testports.Take(t, 10*n), byHand: map[int]*process{}}
	t.Cleanup(c.end)
	return c
}

// startAll starts all nodes by broker dev, again or for the first time.
func (c *cluster) startAll() {
	c.t.Helper()
	begin := time.Now()
	c.dev = launch(c.t, "broker dev", filepath.Dir(c.dir), c.env, c.bin.broker,
		"dev", "--brokers", strconv.Itoa(c.n), "--port", strconv.Itoa(c.port), "--data-dir", c.dir)
	c.started = append(c.started, c.dev)
	if err := c.dev.out.awaitLine("ready", readyTimeout, c.dev.ended); err != nil {
		c.t.Fatalf("broker dev: %v\n%s%s", err, c.dev.out, c.dev.err)
	}
	c.t.Logf("%d nodes on port %d ready after %v", c.n, c.port, time.Since(begin).Round(10*time.Millisecond))
}

// stopAll interrupts broker dev, which stops all nodes cleanly, those started by hand too.
func (c *cluster) stopAll() {
	c.t.Helper()
	if code := c.dev.interrupt(c.t, stopTimeout); code != 0 {
		c.t.Errorf("broker dev ended with status %d after an interrupt\n%s", code, tail(c.dev.err.String()))
	}
	c.dev = nil
	for i := 1; i <= c.n; i++ {
		if pid, err := c.readPID(i); err == nil {
			c.t.Errorf("node %d left its pid file (%d) behind a clean stop", i, pid)
		}
	}
	for i, p := range c.byHand {
		if code := p.await(c.t, stopTimeout); code != 0 {
			c.t.Errorf("node %d, started by hand, ended with status %d\n%s", i, code, tail(p.err.String()))
		}
		delete(c.byHand, i)
	}
}

// end leaves nothing running, whatever happened, and shows the logs of a failed test.
func (c *cluster) end() {
	if c.admin != nil {
		_ = c.admin.Close()
	}
	for i := 1; i <= c.n; i++ {
		if pid, err := c.readPID(i); err == nil && c.ours(pid, i) {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	}
	if c.dev != nil && c.dev.running() {
		_ = c.dev.cmd.Process.Signal(os.Interrupt)
		select {
		case <-c.dev.ended:
		case <-time.After(stopTimeout):
			c.t.Errorf("broker dev did not end within %v after an interrupt\n%s", stopTimeout, tail(c.dev.err.String()))
		}
	}
	for i := 1; i <= c.n; i++ {
		if pid, err := c.readPID(i); err == nil && c.ours(pid, i) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	for _, p := range c.started {
		p.end()
	}
	c.lookForCrashes()
	if c.t.Failed() {
		c.showLogs()
	}
}

// lookForCrashes fails the test where a node has died by itself, or where a race was seen (in programs built with -race).
func (c *cluster) lookForCrashes() {
	texts := map[string]string{}
	for i := 1; i <= c.n; i++ {
		if text, err := os.ReadFile(filepath.Join(c.nodeDir(i), "broker.log")); err == nil {
			texts[fmt.Sprintf("the log of node %d", i)] = string(text)
		}
	}
	for k, p := range c.started {
		texts[fmt.Sprintf("%s, process %d of the test", p.name, k+1)] = p.out.String() + p.err.String()
	}
	for where, text := range texts {
		for _, sign := range []string{"panic: ", "fatal error: ", "WARNING: DATA RACE"} {
			if at := strings.Index(text, sign); at >= 0 {
				c.t.Errorf("%s shows a crash:\n%s", where, text[at:min(len(text), at+8000)])
				break
			}
		}
	}
}

// ours reports whether a pid still is node i of this cluster: its command line names the node's configuration.
func (c *cluster) ours(pid, i int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return errors.Is(err, os.ErrNotExist) && alive(pid) && !exists("/proc/self")
	}
	return strings.Contains(string(line), c.config(i))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (c *cluster) showLogs() {
	for i := 1; i <= c.n; i++ {
		text, err := os.ReadFile(filepath.Join(c.nodeDir(i), "broker.log"))
		if err == nil {
			c.t.Logf("the end of the log of node %d:\n%s", i, tail(string(text)))
		}
		if p := c.byHand[i]; p != nil {
			c.t.Logf("node %d, started by hand, wrote:\n%s%s", i, tail(p.out.String()), tail(p.err.String()))
		}
	}
}

func (c *cluster) nodeDir(i int) string { return filepath.Join(c.dir, "node-"+strconv.Itoa(i)) }

func (c *cluster) config(i int) string { return filepath.Join(c.nodeDir(i), "broker.yaml") }

func (c *cluster) address(i int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port+10*(i-1)))
}

func (c *cluster) bootstrap() []string {
	var all []string
	for i := 1; i <= c.n; i++ {
		all = append(all, c.address(i))
	}
	return all
}

func (c *cluster) readPID(i int) (int, error) {
	text, err := os.ReadFile(filepath.Join(c.nodeDir(i), "broker.pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// pid is the process of node i, which runs.
func (c *cluster) pid(i int) int {
	c.t.Helper()
	pid, err := c.readPID(i)
	if err != nil {
		c.t.Fatalf("node %d: %v", i, err)
	}
	if !alive(pid) {
		c.t.Fatalf("node %d is not running: process %d is gone", i, pid)
	}
	return pid
}

func (c *cluster) signal(i int, signal syscall.Signal) {
	c.t.Helper()
	if err := syscall.Kill(c.pid(i), signal); err != nil {
		c.t.Fatalf("signal %v to node %d: %v", signal, i, err)
	}
}

// kill kills nodes with -9, all before it waits until each is gone.
func (c *cluster) kill(nodes ...int) {
	c.t.Helper()
	pids := make([]int, 0, len(nodes))
	for _, i := range nodes {
		pids = append(pids, c.pid(i))
	}
	for k, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			c.t.Fatalf("kill -9 node %d: %v", nodes[k], err)
		}
	}
	for k, pid := range pids {
		eventually(c.t, time.Minute, fmt.Sprintf("node %d is dead", nodes[k]), func() error {
			if alive(pid) {
				return fmt.Errorf("process %d lives", pid)
			}
			return nil
		})
	}
}

// start starts one node by its configuration file.
func (c *cluster) start(i int) {
	c.t.Helper()
	p := launch(c.t, fmt.Sprintf("node %d", i), c.nodeDir(i), c.env, c.bin.broker, "--config", c.config(i))
	c.byHand[i] = p
	c.started = append(c.started, p)
	eventually(c.t, readyTimeout, fmt.Sprintf("node %d has written its pid file", i), func() error {
		if !p.running() {
			c.t.Fatalf("node %d ended at its start: %v\n%s%s", i, p.waitErr, tail(p.out.String()), tail(p.err.String()))
		}
		if pid, err := c.readPID(i); err != nil || pid != p.pid() {
			return fmt.Errorf("pid file: %d, %w", pid, err)
		}
		return nil
	})
}

// ctl runs brokerctl against the cluster.
func (c *cluster) ctl(args ...string) result {
	c.t.Helper()
	return c.ctlInput("", args...)
}

func (c *cluster) ctlInput(stdin string, args ...string) result {
	c.t.Helper()
	env := []string{"PENSTOCK_BOOTSTRAP=" + strings.Join(c.bootstrap(), ",")}
	return run(c.t, c.t.TempDir(), env, stdin, c.bin.ctl, args...)
}

// must is ctl that succeeds.
func (c *cluster) must(args ...string) string {
	c.t.Helper()
	r := c.ctl(args...)
	if r.code != 0 {
		c.t.Fatal(r)
	}
	return r.out
}

// createTopic creates a topic and waits until it is served.
func (c *cluster) createTopic(name string, partitions, factor int, configs ...string) {
	c.t.Helper()
	args := []string{"topic", "create", name, "--partitions", strconv.Itoa(partitions), "--replication-factor", strconv.Itoa(factor)}
	for _, config := range configs {
		args = append(args, "--config", config)
	}
	c.must(args...)
	c.awaitHealthy()
}

// client is a Go client of the cluster, for what would be slow by brokerctl.
func (c *cluster) client() *client.Client {
	c.t.Helper()
	if c.admin == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		var err error
		c.admin, err = client.Dial(ctx, client.Config{
			Bootstrap: c.bootstrap(), ClientID: "chaos", RequestTimeout: 5 * time.Second, DialTimeout: 2 * time.Second,
			Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			c.t.Fatalf("connect: %v", err)
		}
	}
	return c.admin
}

// awaitHealthy waits until all brokers are online and every partition is fully in sync.
func (c *cluster) awaitHealthy() {
	c.t.Helper()
	eventually(c.t, healthTimeout, "the cluster is healthy", func() error {
		ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
		defer cancel()
		health, err := c.client().DescribeCluster(ctx)
		if err != nil {
			return err
		}
		online := 0
		for _, b := range health.Brokers {
			if b.State == "online" {
				online++
			}
		}
		if !health.Healthy || online != c.n || health.LeaderlessPartitions+health.UnderReplicatedPartitions > 0 {
			return fmt.Errorf("%+v", health)
		}
		return nil
	})
}

// controller is the node that is the active controller.
func (c *cluster) controller() int {
	c.t.Helper()
	active := 0
	eventually(c.t, time.Minute, "there is an active controller", func() error {
		ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
		defer cancel()
		health, err := c.client().DescribeCluster(ctx)
		if active = int(health.Controller); err == nil && active < 1 {
			err = errors.New("none is known")
		}
		return err
	})
	return active
}

// topic describes a topic.
func (c *cluster) topic(name string) (client.Topic, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
	defer cancel()
	t, err := c.client().DescribeTopic(ctx, name)
	return t.Topic, err
}

// mustTopic describes a topic once a broker answers.
func (c *cluster) mustTopic(name string) client.Topic {
	c.t.Helper()
	var topic client.Topic
	eventually(c.t, time.Minute, "topic "+name+" is described", func() (err error) {
		topic, err = c.topic(name)
		return err
	})
	return topic
}

// view reads a topic from start to end, as it is when the reading begins.
func (c *cluster) view(topic, name string) View {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 90*time.Second)
	defer cancel()
	consumer, err := c.client().NewConsumer(client.ConsumerConfig{})
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = consumer.Close() }()
	var all []client.Assignment
	for _, p := range c.mustTopic(topic).Partitions {
		all = append(all, client.Assignment{Topic: topic, Partition: p.Partition, From: client.AtStart(), To: client.AtEnd()})
	}
	if err := consumer.Assign(ctx, all...); err != nil {
		c.t.Fatalf("%s: %v", name, err)
	}
	view := View{Name: name}
	for {
		fetch, err := consumer.Poll(ctx)
		if errors.Is(err, client.ErrDone) {
			return view
		}
		if err = errors.Join(err, fetch.Err); err != nil {
			c.t.Fatalf("%s: %v", name, err)
		}
		view.add(fetch)
	}
}

func (v *View) add(fetch client.Fetch) {
	for i := range fetch.Records {
		r := &fetch.Records[i]
		v.Records = append(v.Records, Read{
			Partition: fetch.Partition, Offset: r.Offset, LeaderEpoch: r.LeaderEpoch, Key: string(r.Key), Value: string(r.Value),
		})
	}
}

// highWatermarks are the HighWatermarks of a topic's partitions.
func (c *cluster) highWatermarks(topic client.Topic) map[int32]int64 {
	c.t.Helper()
	all := map[int32]int64{}
	for _, p := range topic.Partitions {
		ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
		at, err := c.client().ListOffset(ctx, topic.Name, p.Partition, client.AtEnd())
		cancel()
		if err != nil {
			c.t.Fatalf("HighWatermark of %s/%d: %v", topic.Name, p.Partition, err)
		}
		all[p.Partition] = at
	}
	return all
}

// compareStopped stops the cluster cleanly and compares the replicas of topics on disk, byte for byte below the HighWatermark.
func (c *cluster) compareStopped(topics ...string) {
	c.t.Helper()
	c.awaitHealthy()
	described := map[string]client.Topic{}
	marks := map[string]map[int32]int64{}
	for _, name := range topics {
		described[name] = c.mustTopic(name)
		marks[name] = c.highWatermarks(described[name])
	}
	c.stopAll()
	for _, name := range topics {
		var sum ReplicaLog
		for _, p := range described[name].Partitions {
			var dirs []string
			for _, replica := range p.Replicas {
				dirs = append(dirs, filepath.Join(c.nodeDir(int(replica)), "data", "topics", described[name].ID, strconv.Itoa(int(p.Partition))))
			}
			log, err := CompareReplicas(dirs, marks[name][p.Partition])
			if err != nil {
				c.t.Errorf("replicas of %s/%d: %v", name, p.Partition, err)
			}
			sum.Batches, sum.Records, sum.Bytes = sum.Batches+log.Batches, sum.Records+log.Records, sum.Bytes+log.Bytes
		}
		c.t.Logf("%s: %d records in %d batches, %d bytes below the HighWatermarks, identical on all replicas",
			name, sum.Records, sum.Batches, sum.Bytes)
	}
}
