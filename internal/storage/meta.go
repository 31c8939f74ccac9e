package storage

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/penstock-io/penstock/internal/model"
)

const (
	metaFileName  = "meta.properties"
	metaVersion   = 1
	metaKeys      = 8
	maxMetaBytes  = 64 << 10
	checksumField = "checksum"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Meta is what meta.properties says about a data directory.
type Meta struct {
	// ClusterID is the cluster the directory belongs to; zero before the node has joined one.
	ClusterID model.UUID
	// NodeID is the node that owns the directory; model.NoNode before one was set.
	NodeID model.NodeID
	// DirectoryID names this directory for ever; it is drawn when the directory is made.
	DirectoryID model.UUID
	// BrokerEpoch is the last broker epoch the node registered with; model.NoBrokerEpoch before.
	BrokerEpoch model.BrokerEpoch
	// BootID is the operating system's boot the directory was last opened in; empty when unknown.
	BootID string
	// CleanShutdown says that every log was closed cleanly and nothing was written since.
	CleanShutdown bool
	// SyncFailed says that a sync failed and that not all logs were recovered since: what was written since the recovery
	// points may be in the page cache and not on disk, whatever later syncs say.
	SyncFailed bool
}

// encodeMeta writes one key=value a line; the last line is a CRC-32C of all before it, and empty lines fill the sector.
func encodeMeta(m Meta) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "version=%d\n", metaVersion)
	fmt.Fprintf(&b, "cluster.id=%s\n", uuidText(m.ClusterID))
	fmt.Fprintf(&b, "node.id=%d\n", m.NodeID)
	fmt.Fprintf(&b, "directory.id=%s\n", uuidText(m.DirectoryID))
	fmt.Fprintf(&b, "broker.epoch=%d\n", m.BrokerEpoch)
	fmt.Fprintf(&b, "boot.id=%s\n", strconv.Quote(m.BootID))
	fmt.Fprintf(&b, "clean.shutdown=%t\n", m.CleanShutdown)
	fmt.Fprintf(&b, "sync.failed=%t\n", m.SyncFailed)
	fmt.Fprintf(&b, "%s=%08x\n", checksumField, crc32.Checksum(b.Bytes(), castagnoli))
	for b.Len() < sectorSize {
		b.WriteByte('\n')
	}
	return b.Bytes()
}

func uuidText(u model.UUID) string {
	if u.IsZero() {
		return ""
	}
	return u.String()
}

// decodeMeta is strict: any line it does not know but empty ones at the end, a missing one and a wrong checksum wrap ErrMetaDamaged.
func decodeMeta(data []byte) (Meta, error) {
	m := Meta{NodeID: model.NoNode, BrokerEpoch: model.NoBrokerEpoch}
	at := bytes.LastIndex(data, []byte(checksumField+"="))
	if at < 0 {
		return m, fmt.Errorf("%w: it has no checksum line", ErrMetaDamaged)
	}
	want := fmt.Sprintf("%s=%08x\n", checksumField, crc32.Checksum(data[:at], castagnoli))
	if rest := string(bytes.TrimRight(data[at:], "\n")) + "\n"; rest != want || data[len(data)-1] != '\n' {
		return m, fmt.Errorf("%w: its checksum does not match its content", ErrMetaDamaged)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(data[:at])) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if !ok || seen[key] {
			return m, fmt.Errorf("%w: line %q", ErrMetaDamaged, line)
		}
		seen[key] = true
		if err := m.set(key, value); err != nil {
			return m, fmt.Errorf("%w: %s=%s: %w", ErrMetaDamaged, key, value, err)
		}
	}
	if len(seen) != metaKeys || m.DirectoryID.IsZero() {
		return m, fmt.Errorf("%w: %d keys of %d, directory id %q", ErrMetaDamaged, len(seen), metaKeys, uuidText(m.DirectoryID))
	}
	return m, nil
}

func (m *Meta) set(key, value string) (err error) {
	switch key {
	case "version":
		if value != strconv.Itoa(metaVersion) {
			err = fmt.Errorf("this program knows version %d only", metaVersion)
		}
	case "cluster.id":
		m.ClusterID, err = parseOptionalUUID(value)
	case "node.id":
		var n int64
		n, err = strconv.ParseInt(value, 10, 32)
		m.NodeID = model.NodeID(n)
	case "directory.id":
		m.DirectoryID, err = parseOptionalUUID(value)
	case "broker.epoch":
		var n int64
		n, err = strconv.ParseInt(value, 10, 64)
		m.BrokerEpoch = model.BrokerEpoch(n)
	case "boot.id":
		m.BootID, err = strconv.Unquote(value)
	case "clean.shutdown":
		m.CleanShutdown, err = strconv.ParseBool(value)
	case "sync.failed":
		m.SyncFailed, err = strconv.ParseBool(value)
	default:
		err = errors.New("unknown key")
	}
	return err
}

func parseOptionalUUID(s string) (model.UUID, error) {
	if s == "" {
		return model.UUID{}, nil
	}
	return model.ParseUUID(s)
}
