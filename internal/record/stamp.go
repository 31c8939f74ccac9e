package record

import (
	"encoding/binary"
	"fmt"
)

// SetProducer rewrites producer id, epoch and base sequence of a finished batch in place, and its CRC with them: what an
// idempotent producer does when it must send the same records under a bumped epoch. The three are all at least 0 or
// all -1, otherwise the error wraps ErrInvalidRecord. The batch must be whole and the caller its only user.
func SetProducer(batch []byte, producerID int64, producerEpoch int16, baseSequence int32) error {
	h, err := ParseHeader(batch)
	if err != nil {
		return err
	}
	if h.Size() != len(batch) {
		return fmt.Errorf("%w: the header says %d bytes, there are %d", ErrCorruptBatch, h.Size(), len(batch))
	}
	if err := checkProducer(ErrInvalidRecord, producerID, producerEpoch, baseSequence, h.IsTransactional()); err != nil {
		return err
	}
	binary.BigEndian.PutUint64(batch[posProducerID:], uint64(producerID))
	binary.BigEndian.PutUint16(batch[posProducerEpoch:], uint16(producerEpoch))
	binary.BigEndian.PutUint32(batch[posBaseSequence:], uint32(baseSequence))
	seal(batch)
	return nil
}

// StampAppendTime writes to dst, of at least HeaderSize bytes, the header of the batch in bufs as a leader stores it for
// a topic with log-append-time: timestamp type LogAppendTime, MaxTimestamp appendTime (milliseconds since 1970), and
// the CRC to match. The pieces must have passed Validate and stay as they are; what is stored is dst[:HeaderSize]
// followed by the pieces without their first HeaderSize bytes. It panics when dst or the pieces are shorter.
func StampAppendTime(dst []byte, bufs [][]byte, appendTime int64) Header {
	var scratch [HeaderSize]byte
	head, ok := gatherHeader(&scratch, bufs)
	if !ok {
		panic("record: StampAppendTime on a batch that was not validated")
	}
	h := decodeHeader(head)
	h.Attributes |= attrLogAppendTime
	h.MaxTimestamp = appendTime
	h.put(dst)
	crc := vecCRC(0, [][]byte{dst[posAttributes:HeaderSize]}, 0)
	h.CRC = vecCRC(crc, bufs, HeaderSize)
	h.put(dst)
	return h
}
