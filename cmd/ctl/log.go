package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/record"
	"github.com/penstock-io/penstock/internal/storage"
)

// logCmd holds the commands that read a data directory without a broker.
func (a *app) logCmd() *cobra.Command {
	return group("log", "Read a data directory, without a broker", a.logDumpCmd(), a.logVerifyCmd())
}

func (a *app) logDumpCmd() *cobra.Command {
	var records, side bool
	cmd := &cobra.Command{
		Use: "dump DIR", Short: "Show every batch of a data directory or of one partition's directory", Args: args(1, 1),
		Long: "Show every batch of a data directory or of one partition's directory, without changing anything: one line a batch, " +
			"with --records one a record too; with -o json, one object a batch. With --side-files, show instead what lies beside the " +
			"batches: each frame of the sync journal and of checkpoints.journal with what they come to for each log, marks of damage, " +
			"producer snapshots, indexes and digests. Exit status 1 tells of what is damaged.",
	}
	cmd.Flags().BoolVar(&records, "records", false, "show the records of each batch")
	cmd.Flags().BoolVar(&side, "side-files", false, "show the journals, snapshots, indexes and digests instead of the batches")
	cmd.RunE = func(_ *cobra.Command, argv []string) error {
		if a.output == "yaml" {
			return usagef("log dump writes text or json, not yaml")
		}
		if records && side {
			return usagef("--side-files shows no batches, and so no records: give one of the two")
		}
		o, err := a.openOffline(argv[0])
		if err != nil {
			return err
		}
		if side {
			return a.dumpSide(o)
		}
		return a.dump(o, records)
	}
	return cmd
}

func (a *app) logVerifyCmd() *cobra.Command {
	return &cobra.Command{
		Use: "verify DIR", Short: "Check every checksum, digest, index and checkpoint of a data directory", Args: args(1, 1),
		Long: "Check every checksum, digest, index, snapshot and checkpoint of a data directory or of one partition's directory, without " +
			"changing anything. Each finding names file, position and offset, and what opening the log would do. " +
			"Findings are notes (left by a crash, nothing is lost), hints (rebuilt at no loss) and faults; exit status 1 tells of faults.",
		RunE: func(_ *cobra.Command, argv []string) error {
			o, err := a.openOffline(argv[0])
			if err != nil {
				return err
			}
			return a.verifyLogs(o)
		},
	}
}

// openOffline opens a directory for reading alone and warns beside a running broker.
func (a *app) openOffline(dir string) (*storage.Offline, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	o, err := storage.OpenOffline(fsys.OS(), filepath.ToSlash(dir))
	switch {
	case errors.Is(err, storage.ErrNoData):
		return nil, usagef("%v; give the value of data.dir, or data.dir/topics/TOPIC-ID/PARTITION", err)
	case fsys.IsNotExist(err):
		return nil, usagef("%v", err)
	case err != nil:
		return nil, err
	}
	used, err := o.InUse()
	switch {
	case errors.Is(err, fs.ErrPermission):
		a.notef("warning: it cannot be seen whether a broker is using this directory: %v", err)
	case err != nil:
		return nil, err
	case used:
		a.notef("warning: a broker is using this directory; the ends of its logs may be seen half written")
	}
	return o, nil
}

type verifyJSON struct {
	Logs     []storage.LogSummary `json:"logs"`
	Findings []storage.Finding    `json:"findings"`
	Notes    int                  `json:"notes"`
	Hints    int                  `json:"hints"`
	Faults   int                  `json:"faults"`
}

func (a *app) verifyLogs(o *storage.Offline) error {
	res := verifyJSON{Logs: []storage.LogSummary{}, Findings: []storage.Finding{}}
	logs, err := o.Verify(func(f storage.Finding) {
		res.Findings = append(res.Findings, f)
		switch f.Severity {
		case storage.SeverityNote:
			res.Notes++
		case storage.SeverityHint:
			res.Hints++
		case storage.SeverityFault:
			res.Faults++
		default:
		}
	})
	res.Logs = append(res.Logs, logs...)
	printed := a.print(res, func(w io.Writer, wide bool) error { return verifyTable(w, res, wide) })
	if err = errors.Join(err, printed); err != nil { // what was found before is told all the same
		return err
	}
	if res.Faults > 0 {
		a.notef("%d faults found", res.Faults)
		return errReported
	}
	return nil
}

