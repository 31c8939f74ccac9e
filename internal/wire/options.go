package wire

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"
)

// Limits bounds what one gRPC peer may ask of the other. Zero fields mean the defaults of [DefaultLimits].
type Limits struct {
	// MaxMessageBytes is the largest message received.
	MaxMessageBytes int
	// MaxHeaderListBytes is the largest list of headers received.
	MaxHeaderListBytes uint32
	// MaxConcurrentStreams is how many calls one connection may have open (servers).
	MaxConcurrentStreams uint32
	// WindowBytes is the flow-control window of a stream and of a connection.
	WindowBytes int32
	// BufferBytes is the size of the read and of the write buffer of a connection.
	BufferBytes int
	// KeepaliveTime is how long a connection may be silent before it is probed; clients wait 10 s at least.
	KeepaliveTime time.Duration
	// KeepaliveTimeout is how long a probe may stay unanswered.
	KeepaliveTimeout time.Duration
	// MaxConnectionIdle is how long a connection may be without calls before a server closes it.
	MaxConnectionIdle time.Duration
	// ConnectTimeout bounds setting up a connection.
	ConnectTimeout time.Duration
	// Pool holds the buffers; nil means DefaultPool.
	Pool *Pool
}

// DefaultLimits are the limits in force where nothing else is said.
func DefaultLimits() Limits {
	return Limits{
		MaxMessageBytes:      16 << 20,
		MaxHeaderListBytes:   16 << 10,
		MaxConcurrentStreams: 1024,
		WindowBytes:          4 << 20,
		BufferBytes:          128 << 10,
		KeepaliveTime:        10 * time.Second,
		KeepaliveTimeout:     5 * time.Second,
		MaxConnectionIdle:    10 * time.Minute,
		ConnectTimeout:       5 * time.Second,
		Pool:                 DefaultPool(),
	}
}

const (
	// minKeepaliveTime is how often a server lets clients probe; it ends connections that probe more often.
	minKeepaliveTime = 5 * time.Second
	// clientKeepaliveTime is the least that gRPC lets a client wait.
	clientKeepaliveTime = 10 * time.Second
)

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	l.MaxMessageBytes = orDefault(l.MaxMessageBytes, d.MaxMessageBytes)
	l.MaxHeaderListBytes = orDefault(l.MaxHeaderListBytes, d.MaxHeaderListBytes)
	l.MaxConcurrentStreams = orDefault(l.MaxConcurrentStreams, d.MaxConcurrentStreams)
	l.WindowBytes = orDefault(l.WindowBytes, d.WindowBytes)
	l.BufferBytes = orDefault(l.BufferBytes, d.BufferBytes)
	l.KeepaliveTime = orDefault(l.KeepaliveTime, d.KeepaliveTime)
	l.KeepaliveTimeout = orDefault(l.KeepaliveTimeout, d.KeepaliveTimeout)
	l.MaxConnectionIdle = orDefault(l.MaxConnectionIdle, d.MaxConnectionIdle)
	l.ConnectTimeout = orDefault(l.ConnectTimeout, d.ConnectTimeout)
	l.Pool = orDefault(l.Pool, d.Pool)
	return l
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// ServerOptions returns how every gRPC server of Penstock is set up: codec, pool, windows, buffers, keepalive, limits, and
// interceptors that turn what handlers return into a status (see [Status]). Options that follow may add interceptors. Write
// buffers are shared among idle connections, which is gRPC's default by now.
func ServerOptions(l Limits) []grpc.ServerOption {
	l = l.withDefaults()
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(NewCodec(l.Pool)),
		experimental.BufferPool(l.Pool),
		grpc.InitialWindowSize(l.WindowBytes),
		grpc.InitialConnWindowSize(l.WindowBytes),
		grpc.ReadBufferSize(l.BufferBytes),
		grpc.WriteBufferSize(l.BufferBytes),
		grpc.MaxRecvMsgSize(l.MaxMessageBytes),
		grpc.MaxHeaderListSize(l.MaxHeaderListBytes),
		grpc.MaxConcurrentStreams(l.MaxConcurrentStreams),
		grpc.ConnectionTimeout(l.ConnectTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: l.MaxConnectionIdle, Time: l.KeepaliveTime, Timeout: l.KeepaliveTimeout,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime: minKeepaliveTime, PermitWithoutStream: true,
		}),
		grpc.ChainUnaryInterceptor(unaryStatus),
		grpc.ChainStreamInterceptor(streamStatus),
	}
}

// DialOptions returns how every gRPC client of Penstock is set up: codec, pool, windows, buffers, keepalive, limits, and
// plaintext. Calls are never retried by gRPC: callers know what may be sent twice.
func DialOptions(l Limits) []grpc.DialOption {
	l = l.withDefaults()
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(NewCodec(l.Pool)),
			grpc.MaxCallRecvMsgSize(l.MaxMessageBytes),
		),
		experimental.WithBufferPool(l.Pool),
		grpc.WithInitialWindowSize(l.WindowBytes),
		grpc.WithInitialConnWindowSize(l.WindowBytes),
		grpc.WithReadBufferSize(l.BufferBytes),
		grpc.WithWriteBufferSize(l.BufferBytes),
		grpc.WithMaxHeaderListSize(l.MaxHeaderListBytes),
		grpc.WithConnectParams(connectParams(l.ConnectTimeout)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: max(l.KeepaliveTime, clientKeepaliveTime), Timeout: l.KeepaliveTimeout, PermitWithoutStream: true,
		}),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
		grpc.WithIdleTimeout(0),
	}
}
