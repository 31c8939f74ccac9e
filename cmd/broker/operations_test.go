//go:build unix

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/documents"
)

// The commands of docs/operations.md are run as they stand, but for the port, and do what is said there.
func TestTheCommandsOfTheDocument(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is missing")
	}
	configFile, address := singleNode(t)
	node := launch(t, "--config", configFile)
	await(t, "the node is healthy", healthy(connect(t, address), 1))
	admin := configValue(t, configFile, "listen.admin")
	var said []string
	blocks, err := documents.Session("../..", "TestTheCommandsOfTheDocument")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range blocks {
		if !strings.Contains(block.Text, "127.0.0.1:9094") {
			t.Errorf("a block without the admin listener:\n%s", block.Text)
		}
		script := strings.ReplaceAll(block.Text, "127.0.0.1:9094", admin)
		out, err := exec.Command("sh", "-euc", script).CombinedOutput() //nolint:gosec // our own document
		if err != nil {
			t.Fatalf("%v\n%s\n%s", err, script, out)
		}
		said = append(said, string(out))
	}
	want := []string{"ok\nready\n{\"ready\":true,\"reasons\":[]}\n", "info\ndebug\ninfo\n", aHealthyNode}
	if !slices.Equal(said, want) {
		t.Errorf("the commands say %q, want %q", said, want)
	}
	for _, want := range []string{`msg="the log level was changed" node=1 from=info to=debug by=127.0.0.1:`, "from=debug to=info"} {
		node.awaitText(want) // its lines come through a pipe, after curl has its answer
	}
	quiet, err := exec.Command("curl", "-s", "-X", "PUT", "-d", "error", "http://"+admin+"/loglevel").CombinedOutput() //nolint:gosec // our own node
	if err != nil || string(quiet) != "error\n" {
		t.Errorf("the level error is answered with %q, %v", quiet, err)
	}
	node.awaitText("to=error")
	node.signal(syscall.SIGTERM)
	if code := node.exit(); code != exitOK || strings.Contains(node.out.String(), "msg=stopped") {
		t.Errorf("exit status %d; at the level error it still talks:\n%s", code, node.out)
	}
}

// aHealthyNode is what the look at the metrics shows on a node that is the whole cluster.
const aHealthyNode = `penstock_active_controller 1
penstock_replication_damaged_partitions 0
penstock_replication_differing_partitions 0
penstock_replication_leaderless_partitions 0
penstock_replication_under_min_isr_partitions 0
penstock_storage_sync_failures_total 0
`

// Alarms are of metrics that exist: of those on the page that is generated from their declarations.
func TestAlarmsAreOfMetricsThatExist(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	metrics := read("metrics.md")
	named := regexp.MustCompile("`(penstock_[a-z_]+)`").FindAllStringSubmatch(read("operations.md"), -1)
	if len(named) < 10 {
		t.Errorf("only %d metrics are named", len(named))
	}
	for _, name := range named {
		if !strings.Contains(metrics, "| `"+name[1]+"` |") {
			t.Errorf("there is no metric %s", name[1])
		}
	}
}

// configValue is a plain value of a file that broker dev wrote.
func configValue(t *testing.T, configFile, key string) string {
	t.Helper()
	text, err := os.ReadFile(configFile)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), key+": ")
	line, _, _ := strings.Cut(rest, "\n")
	if !ok {
		t.Fatalf("no %s in\n%s", key, text)
	}
	return strings.Trim(line, `"`)
}

// Everything that a node writes has one form, whoever says it: Raft, gossip and gRPC too.
func TestLogsHaveOneForm(t *testing.T) {
	configFile, address := singleNode(t)
	node := launch(t, "--config", configFile, "--log.format", "json", "--log.level", "trace", "--gossip.seeds", "127.0.0.1:1")
	await(t, "the node is healthy", healthy(connect(t, address), 1))
	await(t, "gossip says something", func() bool { return strings.Contains(node.out.String(), `"component":"gossip"`) })
	node.signal(syscall.SIGTERM)
	if code := node.exit(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
	said := map[string]bool{}
	for line := range strings.Lines(node.out.String()) {
		var fields struct {
			Time      time.Time
			Level     string
			Msg       string
			Node      int
			Component string
		}
		if err := json.Unmarshal([]byte(line), &fields); err != nil || fields.Time.IsZero() || fields.Level == "" || fields.Msg == "" || fields.Node != 1 {
			t.Errorf("a line of another form (%v): %s", err, line)
		}
		if strings.Count(line, `"component"`) > 1 {
			t.Errorf("two components: %s", line)
		}
		said[fields.Component] = true
	}
	for _, want := range []string{"", "raft", "controller", "gossip", "grpc.core", "grpc.transport"} {
		if !said[want] {
			t.Errorf("nothing of the component %q; there are %v", want, said)
		}
	}
}

// A node that asks in vain to be let go ends at once after a second signal, and its directory can be used again.
func TestASecondSignalEndsANodeAtOnce(t *testing.T) {
	configFile, address := singleNode(t)
	voters := "1@" + configValue(t, configFile, "listen.peer") + ",2@127.0.0.1:1"
	node := launch(t, "--config", configFile, "--controllers", voters) // one of two: it has no quorum
	node.awaitText("msg=started")
	node.signal(syscall.SIGTERM)
	node.awaitText("msg=stopping")
	began := time.Now()
	await(t, "it ends", func() bool { // the first signal may have been heard of before the second one is let through
		node.signal(syscall.SIGTERM)
		return !node.running()
	})
	if code := node.exit(); code != -1 || strings.Contains(node.out.String(), "msg=stopped") {
		t.Errorf("exit status %d after %v", code, time.Since(began))
	}
	again := launch(t, "--config", configFile)
	await(t, "the node is healthy", healthy(connect(t, address), 1))
	again.signal(syscall.SIGTERM)
	if code := again.exit(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
}

// Nobody takes the leaderships over and nobody lets the node go: it stops all the same, in time.
func TestAStopIsBounded(t *testing.T) {
	configFile, _ := singleNode(t)
	voters := "1@" + configValue(t, configFile, "listen.peer") + ",2@127.0.0.1:1"
	node := launch(t, "--config", configFile, "--controllers", voters, "--shutdown.timeout", "1s")
	node.awaitText("msg=started")
	began := time.Now()
	node.signal(syscall.SIGTERM)
	code := node.exit()
	if took := time.Since(began); code != exitOK || took > 40*time.Second || !strings.Contains(node.out.String(), "msg=stopped") {
		t.Errorf("exit status %d after %v", code, took)
	}
}
