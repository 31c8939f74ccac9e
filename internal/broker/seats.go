package broker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/fsys"
)

// Recovery cuts what it cannot believe, and so the next start finds nothing to confess. What a start found is therefore
// kept in a file until the controller has recorded it: a CRC-32C, big endian, and a RegisterBrokerRequest with the
// lost seats alone.
const (
	seatsName    = "seats.lost"
	seatsPartial = seatsName + ".partial"
	seatsMax     = 64 << 20
	seatsDamaged = "the list of lost seats is damaged"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// loadSeats reads what earlier starts could not confess. A damaged file means that every seat may be lost.
func loadSeats(fs fsys.FS, dir string) (lost []*internalv1.ReplicaState, allLost string, err error) {
	name := path.Join(dir, seatsName)
	file, err := fs.OpenRead(name)
	if fsys.IsNotExist(err) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("read %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	size, err := file.Size()
	if err != nil {
		return nil, "", fmt.Errorf("read %s: %w", name, err)
	}
	if size < crc32.Size || size > seatsMax {
		return nil, seatsDamaged, nil
	}
	text := make([]byte, size)
	if _, err := file.ReadAt(text, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, "", fmt.Errorf("read %s: %w", name, err)
	}
	req := &internalv1.RegisterBrokerRequest{}
	if binary.BigEndian.Uint32(text) != crc32.Checksum(text[crc32.Size:], castagnoli) || proto.Unmarshal(text[crc32.Size:], req) != nil {
		return nil, seatsDamaged, nil
	}
	return req.GetLostSeats(), "", nil
}

// mergeSeats adds what earlier starts found to what this one found, where that is not a loss already.
func mergeSeats(found, earlier []*internalv1.ReplicaState) []*internalv1.ReplicaState {
	for _, e := range earlier {
		i := slices.IndexFunc(found, func(f *internalv1.ReplicaState) bool {
			return f.GetPartition() == e.GetPartition() && bytes.Equal(f.GetTopicId(), e.GetTopicId())
		})
		switch {
		case i < 0:
			found = append(found, e)
		case found[i].GetSeatLostReason() == "":
			found[i].SeatLostReason = e.GetSeatLostReason()
		}
	}
	return found
}

// keepSeats replaces the file by those of the replicas that lost their seat, or removes it where none did.
func keepSeats(fs fsys.FS, dir string, replicas []*internalv1.ReplicaState) error {
	lost := slices.DeleteFunc(slices.Clone(replicas), func(r *internalv1.ReplicaState) bool { return r.GetSeatLostReason() == "" })
	name, partial := path.Join(dir, seatsName), path.Join(dir, seatsPartial)
	for _, old := range []string{name, partial} {
		if len(lost) > 0 && old == name {
			continue // replaced below
		}
		if err := fs.Remove(old); err != nil && !fsys.IsNotExist(err) {
			return fmt.Errorf("remove %s: %w", old, err)
		}
	}
	if len(lost) == 0 {
		return nil
	}
	body, err := proto.Marshal(&internalv1.RegisterBrokerRequest{LostSeats: lost})
	if err != nil {
		return fmt.Errorf("encode the lost seats: %w", err)
	}
	sum := binary.BigEndian.AppendUint32(nil, crc32.Checksum(body, castagnoli))
	file, err := fs.Create(partial)
	if err != nil {
		return fmt.Errorf("write %s: %w", partial, err)
	}
	_, err = file.Append(sum, body)
	if err == nil {
		err = file.SyncData()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", partial, err)
	}
	if err := fs.Rename(partial, name); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return fs.SyncDir(dir)
}
