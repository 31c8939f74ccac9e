package controller

import "sync"

// mailbox takes values without ever making the sender wait.
type mailbox struct {
	mu     sync.Mutex
	values []bool
	signal chan struct{} // has a token while there may be values
}

func newMailbox() *mailbox { return &mailbox{signal: make(chan struct{}, 1)} }

func (m *mailbox) put(v bool) {
	m.mu.Lock()
	m.values = append(m.values, v)
	m.mu.Unlock()
	select {
	case m.signal <- struct{}{}:
	default:
	}
}

// take returns all values, in order.
func (m *mailbox) take() []bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	values := m.values
	m.values = nil
	return values
}
