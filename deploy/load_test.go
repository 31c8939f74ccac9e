package deploy_test

import (
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/testcluster/chaos"
)

// load is a running `brokerctl produce --receipts` on one side of the cluster, fed with unique records.
type load struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	errOut bytes.Buffer
	stop   chan struct{}
	fed    chan error
	read   chan error

	mu       sync.Mutex
	sent     []chaos.Sent
	receipts []chaos.Receipt
}

const (
	loadKeys   = 40
	loadBurst  = 10 // records every loadPeriod
	loadPeriod = 10 * time.Millisecond
)

func (c *cluster) startLoad(from side, topicName string) *load {
	c.t.Helper()
	args := slices.Concat(from.args, []string{"produce", topicName, "--key-separator", "|", "--receipts"})
	l := &load{t: c.t, name: from.name, stop: make(chan struct{}), fed: make(chan error, 1), read: make(chan error, 1)}
	l.cmd = exec.Command(from.program, args...) //nolint:gosec // a program of this repository, or docker
	l.cmd.Dir, l.cmd.Env, l.cmd.Stderr = repository, cleanEnv(), &l.errOut
	var err error
	if l.stdin, err = l.cmd.StdinPipe(); err != nil {
		c.t.Fatal(err)
	}
	receipts, err := l.cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := l.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() { l.fed <- l.feed() }()
	go func() { l.read <- chaos.ParseReceipts(receipts, l.take) }()
	c.t.Cleanup(l.abandon)
	return l
}

func (l *load) take(r chaos.Receipt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.receipts = append(l.receipts, r)
}

// feed writes records at an even pace until it is told to stop.
func (l *load) feed() error {
	tick := time.NewTicker(loadPeriod)
	defer tick.Stop()
	for n := 0; ; {
		select {
		case <-l.stop:
			return l.stdin.Close()
		case <-tick.C:
		}
		var text []byte
		l.mu.Lock()
		for range loadBurst {
			r := chaos.Sent{Key: fmt.Sprintf("key-%02d", n%loadKeys), Value: fmt.Sprintf("from the %s, record %d", l.name, n)}
			l.sent = append(l.sent, r)
			text = fmt.Appendf(text, "%s|%s\n", r.Key, r.Value)
			n++
		}
		l.mu.Unlock()
		if _, err := l.stdin.Write(text); err != nil {
			return err
		}
	}
}

func (l *load) counts() (sent, answered int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.sent), len(l.receipts)
}

// awaitCaughtUp waits until all that was sent up to now is answered.
func (l *load) awaitCaughtUp(within time.Duration) {
	l.t.Helper()
	sent, _ := l.counts()
	eventually(l.t, within, "records from the "+l.name+" are answered", func() error {
		if _, answered := l.counts(); answered < sent {
			return fmt.Errorf("%d of %d", answered, sent)
		}
		return nil
	})
}

// finish ends the input, awaits the end of the program and returns what it was told.
func (l *load) finish() chaos.Producer {
	l.t.Helper()
	close(l.stop)
	if err := <-l.fed; err != nil {
		l.t.Errorf("feed the producer on the %s: %v", l.name, err)
	}
	if err := <-l.read; err != nil {
		l.t.Errorf("receipts on the %s: %v", l.name, err)
	}
	l.fed, l.read = nil, nil
	if err := l.cmd.Wait(); err != nil {
		l.t.Errorf("brokerctl produce on the %s: %v\n%s", l.name, err, tail(l.errOut.String()))
	}
	return chaos.Producer{Name: "the producer on the " + l.name, Sent: l.sent, Receipts: l.receipts}
}

// abandon ends a load that a failed test did not finish.
func (l *load) abandon() {
	if l.fed == nil {
		return
	}
	close(l.stop)
	_ = l.cmd.Process.Kill()
	<-l.fed
	<-l.read
	_ = l.cmd.Wait()
}
