package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/config"
)

// plaintext is the security of listeners while there is no TLS.
const plaintext = "plaintext"

// ErrAddressInUse says that a listener cannot be opened because somebody else listens there.
var ErrAddressInUse = errors.New("the address is in use")

// listeners are the open listeners of a node.
type listeners struct {
	clients []clientListener
	peer    net.Listener
	admin   net.Listener
}

type clientListener struct {
	name       string
	advertised string
	listener   net.Listener
}

// listen opens the listeners before anything else is done, so that an address in use is said at once.
func (n *Node) listen(ctx context.Context) (err error) {
	if n.listeners.peer, err = open(ctx, "listen.peer", &n.cfg.PeerListener); err != nil {
		return err
	}
	if n.listeners.admin, err = open(ctx, "listen.admin", &n.cfg.AdminListener); err != nil {
		return err
	}
	if !n.cfg.Roles.Broker {
		return nil
	}
	for i := range n.cfg.ClientListeners {
		l := &n.cfg.ClientListeners[i]
		opened, err := open(ctx, "listen.client", &l.Listener)
		if err != nil {
			return err
		}
		n.listeners.clients = append(n.listeners.clients, clientListener{name: l.Name, advertised: l.Advertised, listener: opened})
	}
	return nil
}

// open listens, and puts the real port where port 0 was asked for.
func open(ctx context.Context, key string, l *config.Listener) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", l.Bind)
	if err != nil {
		return nil, listenError(key, l.Bind, err)
	}
	if host, port, err := net.SplitHostPort(l.Advertised); err == nil && port == "0" {
		_, real, err := net.SplitHostPort(listener.Addr().String())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", key, err), listener.Close())
		}
		l.Advertised = net.JoinHostPort(host, real)
	}
	return listener, nil
}

func listenError(key, address string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w: %s %s; stop what listens there, or set %s", ErrAddressInUse, key, address, key)
	}
	return fmt.Errorf("listen on %s (%s): %w", address, key, err)
}

// records are the client listeners as they are registered.
func (l listeners) records() []*internalv1.Listener {
	var records []*internalv1.Listener
	for _, c := range l.clients {
		host, portText, err := net.SplitHostPort(c.advertised)
		port, portErr := strconv.ParseUint(portText, 10, 16)
		if err != nil || portErr != nil {
			continue // the configuration was checked
		}
		records = append(records, &internalv1.Listener{Name: c.name, Host: host, Port: int32(port), Security: plaintext}) //nolint:gosec // 16 bits
	}
	return records
}

func (l listeners) describe() string {
	var addresses []string
	for _, c := range l.clients {
		addresses = append(addresses, c.advertised)
	}
	return strings.Join(addresses, ",")
}

// close closes what is open; servers that have taken a listener over have closed it already.
func (l listeners) close() error {
	all := []net.Listener{l.peer, l.admin}
	for _, c := range l.clients {
		all = append(all, c.listener)
	}
	var errs []error
	for _, listener := range all {
		if listener == nil {
			continue
		}
		if err := listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
