package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock-io/penstock/internal/lifecycle"
)

const (
	pollInterval = 100 * time.Millisecond
	stopTimeout  = 40 * time.Second // after it a node is killed
	slowStart    = 30 * time.Second // after it the user is told where to look
)

// devCluster is the nodes of a development cluster, while broker dev runs.
type devCluster struct {
	plan   devPlan
	group  *lifecycle.Group
	errOut io.Writer
	nodes  []*devNode
	deaths chan *devNode
}

// devNode is one node: a child, or a process that somebody else started.
type devNode struct {
	id     int
	dir    string
	cmd    *exec.Cmd     // nil where the node ran already
	exited chan struct{} // closed when the child has ended
	err    error         // how the child ended; set before exited is closed
}

// start starts the nodes that do not run.
func (c *devCluster) start() error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if err := c.checkAddresses(); err != nil {
		return err
	}
	for i := 1; i <= c.plan.brokers; i++ {
		node := &devNode{id: i, dir: c.plan.nodeDir(i), exited: make(chan struct{})}
		c.nodes = append(c.nodes, node)
		if pid, running := node.running(); running {
			say(c.errOut, "node %d runs already, as process %d\n", i, pid)
			continue
		}
		if err := c.launch(exe, node); err != nil {
			return err
		}
	}
	return nil
}

// checkAddresses refuses to start where a node's clients would reach somebody else: who answers there could be taken for the
// node.
func (c *devCluster) checkAddresses() error {
	for i := 1; i <= c.plan.brokers; i++ {
		node := &devNode{id: i, dir: c.plan.nodeDir(i)}
		if _, running := node.running(); running {
			continue
		}
		address := c.plan.address(i, 0)
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("node %d: %s is in use: stop what listens there, or use another --port and --data-dir (%w)", i, address, err)
		}
		if err := listener.Close(); err != nil {
			return fmt.Errorf("node %d: free %s again: %w", i, address, err)
		}
	}
	return nil
}

func (c *devCluster) launch(exe string, node *devNode) error {
	log, err := os.OpenFile(filepath.Join(node.dir, logName), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of node %d: %w", node.id, err)
	}
	cmd := exec.Command(exe, "--config", filepath.Join(node.dir, configName)) //nolint:gosec // this very program
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = ownGroup()
	cmd.Env = childEnv(os.Environ())
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("start node %d: %w", node.id, err), log.Close())
	}
	node.cmd = cmd
	c.group.Go(fmt.Sprintf("node-%d", node.id), func(context.Context) error {
		node.err = errors.Join(cmd.Wait(), log.Close())
		close(node.exited)
		c.deaths <- node
		return nil
	})
	return nil
}

// childEnv leaves out variables that would override the nodes' configuration files.
func childEnv(environ []string) []string {
	var kept []string
	for _, line := range environ {
		if !strings.HasPrefix(line, "PENSTOCK_") {
			kept = append(kept, line)
		}
	}
	return kept
}

// awaitReady polls until the whole cluster is healthy. A child that dies before is a failure.
func (c *devCluster) awaitReady(ctx context.Context, out io.Writer) error {
	health := newHealthPoller(c.plan)
	defer health.close()
	started, told := time.Now(), false
	for {
		select {
		case node := <-c.deaths:
			return fmt.Errorf("node %d ended while the cluster was starting (%s); the end of its log:\n%s",
				node.id, node.howEnded(), node.logTail())
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		why := health.poll(ctx)
		if why == nil {
			say(out, "%s", c.plan.welcome())
			return nil
		}
		if !told && time.Since(started) > slowStart {
			told = true
			say(c.errOut, "not healthy yet: %v; see the logs in %s\n", why, filepath.Join(c.plan.dir, "node-*", logName))
		}
		if err := lifecycle.Sleep(ctx, lifecycle.RealClock(), pollInterval); err != nil {
			return err
		}
	}
}

// watch reports dead children until ctx ends.
func (c *devCluster) watch(ctx context.Context) error {
	for {
		select {
		case node := <-c.deaths:
			say(c.errOut, "node %d ended (%s); it is not restarted. Start it again with: %s --config %s\n",
				node.id, node.howEnded(), thisProgram(), filepath.Join(node.dir, configName))
		case <-ctx.Done():
			return nil
		}
	}
}

// stop ends all nodes of the cluster, children or not. They see to the order among themselves: each stops serving first, and
// keeps its controller up until no broker needs it any more.
func (c *devCluster) stop() error {
	if c.anyRunning() {
		say(c.errOut, "stopping %d node(s)\n", len(c.nodes))
	}
	deadline := time.Now().Add(stopTimeout)
	for _, node := range c.nodes {
		if process, ok := node.process(); ok {
			if err := terminate(process); err != nil && !errors.Is(err, os.ErrProcessDone) {
				say(c.errOut, "node %d: %v\n", node.id, err)
			}
		}
	}
	var errs []error
	for _, node := range c.nodes {
		if err := node.awaitEnd(deadline); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (c *devCluster) anyRunning() bool {
	for _, node := range c.nodes {
		if _, ok := node.process(); ok {
			return true
		}
	}
	return false
}
