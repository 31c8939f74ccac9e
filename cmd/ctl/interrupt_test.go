package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/penstock-io/penstock/internal/testcluster"
)

// TestInterruptibleGivesEveryByteBack reads through it what comes in pieces of all sizes.
func TestInterruptibleGivesEveryByteBack(t *testing.T) {
	want := strings.Repeat("some bytes\n", 100_000)
	for name, r := range map[string]io.Reader{
		"as it comes":        strings.NewReader(want),
		"the end with bytes": iotest.DataErrReader(strings.NewReader(want)),
		"by halves":          iotest.HalfReader(strings.NewReader(want)),
	} {
		got, err := io.ReadAll(newInterruptible(t.Context(), r))
		if err != nil || string(got) != want {
			t.Errorf("%s: %d of %d bytes, %v", name, len(got), len(want), err)
		}
	}
	if err := iotest.TestReader(newInterruptible(t.Context(), strings.NewReader("abc")), []byte("abc")); err != nil {
		t.Error(err)
	}
	failing := newInterruptible(t.Context(), iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("ab"))))
	if got, err := io.ReadAll(failing); string(got) != "a" || !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("%q %v", got, err)
	}
}

// TestInterruptEndsWaitingForInput interrupts commands that wait for a line that never comes: a question, and a producer.
func TestInterruptEndsWaitingForInput(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster: not in -short")
	}
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 1})
	bootstrap := strings.Join(cluster.Bootstrap(), ",")
	commands{t, bootstrap}.ok("topic", "create", "t", "--partitions", "1")
	for line, want := range map[string]string{
		"topic delete t": "nothing was changed",
		"produce t":      "interrupted after line 1; what follows was not written",
	} {
		t.Run(line, func(t *testing.T) {
			ctx, interrupt := context.WithCancel(t.Context())
			in, typed := io.Pipe()
			defer func() { _ = typed.Close() }()
			var out, errOut bytes.Buffer
			ended := make(chan int, 1)
			go func() {
				ended <- run(ctx, append([]string{"--bootstrap", bootstrap}, strings.Fields(line)...), streams{in: in, out: &out, err: &errOut, terminal: true})
			}()
			if line == "produce t" { // the line is taken once the command reads; then it waits for the next
				if _, err := io.WriteString(typed, "one\n"); err != nil {
					t.Fatal(err)
				}
			}
			c := commands{t, bootstrap}
			if line == "produce t" {
				c.awaitRecords("t", 1)
			}
			interrupt()
			select {
			case code := <-ended:
				if code != exitFailed || !strings.Contains(errOut.String(), want) {
					t.Errorf("exit status %d, want %d and %q:\n%s", code, exitFailed, want, errOut.String())
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("it goes on after the interrupt:\n%s", errOut.String())
			}
		})
	}
}

// awaitRecords waits until a topic of one partition has so many records.
func (c commands) awaitRecords(topic string, n int64) {
	c.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		var d topicJSON
		c.json(&d, "topic", "describe", topic)
		if end := d.Partitions[0].HighWatermark; end != nil && *end == n {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("not %d records: %+v", n, d)
		}
	}
}

// TestNothingIsNoTerminal opens what services get as standard input.
func TestNothingIsNoTerminal(t *testing.T) {
	// The standard input of a process has another name than the device behind it.
	stdin := filepath.Join(t.TempDir(), "stdin")
	if err := os.Symlink(os.DevNull, stdin); err != nil {
		t.Skip(err)
	}
	nothing, err := os.Open(stdin)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nothing.Close() }()
	if isTerminal(nothing) {
		t.Error("the null device was taken for a terminal")
	}
	file, err := os.Open("interrupt_test.go")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if isTerminal(file) {
		t.Error("a file was taken for a terminal")
	}
}
