package testcluster

import (
	"net"
	"strconv"
)

const (
	clientPort = iota
	peerPort
	adminPort
	gossipPort
	portsPerNode
)

func (c *Cluster) address(i, which int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port+portsPerNode*(i-1)+which))
}
