package deploy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/documents"
	"github.com/penstock-io/penstock/internal/testcluster"
	"github.com/penstock-io/penstock/internal/testcluster/chaos"
)

// TestCompose brings the compose cluster up as users do and takes it through its life: both listeners, logs both ways, nodes
// killed and cut off under load, down and up again with its data, down without it.
func TestCompose(t *testing.T) {
	needEngine(t)
	shown, err := documents.Lines(repository, "TestCompose")
	if err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, shown)
	t.Logf("%d nodes in containers are up: project %s, host ports %v", nodes, c.project, c.ports)
	c.checkHardening()
	c.checkAddresses()
	c.checkHints()
	sent := c.produceLogs()
	c.checkLogs(sent)
	c.checkFaults(*composeForm == "full")
	c.down()
	if left := c.left("ps", "-aq"); left != "" {
		t.Errorf("make down left containers: %s", left)
	}
	c.up()
	c.checkLogs(sent)
	t.Log("the cluster went down and up again with all its data")
	c.checkPython()
	c.checkDocument()
	for command, times := range c.shown {
		if times == 0 {
			t.Errorf("the documents show %q, and this test did not run it", command)
		}
	}
}

// checkHardening looks at what compose promises of the containers.
func (c *cluster) checkHardening() {
	c.t.Helper()
	for i := 1; i <= nodes; i++ {
		var containers []struct {
			Config struct{ User string }
			State  struct {
				Health struct{ Status string }
			}
			HostConfig struct {
				ReadonlyRootfs bool
				CapDrop        []string
				PortBindings   map[string][]struct {
					HostIP string `json:"HostIp"`
				}
			}
		}
		if err := json.Unmarshal([]byte(must(c.t, "docker", "inspect", c.node(i))), &containers); err != nil || len(containers) != 1 {
			c.t.Fatalf("docker inspect: %v", err)
		}
		got := containers[0]
		if user, _, _ := strings.Cut(got.Config.User, ":"); user == "" || user == "0" || user == "root" {
			c.t.Errorf("node %d runs as %q", i, got.Config.User)
		}
		if !got.HostConfig.ReadonlyRootfs || len(got.HostConfig.CapDrop) == 0 {
			c.t.Errorf("node %d: read-only root %v, dropped capabilities %v", i, got.HostConfig.ReadonlyRootfs, got.HostConfig.CapDrop)
		}
		for port, bindings := range got.HostConfig.PortBindings {
			for _, b := range bindings {
				if b.HostIP != "127.0.0.1" {
					c.t.Errorf("node %d publishes %s on %q, beyond loopback", i, port, b.HostIP)
				}
			}
		}
	}
	for i := 1; i <= nodes; i++ {
		eventually(c.t, recoverWithin, "the engine finds the container healthy", func() error {
			if now := must(c.t, "docker", "inspect", "--format", "{{.State.Health.Status}}", c.node(i)); strings.TrimSpace(now) != "healthy" {
				return fmt.Errorf("node %d is %s", i, now)
			}
			return nil
		})
	}
	if r := run(c.t.Context(), c.t, nil, "docker", "run", "--rm", "--network", "none", "--label", c.label(), c.image, "sh", "-c", "true"); r.code == 0 {
		c.t.Error("the image has a shell")
	}
	key := c.makes[2][len("KEY_FILE="):]
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 || info.Size() != 64 {
		c.t.Errorf("the gossip key: %v %v", info, err)
	}
}

// checkAddresses asks both listeners of each node who there is.
func (c *cluster) checkAddresses() {
	c.t.Helper()
	for _, from := range c.sides() {
		h, err := c.health(from)
		if err != nil || len(h.Brokers) != nodes {
			c.t.Fatalf("health on the %s: %+v %v", from.name, h, err)
		}
		for _, b := range h.Brokers {
			want := "127.0.0.1:" + strconv.Itoa(c.ports[b.ID-1])
			if from.name == "container" {
				want = "node-" + strconv.Itoa(b.ID) + ":" + networkPort
			}
			if b.Address != want {
				c.t.Errorf("asked by the %s, broker %d is at %s, want %s", from.name, b.ID, b.Address, want)
			}
		}
	}
}

