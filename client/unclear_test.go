package client

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/wire"
)

// TestLastAttemptHidesNoReason has a broker that tells why it cannot serve, and then one that says nothing until the time is
// over: the caller hears the reason, and that the outcome of the last attempt is not known.
func TestLastAttemptHidesNoReason(t *testing.T) {
	t.Parallel()
	c := newFakeCluster(t, 1, 1).dial()
	c.config.RequestTimeout = 300 * time.Millisecond
	for silent, definite := range map[bool]bool{true: false, false: true} {
		attempts := 0
		err := c.call(testContext(t), false, func(context.Context, *grpc.ClientConn) error {
			attempts++
			if silent && attempts > 1 {
				// A broker that keeps deadlines may say so a moment before the client's own clock does.
				return status.FromContextError(context.DeadlineExceeded).Err()
			}
			return wire.Status(model.Errorf(model.CodeNoQuorum, "two of three are gone"))
		})
		var e *Error
		if !errors.As(err, &e) || e.Name != "NO_QUORUM" || e.Definite != definite || !strings.Contains(e.Detail, "two of three are gone") {
			t.Errorf("silent %v: %v after %d attempts: %#v", silent, err, attempts, e)
		}
		if attempts < 2 {
			t.Errorf("silent %v: %d attempts: nothing was tried", silent, attempts)
		}
	}
}
