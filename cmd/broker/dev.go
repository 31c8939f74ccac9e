package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/lifecycle"
)

// Bounds and defaults of a development cluster.
const (
	defaultDevDir  = "data/dev"
	defaultPort    = 9092
	maxDevBrokers  = 100
	portsPerNode   = 4 // client, peer, admin, gossip
	portStep       = 10
	maxVoters      = 3 // of a development cluster; nodes above are brokers alone
	largestPortNum = 65535
)

func newDevCommand(out, errOut io.Writer) *cobra.Command {
	var plan devPlan
	cmd := &cobra.Command{
		Use:   "dev --brokers N",
		Short: "Run a cluster of N nodes on this machine, in the foreground",
		Long: "Runs N nodes as child processes on loopback. Node i serves clients on port P + 10*(i-1), and keeps its\n" +
			"configuration, log and data in DIR/node-i. Interrupting stops all nodes cleanly; starting again on the same\n" +
			"directory resumes the same cluster.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := plan.check(); err != nil {
				return err
			}
			if err := plan.prepare(); err != nil {
				return err
			}
			return failed(runDev(cmd.Context(), plan, out, errOut))
		},
	}
	cmd.Flags().IntVar(&plan.brokers, "brokers", 0, "number of nodes, 1 or more")
	cmd.Flags().IntVar(&plan.port, "port", defaultPort, "client port of the first node")
	cmd.Flags().StringVar(&plan.dir, "data-dir", defaultDevDir, "directory of the cluster")
	return cmd
}

// runDev starts the nodes, says when they are ready, and stops them when ctx ends. One process at a time does so for a
// directory: two would stop each other's nodes.
func runDev(ctx context.Context, plan devPlan, out, errOut io.Writer) (err error) {
	lock, err := fsys.OS().Lock(filepath.Join(plan.dir, lockName))
	if errors.Is(err, fsys.ErrLocked) {
		return fmt.Errorf("another broker dev runs the cluster in %s: stop it, or use another --data-dir and --port", plan.dir)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", plan.dir, err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	group := lifecycle.New(context.WithoutCancel(ctx), "dev", nil)
	cluster := &devCluster{plan: plan, group: group, errOut: errOut, deaths: make(chan *devNode, plan.brokers)}
	err = cluster.start()
	if err == nil {
		err = cluster.awaitReady(ctx, out)
	}
	if err == nil {
		err = cluster.watch(ctx)
	}
	if ctx.Err() != nil {
		err = nil // an interrupt is the normal end, whenever it comes
	}
	err = errors.Join(err, cluster.stop())
	return errors.Join(err, group.Stop(context.WithoutCancel(ctx)))
}

// welcome is what stands on the terminal once the cluster is healthy.
func (p devPlan) welcome() string {
	addresses := make([]string, 0, p.brokers)
	for i := 1; i <= p.brokers; i++ {
		addresses = append(addresses, p.address(i, 0))
	}
	ctl, option := "brokerctl", ""
	if exe, err := os.Executable(); err == nil {
		if beside := filepath.Join(filepath.Dir(exe), "brokerctl"); exists(beside) {
			ctl = relative(beside)
		}
	}
	if p.port != defaultPort {
		option = " --bootstrap " + addresses[0]
	}
	var b strings.Builder
	fmt.Fprintf(&b, "ready: %d broker(s) on %s, data in %s\n", p.brokers, strings.Join(addresses, " "), p.dir)
	fmt.Fprintf(&b, "next, in another terminal:\n")
	fmt.Fprintf(&b, "  %s%s topic create logs\n", ctl, option)
	fmt.Fprintf(&b, "  echo hello | %s%s produce logs\n", ctl, option)
	fmt.Fprintf(&b, "  %s%s consume logs --from-beginning -e\n", ctl, option)
	fmt.Fprintf(&b, "  %s%s cluster health\n", ctl, option)
	fmt.Fprintf(&b, "kill a node:   kill -9 $(cat %s)\n", filepath.Join(p.dir, "node-1", pidName))
	fmt.Fprintf(&b, "start it:      %s --config %s\n", thisProgram(), filepath.Join(p.dir, "node-1", configName))
	fmt.Fprintf(&b, "stop them all: Ctrl-C here\n")
	return b.String()
}

// thisProgram is how the running program is called from the working directory.
func thisProgram() string {
	if exe, err := os.Executable(); err == nil {
		return relative(exe)
	}
	return "broker"
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// relative shortens a path below the working directory.
func relative(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	short, err := filepath.Rel(wd, path)
	if err != nil || strings.HasPrefix(short, "..") {
		return path
	}
	return "./" + short
}
