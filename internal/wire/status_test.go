package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/model"
)

func TestStatusCarriesEveryCodeThereAndBack(t *testing.T) {
	for _, row := range model.ErrorTable() {
		if row.Code == model.CodeNone {
			continue
		}
		err := fmt.Errorf("outside: %w", model.Errorf(row.Code, "detail of %s", row.Name))
		st, ok := status.FromError(Status(err))
		if !ok || st.Code() != row.GRPC {
			t.Errorf("%s: status %v", row.Name, st)
		}
		var remote *RemoteError
		if !errors.As(FromStatus(st.Err()), &remote) {
			t.Fatalf("%s: no RemoteError", row.Name)
		}
		if remote.Err.Code != row.Code || remote.Definite != row.Definite || remote.Retryable != row.Retryable {
			t.Errorf("%s came back as %+v", row.Name, remote)
		}
		if want := "detail of " + row.Name; remote.Err.Detail != want {
			t.Errorf("detail %q, want %q", remote.Err.Detail, want)
		}
		if !model.IsCode(FromStatus(st.Err()), row.Code) {
			t.Errorf("%s: model does not find its code", row.Name)
		}
		checkDetails(t, st, row)
	}
}

func checkDetails(t *testing.T, st *status.Status, row model.ErrorInfo) {
	t.Helper()
	var info *errdetails.ErrorInfo
	var retry *errdetails.RetryInfo
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			info = d
		case *errdetails.RetryInfo:
			retry = d
		}
	}
	if info.GetReason() != row.Name || info.GetDomain() != "penstock" {
		t.Errorf("%s: ErrorInfo %v", row.Name, info)
	}
	if (retry != nil) != row.Retryable {
		t.Errorf("%s: RetryInfo %v", row.Name, retry)
	}
}

func TestStatusCarriesHints(t *testing.T) {
	hint := &penstockv1.LeaderHint{Topic: "t", Partition: 3, LeaderId: 2, LeaderEpoch: 9, Host: "h", Port: 1}
	err := WithRetryAfter(WithLeader(model.Errorf(model.CodeNotLeaderForPartition, "not here"), hint), 250*time.Millisecond)
	for _, got := range []error{FromStatus(Status(err)), FromProto(ErrorProto(err)), FromStatus(Status(FromStatus(Status(err))))} {
		var remote *RemoteError
		if !errors.As(got, &remote) {
			t.Fatalf("%v", got)
		}
		if !proto.Equal(remote.Leader, hint) || remote.RetryAfter != 250*time.Millisecond {
			t.Errorf("%+v", remote)
		}
	}
}

func TestErrorsWithoutACode(t *testing.T) {
	if Status(nil) != nil || FromStatus(nil) != nil || ErrorProto(nil) != nil || FromProto(nil) != nil {
		t.Error("nil does not stay nil")
	}
	if e := ErrorProto(errors.New("x")); e.GetCode() != penstockv1.ErrorCode_ERROR_CODE_UNKNOWN_SERVER_ERROR || e.GetDefinite() {
		t.Errorf("%v", e)
	}
	if e := ErrorProto(fmt.Errorf("y: %w", context.DeadlineExceeded)); e.GetCode() != penstockv1.ErrorCode_ERROR_CODE_REQUEST_TIMED_OUT {
		t.Errorf("%v", e)
	}
	own := status.Error(codes.Unimplemented, "no")
	if !errors.Is(Status(own), own) {
		t.Error("a status does not stay")
	}
	if !errors.Is(FromStatus(io.EOF), io.EOF) {
		t.Error("io.EOF does not stay")
	}
}

func TestForeignStatusesAreNotDefiniteWhereTheyMayHaveArrived(t *testing.T) {
	for code, want := range map[codes.Code]struct {
		code                model.ErrorCode
		definite, retryable bool
	}{
		codes.Unavailable:       {model.CodeBrokerNotAvailable, false, true},
		codes.DeadlineExceeded:  {model.CodeRequestTimedOut, false, true},
		codes.Canceled:          {model.CodeRequestTimedOut, false, true},
		codes.Internal:          {model.CodeUnknownServerError, false, false},
		codes.Unimplemented:     {model.CodeInvalidRequest, true, false},
		codes.ResourceExhausted: {model.CodeBatchTooLarge, true, false},
	} {
		var remote *RemoteError
		if !errors.As(FromStatus(status.Error(code, "x")), &remote) {
			t.Fatalf("%v: no RemoteError", code)
		}
		if remote.Err.Code != want.code || remote.Definite != want.definite || remote.Retryable != want.retryable {
			t.Errorf("%v became %+v", code, remote)
		}
	}
}
