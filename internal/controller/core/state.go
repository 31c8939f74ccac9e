package core

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// Config are the constants that decisions depend on. The zero value of a field means its default.
type Config struct {
	// SessionTimeout is how long a broker may be silent before it is fenced; 3 s.
	SessionTimeout time.Duration
	// StallTolerance is how late a tick may be before the controller takes the silence as its own fault; 500 ms.
	StallTolerance time.Duration
	// DefaultPartitions of a topic; 3.
	DefaultPartitions int32
	// DefaultReplicationFactor of a topic, where there are as many brokers; 3.
	DefaultReplicationFactor int32
	// ProducerIDBlock is how many producer ids a broker gets at a time; 1000.
	ProducerIDBlock int32
	// FeatureLevel to write when the cluster is made; metadata.MaxFeatureLevel.
	FeatureLevel int32
}

func (c Config) withDefaults() Config {
	c.SessionTimeout = cmp.Or(c.SessionTimeout, 3*time.Second)
	c.StallTolerance = cmp.Or(c.StallTolerance, 500*time.Millisecond)
	c.DefaultPartitions = cmp.Or(c.DefaultPartitions, 3)
	c.DefaultReplicationFactor = cmp.Or(c.DefaultReplicationFactor, 3)
	c.ProducerIDBlock = cmp.Or(c.ProducerIDBlock, 1000)
	c.FeatureLevel = cmp.Or(c.FeatureLevel, metadata.MaxFeatureLevel)
	return c
}

// State is what the active controller knows: the committed image and the sessions of brokers. It is not safe for concurrent
// use.
type State struct {
	cfg      Config
	active   bool
	image    *metadata.Image
	sessions map[model.NodeID]*session
	nextTick time.Time // when the next tick is due; zero before the first

	// told is what brokers said of their logs, by the registration they said it under. It is lost with the process: brokers say
	// it again with their heartbeats, as long as a partition waits for its last known members to be compared.
	told map[model.NodeID]confession
}

// session is what the active controller knows of a broker beside the image. It is lost with the leadership.
type session struct {
	epoch    model.BrokerEpoch
	deadline time.Time
	lastBeat time.Time            // zero before the first heartbeat
	offset   model.MetadataOffset // metadata offset that the broker has applied
	moved    model.MetadataOffset // of a stopping broker: when its leaderships had moved; 0 while they have not
	probing  int                  // probes under way
	dead     bool                 // a probe was refused, or answered by another incarnation
	full     bool                 // its disk takes no appends
}

// Target is a broker to probe.
type Target struct {
	ID            model.NodeID
	Epoch         model.BrokerEpoch
	IncarnationID model.UUID
	PeerAddress   string
}

// New returns a state that is not active and holds the empty image.
func New(cfg Config) *State {
	return &State{cfg: cfg.withDefaults(), image: metadata.Empty(), sessions: map[model.NodeID]*session{}, told: map[model.NodeID]confession{}}
}

// Config returns the constants, with the defaults filled in.
func (s *State) Config() Config { return s.cfg }

// Image is the last committed image that the state was told of.
func (s *State) Image() *metadata.Image { return s.image }

// Active reports whether the state decides.
func (s *State) Active() bool { return s.active }

// Activate begins a time as active controller, on the image as a barrier left it. Every broker that is not fenced gets a full
// session. The brokers returned, by id, are to be probed at once, each after a call of ProbeStarted.
func (s *State) Activate(now time.Time, image *metadata.Image) []Target {
	s.active, s.image, s.nextTick = true, image, time.Time{}
	s.sessions = map[model.NodeID]*session{}
	var targets []Target
	for _, b := range image.Brokers() {
		if b.Fenced {
			continue
		}
		s.sessions[b.ID] = &session{epoch: b.Epoch, deadline: now.Add(s.cfg.SessionTimeout)}
		targets = append(targets, targetOf(b))
	}
	return targets
}

func targetOf(b *metadata.Broker) Target {
	return Target{ID: b.ID, Epoch: b.Epoch, IncarnationID: b.IncarnationID, PeerAddress: b.PeerAddress}
}

// Deactivate ends the time as active controller and forgets all sessions.
func (s *State) Deactivate() {
	s.active = false
	s.sessions = map[model.NodeID]*session{}
}

// Applied tells the state of a newer committed image. Sessions of registrations that it ended are forgotten.
func (s *State) Applied(image *metadata.Image) {
	if image.Offset() < s.image.Offset() {
		return
	}
	s.image = image
	maps.DeleteFunc(s.sessions, func(id model.NodeID, x *session) bool {
		b, ok := image.Broker(id)
		return !ok || b.Epoch > x.epoch
	})
	maps.DeleteFunc(s.told, func(id model.NodeID, c confession) bool {
		b, ok := image.Broker(id)
		return ok && b.Epoch > c.epoch
	})
}

