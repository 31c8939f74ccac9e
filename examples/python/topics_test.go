//go:build unix

package python_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// program is a running example.
type program struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   output
	err   output
}

// output is what a program has written so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func (c *devCluster) start(ctx context.Context, name string, args ...string) *program {
	c.t.Helper()
	p := &program{t: c.t, cmd: c.command(ctx, nil, name, args...)}
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	p.stdin, p.cmd.Stdout, p.cmd.Stderr = stdin, &p.out, &p.err
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	return p
}

// shows waits until the output has a text.
func (p *program) shows(text string) {
	p.t.Helper()
	eventually(p.t, time.Minute, "the program shows "+text, func() error {
		if out := p.out.String(); !strings.Contains(out, text) {
			return fmt.Errorf("it shows %s%s", out, p.err.String())
		}
		return nil
	})
}

// fails waits for the end, which has to be an error in one line that names a code.
func (p *program) fails(code string) {
	p.t.Helper()
	_ = p.stdin.Close()
	var exit *exec.ExitError
	if err := p.cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		p.t.Errorf("the program ended with %v: %s", err, p.err.String())
	}
	if out := p.out.String() + p.err.String(); !strings.Contains(out, code) || strings.Contains(out, "Traceback") {
		p.t.Errorf("the program does not tell of %s:\n%s", code, out)
	}
}

func (p *program) write(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
		p.t.Fatalf("%v\n%s", err, p.err.String())
	}
}

// grown adds partitions under both programs: the producer uses them, the consumer reads them. A record goes out though no other one follows.
func (c *devCluster) grown() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), runTimeout)
	defer cancel()
	c.must(nil, "bin/brokerctl", "topic", "create", "grown", "--partitions", "1")
	consumer := c.start(ctx, "examples/python/consumer.py", "grown", "--follow")
	producer := c.start(ctx, "examples/python/producer.py", "grown", "--stdin")
	producer.write(`{"customer": "a", "n": 1}`)
	producer.shows(`"partition": 0, "offset": 0`)
	consumer.shows(`"partition": 0, "offset": 0`)
	c.must(nil, "bin/brokerctl", "topic", "add-partitions", "grown", "--total", "8")
	n := 0
	eventually(c.t, time.Minute, "the producer uses the partitions that were added", func() error {
		n++
		producer.write(fmt.Sprintf(`{"customer": "%d"}`, n))
		if strings.Count(producer.out.String(), `"partition": 0`) == strings.Count(producer.out.String(), "\n") {
			return fmt.Errorf("after %d records: %s", n, producer.err.String())
		}
		return nil
	})
	_ = producer.stdin.Close()
	if err := producer.cmd.Wait(); err != nil {
		c.t.Fatalf("the producer ended with %v: %s", err, producer.err.String())
	}
	eventually(c.t, time.Minute, "the consumer reads the partitions that were added", func() error {
		if got, want := strings.Count(consumer.out.String(), "\n"), n+1; got != want {
			return fmt.Errorf("%d of %d records: %s", got, want, consumer.err.String())
		}
		return nil
	})
	cancel()
	_ = consumer.cmd.Wait()
}

// madeAnew deletes a topic that had other leaders before, and makes it anew under both programs: they end with an error, and the new one
// gets nothing of what was for the old one.
func (c *devCluster) madeAnew() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), runTimeout)
	defer cancel()
	consumer := c.start(ctx, "examples/python/consumer.py", "faults", "--follow")
	consumer.shows("\n")
	producer := c.start(ctx, "examples/python/producer.py", "faults", "--stdin")
	producer.write(`{"customer": "old"}`)
	producer.shows(`"offset"`)
	c.must(nil, "bin/brokerctl", "topic", "delete", "faults", "--yes")
	c.must(nil, "bin/brokerctl", "topic", "create", "faults", "--partitions", "6")
	producer.write(`{"customer": "old"}`)
	producer.shows(`"error": "UNKNOWN_TOPIC_ID", "definite": true`)
	producer.fails("1 of 2 records acknowledged")
	consumer.fails("UNKNOWN_TOPIC_ID")
	if out, _ := c.must(nil, "bin/brokerctl", "consume", "faults", "--from-beginning", "-e"); out != "" {
		c.t.Errorf("the new topic got records of the old one: %s", out)
	}
	c.must(strings.NewReader(`{"customer": "new"}`), "examples/python/producer.py", "faults", "--stdin")
	if out, _ := c.must(nil, "examples/python/consumer.py", "faults"); strings.Count(out, "\n") != 1 {
		c.t.Errorf("the new topic holds %s", out)
	}
}

// plainErrors gives both programs what they cannot use: one line says so.
func (c *devCluster) plainErrors() {
	c.t.Helper()
	c.must(nil, "bin/brokerctl", "topic", "create", "errors", "--partitions", "1")
	ctx, cancel := context.WithTimeout(c.t.Context(), runTimeout)
	defer cancel()
	for line, want := range map[string]string{"no JSON": "line 2 is no JSON", "[1]": "line 2 is no JSON object"} {
		p := c.start(ctx, "examples/python/producer.py", "errors", "--stdin")
		p.write(`{"customer": "a"}`)
		p.write(line)
		p.fails(want)
		if !strings.Contains(p.err.String(), "1 of 1 records acknowledged") {
			c.t.Errorf("the record before the wrong one: %s", p.err.String())
		}
	}
	c.must(strings.NewReader("{}\n"), "bin/brokerctl", "produce", "errors", "-k", "\xff")
	if out, _ := c.must(nil, "examples/python/consumer.py", "errors"); strings.Count(out, "\n") != 3 {
		c.t.Errorf("a key that is not UTF-8 stops the consumer: %s", out)
	}
}