// checkHints asks each node, on each listener, to append to a partition: all but the leader name the leader's address on
// the listener that was asked.
func (c *cluster) checkHints() {
	c.t.Helper()
	c.ctl(c.hostSide(), nil, "topic", "create", "hints", "--partitions", "1", "--replication-factor", "3")
	leader := int(*c.topic("hints").Partitions[0].Leader)
	for i := 1; i <= nodes; i++ {
		inside := strings.TrimSpace(must(c.t, "docker", "inspect", "--format",
			"{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", c.node(i)))
		for asked, want := range map[string]string{
			"127.0.0.1:" + strconv.Itoa(c.ports[i-1]): "127.0.0.1:" + strconv.Itoa(c.ports[leader-1]),
			net.JoinHostPort(inside, networkPort):     "node-" + strconv.Itoa(leader) + ":" + networkPort,
		} {
			hint, err := hintOf(c.t, asked)
			switch {
			case err != nil:
				c.t.Errorf("ask node %d at %s: %v", i, asked, err)
			case i == leader && hint != "":
				c.t.Errorf("the leader at %s refuses and names %s", asked, hint)
			case i != leader && hint != want:
				c.t.Errorf("node %d, asked at %s, names the leader %q, want %q", i, asked, hint, want)
			}
		}
	}
}

// hintOf appends a record by one raw call; it returns the address of the leader hint, or nothing where the call succeeds.
func hintOf(t *testing.T, address string) (string, error) {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = penstockv1.NewProducerServiceClient(conn).ProduceOnce(ctx, &penstockv1.ProduceRequest{
		Topic: "hints", Records: []*penstockv1.Record{{Value: []byte("who leads?")}},
	})
	if err == nil {
		return "", nil
	}
	for _, detail := range status.Convert(err).Details() {
		if said, ok := detail.(*penstockv1.Error); ok && said.GetLeader().GetHost() != "" {
			return net.JoinHostPort(said.GetLeader().GetHost(), strconv.Itoa(int(said.GetLeader().GetPort()))), nil
		}
	}
	return "", err
}

// produceLogs writes each sample log from each side, keyed by its name, and returns the lines by topic and key.
func (c *cluster) produceLogs() map[string]map[string][]string {
	c.t.Helper()
	sent := map[string]map[string][]string{}
	for _, from := range c.sides() {
		name := "logs-from-" + from.name
		c.ctl(from, nil, "topic", "create", name, "--partitions", "6", "--replication-factor", "3")
		sent[name] = map[string][]string{}
		for _, log := range testcluster.SampleLogs(c.t) {
			c.ctl(from, bytes.NewReader(bytes.Join(log.Lines, []byte("\n"))), "produce", name, "-k", log.Name)
			for _, line := range log.Lines {
				sent[name][log.Name] = append(sent[name][log.Name], string(line))
			}
		}
	}
	return sent
}

// checkLogs reads everything back on both sides.
func (c *cluster) checkLogs(sent map[string]map[string][]string) {
	c.t.Helper()
	for _, from := range c.sides() {
		for name, want := range sent {
			view := c.view(from, name)
			for _, wrong := range chaos.CheckKeyed(want, view) {
				c.t.Errorf("%s, read on the %s: %s", name, from.name, wrong)
			}
			c.t.Logf("%s: %d records of %d logs are back on the %s", name, len(view.Records), len(want), from.name)
		}
	}
}

// checkFaults kills nodes and cuts a leader off while both sides produce with receipts.
func (c *cluster) checkFaults(each bool) {
	c.t.Helper()
	const name, partitions = "ledger", 6
	c.ctl(c.hostSide(), nil, "topic", "create", name, "--partitions", strconv.Itoa(partitions), "--replication-factor", "3")
	var loads []*load
	for _, from := range c.sides() {
		loads = append(loads, c.startLoad(from, name))
	}
	killed := 1
	if each {
		killed = nodes
	}
	for i := 1; i <= killed; i++ {
		c.fault(name, i, loads, "killed",
			func(container string) { c.typed("docker kill", container) },
			func(container string) { must(c.t, "docker", "start", container) })
	}
	leader := int(*c.topic(name).Partitions[0].Leader)
	c.fault(name, leader, loads, "cut off",
		func(container string) { must(c.t, "docker", "network", "disconnect", c.network(), container) },
		func(container string) {
			must(c.t, "docker", "network", "connect", "--alias", "node-"+strconv.Itoa(leader), c.network(), container)
		})
	var producers []chaos.Producer
	for _, l := range loads {
		producers = append(producers, l.finish())
	}
	history := chaos.History{Producers: producers}
	for _, from := range c.sides() {
		history.Views = append(history.Views, c.view(from, name))
	}
	report := chaos.Check(history, chaos.Promise{Partitions: partitions, MinISR: 2, Replicas: nodes, Fsync: true})
	if !report.OK() || report.Acked == 0 {
		c.t.Error(report)
	}
	c.t.Logf("%d nodes killed, 1 cut off: %s", killed, report)
}

