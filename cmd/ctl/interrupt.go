package main

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/penstock-io/penstock/internal/lifecycle"
)

// inputChunk is how much is read ahead of whoever takes the input.
const inputChunk = 256 << 10

// interruptible is input whose Read ends when its context does, also while nothing comes: a read of a terminal or a pipe
// cannot be broken off, so that it is left behind in a goroutine of its own. Its methods must not be called concurrently.
type interruptible struct {
	ctx   context.Context //nolint:containedctx // what ends the reading
	full  chan chunk
	empty chan []byte
	now   chunk
	rest  []byte // of now
}

type chunk struct {
	data []byte
	err  error
}

// newInterruptible reads from r until it ends or ctx does.
func newInterruptible(ctx context.Context, r io.Reader) *interruptible {
	in := &interruptible{ctx: ctx, full: make(chan chunk), empty: make(chan []byte, 2)}
	in.empty <- make([]byte, inputChunk)
	in.empty <- make([]byte, inputChunk)
	lifecycle.New(context.WithoutCancel(ctx), "input", nil).Go("read", func(context.Context) error {
		in.fill(r)
		return nil
	})
	return in
}

func (in *interruptible) fill(r io.Reader) {
	for {
		var next chunk
		select {
		case next.data = <-in.empty:
		case <-in.ctx.Done():
			return
		}
		var n int
		n, next.err = r.Read(next.data[:inputChunk])
		next.data = next.data[:n]
		select {
		case in.full <- next:
		case <-in.ctx.Done():
			return
		}
		if next.err != nil {
			return
		}
	}
}

// Read takes what was read ahead; after the end of the context it returns that one's error.
func (in *interruptible) Read(p []byte) (int, error) {
	for len(in.rest) == 0 {
		if in.now.err != nil {
			return 0, in.now.err
		}
		if in.now.data != nil {
			in.empty <- in.now.data
			in.now = chunk{}
		}
		select {
		case in.now = <-in.full:
			in.rest = in.now.data
		case <-in.ctx.Done():
			return 0, in.ctx.Err()
		}
	}
	n := copy(p, in.rest)
	in.rest = in.rest[n:]
	return n, nil
}

// interrupted reports whether err is the end that the user, or a signal, put to ctx.
func interrupted(ctx context.Context, err error) bool {
	return errors.Is(err, context.Canceled) && errors.Is(ctx.Err(), context.Canceled)
}

// isTerminal reports whether f is an interactive device: destructive commands ask only there.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	nothing, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, nothing)
}
