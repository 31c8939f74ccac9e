package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication"
	"github.com/penstock-io/penstock/internal/wire"
)

// PeerListener is the name of the peer listener in request contexts.
const PeerListener = "peer"

// Limits bound what one client can take of a broker. All are above 0.
type Limits struct {
	// Wire bounds connections, streams and messages.
	Wire wire.Limits
	// InFlightBytes bounds the unanswered bytes of one produce stream.
	InFlightBytes int64
	// FetchCreditBytes bounds the credit of one fetch stream.
	FetchCreditBytes int64
	// Subscriptions bounds the subscriptions of one fetch stream.
	Subscriptions int
}

// ProducerIDs hands out producer ids that nobody else has.
type ProducerIDs interface {
	Next(ctx context.Context) (model.ProducerID, error)
}

// Client is the services of the client listeners.
type Client struct {
	Cache       *Cache
	Quorum      Quorum
	Others      Others
	Replicas    *replication.Manager
	ProducerIDs ProducerIDs
	Clock       lifecycle.Clock
	Limits      Limits
	Logger      *slog.Logger
	// Metrics count; required.
	Metrics *Metrics
	// Group owns the goroutines of streams and stops when no client is to be served any more: streams then end.
	Group *lifecycle.Group

	health   *health.Server
	open     atomic.Bool
	openings openings
}

// Open lets requests in that need the metadata: the broker has caught up with it.
func (c *Client) Open() { c.open.Store(true) }

// gate refuses requests that need the metadata until Open.
func (c *Client) gate() []grpc.ServerOption {
	check := func(method string) error {
		if c.open.Load() || slices.Contains(alwaysOpen, method) || !strings.HasPrefix(method, "/penstock.v1.") {
			return nil
		}
		return model.Errorf(model.CodeBrokerNotAvailable, "the broker is starting and has not caught up with the metadata yet; retry")
	}
	unary := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if err := check(info.FullMethod); err != nil {
			return nil, err
		}
		return handler(ctx, req)
	}
	stream := func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if err := check(info.FullMethod); err != nil {
			return err
		}
		return handler(srv, stream)
	}
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream)}
}

// alwaysOpen are the methods that tell how the cluster is, whatever the state of this broker.
var alwaysOpen = []string{
	penstockv1.AdminService_DescribeCluster_FullMethodName, penstockv1.AdminService_DescribeQuorum_FullMethodName,
}

// Serving tells the standard health service whether the broker serves.
func (c *Client) Serving(serving bool) {
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if serving {
		status = healthv1.HealthCheckResponse_SERVING
	}
	for _, name := range healthNames {
		c.healthServer().SetServingStatus(name, status)
	}
}

var healthNames = []string{
	"", penstockv1.ProducerService_ServiceDesc.ServiceName, penstockv1.ConsumerService_ServiceDesc.ServiceName,
	penstockv1.MetadataService_ServiceDesc.ServiceName, penstockv1.AdminService_ServiceDesc.ServiceName,
}

func (c *Client) healthServer() *health.Server {
	if c.health == nil {
		c.health = health.NewServer()
	}
	return c.health
}

// NewServer returns a gRPC server with the services of a client listener of that name. Serving is called before.
func (c *Client) NewServer(listener string) *grpc.Server {
	server := newServer(c.Limits.Wire, listener, c.Logger, c.Metrics, c.gate()...)
	stopping := c.Group.Stopping()
	penstockv1.RegisterMetadataServiceServer(server, &metadataService{cache: c.Cache, quorum: c.Quorum, stopping: stopping})
	penstockv1.RegisterAdminServiceServer(server, &adminService{
		cache: c.Cache, quorum: c.Quorum, replicas: c.Replicas,
		spread: spread{cache: c.Cache, others: c.Others, group: c.Group, clock: c.Clock, timeout: spreadTimeout},
	})
	penstockv1.RegisterProducerServiceServer(server, &producerService{client: c})
	penstockv1.RegisterConsumerServiceServer(server, &consumerService{client: c})
	healthv1.RegisterHealthServer(server, c.healthServer())
	reflection.Register(server)
	return server
}

func newServer(limits wire.Limits, listener string, logger *slog.Logger, metrics *Metrics, more ...grpc.ServerOption) *grpc.Server {
	options := append(wire.ServerOptions(limits), grpc.WaitForHandlers(true))
	options = append(options, identify(listener)...)
	options = append(options, guard(logger)...)
	options = append(options, metrics.count()...)
	options = append(options, more...)
	return grpc.NewServer(options...)
}

// guard turns a panic of a handler into an end of the process, named: a handler that died half-way leaves state behind.
func guard(logger *slog.Logger) []grpc.ServerOption {
	crash := func(method string) {
		if r := recover(); r != nil {
			logger.Error("a handler panicked, the process ends", "method", method, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			panic(r)
		}
	}
	unary := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		defer crash(info.FullMethod)
		return handler(ctx, req)
	}
	stream := func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		defer crash(info.FullMethod)
		return handler(srv, stream)
	}
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream)}
}

// Serve runs a server on a listener in a goroutine of group until group's context ends, and then stops it: calls that
// run are cut off, so whoever wants them to finish ends them before. Everything is awaited.
func Serve(group *lifecycle.Group, name string, server *grpc.Server, listener net.Listener) {
	started := group.Go(name, func(context.Context) error {
		if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("serve %s on %s: %w", name, listener.Addr(), err)
		}
		return nil
	})
	started = group.Go(name+"-stop", func(ctx context.Context) error {
		<-ctx.Done()
		server.Stop()
		return nil
	}) && started
	if !started {
		server.Stop()
	}
}
