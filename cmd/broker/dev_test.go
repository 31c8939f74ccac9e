//go:build unix

package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-io/penstock/client"
)

func pidOf(t *testing.T, plan devPlan, i int) int {
	t.Helper()
	pid, ok := (&devNode{id: i, dir: plan.nodeDir(i)}).running()
	if !ok {
		t.Fatalf("node %d does not run", i)
	}
	return pid
}

func (p devPlan) args() []string {
	return []string{"dev", "--brokers", strconv.Itoa(p.brokers), "--port", strconv.Itoa(p.port), "--data-dir", p.dir}
}

func TestDevClusterFromStartToStop(t *testing.T) {
	plan := devPlan{brokers: 3, port: freePorts(t, 3), dir: filepath.Join(t.TempDir(), "cluster")}
	dev := launch(t, plan.args()...)
	dev.awaitText("ready: ")
	if !strings.HasPrefix(dev.out.String(), "ready") || !strings.Contains(dev.out.String(), "topic create") {
		t.Errorf("it said:\n%s", dev.out)
	}
	c := connect(t, plan.address(2, 0), plan.address(3, 0))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if _, err := c.CreateTopic(ctx, client.TopicSpec{Name: "t", Partitions: new(int32(3))}); err != nil {
		t.Fatal(err)
	}
	producer, err := c.NewProducer(ctx, client.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	produce := func(value string) {
		t.Helper()
		if _, err := producer.ProduceSync(ctx, client.Record{Topic: "t", Key: []byte("k"), Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
	}
	produce("before")
	// A node dies, the cluster goes on, and somebody starts the node by hand.
	if err := syscall.Kill(pidOf(t, plan, 1), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	dev.awaitText("node 1 ended")
	produce("without node 1")
	byHand := launch(t, "--config", filepath.Join(plan.nodeDir(1), configName))
	await(t, "the cluster is healthy again", healthy(c, 3))
	produce("with node 1 again")
	if err := producer.Close(ctx); err != nil {
		t.Fatal(err)
	}
	dev.signal(syscall.SIGINT)
	if code := dev.exit(); code != exitOK {
		t.Errorf("broker dev ended with %d:\n%s", code, dev.out)
	}
	if code := byHand.exit(); code != exitOK {
		t.Errorf("the node started by hand ended with %d:\n%s", code, byHand.out)
	}
	resumed(ctx, t, plan)
}

// resumed starts the cluster again and looks for what was in it.
func resumed(ctx context.Context, t *testing.T, plan devPlan) {
	t.Helper()
	other := plan
	other.brokers = 2
	if p := launch(t, other.args()...); p.exit() != exitUsage {
		t.Errorf("another number of nodes: exit status %d:\n%s", p.exit(), p.out)
	}
	dev := launch(t, plan.args()...)
	dev.awaitText("ready: ")
	stranger := plan
	stranger.dir = t.TempDir()
	if p := launch(t, stranger.args()...); p.exit() != exitFailed || strings.Contains(p.out.String(), "ready:") ||
		!strings.Contains(p.out.String(), plan.address(1, 0)+" is in use") {
		t.Errorf("another cluster on the same ports: exit status %d:\n%s", p.exit(), p.out)
	}
	if p := launch(t, plan.args()...); p.exit() != exitFailed || !strings.Contains(p.out.String(), "another broker dev") {
		t.Errorf("a second broker dev of the same cluster: exit status %d:\n%s", p.exit(), p.out)
	}
	c := connect(t, plan.address(1, 0))
	var total int64
	for p := range int32(3) {
		end, err := c.ListOffset(ctx, "t", p, client.AtEnd())
		if err != nil {
			t.Fatal(err)
		}
		total += end
	}
	if total != 3 {
		t.Errorf("%d records are left of 3", total)
	}
	dev.signal(syscall.SIGINT)
	if code := dev.exit(); code != exitOK {
		t.Errorf("broker dev ended with %d:\n%s", code, dev.out)
	}
	for i := 1; i <= plan.brokers; i++ {
		if _, err := os.Stat(filepath.Join(plan.nodeDir(i), pidName)); !os.IsNotExist(err) {
			t.Errorf("node %d left its pid file: %v", i, err)
		}
	}
}

func TestUsageAndConflicts(t *testing.T) {
	configFile, address := singleNode(t)
	node := launch(t, "--config", configFile)
	connect(t, address)
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("listen.pear: a:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	fresh := t.TempDir()
	port := strconv.Itoa(freePorts(t, 1))
	cases := []struct {
		name string
		args []string
		code int
		want string
	}{
		{"version", []string{"version"}, exitOK, "penstock"},
		{"print", []string{"config", "print", "--config", configFile}, exitOK, "broker.yaml line"},
		{"unknown flag", []string{"--listen.pear", "a:1"}, exitUsage, "--listen.peer"},
		{"unknown command", []string{"devv"}, exitUsage, "devv"},
		{"config of what", []string{"config"}, exitUsage, "config print"},
		{"unknown command of config", []string{"config", "prnit"}, exitUsage, "prnit"},
		{"unknown key", []string{"--config", bad}, exitUsage, "listen.peer"},
		{"missing file", []string{"--config", filepath.Join(fresh, "none.yaml")}, exitUsage, "no such file"},
		{"two files", []string{"--config", configFile, "--config", bad}, exitUsage, "twice"},
		{"no brokers", []string{"dev", "--data-dir", fresh}, exitUsage, "--brokers"},
		{"ports beyond the last", []string{"dev", "--brokers", "3", "--port", "65530", "--data-dir", fresh}, exitUsage, "--port"},
		{"data directory in use", []string{
			"--data.dir", filepath.Join(filepath.Dir(configFile), dataName), "--listen.client", "127.0.0.1:" + port,
		}, exitFailed, "in use"},
		{"address in use", []string{"--data.dir", filepath.Join(fresh, "other"), "--listen.peer", address}, exitFailed, "address is in use"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			p := launch(t, tc.args...)
			if code := p.exit(); code != tc.code || !strings.Contains(p.out.String(), tc.want) {
				t.Errorf("exit status %d, want %d; it said %q, want %q in it", code, tc.code, p.out, tc.want)
			}
		})
	}
	if !node.running() {
		t.Error("the node suffered from its neighbours' mistakes")
	}
	node.signal(syscall.SIGINT)
	if code := node.exit(); code != exitOK {
		t.Errorf("exit status %d after a clean stop", code)
	}
}
