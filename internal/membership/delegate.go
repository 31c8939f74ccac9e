package membership

import (
	"encoding/binary"
	"errors"

	"github.com/hashicorp/memberlist"

	"github.com/penstock-io/penstock/internal/model"
)

// metaVersion stands before the metadata of a node: version, node id as 4 bytes big endian, peer address.
const metaVersion = 1

const metaHead = 5

func encode(m Member) ([]byte, error) {
	if metaHead+len(m.PeerAddress) > memberlist.MetaMaxSize {
		return nil, errors.New("the peer address is too long to be gossiped: shorten advertised.peer")
	}
	meta := binary.BigEndian.AppendUint32([]byte{metaVersion}, uint32(m.ID)) //nolint:gosec // same width
	return append(meta, m.PeerAddress...), nil
}

// decode refuses what it does not know: the node runs another version, and the hint is worth nothing.
func decode(node *memberlist.Node) (Member, bool) {
	if len(node.Meta) < metaHead || node.Meta[0] != metaVersion {
		return Member{}, false
	}
	id := model.NodeID(binary.BigEndian.Uint32(node.Meta[1:metaHead])) //nolint:gosec // same width
	return Member{ID: id, PeerAddress: string(node.Meta[metaHead:])}, id >= 0
}

// metadata is memberlist.Delegate: what this node says of itself, and nothing more.
type metadata []byte

func (m metadata) NodeMeta(int) []byte             { return m }
func (metadata) NotifyMsg([]byte)                  {}
func (metadata) GetBroadcasts(int, int) [][]byte   { return nil }
func (metadata) LocalState(bool) []byte            { return nil }
func (metadata) MergeRemoteState(_ []byte, _ bool) {}

// events is memberlist.EventDelegate. It must not block.
type events struct{ g *Gossip }

func (e events) NotifyJoin(n *memberlist.Node)   { e.hint(HintJoined, n) }
func (e events) NotifyLeave(n *memberlist.Node)  { e.hint(HintLeft, n) }
func (e events) NotifyUpdate(n *memberlist.Node) { e.hint(HintChanged, n) }

func (e events) hint(kind HintKind, node *memberlist.Node) {
	member, ok := decode(node)
	if !ok {
		return
	}
	e.g.metrics.event(kind)
	select {
	case e.g.hints <- Hint{Kind: kind, Member: member}:
	default:
	}
}
