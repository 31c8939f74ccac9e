package wire

import (
	"context"
	"errors"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/model"
)

// ErrorDomain is the domain of the ErrorInfo detail; its reason is the stable name of the code.
const ErrorDomain = "penstock"

// HintedError is a failure together with what helps the client to go on. Servers make one with [WithLeader] or
// [WithRetryAfter].
type HintedError struct {
	// Err is the failure.
	Err error
	// Leader is the current leader; nil where that is not the point.
	Leader *penstockv1.LeaderHint
	// RetryAfter asks the client to wait about so long; 0 leaves it to the client.
	RetryAfter time.Duration
}

// Error returns the text of the failure.
func (e *HintedError) Error() string { return e.Err.Error() }

// Unwrap returns the failure.
func (e *HintedError) Unwrap() error { return e.Err }

// WithLeader adds the current leader to a failure.
func WithLeader(err error, leader *penstockv1.LeaderHint) error {
	return &HintedError{Err: err, Leader: leader}
}

// WithRetryAfter asks the client to wait before it tries again; the time is rounded down to milliseconds.
func WithRetryAfter(err error, d time.Duration) error { return &HintedError{Err: err, RetryAfter: d} }

// RemoteError is a failure that another node answered, or that the way to it made. It unwraps to a *model.Error with
// the same code.
type RemoteError struct {
	// Err holds code and text; never nil.
	Err *model.Error
	// Definite says that the request certainly had no effect.
	Definite bool
	// Retryable says that the same request may succeed later or elsewhere.
	Retryable bool
	// Leader is the current leader as the other node knows it; nil where it did not say.
	Leader *penstockv1.LeaderHint
	// RetryAfter is how long to wait before the next try; 0 where the other node did not say.
	RetryAfter time.Duration
}

// Error returns "NAME: detail".
func (e *RemoteError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *RemoteError) Unwrap() error { return e.Err }

// ErrorProto returns what a stream frame says of err; nil for nil. An error without a code of the table becomes
// REQUEST_TIMED_OUT where a context ended, and else UNKNOWN_SERVER_ERROR.
func ErrorProto(err error) *penstockv1.Error {
	if err == nil {
		return nil
	}
	var remote *RemoteError
	if errors.As(err, &remote) { // passed on as it came
		return &penstockv1.Error{
			Code: penstockv1.ErrorCode(remote.Err.Code), Message: remote.Err.Detail, Definite: remote.Definite,
			Retryable: remote.Retryable, Leader: remote.Leader, RetryAfterMs: millis(remote.RetryAfter),
		}
	}
	code, detail := codeAndDetail(err)
	out := &penstockv1.Error{Code: penstockv1.ErrorCode(code), Message: detail}
	if info, ok := code.Info(); ok {
		out.Definite, out.Retryable = info.Definite, info.Retryable
	}
	for hinted := (*HintedError)(nil); errors.As(err, &hinted); err = hinted.Err {
		if out.Leader == nil {
			out.Leader = hinted.Leader
		}
		if out.RetryAfterMs == 0 {
			out.RetryAfterMs = millis(hinted.RetryAfter)
		}
	}
	return out
}

func codeAndDetail(err error) (model.ErrorCode, string) {
	var e *model.Error
	switch {
	case errors.As(err, &e):
		return e.Code, e.Detail
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return model.CodeRequestTimedOut, err.Error()
	default:
		return model.CodeUnknownServerError, err.Error()
	}
}

func millis(d time.Duration) uint32 {
	return uint32(min(max(d.Milliseconds(), 0), int64(time.Hour/time.Millisecond))) //nolint:gosec // bounded
}

// Status returns err as an error with a gRPC status: the code of the stable table, and the details ErrorInfo, RetryInfo
// (where a retry may help) and penstock.v1.Error. nil stays nil, and an error that has a status already stays as it is.
func Status(err error) error {
	if err == nil {
		return nil
	}
	var remote *RemoteError
	if _, ok := status.FromError(err); ok && !errors.As(err, &remote) {
		return err
	}
	return statusOf(ErrorProto(err)).Err()
}

