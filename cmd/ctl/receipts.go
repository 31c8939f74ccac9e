package main

import (
	"errors"
	"io"
	"strconv"
	"sync"

	"github.com/penstock-io/penstock/client"
)

// receiptPrinter collects the fates of records as they come and writes them in input order: those at the head that are
// known. Its methods are safe for concurrent use.
type receiptPrinter struct {
	mu     sync.Mutex
	out    io.Writer // nil counts only
	window []fate    // from the first record whose fate is not known yet
	first  int64     // input number of window[0]
	next   int64     // input number of the next record
	buf    []byte
	acked  int64
	failed int64
	cause  error // of the first failure
	outErr error
}

type fate struct {
	known   bool
	receipt client.Receipt
	err     error
}

// take numbers the next record.
func (p *receiptPrinter) take() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.window = append(p.window, fate{})
	p.next++
	return p.next - 1
}

// settle notes the fate of record n and writes what has become known at the head.
func (p *receiptPrinter) settle(n int64, r client.Receipt, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.window[n-p.first] = fate{known: true, receipt: r, err: err}
	if err != nil {
		p.failed++
		if p.cause == nil {
			p.cause = err
		}
	} else {
		p.acked++
	}
	done := 0
	for done < len(p.window) && p.window[done].known {
		if p.out != nil {
			p.buf = appendFate(p.buf, &p.window[done])
		}
		done++
	}
	p.window = p.window[done:]
	p.first += int64(done)
	if len(p.buf) > 0 && p.outErr == nil {
		_, p.outErr = p.out.Write(p.buf)
	}
	p.buf = p.buf[:0]
}

// outcome returns the counts, the first failure of a record and that of the output.
func (p *receiptPrinter) outcome() (acked, failed int64, cause, outErr error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acked, p.failed, p.cause, p.outErr
}

// broken reports whether the output takes no more.
func (p *receiptPrinter) broken() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.outErr != nil
}

func appendFate(b []byte, f *fate) []byte {
	if f.err != nil {
		name, definite := "UNKNOWN_SERVER_ERROR", false
		var e *client.Error
		if errors.As(f.err, &e) {
			name, definite = e.Name, e.Definite
		}
		b = append(append(append(b, `{"error":"`...), name...), `","definite":`...)
		return append(strconv.AppendBool(b, definite), "}\n"...)
	}
	r := &f.receipt
	field := func(name string, v int64) {
		b = strconv.AppendInt(append(append(b, name...), ':'), v, 10)
	}
	field(`{"partition"`, int64(r.Partition))
	field(`,"offset"`, r.Offset)
	field(`,"leader_epoch"`, int64(r.LeaderEpoch))
	field(`,"append_time"`, r.AppendTimeMs)
	field(`,"isr"`, int64(r.ISR))
	field(`,"acked"`, int64(r.Acked))
	field(`,"fsynced"`, int64(r.FSynced))
	b = strconv.AppendBool(append(b, `,"duplicate":`...), r.Duplicate)
	return append(b, "}\n"...)
}
