//go:build unix

package chaos

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"
)

// TestDecayUnderLoad flips bits, anywhere in sealed segments, of one replica after the other under load: of a leader and of a
// follower, while the node runs and while it is dead. The scrub, which looks at everything once a second, must find each: the
// replica leaves the in-sync set, a leader hands over, the damaged file is put aside and its records are fetched anew.
func TestDecayUnderLoad(t *testing.T) {
	const topic, partitions = "decay", 1
	c := startDev(t, 3)
	c.configure("scrub.interval: 1s\nscrub.bytes.per.second: 1GiB\n")
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d (-chaos.seed)", seed)
	random := rand.New(rand.NewPCG(seed, 2))
	c.createTopic(topic, partitions, 3, "segment.bytes=65536")
	reader := c.startReader(topic, partitions)
	l := c.startLoad(topic, "p0")
	id := c.mustTopic(topic).ID
	for range either(1, 3) {
		for _, f := range []decay{{leader: true}, {dead: true}, {}, {leader: true, dead: true}}[:either(2, 4)] {
			l.awaitAnswers(2500, 60*time.Second) // several segments of records
			c.awaitHealthy()
			c.decay(topic, id, f, random)
			l.awaitAnswers(100, time.Minute)
		}
	}
	producer := l.finish()
	c.awaitHealthy()
	promise := Promise{Partitions: partitions, MinISR: 2, Replicas: 3, Fsync: true}
	mustKeep(t, c.check(topic, promise, []Producer{producer}, reader.finish()))
	c.compareStopped(topic)
}

// configure adds lines to the configuration of every node, which start anew with it.
func (c *cluster) configure(lines string) {
	c.t.Helper()
	c.stopAll()
	for i := 1; i <= c.n; i++ {
		text, err := os.ReadFile(c.config(i))
		if err != nil {
			c.t.Fatal(err)
		}
		if err := os.WriteFile(c.config(i), append(text, lines...), 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	c.startAll()
}

// decay says which replica decays: a leader's or a follower's, of a node that is dead or runs.
type decay struct{ leader, dead bool }

// decay flips a bit of one replica and waits until it is whole again; the node's counters show that it was found.
func (c *cluster) decay(topic, topicID string, f decay, random *rand.Rand) {
	c.t.Helper()
	before := leaderOf(c.t, c.mustTopic(topic), 0)
	node := before
	if !f.leader {
		node = before%c.n + 1
	}
	if f.dead {
		c.kill(node)
	}
	found := 0.0
	if !f.dead {
		found = c.metric(node, "replication_damages_total")
	}
	file := c.flipSealed(node, topicID, random)
	if f.dead {
		c.start(node)
	}
	what := fmt.Sprintf("the decay of %s on node %d (%+v)", filepath.Base(file), node, f)
	eventually(c.t, 60*time.Second, what+" is found, or it did not bite", func() error {
		// What was not known to be synced when the node died is cut by its recovery; all else is put aside.
		if f.dead && c.metric(node, "recovery_seats_lost") > 0 {
			return nil
		}
		if now := c.metric(node, "replication_damages_total"); now <= found {
			return fmt.Errorf("%v damages were found, %v before", now, found)
		}
		_, err := os.Stat(file + ".corrupt")
		return err
	})
	c.awaitHealthy()
	if now := leaderOf(c.t, c.mustTopic(topic), 0); f.leader && now == before {
		c.t.Errorf("%s: it leads again", what)
	}
}

// flipSealed flips a bit of the records of a sealed segment that no flip has hit so far, and returns the file.
func (c *cluster) flipSealed(node int, topicID string, random *rand.Rand) string {
	c.t.Helper()
	var sealed []string
	eventually(c.t, time.Minute, "there is a sealed segment", func() error {
		all, err := filepath.Glob(filepath.Join(c.nodeDir(node), "data", "topics", topicID, "0", "*.log"))
		slices.Sort(all)
		if sealed = all[:max(0, len(all)-2)]; len(sealed) == 0 { // the last but one may be about to be sealed
			err = errors.Join(err, fmt.Errorf("%d segments", len(all)))
		}
		return err
	})
	sealed = slices.DeleteFunc(sealed, func(name string) bool { return exists(name + ".corrupt") })
	if len(sealed) == 0 {
		c.t.Fatal("every segment was hit before")
	}
	name := sealed[random.IntN(len(sealed))]
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	info, err := file.Stat()
	if err != nil {
		c.t.Fatal(err)
	}
	at, bit, one := random.Int64N(info.Size()), random.IntN(8), make([]byte, 1)
	if _, err := file.ReadAt(one, at); err != nil {
		c.t.Fatal(err)
	}
	one[0] ^= 1 << bit
	if _, err := file.WriteAt(one, at); err != nil {
		c.t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Logf("bit %d of byte %d of %s on node %d is flipped", bit, at, filepath.Base(name), node)
	return name
}

// metric sums up a metric of a node, over its labels.
func (c *cluster) metric(node int, name string) (sum float64) {
	c.t.Helper()
	var text []byte
	eventually(c.t, time.Minute, fmt.Sprintf("node %d shows its metrics", node), func() error {
		resp, err := http.Get("http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port+10*(node-1)+2)) + "/metrics")
		if err != nil {
			return err
		}
		text, err = io.ReadAll(resp.Body)
		return errors.Join(err, resp.Body.Close())
	})
	for _, line := range regexp.MustCompile(`(?m)^penstock_`+name+`(?:\{.*\})? (\S+)$`).FindAllSubmatch(text, -1) {
		value, err := strconv.ParseFloat(string(line[1]), 64)
		if err != nil {
			c.t.Fatal(err)
		}
		sum += value
	}
	return sum
}
