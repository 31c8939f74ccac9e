package model

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// NodeID identifies a node (broker, controller or both) for the life of the cluster. Valid ids are >= 0.
type NodeID int32

// NoNode stands for "no such node", for instance the leader of a leaderless partition.
const NoNode NodeID = -1

// BrokerEpoch numbers the registrations of a broker: the MetadataOffset of the entry that registered it. A larger
// epoch fences every smaller one of the same broker.
type BrokerEpoch int64

// NoBrokerEpoch is the epoch of a broker that never registered.
const NoBrokerEpoch BrokerEpoch = -1

// LeaderEpoch numbers the leaderships of one partition; (LeaderEpoch, offset) names one batch for ever (rule R9).
type LeaderEpoch int32

// NoLeaderEpoch is the epoch of an empty log.
const NoLeaderEpoch LeaderEpoch = -1

// PartitionEpoch numbers every change of a partition's record; AlterPartition compares and sets on it (rule R3).
type PartitionEpoch int32

// ProducerID identifies an idempotent producer; -1 stands for a producer without idempotence.
type ProducerID int64

// NoProducerID marks a batch of a producer without idempotence.
const NoProducerID ProducerID = -1

// ProducerEpoch numbers the incarnations of one ProducerID.
type ProducerEpoch int16

// NoProducerEpoch marks a batch of a producer without idempotence.
const NoProducerEpoch ProducerEpoch = -1

// Sequence numbers the records of one (ProducerID, ProducerEpoch, partition); it wraps from MaxInt32 to 0.
type Sequence int32

// NoSequence marks a batch of a producer without idempotence.
const NoSequence Sequence = -1

// MetadataOffset numbers the entries of the metadata log that the state machine accepted; the empty image has 0.
type MetadataOffset uint64

// UUID is a random 128-bit identifier (RFC 9562, version 4): topic, directory, cluster and incarnation ids. The zero
// value means "none".
type UUID [16]byte

// NewUUID returns a fresh random UUID.
func NewUUID() UUID { return UUID(uuid.New()) }

// IsZero reports whether u is the "none" value.
func (u UUID) IsZero() bool { return u == UUID{} }

// String returns the canonical lower-case form with dashes.
func (u UUID) String() string { return uuid.UUID(u).String() }

// Bytes returns the 16 bytes as a new slice, or nil for the zero UUID, which is how protos carry it.
func (u UUID) Bytes() []byte {
	if u.IsZero() {
		return nil
	}
	b := make([]byte, len(u))
	copy(b, u[:])
	return b
}

// ErrBadUUID is returned for bytes or text that are no UUID.
var ErrBadUUID = errors.New("not a UUID")

// UUIDFromBytes converts what UUID.Bytes returned; an empty slice gives the zero UUID, any other length than 16 an
// error that wraps ErrBadUUID.
func UUIDFromBytes(b []byte) (UUID, error) {
	var u UUID
	switch len(b) {
	case 0:
		return u, nil
	case len(u):
		copy(u[:], b)
		return u, nil
	default:
		return u, fmt.Errorf("%w: %d bytes (%s...), want 16", ErrBadUUID, len(b), hex.EncodeToString(b[:min(len(b), 4)]))
	}
}

// ParseUUID parses the canonical text form; other forms give an error that wraps ErrBadUUID.
func ParseUUID(s string) (UUID, error) {
	if len(s) != 36 {
		return UUID{}, fmt.Errorf("%w: %q", ErrBadUUID, s)
	}
	u, err := uuid.Parse(s)
	if err != nil {
		return UUID{}, fmt.Errorf("%w: %q", ErrBadUUID, s)
	}
	return UUID(u), nil
}

// TopicPartition names one partition of one incarnation of a topic. The topic id, never the topic name, is the key:
// a recreated topic is another topic.
type TopicPartition struct {
	TopicID   UUID
	Partition int32
}

// String returns "topic-id/partition".
func (tp TopicPartition) String() string { return fmt.Sprintf("%s/%d", tp.TopicID, tp.Partition) }
