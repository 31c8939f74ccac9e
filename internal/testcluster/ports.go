package testcluster

import (
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

// freePorts returns ports of loopback that were free for TCP and UDP a moment ago; all were held at the same time, so that none
// comes twice.
func freePorts(t testing.TB, nodes int) [][portsPerNode]int {
	t.Helper()
	ports := make([][portsPerNode]int, nodes)
	for i := range ports {
		for which := range ports[i] {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatalf("find a free port: %v", err)
			}
			defer closeQuietly(listener)
			packets, err := net.ListenPacket("udp", listener.Addr().String())
			if err != nil {
				t.Fatalf("find a free port: %v", err)
			}
			defer closeQuietly(packets)
			_, port, err := net.SplitHostPort(listener.Addr().String())
			if err != nil {
				t.Fatalf("find a free port: %v", err)
			}
			if ports[i][which], err = strconv.Atoi(port); err != nil {
				t.Fatalf("find a free port: %v", err)
			}
		}
	}
	return ports
}

// closeQuietly closes a socket that was never used.
func closeQuietly(c interface{ Close() error }) { _ = c.Close() }
