package wire

import (
	"google.golang.org/protobuf/proto"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/api/gen/penstockv1"
)

// payloadField is the number of the bytes field that carries the payload in every data message; no other field has a
// higher number.
const payloadField = 15

// ProduceRequest is penstock.v1.ProduceRequest with the batch as Payload.
type ProduceRequest struct {
	// Head holds every field but batch, which stays empty.
	Head penstockv1.ProduceRequest
	// Payload is the batch: one whole record batch.
	Payload Payload
}

// FetchResponse is penstock.v1.FetchResponse with the batches as Payload.
type FetchResponse struct {
	// Head holds every field but batches, which stays empty.
	Head penstockv1.FetchResponse
	// Payload is the batches: whole record batches, back to back.
	Payload Payload
}

// ReplicateResponse is penstock.internal.v1.ReplicateResponse with the batches as Payload.
type ReplicateResponse struct {
	// Head holds every field but batches, which stays empty.
	Head internalv1.ReplicateResponse
	// Payload is the batches: whole record batches, back to back.
	Payload Payload
}

// dataMessage is what the codec knows of a data message.
type dataMessage interface {
	head() proto.Message
	payload() *Payload
	// takeBytes returns the payload field of the head and empties it.
	takeBytes() []byte
}

var (
	_ dataMessage = (*ProduceRequest)(nil)
	_ dataMessage = (*FetchResponse)(nil)
	_ dataMessage = (*ReplicateResponse)(nil)
)

// Free gives up the message's reference to its payload and empties it, so that only the first Free counts.
func (m *ProduceRequest) Free() { freePayload(&m.Payload) }

// Free gives up the message's reference to its payload and empties it, so that only the first Free counts.
func (m *FetchResponse) Free() { freePayload(&m.Payload) }

// Free gives up the message's reference to its payload and empties it, so that only the first Free counts.
func (m *ReplicateResponse) Free() { freePayload(&m.Payload) }

func freePayload(p *Payload) {
	p.Free()
	*p = Payload{}
}

func (m *ProduceRequest) head() proto.Message    { return &m.Head }
func (m *FetchResponse) head() proto.Message     { return &m.Head }
func (m *ReplicateResponse) head() proto.Message { return &m.Head }

func (m *ProduceRequest) payload() *Payload    { return &m.Payload }
func (m *FetchResponse) payload() *Payload     { return &m.Payload }
func (m *ReplicateResponse) payload() *Payload { return &m.Payload }

func (m *ProduceRequest) takeBytes() []byte    { return take(&m.Head.Batch) }
func (m *FetchResponse) takeBytes() []byte     { return take(&m.Head.Batches) }
func (m *ReplicateResponse) takeBytes() []byte { return take(&m.Head.Batches) }

func take(field *[]byte) []byte {
	b := *field
	*field = nil
	return b
}