// fault makes one node fail under load and heals it. It must bite: the node leads partitions, and these get other leaders.
func (c *cluster) fault(topicName string, node int, loads []*load, what string, fail, heal func(container string)) {
	c.t.Helper()
	for _, l := range loads {
		l.awaitCaughtUp(recoverWithin)
	}
	led := c.topic(topicName).ledBy(node)
	if len(led) == 0 {
		c.t.Fatalf("node %d leads nothing: the fault would not bite", node)
	}
	begin := time.Now()
	fail(c.node(node))
	c.awaitNamed(node)
	named := time.Since(begin)
	eventually(c.t, recoverWithin, "other nodes lead what node "+strconv.Itoa(node)+" led", func() error {
		for _, p := range c.topic(topicName).Partitions {
			if before, was := led[p.Partition]; was && (p.Leader == nil || int(*p.Leader) == node || p.LeaderEpoch <= before) {
				return fmt.Errorf("partition %d of the node that was %s: epoch %d before and %d now", p.Partition, what, before, p.LeaderEpoch)
			}
		}
		return nil
	})
	for _, l := range loads {
		l.awaitCaughtUp(recoverWithin)
	}
	answered := time.Since(begin)
	heal(c.node(node))
	c.awaitWell()
	c.t.Logf("node %d, leader of %d partitions, was %s: named after %v, all records answered after %v, well again after %v", node, len(led),
		what, named.Round(time.Millisecond), answered.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
}

// checkPython runs the Python examples on the cluster, from the host.
func (c *cluster) checkPython() {
	c.t.Helper()
	if r := run(c.t.Context(), c.t, nil, "/usr/bin/env", "PATH=/usr/bin:/bin", "python3", "-c", "import grpc, google.protobuf"); r.code != 0 {
		if os.Getenv("PENSTOCK_TEST_PYTHON") != "" {
			c.t.Fatalf("python3-grpcio is missing: %s", r)
		}
		c.t.Logf("the Python examples were not run: python3-grpcio is missing (%s)", strings.TrimSpace(r.err))
		return
	}
	home := c.t.TempDir()
	for _, dir := range []string{"examples/python", "api/proto"} {
		if err := os.CopyFS(filepath.Join(home, dir), os.DirFS(filepath.Join(repository, dir))); err != nil {
			c.t.Fatal(err)
		}
	}
	program := func(name string) string { return filepath.Join(home, "examples/python", name) }
	must(c.t, program("generate"))
	c.ctl(c.hostSide(), nil, "topic", "create", "orders", "--partitions", "6", "--replication-factor", "3")
	must(c.t, program("producer.py"), "orders", "--count", "1000", "--bootstrap", c.fromHost())
	out := must(c.t, program("consumer.py"), "orders", "--bootstrap", c.fromHost())
	if n := strings.Count(out, "\n"); n != 1000 {
		c.t.Errorf("the Python consumer read %d of 1000 records:\n%s", n, tail(out))
	}
	c.t.Log("the Python examples wrote 1000 records and read them back")
}

// checkDocument runs the session of docs/deploy.md as it stands, but for names and ports; it ends with the removal of all.
func (c *cluster) checkDocument() {
	c.t.Helper()
	blocks, err := documents.Session(repository, "TestCompose")
	if err != nil {
		c.t.Fatal(err)
	}
	var script strings.Builder
	for _, b := range blocks {
		script.WriteString(b.Text)
	}
	session := strings.NewReplacer("penstock_default", c.network(), "penstock:local", c.image,
		"compose.project=penstock", "compose.project="+c.project).Replace(script.String())
	env := append([]string{"PENSTOCK_BOOTSTRAP=" + c.fromHost()}, c.makes...)
	r := run(c.t.Context(), c.t, nil, "env", append(env, "bash", "-euo", "pipefail", "-c", session)...)
	if r.code != 0 {
		c.t.Fatalf("the session of docs/deploy.md: %s", r)
	}
	for _, want := range []string{"ready\n", "node-1:9096", `"fsynced":3`} {
		if !strings.Contains(r.out, want) {
			c.t.Errorf("the session of docs/deploy.md does not show %q:\n%s", want, tail(r.out))
		}
	}
	if strings.Count(r.out, "from the host\n") != 2 || strings.Count(r.out, "from a container\n") != 2 {
		c.t.Errorf("the session of docs/deploy.md does not read both records twice:\n%s", tail(r.out))
	}
	c.t.Log("the session of docs/deploy.md ran")
}
