package deploy_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/testcluster/chaos"
	"github.com/penstock-io/penstock/internal/testports"
)

const (
	nodes         = 3
	networkPort   = "9096" // of the listener for other containers
	recoverWithin = 60 * time.Second
)

// cluster is the compose cluster, brought up with `make up` under a name, on ports and with an image of its own.
type cluster struct {
	t       *testing.T
	project string
	image   string
	ports   [nodes]int
	makes   []string       // the overriding variables
	shown   map[string]int // the commands that the documents show, and how often they were run
}

// newCluster brings a cluster up and takes away all of it when the test ends, whatever became of it.
func newCluster(t *testing.T, shown []string) *cluster {
	t.Helper()
	project := "penstock-test-" + strconv.Itoa(os.Getpid())
	c := &cluster{t: t, project: project, image: "penstock:" + project}
	c.makes = []string{
		"PROJECT=" + project, "IMAGE=" + c.image, "KEY_FILE=" + filepath.Join(t.TempDir(), "gossip.key"), "UP_TIMEOUT=120",
	}
	for i := range c.ports {
		c.ports[i] = testports.Take(t, 1)
		c.makes = append(c.makes, fmt.Sprintf("PORT_%d=%d", i+1, c.ports[i]))
	}
	c.shown = map[string]int{}
	for _, command := range shown {
		c.shown[command] = 0
	}
	t.Cleanup(c.remove)
	c.up()
	return c
}

// typed runs a command that the documents show, with more words at its end; it has to succeed.
func (c *cluster) typed(command string, more ...string) string {
	c.t.Helper()
	if _, is := c.shown[command]; !is {
		c.t.Fatalf("no document shows %q: %v", command, c.shown)
	}
	c.shown[command]++
	words := append(strings.Fields(command), more...)
	return must(c.t, words[0], words[1:]...)
}

func (c *cluster) up() {
	c.t.Helper()
	if out := c.typed("make up", c.makes...); !strings.Contains(out, "healthy: ") {
		c.t.Errorf("make up does not end with the health of the cluster:\n%s", tail(out))
	}
}

func (c *cluster) down(extra ...string) {
	c.t.Helper()
	c.typed("make down", append(extra, c.makes...)...)
}

// remove drops containers, volumes, network and image of this test, and nothing else.
func (c *cluster) remove() {
	ctx := context.Background()
	if c.t.Failed() {
		for i := 1; i <= nodes; i++ {
			r := run(ctx, c.t, nil, "docker", "logs", "--tail", "40", c.node(i))
			c.t.Logf("%s ended with:\n%s", c.node(i), tail(r.out+r.err))
		}
	}
	if ids := strings.Fields(run(ctx, c.t, nil, "docker", "ps", "-aq", "--filter", "label="+c.label()).out); len(ids) > 0 {
		run(ctx, c.t, nil, "docker", append([]string{"rm", "-f"}, ids...)...)
	}
	if r := run(ctx, c.t, nil, "make", append([]string{"down", "VOLUMES=1"}, c.makes...)...); r.code != 0 {
		c.t.Error(r)
	}
	if r := run(ctx, c.t, nil, "docker", "image", "rm", c.image); r.code != 0 {
		c.t.Error(r)
	}
	if left := c.left("ps", "-aq") + c.left("volume", "ls", "-q") + c.left("network", "ls", "-q"); left != "" {
		c.t.Errorf("make down VOLUMES=1 left behind: %s", left)
	}
}

// left lists what there is of this project.
func (c *cluster) left(list ...string) string {
	args := append(list, "--filter", "label=com.docker.compose.project="+c.project)
	return run(context.Background(), c.t, nil, "docker", args...).out
}

// label marks the containers that the test itself runs.
func (c *cluster) label() string { return "penstock.test=" + c.project }

// node is the name of a container: 1.29 and v2 of compose join with different characters, so it is looked up by label.
func (c *cluster) node(i int) string {
	out := run(context.Background(), c.t, nil, "docker", "ps", "-a", "--format", "{{.Names}}",
		"--filter", "label=com.docker.compose.project="+c.project,
		"--filter", "label=com.docker.compose.service=node-"+strconv.Itoa(i)).out
	return strings.TrimSpace(out)
}

func (c *cluster) network() string { return c.project + "_default" }

// fromHost is how the host reaches the cluster, from starting with a node.
func (c *cluster) fromHost() string {
	var addresses []string
	for _, port := range c.ports {
		addresses = append(addresses, "127.0.0.1:"+strconv.Itoa(port))
	}
	return strings.Join(addresses, ",")
}

func (c *cluster) fromNetwork() string {
	return "node-1:" + networkPort + ",node-2:" + networkPort + ",node-3:" + networkPort
}

// side is where a command line runs.
type side struct {
	name    string
	program string
	args    []string // before those of brokerctl
}

// sides are the host and a new container on the network of the cluster.
func (c *cluster) sides() []side {
	return []side{c.hostSide(), c.containerSide()}
}

func (c *cluster) hostSide() side {
	return side{name: "host", program: "./bin/brokerctl", args: []string{"--bootstrap", c.fromHost()}}
}