func statusOf(e *penstockv1.Error) *status.Status {
	code := model.ErrorCode(e.GetCode())
	grpcCode := codes.Unknown
	if info, ok := code.Info(); ok && info.GRPC != codes.OK {
		grpcCode = info.GRPC
	}
	st := status.New(grpcCode, code.String()+": "+e.GetMessage())
	details := []protoadapt.MessageV1{
		&errdetails.ErrorInfo{Reason: code.String(), Domain: ErrorDomain},
		protoadapt.MessageV1Of(e),
	}
	if e.GetRetryable() {
		wait := time.Duration(e.GetRetryAfterMs()) * time.Millisecond
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(wait)})
	}
	with, err := st.WithDetails(details...)
	if err != nil { // a detail that cannot be encoded must not hide the failure itself
		return st
	}
	return with
}

// FromProto returns the failure that a stream frame carries, as a *RemoteError; nil for nil. The leader hint is shared with e.
func FromProto(e *penstockv1.Error) error {
	if e == nil {
		return nil
	}
	return remoteOf(e)
}

func remoteOf(e *penstockv1.Error) *RemoteError {
	return &RemoteError{
		Err:      &model.Error{Code: model.ErrorCode(e.GetCode()), Detail: e.GetMessage()},
		Definite: e.GetDefinite(), Retryable: e.GetRetryable(), Leader: e.GetLeader(),
		RetryAfter: time.Duration(e.GetRetryAfterMs()) * time.Millisecond,
	}
}

// FromStatus returns what a gRPC call failed with as a *RemoteError. A status without our details is translated: the way to
// the other node failed, and unless the request cannot have arrived its outcome is unknown. nil stays nil; errors
// without a status (such as io.EOF) and errors of the caller's own context stay as they are.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	var remote *RemoteError
	if errors.As(err, &remote) {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	for _, detail := range st.Details() {
		if e, ok := detail.(*penstockv1.Error); ok {
			return remoteOf(e)
		}
	}
	return foreignStatus(st, err)
}

func foreignStatus(st *status.Status, cause error) error {
	e := &RemoteError{Err: &model.Error{Detail: st.Message(), Err: cause}}
	switch st.Code() {
	case codes.OK:
		return nil
	case codes.Unavailable:
		e.Err.Code, e.Retryable = model.CodeBrokerNotAvailable, true
	case codes.DeadlineExceeded:
		e.Err.Code, e.Retryable = model.CodeRequestTimedOut, true
		e.Err.Detail = "no answer came in time: whether the request took effect is not known"
	case codes.Canceled:
		e.Err.Code, e.Retryable = model.CodeRequestTimedOut, true
		e.Err.Detail = "the request was broken off before its answer came: whether it took effect is not known"
	case codes.ResourceExhausted:
		e.Err.Code, e.Definite = model.CodeBatchTooLarge, true
	case codes.Unimplemented:
		e.Err.Code, e.Definite = model.CodeInvalidRequest, true
		e.Err.Detail += ": the node does not know this call; it runs another version, or is no broker"
	case codes.InvalidArgument:
		e.Err.Code, e.Definite = model.CodeInvalidRequest, true
	case codes.PermissionDenied, codes.Unauthenticated:
		e.Err.Code, e.Definite = model.CodeClusterAuthorizationFailed, true
	case codes.Unknown, codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition, codes.Aborted, codes.OutOfRange,
		codes.Internal, codes.DataLoss:
		e.Err.Code = model.CodeUnknownServerError
	default:
		e.Err.Code = model.CodeUnknownServerError
	}
	return e
}

func unaryStatus(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	return resp, Status(err)
}

func streamStatus(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return Status(handler(srv, stream))
}
