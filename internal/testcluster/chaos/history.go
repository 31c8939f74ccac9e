package chaos

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
)

// Sent is a record as it was handed to a producer. Values are unique within a History: they are what tells records apart.
type Sent struct{ Key, Value string }

// Receipt is one line of `brokerctl produce --receipts`: the promise for one record, or why there is none.
type Receipt struct {
	Partition   int32 `json:"partition"`
	Offset      int64 `json:"offset"`
	LeaderEpoch int32 `json:"leader_epoch"`
	AppendTime  int64 `json:"append_time"` // milliseconds since 1970 UTC
	ISR         int32 `json:"isr"`
	Acked       int32 `json:"acked"`
	FSynced     int32 `json:"fsynced"`
	Duplicate   bool  `json:"duplicate"`

	Error    string `json:"error"`    // code of the failure; empty where the record was acknowledged
	Definite bool   `json:"definite"` // of a failure: the record is certainly not in the log
}

// ParseReceipts reads receipts, one JSON object a line, and hands each to take. It ends with the input; a line that is no
// receipt is an error that names its number, as is one with a field that receipts do not have.
func ParseReceipts(r io.Reader, take func(Receipt)) error {
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		receipt, err := parseReceipt(lines.Bytes())
		if err != nil {
			return fmt.Errorf("receipt %d: %w", n, err)
		}
		take(receipt)
	}
	return lines.Err()
}

func parseReceipt(line []byte) (Receipt, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil {
		return Receipt{}, fmt.Errorf("%q: %w", line, err)
	}
	want := []string{"partition", "offset", "leader_epoch", "append_time", "isr", "acked", "fsynced", "duplicate"}
	if _, failed := fields["error"]; failed {
		want = []string{"error", "definite"}
	}
	for _, name := range want {
		if _, there := fields[name]; !there {
			return Receipt{}, fmt.Errorf("%q: the field %s is missing", line, name)
		}
	}
	if len(fields) != len(want) {
		return Receipt{}, fmt.Errorf("%q: not the fields %v", line, want)
	}
	var receipt Receipt
	if err := json.Unmarshal(line, &receipt); err != nil {
		return Receipt{}, fmt.Errorf("%q: %w", line, err)
	}
	return receipt, nil
}

// Producer is what one producer did, and was told.
type Producer struct {
	Name string
	// Sent are the records in the order in which the producer got them.
	Sent []Sent
	// Receipts belong to the first of them, one each and in the same order; of the rest nothing is known.
	Receipts []Receipt
}

// Read is a record as a consumer got it.
type Read struct {
	Partition   int32
	Offset      int64
	LeaderEpoch int32 // -1 where the consumer does not say
	Key, Value  string
}

// View is what one consumer read, from the start of each partition on, in the order it came.
type View struct {
	Name    string
	Records []Read
}

// History is everything that was observed from outside. The last view was taken when all had ended, up to the end of each
// partition; earlier ones may stop anywhere.
type History struct {
	Producers []Producer
	Views     []View
}

// Promise is what the cluster had to keep.
type Promise struct {
	// Partitions of the topic.
	Partitions int32
	// MinISR is min.insync.replicas: no acknowledgement of acks=all with fewer.
	MinISR int32
	// Replicas is the replication factor: no receipt names more.
	Replicas int32
	// Fsync is true in flush.mode=fsync, where every acknowledging replica has the record on disk.
	Fsync bool
	// Unkeyed is true where keys do not decide the partition (produce -p), so that a key may stand in several.
	Unkeyed bool
}
