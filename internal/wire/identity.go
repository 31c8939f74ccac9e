package wire

import (
	"context"

	"google.golang.org/grpc/metadata"
)

// clientIDHeader carries the client id with every call.
const clientIDHeader = "penstock-client-id"

// maxClientIDBytes is how much of a client id is looked at.
const maxClientIDBytes = 256

// WithClientID returns a context whose outgoing calls carry the client id; an empty id adds nothing.
func WithClientID(ctx context.Context, id string) context.Context {
	if id == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, clientIDHeader, id[:min(len(id), maxClientIDBytes)])
}

// ClientID returns what the caller of the current request says its id is, at most 256 bytes; empty where it says nothing.
func ClientID(ctx context.Context) string {
	md, ok := metadata.FromIncomingContext(ctx)
	if !ok {
		return ""
	}
	values := md.Get(clientIDHeader)
	if len(values) == 0 {
		return ""
	}
	return values[0][:min(len(values[0]), maxClientIDBytes)]
}