// Tick tells the state that its loop runs and when it is to run next. A tick that is late by more than the tolerance extends
// every session by as much: the silence may have been the controller's own. A broker that is not fenced and has no session
// gets a full one: an entry of an earlier term, committed late, has let it in, and nobody might ever be heard of it.
func (s *State) Tick(now, next time.Time) {
	if !s.nextTick.IsZero() {
		if late := now.Sub(s.nextTick); late >= s.cfg.StallTolerance {
			for _, x := range s.sessions {
				x.deadline = x.deadline.Add(late)
			}
		}
	}
	s.nextTick = next
	if !s.active {
		return
	}
	for _, b := range s.image.Brokers() {
		if x := s.sessions[b.ID]; !b.Fenced && (x == nil || x.epoch < b.Epoch) {
			s.sessions[b.ID] = &session{epoch: b.Epoch, deadline: now.Add(s.cfg.SessionTimeout)}
		}
	}
}

// Touch notes a heartbeat as it arrives. The response is not nil where nothing is left to decide; otherwise the request
// belongs into a batch (Batch.Heartbeat). The error is BROKER_ID_NOT_REGISTERED or STALE_BROKER_EPOCH.
func (s *State) Touch(req *internalv1.HeartbeatRequest, now time.Time) (*internalv1.HeartbeatResponse, error) {
	b, err := checkBroker(s.image, req.GetBrokerId(), req.GetBrokerEpoch())
	if err != nil {
		return nil, err
	}
	x := s.touch(b, req, now)
	if req.GetGoodbye() || req.GetWantStop() || b.Fenced || x.dead || len(req.GetLogEnds()) > 0 {
		return nil, nil //nolint:nilnil // documented: nothing wrong, and something left to decide
	}
	return &internalv1.HeartbeatResponse{MetadataOffset: uint64(s.image.Offset())}, nil
}

func (s *State) touch(b *metadata.Broker, req *internalv1.HeartbeatRequest, now time.Time) *session {
	x := s.sessions[b.ID]
	if x == nil || x.epoch != b.Epoch {
		x = &session{epoch: b.Epoch}
		s.sessions[b.ID] = x
	}
	x.lastBeat, x.deadline, x.dead = now, now.Add(s.cfg.SessionTimeout), false
	x.offset, x.full = max(x.offset, model.MetadataOffset(req.GetMetadataOffset())), req.GetDisk().GetFull()
	return x
}

// Lost says that the connection of a broker's session ended without goodbye. Where that matters the broker is to be probed,
// after a call of ProbeStarted.
func (s *State) Lost(id model.NodeID, epoch model.BrokerEpoch) (Target, bool) {
	b, ok := s.image.Broker(id)
	if !s.active || !ok || b.Fenced || b.Epoch != epoch {
		return Target{}, false
	}
	return targetOf(b), true
}

// ProbeStarted notes that a probe of the broker is under way. While one is, nobody is fenced early: brokers that died
// together shall be found dead together.
func (s *State) ProbeStarted(t Target) {
	if x := s.sessions[t.ID]; x != nil && x.epoch == t.Epoch {
		x.probing++
	}
}

// ProbeEnded notes the outcome of a probe that was sent at the time given. A broker that was refused is dead, unless it was
// heard of since the probe was sent.
func (s *State) ProbeEnded(t Target, sent time.Time, dead bool) {
	x := s.sessions[t.ID]
	if x == nil || x.epoch != t.Epoch {
		return
	}
	x.probing = max(0, x.probing-1)
	if dead && !x.lastBeat.After(sent) {
		x.dead = true
	}
}

// dead returns the brokers to fence now, by id: those whose session ended, and, once no probe is under way, those whose
// probe was refused.
func (s *State) dead(now time.Time) []model.NodeID {
	probing := false
	for _, x := range s.sessions {
		probing = probing || x.probing > 0
	}
	var ids []model.NodeID
	for id, x := range s.sessions {
		b, ok := s.image.Broker(id)
		if !ok || b.Fenced || b.Epoch != x.epoch {
			continue
		}
		if !now.Before(x.deadline) || (x.dead && !probing) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// WantsFencing reports whether FenceDead would fence somebody.
func (s *State) WantsFencing(now time.Time) bool { return s.active && len(s.dead(now)) > 0 }

// checkBroker returns the registered broker of that id and epoch.
func checkBroker(image *metadata.Image, id int32, epoch int64) (*metadata.Broker, error) {
	b, ok := image.Broker(model.NodeID(id))
	if !ok {
		return nil, model.Errorf(model.CodeBrokerIDNotRegistered, "broker %d is not registered; register it first", id)
	}
	if int64(b.Epoch) != epoch {
		return nil, model.Errorf(model.CodeStaleBrokerEpoch, "broker %d is registered with epoch %d, the request has %d", id, b.Epoch, epoch)
	}
	return b, nil
}
