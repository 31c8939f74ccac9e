package metadata

import (
	"slices"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
)

// Listener is one named address that clients reach a broker at.
type Listener struct {
	Name     string // the same on all brokers
	Host     string // advertised host
	Port     int32  // advertised port
	Security string // "plaintext"
}

// Broker is a registered broker. It is immutable; its slices must not be changed.
type Broker struct {
	ID            model.NodeID
	Epoch         model.BrokerEpoch // metadata offset of the entry that registered it
	IncarnationID model.UUID        // of the process
	DirectoryID   model.UUID        // of its data directory
	Listeners     []Listener
	PeerAddress   string // host:port
	Rack          string // empty where none is configured
	Fenced        bool   // may neither lead nor join an in-sync set
	Stopping      bool   // asked for a clean stop: gets no leadership
	WasUnfenced   bool   // was unfenced at least once since it registered
	// PreviousEpoch is that of the last registration before this one that was unfenced; NoBrokerEpoch where there is none.
	PreviousEpoch   model.BrokerEpoch
	MinFeatureLevel int32
	MaxFeatureLevel int32
}

// Live reports whether the broker may be elected: registered, not fenced, not stopping. A nil broker is not live.
func (b *Broker) Live() bool {
	return b != nil && !b.Fenced && !b.Stopping
}

// Listener returns the listener of that name.
func (b *Broker) Listener(name string) (Listener, bool) {
	i := slices.IndexFunc(b.Listeners, func(l Listener) bool { return l.Name == name })
	if i < 0 {
		return Listener{}, false
	}
	return b.Listeners[i], true
}

func compareBroker(b *Broker, id model.NodeID) int {
	return int(b.ID) - int(id)
}

func brokerFromRecord(r *internalv1.BrokerRegistrationRecord, epoch model.BrokerEpoch) (*Broker, error) {
	incarnation, err := uuidOf(r.GetIncarnationId(), "incarnation id")
	if err != nil {
		return nil, err
	}
	directory, err := uuidOf(r.GetDirectoryId(), "directory id")
	if err != nil {
		return nil, err
	}
	if r.GetBrokerId() < 0 {
		return nil, invalid("broker id %d is negative", r.GetBrokerId())
	}
	b := &Broker{
		ID:              model.NodeID(r.GetBrokerId()),
		Epoch:           epoch,
		IncarnationID:   incarnation,
		DirectoryID:     directory,
		PeerAddress:     r.GetPeerAddress(),
		Rack:            r.GetRack(),
		Fenced:          true,
		PreviousEpoch:   model.NoBrokerEpoch,
		MinFeatureLevel: r.GetMinFeatureLevel(),
		MaxFeatureLevel: r.GetMaxFeatureLevel(),
	}
	for _, l := range r.GetListeners() {
		b.Listeners = append(b.Listeners, Listener{
			Name: l.GetName(), Host: l.GetHost(), Port: l.GetPort(), Security: l.GetSecurity(),
		})
	}
	return b, nil
}

// lastUnfenced is the epoch of the last registration, this one included, that was unfenced.
func (b *Broker) lastUnfenced() model.BrokerEpoch {
	if b.WasUnfenced {
		return b.Epoch
	}
	return b.PreviousEpoch
}

// earlier returns the record by which snapshots carry PreviousEpoch: the earlier registration, of which nothing else matters.
func (b *Broker) earlier() *internalv1.BrokerRegistrationRecord {
	r := b.record()
	r.Restored = &internalv1.BrokerState{BrokerEpoch: int64(b.PreviousEpoch), Fenced: true, WasUnfenced: true}
	return r
}

// record returns the record that restores the broker, with its state, as snapshots carry it.
func (b *Broker) record() *internalv1.BrokerRegistrationRecord {
	r := &internalv1.BrokerRegistrationRecord{
		BrokerId:        int32(b.ID),
		IncarnationId:   b.IncarnationID.Bytes(),
		DirectoryId:     b.DirectoryID.Bytes(),
		PeerAddress:     b.PeerAddress,
		Rack:            b.Rack,
		MinFeatureLevel: b.MinFeatureLevel,
		MaxFeatureLevel: b.MaxFeatureLevel,
		Restored: &internalv1.BrokerState{
			BrokerEpoch: int64(b.Epoch),
			Fenced:      b.Fenced,
			Stopping:    b.Stopping,
			WasUnfenced: b.WasUnfenced,
		},
	}
	for _, l := range b.Listeners {
		r.Listeners = append(r.Listeners, &internalv1.Listener{Name: l.Name, Host: l.Host, Port: l.Port, Security: l.Security})
	}
	return r
}

// uuidOf reads a UUID that must be set.
func uuidOf(b []byte, what string) (model.UUID, error) {
	id, err := model.UUIDFromBytes(b)
	if err != nil {
		return model.UUID{}, invalid("%s: %v", what, err)
	}
	if id.IsZero() {
		return model.UUID{}, invalid("%s is not set", what)
	}
	return id, nil
}
