package testcluster

import (
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

const (
	clientPort = iota
	peerPort
	adminPort
	gossipPort
	portsPerNode
)

func (c *Cluster) address(i, which int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.ports[i-1][which]))
}

// Ports are taken from below the range that systems give to outgoing connections, or one of these might sit on the port of a
// node that is down.
const (
	lowestPort  = 10_000
	highestPort = 30_000
)

// freePorts returns ports of loopback that were free for TCP and UDP a moment ago; all were held at the same time, so that none
// comes twice.
func freePorts(t testing.TB, nodes int) [][portsPerNode]int {
	t.Helper()
	ports := make([][portsPerNode]int, nodes)
	next := lowestPort + rand.IntN(highestPort-lowestPort) //nolint:gosec // any port will do
	for i := range ports {
		for which := range ports[i] {
			for {
				if next++; next > highestPort {
					next = lowestPort
				}
				release, free := hold(next)
				if free {
					defer release()
					ports[i][which] = next
					break
				}
			}
		}
	}
	return ports
}

// hold takes a port for TCP and UDP.
func hold(port int) (release func(), free bool) {
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, false
	}
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		closeQuietly(listener)
		return nil, false
	}
	return func() {
		closeQuietly(listener)
		closeQuietly(packets)
	}, true
}

// closeQuietly closes a socket that was never used.
func closeQuietly(c interface{ Close() error }) { _ = c.Close() }