func verifyTable(w io.Writer, res verifyJSON, wide bool) error {
	for _, f := range res.Findings {
		where := f.File
		if f.Position >= 0 {
			where += fmt.Sprintf(" position %d", f.Position)
		}
		if f.Offset >= 0 {
			where += fmt.Sprintf(" offset %d", f.Offset)
		}
		if _, err := fmt.Fprintf(w, "%s: %s\n  %s\n  recovery: %s\n", f.Severity, where, f.What, f.Recovery); err != nil {
			return err
		}
	}
	var batches, records, bytes int64
	if wide {
		if err := row(w, "PARTITION", "START", "END", "RECOVERY POINT", "HIGH WATERMARK", "SEGMENTS", "DIGESTS", "BATCHES", "RECORDS", "BYTES"); err != nil {
			return err
		}
	}
	for _, l := range res.Logs {
		batches, records, bytes = batches+l.Batches, records+l.Records, bytes+l.Bytes
		name := l.Partition
		if name == "" {
			name = l.Path
		}
		if !wide {
			continue
		}
		if err := row(w, name, l.LogStartOffset, l.LogEndOffset, l.RecoveryPoint, l.HighWatermark, l.Segments, l.Digests, l.Batches, l.Records, l.Bytes); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%d logs, %d batches, %d records, %d bytes: %d faults, %d hints, %d notes\n",
		len(res.Logs), batches, records, bytes, res.Faults, res.Hints, res.Notes)
	return err
}

type batchJSON struct {
	File          string       `json:"file"`
	Position      int64        `json:"position"`
	Size          int          `json:"size"`
	BaseOffset    int64        `json:"base_offset"`
	LastOffset    int64        `json:"last_offset"`
	Count         int32        `json:"count"`
	LeaderEpoch   int32        `json:"leader_epoch"`
	MaxTimestamp  int64        `json:"max_timestamp"`
	TimestampType string       `json:"timestamp_type"`
	Codec         string       `json:"codec"`
	CRC           uint32       `json:"crc"`
	ProducerID    int64        `json:"producer_id"`
	ProducerEpoch int16        `json:"producer_epoch"`
	BaseSequence  int32        `json:"base_sequence"`
	Control       bool         `json:"control,omitempty"`
	Fault         string       `json:"fault,omitempty"`
	Records       []dumpRecord `json:"records,omitempty"`
}

type dumpRecord struct {
	Offset    int64        `json:"offset"`
	Timestamp int64        `json:"timestamp"`
	Key       jsonBytes    `json:"key"`
	Value     jsonBytes    `json:"value"`
	Headers   []dumpHeader `json:"headers"`
}

type dumpHeader struct {
	Key   string    `json:"key"`
	Value jsonBytes `json:"value"`
}

// dump writes batches as they come; a log may be larger than memory.
func (a *app) dump(o *storage.Offline, records bool) error {
	out := bufio.NewWriterSize(a.out, 64<<10)
	enc := json.NewEncoder(out)
	damaged, file := 0, ""
	err := o.Dump(func(b storage.DumpedBatch) error {
		if b.Fault != nil {
			damaged++
		}
		line, err := describeBatch(b, records)
		if err != nil {
			return err
		}
		if a.output == "json" {
			return enc.Encode(line)
		}
		if b.File != file {
			file = b.File
			if _, err := fmt.Fprintln(out, file); err != nil {
				return err
			}
		}
		return writeBatch(out, line)
	})
	if err = errors.Join(err, out.Flush()); err != nil {
		return err
	}
	if logs, size, err := o.ToReplay(); err == nil && logs > 0 {
		a.notef("the sync journal holds %d bytes of %d logs that may be missing here; the next start of the broker writes them", size, logs)
	}
	if damaged > 0 {
		a.notef("%d batches are damaged; brokerctl log verify says what becomes of them", damaged)
		return errReported
	}
	return nil
}

