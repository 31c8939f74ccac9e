package model

import (
	"errors"
	"fmt"
)

// ErrorCode is a stable number for a kind of failure: Kafka's where Kafka has one, from 1000 on our own. The table in
// error_table.go describes each; api/proto/penstock/v1/error_code.proto is generated from it.
type ErrorCode int32

// Error is a failure with a stable code. Layers wrap one where the kind of failure is known; the gRPC mapping finds it
// with errors.As.
type Error struct {
	// Code is the kind of failure.
	Code ErrorCode
	// Detail says what happened, why and what to do, for people.
	Detail string
	// Err is the cause; may be nil.
	Err error
}

// Errorf makes an Error; a %w verb in the format becomes the cause.
func Errorf(code ErrorCode, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Detail: err.Error(), Err: errors.Unwrap(err)}
}

// Error returns "NAME: detail".
func (e *Error) Error() string { return e.Code.String() + ": " + e.Detail }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is makes errors.Is(err, &Error{Code: c}) true for every Error of code c.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Detail == ""
}

// CodeOf returns the code of the first Error in err's chain, CodeNone for nil and CodeUnknownServerError for any other
// error.
func CodeOf(err error) ErrorCode {
	if err == nil {
		return CodeNone
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeUnknownServerError
}

// IsCode reports whether err carries the code.
func IsCode(err error, code ErrorCode) bool { return CodeOf(err) == code }

// String returns the stable name, or "ERROR_<number>" for a code that is not in the table.
func (c ErrorCode) String() string {
	if info, ok := c.Info(); ok {
		return info.Name
	}
	return fmt.Sprintf("ERROR_%d", int32(c))
}

// Info returns the code's row of the table; false where it has none.
func (c ErrorCode) Info() (ErrorInfo, bool) {
	i, ok := errorIndex[c]
	if !ok {
		return ErrorInfo{}, false
	}
	return errorTable[i], true
}

// ErrorTable returns a copy of all rows, ordered by code.
func ErrorTable() []ErrorInfo { return append([]ErrorInfo(nil), errorTable...) }
