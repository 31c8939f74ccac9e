//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/penstock-io/penstock/client"
)

const (
	// window bounds the records handed over and not answered.
	window = 8000
	// paced is how many records a millisecond are sent between faults.
	paced = 2
	// loadKeys is how many keys the records have where nothing else is said; one of them gets a third of all records.
	loadKeys = 60
)

// load is a running `brokerctl produce --receipts`, fed with unique records and read line by line.
type load struct {
	t     *testing.T
	name  string
	keys  int
	proc  *process
	stdin *os.File
	fed   chan error // the feeder's end
	read  chan error // the end of the receipts

	mu       sync.Mutex
	changed  *sync.Cond
	burst    bool // as fast as it goes
	stopped  bool
	sent     []Sent
	receipts []Receipt
	watch    *watch
}

// watch waits for the first acknowledgement by a new leader of any of some partitions.
type watch struct {
	epochs map[int32]int32 // the leader epoch before the fault, by partition
	seen   chan time.Time
}

// startLoad starts a producer of records for a topic. extra are further flags.
func (c *cluster) startLoad(topic, name string, extra ...string) *load {
	c.t.Helper()
	return c.startKeyedLoad(topic, name, loadKeys, extra...)
}

// startKeyedLoad is startLoad with so many keys.
func (c *cluster) startKeyedLoad(topic, name string, keys int, extra ...string) *load {
	c.t.Helper()
	stdin, feed, err := os.Pipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := narrow(feed); err != nil {
		c.t.Fatalf("make the pipe small: %v", err)
	}
	receipts, out, err := os.Pipe()
	if err != nil {
		c.t.Fatal(err)
	}
	l := &load{t: c.t, name: name, keys: keys, stdin: feed, fed: make(chan error, 1), read: make(chan error, 1)}
	l.changed = sync.NewCond(&l.mu)
	args := append([]string{"produce", topic, "--key-separator", "|", "--receipts"}, extra...)
	for _, address := range c.bootstrap() {
		args = append(args, "--bootstrap", address)
	}
	l.proc = launchWith(c.t, "brokerctl produce", c.t.TempDir(), nil, stdin, out, c.bin.ctl, args...)
	_, _ = stdin.Close(), out.Close() // the child has its own
	go func() { l.read <- ParseReceipts(receipts, l.take) }()
	go func() { l.fed <- l.feed() }()
	c.t.Cleanup(func() {
		l.stop()
		l.proc.end()
		<-l.fed
		<-l.read
		_ = receipts.Close()
	})
	return l
}

// record makes the next record.
func (l *load) record(n int) Sent {
	key := n % l.keys
	if n%3 == 0 {
		key = 0
	}
	return Sent{
		Key:   fmt.Sprintf("key-%02d", key),
		Value: fmt.Sprintf("%s-%08d of some length, with | and %x in it", l.name, n, uint64(n)*0x9e3779b97f4a7c15),
	}
}

// feed writes records until it is told to stop.
func (l *load) feed() error {
	defer func() { _ = l.stdin.Close() }()
	const most = 50 // records a write
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; {
		l.mu.Lock()
		for !l.stopped && len(l.sent)-len(l.receipts) >= window {
			l.changed.Wait()
		}
		stopped, burst := l.stopped, l.burst
		var text []byte
		if !stopped {
			count := most
			if !burst {
				count = 5 * paced
			}
			for range count {
				r := l.record(n)
				l.sent = append(l.sent, r)
				text = append(append(append(append(text, r.Key...), '|'), r.Value...), '\n')
				n++
			}
		}
		l.mu.Unlock()
		if stopped {
			return nil
		}
		if _, err := l.stdin.Write(text); err != nil {
			return err
		}
		if !burst {
			<-tick.C
		}
	}
}

// take notes a receipt.
func (l *load) take(r Receipt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.receipts = append(l.receipts, r)
	l.changed.Broadcast()
	if l.watch != nil && r.Error == "" {
		if before, watched := l.watch.epochs[r.Partition]; watched && r.LeaderEpoch > before {
			l.watch.seen <- time.Now()
			l.watch = nil
		}
	}
}

func (l *load) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	l.changed.Broadcast()
}

// counts returns how many records were handed over and how many answered.
func (l *load) counts() (sent, answered int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.sent), len(l.receipts)
}

func (l *load) setBurst(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.burst = on
}

// watchFor arms a watch; the channel gets the time of the first acknowledgement in a newer leader epoch.
func (l *load) watchFor(epochs map[int32]int32) <-chan time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watch = &watch{epochs: epochs, seen: make(chan time.Time, 1)}
	return l.watch.seen
}

