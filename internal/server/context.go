package server

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// ClientIDHeader is the header in which a client names itself.
const ClientIDHeader = "penstock-client-id"

// anonymous is the principal while there is no authentication.
const anonymous = "anonymous"

// maxClientID bounds what is kept of a client's name, in bytes.
const maxClientID = 256

// Request is who asks, and where.
type Request struct {
	Principal string // "anonymous" while there is no authentication
	ClientID  string // as the client calls itself; may be empty
	Listener  string // name of the listener; "peer" for other nodes
}

type requestKey struct{}

// RequestOf returns who asks; every context that a handler gets carries it.
func RequestOf(ctx context.Context) Request {
	if request, ok := ctx.Value(requestKey{}).(Request); ok {
		return request
	}
	return Request{Principal: anonymous}
}

// withRequest puts the caller into the context; requests without one come from tests of single services.
func withRequest(ctx context.Context, listener string) context.Context {
	request := Request{Principal: anonymous, Listener: listener}
	if values := metadata.ValueFromIncomingContext(ctx, ClientIDHeader); len(values) > 0 {
		request.ClientID = values[0][:min(len(values[0]), maxClientID)]
	}
	return context.WithValue(ctx, requestKey{}, request)
}

// identify returns the interceptors of a listener.
func identify(listener string) []grpc.ServerOption {
	unary := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		return handler(withRequest(ctx, listener), req)
	}
	stream := func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		return handler(srv, &identified{ServerStream: stream, ctx: withRequest(stream.Context(), listener)})
	}
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream)}
}

// identified is a stream whose context carries the Request.
type identified struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // grpc.ServerStream hands out its context
}

// Context implements grpc.ServerStream.
func (s *identified) Context() context.Context { return s.ctx }