func (c *cluster) containerSide() side {
	return side{name: "container", program: "docker", args: []string{
		"run", "--rm", "-i", "--read-only", "--cap-drop", "ALL", "--network", c.network(), "--label", c.label(),
		c.image, "brokerctl", "--bootstrap", c.fromNetwork(),
	}}
}

// ctl runs brokerctl on one side; it has to succeed.
func (c *cluster) ctl(from side, stdin io.Reader, args ...string) string {
	c.t.Helper()
	r := run(c.t.Context(), c.t, stdin, from.program, slices.Concat(from.args, args)...)
	if r.code != 0 {
		c.t.Fatal(r)
	}
	return r.out
}

// health is the answer of `brokerctl cluster health`.
type health struct {
	Healthy bool `json:"healthy"`
	Brokers []struct {
		ID      int    `json:"id"`
		State   string `json:"state"`
		Address string `json:"address"`
	} `json:"brokers"`
	Reasons []struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"reasons"`
}

func (c *cluster) health(from side) (health, error) {
	c.t.Helper()
	r := run(c.t.Context(), c.t, nil, from.program, slices.Concat(from.args, []string{"-o", "json", "--timeout", "3s", "cluster", "health"})...)
	var h health
	if err := json.Unmarshal([]byte(r.out), &h); err != nil {
		return h, fmt.Errorf("%w: %s", err, r)
	}
	if want := map[bool]int{true: 0, false: 3}[h.Healthy]; r.code != want {
		return h, fmt.Errorf("healthy is %v, but the %s", h.Healthy, r)
	}
	return h, nil
}

// awaitNamed waits until the cluster says that node i is not heard of.
func (c *cluster) awaitNamed(i int) {
	c.t.Helper()
	eventually(c.t, recoverWithin, fmt.Sprintf("cluster health names broker %d", i), func() error {
		h, err := c.health(c.hostSide())
		if err != nil {
			return err
		}
		for _, reason := range h.Reasons {
			if reason.Code == "BROKER_FENCED" && strings.Contains(reason.Message, fmt.Sprintf("broker %d ", i)) {
				c.t.Logf("cluster health: %s: %s", reason.Code, reason.Message)
				return nil
			}
		}
		return fmt.Errorf("it says %+v", h)
	})
}

func (c *cluster) awaitWell() {
	c.t.Helper()
	c.ctl(c.hostSide(), nil, "cluster", "health", "--wait", recoverWithin.String())
	eventually(c.t, recoverWithin, "all brokers are online", func() error {
		h, err := c.health(c.hostSide())
		if err == nil && (!h.Healthy || len(h.Brokers) != nodes) {
			err = fmt.Errorf("%+v", h)
		}
		return err
	})
}

// topic is the answer of `brokerctl topic describe`.
type topic struct {
	Partitions []struct {
		Partition   int32  `json:"partition"`
		Leader      *int32 `json:"leader"`
		LeaderEpoch int32  `json:"leader_epoch"`
	} `json:"partitions"`
}

func (c *cluster) topic(name string) topic {
	c.t.Helper()
	var found topic
	if err := json.Unmarshal([]byte(c.ctl(c.hostSide(), nil, "-o", "json", "topic", "describe", name)), &found); err != nil {
		c.t.Fatal(err)
	}
	return found
}

// ledBy are the leader epochs of the partitions that a node leads.
func (t topic) ledBy(node int) map[int32]int32 {
	epochs := map[int32]int32{}
	for _, p := range t.Partitions {
		if p.Leader != nil && int(*p.Leader) == node {
			epochs[p.Partition] = p.LeaderEpoch
		}
	}
	return epochs
}

// view reads a topic to its end on one side.
func (c *cluster) view(from side, topicName string) chaos.View {
	c.t.Helper()
	out := c.ctl(from, nil, "-o", "json", "consume", topicName, "--from-beginning", "-e")
	view := chaos.View{Name: "the " + from.name}
	for line := range strings.Lines(out) {
		var r struct {
			Partition int32           `json:"partition"`
			Offset    int64           `json:"offset"`
			Key       json.RawMessage `json:"key"`
			Value     json.RawMessage `json:"value"`
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			c.t.Fatalf("consume on the %s: %v: %s", from.name, err, line)
		}
		view.Records = append(view.Records, chaos.Read{
			Partition: r.Partition, Offset: r.Offset, LeaderEpoch: -1, Key: c.bytes(r.Key), Value: c.bytes(r.Value),
		})
	}
	return view
}

// bytes are those of a string, of base64 where they are not UTF-8, of null.
func (c *cluster) bytes(raw json.RawMessage) string {
	c.t.Helper()
	var text *string
	if json.Unmarshal(raw, &text) == nil {
		if text == nil {
			return ""
		}
		return *text
	}
	var coded struct {
		Base64 string `json:"base64"`
	}
	if err := json.Unmarshal(raw, &coded); err != nil {
		c.t.Fatal(err)
	}
	plain, err := base64.StdEncoding.DecodeString(coded.Base64)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(plain)
}