// busiest returns the partition with the most acknowledgements.
func (l *load) busiest() int32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	count, best := map[int32]int{}, int32(0)
	for _, r := range l.receipts {
		count[r.Partition]++
		if count[r.Partition] > count[best] {
			best = r.Partition
		}
	}
	return best
}

// awaitAnswers waits until at least n more records are answered than now.
func (l *load) awaitAnswers(n int, within time.Duration) {
	l.t.Helper()
	_, begin := l.counts()
	eventually(l.t, within, fmt.Sprintf("%d more records are answered", n), func() error {
		if !l.proc.running() {
			l.t.Fatalf("brokerctl produce ended: %v\n%s", l.proc.waitErr, tail(l.proc.err.String()))
		}
		if _, now := l.counts(); now < begin+n {
			return fmt.Errorf("%d are", now-begin)
		}
		return nil
	})
}

// answeredOrPassed waits until n more records are answered than now, or until the time has passed.
func (l *load) answeredOrPassed(n int, patience time.Duration) {
	_, begin := l.counts()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, now := l.counts(); now >= begin+n {
			return
		}
		select {
		case <-tick.C:
		case <-timer.C:
			return
		}
	}
}

// rush sends as fast as it goes until acknowledgements stream in and at least inFlight records are under way, and returns
// how many are. What the pipe still holds (at most one page, and one more in the reader) is not counted.
func (l *load) rush(inFlight int) int {
	l.t.Helper()
	const unread = 2 * 4096 / 60
	l.setBurst(true)
	l.awaitAnswers(1000, time.Minute)
	underWay := 0
	eventually(l.t, time.Minute, fmt.Sprintf("%d records are in flight", inFlight), func() error {
		sent, answered := l.counts()
		if underWay = sent - answered - unread; underWay < inFlight {
			return fmt.Errorf("%d are", underWay)
		}
		return nil
	})
	return underWay
}

// finish ends the input, waits until brokerctl has ended well, and returns what was sent and answered.
func (l *load) finish() Producer {
	l.t.Helper()
	producer := l.finishAnyhow()
	if code := l.proc.await(l.t, 0); code != 0 {
		l.t.Errorf("brokerctl produce ended with status %d\n%s", code, tail(l.proc.err.String()))
	}
	return producer
}

// finishAnyhow is finish for a producer that may have failed.
func (l *load) finishAnyhow() Producer {
	l.t.Helper()
	l.stop()
	if err := <-l.fed; err != nil {
		l.t.Logf("feeding brokerctl produce: %v", err)
	}
	l.fed <- nil
	l.proc.await(l.t, 120*time.Second)
	if err := <-l.read; err != nil {
		l.t.Errorf("reading receipts: %v", err)
	}
	l.read <- nil
	l.mu.Lock()
	defer l.mu.Unlock()
	return Producer{Name: l.name, Sent: l.sent, Receipts: l.receipts}
}

// reader reads a topic from the start on, in the background, as a consumer that follows the log.
type reader struct {
	t      *testing.T
	cancel context.CancelFunc
	done   chan struct{}
	mu     sync.Mutex
	view   View
	failed error
}

// startReader starts to follow all partitions of a topic.
func (c *cluster) startReader(topic string, partitions int) *reader {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &reader{t: c.t, cancel: cancel, done: make(chan struct{}), view: View{Name: "the consumer that followed the log"}}
	consumer, err := c.client().NewConsumer(client.ConsumerConfig{})
	if err != nil {
		c.t.Fatal(err)
	}
	var all []client.Assignment
	for p := range partitions {
		all = append(all, client.Assignment{Topic: topic, Partition: int32(p), From: client.AtStart()})
	}
	if err := consumer.Assign(ctx, all...); err != nil {
		c.t.Fatalf("follow %s: %v", topic, err)
	}
	go func() {
		defer close(r.done)
		defer func() { _ = consumer.Close() }()
		for {
			fetch, err := consumer.Poll(ctx)
			r.mu.Lock()
			if err = errors.Join(err, fetch.Err); err == nil {
				r.view.add(fetch)
			} else if ctx.Err() == nil {
				r.failed = err
			}
			r.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	c.t.Cleanup(r.end)
	return r
}

func (r *reader) end() {
	r.cancel()
	<-r.done
}

// finish ends the reading and returns what was read.
func (r *reader) finish() View {
	r.t.Helper()
	r.end()
	if r.failed != nil {
		r.t.Errorf("%s failed after %d records: %v", r.view.Name, len(r.view.Records), r.failed)
	}
	return r.view
}
