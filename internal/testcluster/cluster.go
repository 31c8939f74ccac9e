package testcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/internal/broker"
	"github.com/penstock-io/penstock/internal/config"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/testports"
)

// Times that tests are given; generous, since machines that run tests are busy.
const (
	startTimeout = 60 * time.Second
	stopTimeout  = 60 * time.Second
	pollInterval = 10 * time.Millisecond
)

// Options says what cluster to run. The zero value is one node.
type Options struct {
	// Nodes is how many nodes there are; 0 means 1. The first three (or the first, of one or two) are controllers too.
	Nodes int
	// Settings are put over those of every node, by key.
	Settings map[string]string
	// LogLevel of the nodes; empty means warn. Lines go to the test's log.
	LogLevel string
}

// Cluster is a running cluster. Its methods take node numbers from 1 on and fail the test when something goes wrong. They are
// safe for concurrent use for different nodes.
type Cluster struct {
	t    testing.TB
	opts Options
	dir  string
	port int // the first of all

	mu    sync.Mutex
	nodes []*broker.Node // nil while a node does not run
}

// Start runs a cluster and waits until it is healthy. It is stopped at the end of the test.
func Start(t testing.TB, opts Options) *Cluster {
	t.Helper()
	opts.Nodes = max(opts.Nodes, 1)
	c := &Cluster{
		t: t, opts: opts, dir: t.TempDir(), port: testports.Take(t, portsPerNode*opts.Nodes), nodes: make([]*broker.Node, opts.Nodes),
	}
	t.Cleanup(c.StopAll)
	if err := c.startAll(); err != nil {
		t.Fatalf("start the cluster: %v", err)
	}
	c.AwaitHealthy()
	return c
}

// startAll starts all nodes that do not run, at once: a quorum needs company.
func (c *Cluster) startAll() error {
	group := lifecycle.New(context.Background(), "start", slog.New(slog.DiscardHandler))
	errs := make([]error, c.opts.Nodes)
	for i := range c.opts.Nodes {
		if c.running(i+1) != nil {
			continue
		}
		group.Go(fmt.Sprintf("node-%d", i+1), func(context.Context) error {
			errs[i] = c.start(i + 1)
			return nil
		})
	}
	return errors.Join(errors.Join(group.Wait()), errors.Join(errs...))
}

func (c *Cluster) start(i int) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	cfg, err := config.Load(config.Source{Flags: c.settings(i)})
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(testLog{t: c.t, all: c.opts.LogLevel != ""}, &slog.HandlerOptions{Level: cfg.LogLevel})).With("node", i)
	node, err := broker.Start(ctx, cfg, logger)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[i-1] = node
	return nil
}

// testLog writes lines to the log of the test; without all, what Raft says of peers that were killed is left out.
type testLog struct {
	t   testing.TB
	all bool
}

// Write implements io.Writer.
func (l testLog) Write(line []byte) (int, error) {
	if !l.all && bytes.Contains(line, []byte("component=raft")) {
		return len(line), nil
	}
	l.t.Log(strings.TrimRight(string(line), "\n"))
	return len(line), nil
}

var _ io.Writer = testLog{}

func (c *Cluster) settings(i int) map[string]string {
	var controllers, seeds []string
	voters := c.Voters()
	for n := 1; n <= c.opts.Nodes; n++ {
		if n <= voters {
			controllers = append(controllers, strconv.Itoa(n)+"@"+c.address(n, peerPort))
		}
		seeds = append(seeds, c.address(n, gossipPort))
	}
	// A voter alone has nobody to lose to; of several, one that gets no CPU for a while is not to lose its leadership by that.
	silence, lease := "300ms", "200ms"
	if voters > 1 {
		silence, lease = "800ms", "700ms"
	}
	level := c.opts.LogLevel
	if level == "" {
		level = "warn"
	}
	roles := "controller,broker"
	if i > voters {
		roles = "broker"
	}
	settings := map[string]string{
		"node.id": strconv.Itoa(i), "roles": roles, "controllers": strings.Join(controllers, ","),
		"data.dir": c.DataDir(i), "log.level": level, "gossip.seeds": strings.Join(seeds, ","),
		"listen.client": c.address(i, clientPort), "listen.peer": c.address(i, peerPort),
		"listen.admin": c.address(i, adminPort), "listen.gossip": c.address(i, gossipPort),
		"raft.heartbeat.timeout": silence, "raft.election.timeout": silence, "raft.lease.timeout": lease,
	}
	maps.Copy(settings, c.opts.Settings)
	return settings
}

