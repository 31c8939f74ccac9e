package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Names of files in the directory of a development cluster.
const (
	clusterName = "cluster.yaml"
	configName  = "broker.yaml"
	pidName     = "broker.pid"
	logName     = "broker.log"
	dataName    = "data"
)

// devPlan is a development cluster as its directory keeps it.
type devPlan struct {
	brokers int
	port    int
	dir     string
}

func (p devPlan) check() error {
	if p.brokers < 1 || p.brokers > maxDevBrokers {
		return fmt.Errorf("--brokers %d: use 1 to %d", p.brokers, maxDevBrokers)
	}
	last := p.port + portStep*(p.brokers-1) + portsPerNode - 1
	if p.port < 1 || last > largestPortNum {
		return fmt.Errorf("--port %d: %d nodes would use ports %d to %d, which do not all exist", p.port, p.brokers, p.port, last)
	}
	if p.dir == "" {
		return errors.New("--data-dir is empty: name a directory")
	}
	return nil
}

// address is one of the four addresses of node i: client, peer, admin, gossip.
func (p devPlan) address(i, which int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port+portStep*(i-1)+which))
}

func (p devPlan) nodeDir(i int) string { return filepath.Join(p.dir, "node-"+strconv.Itoa(i)) }

// voters is how many nodes are controllers too: two would stop deciding as soon as one of them is gone.
func (p devPlan) voters() int {
	if p.brokers < maxVoters {
		return 1
	}
	return maxVoters
}

func (p devPlan) text() string { return fmt.Sprintf("brokers: %d\nport: %d\n", p.brokers, p.port) }

// prepare makes the directory, or refuses one that holds another cluster.
func (p devPlan) prepare() error {
	path := filepath.Join(p.dir, clusterName)
	kept, err := os.ReadFile(filepath.Clean(path))
	switch {
	case err == nil:
		if string(kept) != p.text() {
			return fmt.Errorf("%s holds another cluster (%s): use the same --brokers and --port, or another --data-dir",
				p.dir, strings.Join(strings.Fields(string(kept)), " "))
		}
	case errors.Is(err, fs.ErrNotExist):
	default:
		return fmt.Errorf("look at %s: %w", p.dir, err)
	}
	for i := 1; i <= p.brokers; i++ {
		if err := os.MkdirAll(p.nodeDir(i), 0o750); err != nil {
			return fmt.Errorf("make the directory of node %d: %w", i, err)
		}
		if err := p.writeConfig(i); err != nil {
			return err
		}
	}
	if kept == nil {
		if err := os.WriteFile(path, []byte(p.text()), 0o600); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	return nil
}

// writeConfig writes broker.yaml of node i, unless it is there: it may have been edited.
func (p devPlan) writeConfig(i int) error {
	dir, err := filepath.Abs(p.nodeDir(i))
	if err != nil {
		return fmt.Errorf("find the directory of node %d: %w", i, err)
	}
	path := filepath.Join(dir, configName)
	if exists(path) {
		return nil
	}
	voters, seeds := make([]string, 0, maxVoters), make([]string, 0, p.brokers)
	for n := 1; n <= p.brokers; n++ {
		if n <= p.voters() {
			voters = append(voters, fmt.Sprintf("%q", fmt.Sprintf("%d@%s", n, p.address(n, 1))))
		}
		seeds = append(seeds, fmt.Sprintf("%q", p.address(n, 3)))
	}
	roles := "controller, broker"
	if i > p.voters() {
		roles = "broker"
	}
	text := fmt.Sprintf(`node.id: %d
roles: [%s]
controllers: [%s]
data.dir: %q
pid.file: %q
listen.client: %q
listen.peer: %q
listen.admin: %q
listen.gossip: %q
gossip.seeds: [%s]
`, i, roles, strings.Join(voters, ", "), filepath.Join(dir, dataName), filepath.Join(dir, pidName),
		p.address(i, 0), p.address(i, 1), p.address(i, 2), p.address(i, 3), strings.Join(seeds, ", "))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