// dumpSide writes what lies beside the batches, as it comes.
func (a *app) dumpSide(o *storage.Offline) error {
	out := bufio.NewWriterSize(a.out, 64<<10)
	enc := json.NewEncoder(out)
	damaged, file := 0, ""
	err := o.DumpSide(func(e storage.SideEntry) error {
		if e.Fault != "" {
			damaged++
		}
		if a.output == "json" {
			return enc.Encode(e)
		}
		if e.File != file {
			file = e.File
			if _, err := fmt.Fprintln(out, file); err != nil {
				return err
			}
		}
		where := ""
		if e.Position >= 0 {
			where = fmt.Sprintf("position %d: ", e.Position)
		}
		_, err := fmt.Fprintf(out, "  %s%s\n", where, e)
		return err
	})
	if err = errors.Join(err, out.Flush()); err != nil {
		return err
	}
	if damaged > 0 {
		a.notef("%d entries are damaged; brokerctl log verify says what becomes of them", damaged)
		return errReported
	}
	return nil
}

func describeBatch(b storage.DumpedBatch, records bool) (batchJSON, error) {
	h := b.Header
	line := batchJSON{
		File: b.File, Position: b.Position, Size: h.Size(), BaseOffset: h.BaseOffset, LastOffset: h.LastOffset(), Count: h.Count,
		LeaderEpoch: h.LeaderEpoch, MaxTimestamp: h.MaxTimestamp, TimestampType: h.TimestampType().String(), Codec: h.Codec().String(), CRC: h.CRC,
		ProducerID: h.ProducerID, ProducerEpoch: h.ProducerEpoch, BaseSequence: h.BaseSequence, Control: h.IsControl(),
	}
	if b.Fault != nil {
		line.Fault = b.Fault.Error()
		return line, nil
	}
	if !records {
		return line, nil
	}
	it, err := record.Records(b.Data, record.Limits{SkipCRC: true})
	if err != nil {
		line.Fault = err.Error()
		return line, nil //nolint:nilerr // it is shown
	}
	for it.Next() {
		r := it.Record().Clone()
		d := dumpRecord{Offset: r.Offset, Timestamp: r.Timestamp, Key: r.Key, Value: r.Value, Headers: []dumpHeader{}}
		for _, h := range r.Headers {
			d.Headers = append(d.Headers, dumpHeader{Key: h.Key, Value: h.Value})
		}
		line.Records = append(line.Records, d)
	}
	if err := it.Err(); err != nil {
		line.Fault = err.Error()
	}
	return line, nil
}

func writeBatch(w io.Writer, b batchJSON) error {
	if b.Fault != "" {
		_, err := fmt.Fprintf(w, "  position %d: DAMAGED: %s\n", b.Position, b.Fault)
		return err
	}
	producer := ""
	if b.ProducerID >= 0 {
		producer = fmt.Sprintf(" producer %d/%d sequence %d", b.ProducerID, b.ProducerEpoch, b.BaseSequence)
	}
	_, err := fmt.Fprintf(w, "  position %d: offsets %d-%d, %d records, %d bytes, epoch %d, %s %s, %s, crc %08x%s\n", b.Position, b.BaseOffset, b.LastOffset,
		b.Count, b.Size, b.LeaderEpoch, b.TimestampType, time.UnixMilli(b.MaxTimestamp).UTC().Format("2006-01-02T15:04:05.000Z"), b.Codec, b.CRC, producer)
	for _, r := range b.Records {
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "    %d %s %q: %q\n", r.Offset, time.UnixMilli(r.Timestamp).UTC().Format("2006-01-02T15:04:05.000Z"), []byte(r.Key), []byte(r.Value))
	}
	return err
}