// Voters is how many nodes are controllers: the first ones.
func (c *Cluster) Voters() int {
	if c.opts.Nodes < 3 {
		return 1
	}
	return 3
}

// DataDir is the data directory of a node.
func (c *Cluster) DataDir(i int) string { return filepath.Join(c.dir, "node-"+strconv.Itoa(i)) }

// Nodes is how many nodes there are, running or not.
func (c *Cluster) Nodes() int { return c.opts.Nodes }

// Node returns a running node; the test fails where it does not run.
func (c *Cluster) Node(i int) *broker.Node {
	c.t.Helper()
	node := c.running(i)
	if node == nil {
		c.t.Fatalf("node %d does not run", i)
	}
	return node
}

// Running reports whether a node runs.
func (c *Cluster) Running(i int) bool { return c.running(i) != nil }

func (c *Cluster) running(i int) *broker.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[i-1]
}

func (c *Cluster) takeOut(i int) *broker.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	node := c.nodes[i-1]
	c.nodes[i-1] = nil
	return node
}

// Kill ends a node as if its process had died.
func (c *Cluster) Kill(i int) {
	c.t.Helper()
	if node := c.takeOut(i); node != nil {
		if err := node.Kill(); err != nil {
			c.t.Errorf("kill node %d: %v", i, err)
		}
	}
}

// Stop stops a node cleanly.
func (c *Cluster) Stop(i int) {
	c.t.Helper()
	if node := c.takeOut(i); node != nil {
		c.stop(i, node)
	}
}

func (c *Cluster) stop(i int, node *broker.Node) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := node.Err(); err != nil {
		c.t.Errorf("node %d had failed: %v", i, err)
	}
	if err := node.Stop(ctx); err != nil {
		c.t.Errorf("stop node %d: %v", i, err)
	}
}

// Restart starts a node that does not run.
func (c *Cluster) Restart(i int) {
	c.t.Helper()
	if err := c.start(i); err != nil {
		c.t.Fatalf("restart node %d: %v", i, err)
	}
}

// RestartAll starts all nodes that do not run.
func (c *Cluster) RestartAll() {
	c.t.Helper()
	if err := c.startAll(); err != nil {
		c.t.Fatalf("restart: %v", err)
	}
}

// StopAll stops all nodes cleanly, at once.
func (c *Cluster) StopAll() { c.all(c.stop) }

// KillAll kills all nodes at once.
func (c *Cluster) KillAll() {
	c.all(func(i int, node *broker.Node) {
		if err := node.Kill(); err != nil {
			c.t.Errorf("kill node %d: %v", i, err)
		}
	})
}

func (c *Cluster) all(end func(i int, node *broker.Node)) {
	group := lifecycle.New(context.Background(), "stop", slog.New(slog.DiscardHandler))
	for i := 1; i <= c.opts.Nodes; i++ {
		if node := c.takeOut(i); node != nil {
			group.Go(fmt.Sprintf("node-%d", i), func(context.Context) error {
				end(i, node)
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		c.t.Error(err)
	}
}

// Bootstrap returns the client addresses of all nodes.
func (c *Cluster) Bootstrap() []string {
	var addresses []string
	for i := 1; i <= c.opts.Nodes; i++ {
		addresses = append(addresses, c.ClientAddress(i))
	}
	return addresses
}

// ClientAddress is where a node serves clients.
func (c *Cluster) ClientAddress(i int) string { return c.address(i, clientPort) }

// AdminAddress is where a node serves HTTP.
func (c *Cluster) AdminAddress(i int) string { return c.address(i, adminPort) }

// Client returns a client of the cluster, which is closed at the end of the test, before the cluster stops.
func (c *Cluster) Client() *client.Client {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	made, err := client.Dial(ctx, client.Config{Bootstrap: c.Bootstrap(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		c.t.Fatalf("connect to the cluster: %v", err)
	}
	c.t.Cleanup(func() {
		if err := made.Close(); err != nil {
			c.t.Errorf("close a client: %v", err)
		}
	})
	return made
}
