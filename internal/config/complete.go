package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
)

// complete fills what follows from other settings and checks what must fit together.
func (c *Config) complete() error {
	for i := range c.ClientListeners {
		reach(&c.ClientListeners[i].Listener)
	}
	reach(&c.PeerListener)
	reach(&c.AdminListener)
	reach(&c.GossipListener)
	if len(c.Controllers) == 0 {
		if !c.Roles.Controller {
			return &Error{Key: "controllers", Err: errors.New("it is empty, and this node is no controller: name the voters as id@host:port")}
		}
		c.Controllers = []Voter{{ID: c.NodeID, Address: c.PeerListener.Advertised}}
	}
	slices.SortFunc(c.Controllers, func(a, b Voter) int { return cmp.Compare(a.ID, b.ID) })
	if c.Roles.Controller != c.IsVoter() {
		return &Error{Key: "controllers", Err: fmt.Errorf(
			"node %d must be named there exactly if it has the role controller", c.NodeID)}
	}
	if beyondLoopback(c.GossipListener) && c.GossipKey == nil {
		return &Error{Key: "gossip.key.file", Err: fmt.Errorf(
			"listen.gossip is %s, beyond loopback, where gossip needs a key: put 32 random bytes into a file, and give it to every node",
			c.GossipListener.Bind)}
	}
	return c.checkTimes()
}

func (c *Config) checkTimes() error {
	if 3*c.HeartbeatInterval > c.SessionTimeout {
		return &Error{Key: "heartbeat.interval", Err: fmt.Errorf(
			"%v is more than a third of session.timeout (%v)", c.HeartbeatInterval, c.SessionTimeout)}
	}
	if c.Raft.Election < c.Raft.Heartbeat {
		return &Error{Key: "raft.election.timeout", Err: fmt.Errorf(
			"%v is less than raft.heartbeat.timeout (%v)", c.Raft.Election, c.Raft.Heartbeat)}
	}
	if c.Raft.Lease > c.Raft.Heartbeat {
		return &Error{Key: "raft.lease.timeout", Err: fmt.Errorf(
			"%v is more than raft.heartbeat.timeout (%v)", c.Raft.Lease, c.Raft.Heartbeat)}
	}
	return nil
}

// reach gives a listener that advertises nothing its bind address.
func reach(l *Listener) {
	if l.Advertised == "" {
		l.Advertised = l.Bind
	}
}

// Warnings returns what the operator should know of a configuration that is allowed: open listeners beyond loopback,
// addresses that nobody can reach, and a key that everybody can read.
func (c *Config) Warnings() []string {
	var warnings []string
	if c.exposed != "" {
		warnings = append(warnings, fmt.Sprintf(
			"gossip.key.file %s can be read or changed by everybody on this machine: chmod 600 it, and think of a new key", c.exposed))
	}
	look := func(name string, l Listener) {
		if beyondLoopback(l) {
			warnings = append(warnings, fmt.Sprintf(
				"%s is bound to %s, beyond loopback: there is no TLS and no authentication yet, everybody who reaches it may do everything",
				name, l.Bind))
		}
		if host, _, err := net.SplitHostPort(l.Advertised); err == nil && (host == "" || unspecified(host)) {
			warnings = append(warnings, fmt.Sprintf(
				"%s advertises %s, which others cannot reach: set the advertised address", name, l.Advertised))
		}
	}
	for _, l := range c.ClientListeners {
		look("listen.client "+l.Name, l.Listener)
	}
	look("listen.peer", c.PeerListener)
	look("listen.admin", Listener{Bind: c.AdminListener.Bind})
	look("listen.gossip", Listener{Advertised: c.GossipListener.Advertised}) // beyond loopback it has a key
	return warnings
}

func beyondLoopback(l Listener) bool {
	host, _, err := net.SplitHostPort(l.Bind)
	return err == nil && !loopback(host)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

func unspecified(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsUnspecified()
}
