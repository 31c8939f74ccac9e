package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/telemetry"
)

// defaultListener is the name of a client listener that is given without one.
const defaultListener = "client"

// The roles of a node.
const (
	roleController = "controller"
	roleBroker     = "broker"
)

// dst is where a duration goes.
type dst = *time.Duration

func splitList(value string) []string {
	var items []string
	for item := range strings.SplitSeq(value, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

func parseNodeID(text string) (model.NodeID, error) {
	id, err := strconv.ParseInt(text, 10, 32)
	if err != nil || id < 0 {
		return 0, fmt.Errorf("%q is no node id: use a whole number from 0 to %d", text, math.MaxInt32)
	}
	return model.NodeID(id), nil
}

// parseAddress checks host:port; the host may be empty only when bound, meaning all interfaces.
func parseAddress(text string, needHost bool) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return "", fmt.Errorf("%q is no address: use host:port", text)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || (needHost && n == 0) {
		return "", fmt.Errorf("%q has no valid port: use host:port with a port from 1 to 65535", text)
	}
	if needHost && host == "" {
		return "", fmt.Errorf("%q has no host: use host:port", text)
	}
	return text, nil
}

func setNodeID(c *Config, value string) (err error) {
	c.NodeID, err = parseNodeID(value)
	return err
}

func setRoles(c *Config, value string) error {
	for _, role := range splitList(value) {
		c.Roles.Controller = c.Roles.Controller || role == roleController
		c.Roles.Broker = c.Roles.Broker || role == roleBroker
	}
	if c.Roles == (Roles{}) {
		return errors.New("the node has no role: use controller, broker, or both")
	}
	return nil
}

func setControllers(c *Config, value string) error {
	seen := map[model.NodeID]bool{}
	for _, item := range splitList(value) {
		id, address, ok := strings.Cut(item, "@")
		if !ok {
			return fmt.Errorf("%q is no controller: use id@host:port", item)
		}
		voter := Voter{}
		var err error
		if voter.ID, err = parseNodeID(id); err != nil {
			return err
		}
		if voter.Address, err = parseAddress(address, true); err != nil {
			return err
		}
		if seen[voter.ID] {
			return fmt.Errorf("controller %d is named twice", voter.ID)
		}
		seen[voter.ID] = true
		c.Controllers = append(c.Controllers, voter)
	}
	return nil
}

func setDataDir(c *Config, value string) error {
	if value == "" {
		return errors.New("it is empty: name a directory")
	}
	c.DataDir = filepath.Clean(value)
	return nil
}

func named(item string) (name, address string) {
	name, address, ok := strings.Cut(item, "=")
	if !ok {
		return defaultListener, item
	}
	return strings.TrimSpace(name), strings.TrimSpace(address)
}

func setClientListeners(c *Config, value string) error {
	for _, item := range splitList(value) {
		name, address := named(item)
		if name == "" {
			return fmt.Errorf("%q has an empty name: use name=host:port", item)
		}
		bound, err := parseAddress(address, false)
		if err != nil {
			return err
		}
		for _, other := range c.ClientListeners {
			if other.Name == name {
				return fmt.Errorf("two listeners are called %q: give each its own name as name=host:port", name)
			}
		}
		c.ClientListeners = append(c.ClientListeners, ClientListener{Name: name, Listener: Listener{Bind: bound}})
	}
	if len(c.ClientListeners) == 0 {
		return errors.New("it is empty: name at least one listener")
	}
	return nil
}

// setAdvertisedClients runs after setClientListeners: the table's order is the order of setting.
func setAdvertisedClients(c *Config, value string) error {
next:
	for _, item := range splitList(value) {
		name, address := named(item)
		advertised, err := parseAddress(address, true)
		if err != nil {
			return err
		}
		for i := range c.ClientListeners {
			if c.ClientListeners[i].Name == name {
				c.ClientListeners[i].Advertised = advertised
				continue next
			}
		}
		return fmt.Errorf("there is no listener called %q in listen.client", name)
	}
	return nil
}

func bind(at func(c *Config) *Listener) func(*Config, string) error {
	return func(c *Config, value string) (err error) {
		at(c).Bind, err = parseAddress(value, false)
		return err
	}
}

func advertise(at func(c *Config) *Listener) func(*Config, string) error {
	return func(c *Config, value string) (err error) {
		if value != "" {
			at(c).Advertised, err = parseAddress(value, true)
		}
		return err
	}
}

func setSeeds(c *Config, value string) error {
	for _, item := range splitList(value) {
		address, err := parseAddress(item, true)
		if err != nil {
			return err
		}
		c.GossipSeeds = append(c.GossipSeeds, address)
	}
	return nil
}

func setGossipKeyFile(c *Config, value string) error {
	if value == "" {
		return nil
	}
	c.GossipKeyFile = value
	key, open, err := readKey(value)
	c.GossipKey = key
	if open {
		c.exposed = value
	}
	return err
}

func setLogLevel(c *Config, value string) (err error) {
	c.LogLevel, err = telemetry.ParseLevel(value)
	return err
}

func setLogFormat(c *Config, value string) error {
	c.LogFormat = telemetry.LogFormat(value)
	return nil
}

// The setters of numbers leave the bounds to the table.

func duration(at func(c *Config) dst) func(*Config, string) error {
	return func(c *Config, value string) (err error) {
		*at(c), err = time.ParseDuration(value)
		return err
	}
}

func number(at func(c *Config) *int) func(*Config, string) error {
	return func(c *Config, value string) (err error) {
		*at(c), err = strconv.Atoi(value)
		return err
	}
}

func parseBytes(value string) (int64, error) {
	digits, unit := value, int64(1)
	for suffix, size := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if rest, ok := strings.CutSuffix(value, suffix); ok {
			digits, unit = strings.TrimSpace(rest), size
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%q is no size: use a number of bytes, or such as 64KiB, 16MiB, 1GiB", value)
	}
	return n * unit, nil
}

func bytesInt64(at func(c *Config) *int64) func(*Config, string) error {
	return func(c *Config, value string) (err error) {
		*at(c), err = parseBytes(value)
		return err
	}
}

func bytesInt(at func(c *Config) *int) func(*Config, string) error {
	return func(c *Config, value string) error {
		n, err := parseBytes(value)
		*at(c) = int(n)
		return err
	}
}

func boolean(at func(c *Config) *bool) func(*Config, string) error {
	return func(c *Config, value string) (err error) {
		*at(c), err = strconv.ParseBool(value)
		return err
	}
}
