package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/wire"
)

// Error is a failure that the cluster reported or that the client found. It wraps its cause, if any.
type Error struct {
	// Code is the stable number: Kafka's where Kafka has one.
	Code int32
	// Name is the stable name, such as NOT_LEADER_FOR_PARTITION.
	Name string
	// Detail says what happened, why and what to do.
	Detail string
	// Definite is true where the request certainly had no effect, false where its outcome is unknown.
	Definite bool
	// Retryable is true where the same request may succeed later.
	Retryable bool

	cause error
	hint  *penstockv1.LeaderHint
}

// Error returns "NAME: detail".
func (e *Error) Error() string { return e.Name + ": " + e.Detail }

// Unwrap returns the cause; may be nil.
func (e *Error) Unwrap() error { return e.cause }

// Is makes errors.Is(err, &Error{Name: n}) true for every Error of that name.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Name == e.Name && t.Detail == ""
}

// IsName reports whether err is or wraps an Error of that stable name.
func IsName(err error, name string) bool { return errors.Is(err, &Error{Name: name}) }

// ErrClosed is wrapped by what is called after Close, and by what Close leaves unfinished.
var ErrClosed = errors.New("the client is closed")

// ErrDone is returned by [Consumer.Poll] when nothing is assigned any more and all was delivered.
var ErrDone = errors.New("nothing left to consume")

func newError(code model.ErrorCode, definite bool, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	e := &Error{Code: int32(code), Name: code.String(), Detail: err.Error(), Definite: definite, cause: errors.Unwrap(err)}
	if info, ok := code.Info(); ok {
		e.Retryable = info.Retryable
	}
	return e
}

// toError translates what a call or frame failed with. Errors that are none of the cluster's stay as they are.
func toError(err error) error {
	if err == nil {
		return nil
	}
	var own *Error
	if errors.As(err, &own) {
		return err
	}
	err = wire.FromStatus(err)
	var remote *wire.RemoteError
	if !errors.As(err, &remote) {
		return err
	}
	return &Error{
		Code: int32(remote.Err.Code), Name: remote.Err.Code.String(), Detail: remote.Err.Detail, Definite: remote.Definite,
		Retryable: remote.Retryable, cause: remote.Err.Err, hint: remote.Leader,
	}
}

// protoError translates the error of a frame.
func protoError(e *penstockv1.Error) *Error {
	var out *Error
	if !errors.As(toError(wire.FromProto(e)), &out) {
		out = newError(model.CodeUnknownServerError, false, "an empty error was answered")
	}
	return out
}

// asError gives any failure the form of an Error.
func asError(err error) *Error {
	var e *Error
	if errors.As(toError(err), &e) {
		return e
	}
	code := model.CodeUnknownServerError
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		code = model.CodeRequestTimedOut
	}
	return newError(code, false, "%w", err)
}

func (e *Error) is(codes ...model.ErrorCode) bool {
	for _, c := range codes {
		if e.Code == int32(c) {
			return true
		}
	}
	return false
}
