package model

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestTopicNames(t *testing.T) {
	good := []string{"a", "A.b_c-9", "...", strings.Repeat("x", MaxTopicNameLength), "__consumer_offsets"}
	bad := []string{"", ".", "..", "../x", "a/b", "ü", "a b", "a\x00", strings.Repeat("x", MaxTopicNameLength+1)}
	for _, n := range good {
		if err := ValidateTopicName(n); err != nil {
			t.Errorf("%q: %v", n, err)
		}
	}
	for _, n := range bad {
		if err := ValidateTopicName(n); !errors.Is(err, ErrInvalidTopicName) {
			t.Errorf("%q: got %v, want ErrInvalidTopicName", n, err)
		}
	}
}

func TestUUIDForms(t *testing.T) {
	u := NewUUID()
	back, err := ParseUUID(u.String())
	if err != nil || back != u {
		t.Fatalf("ParseUUID(%s) = %s, %v", u, back, err)
	}
	back, err = UUIDFromBytes(u.Bytes())
	if err != nil || back != u {
		t.Fatalf("UUIDFromBytes = %s, %v", back, err)
	}
	if z, err := UUIDFromBytes(nil); err != nil || !z.IsZero() || z.Bytes() != nil {
		t.Fatalf("the zero UUID does not survive: %v %v", z, err)
	}
	if _, err := UUIDFromBytes([]byte{1, 2}); !errors.Is(err, ErrBadUUID) {
		t.Fatalf("2 bytes: %v", err)
	}
	for _, s := range []string{"", "urn:uuid:" + u.String(), strings.Repeat("z", 36)} {
		if _, err := ParseUUID(s); !errors.Is(err, ErrBadUUID) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestErrorTableIsSoundAndOrdered(t *testing.T) {
	names := map[string]bool{}
	last := ErrorCode(-2)
	for _, row := range ErrorTable() {
		if row.Code <= last {
			t.Errorf("%s: %d stands after %d", row.Name, row.Code, last)
		}
		last = row.Code
		if names[row.Name] || row.Meaning == "" || row.Action == "" {
			t.Errorf("%s: double or undocumented", row.Name)
		}
		names[row.Name] = true
	}
}

func TestErrorsCarryTheirCode(t *testing.T) {
	cause := errors.New("disk on fire")
	err := fmt.Errorf("append: %w", Errorf(CodeStorageError, "log 3: %w", cause))
	if CodeOf(err) != CodeStorageError || !errors.Is(err, cause) || !errors.Is(err, &Error{Code: CodeStorageError}) {
		t.Fatalf("%v lost its code or cause", err)
	}
	if CodeOf(nil) != CodeNone || CodeOf(cause) != CodeUnknownServerError {
		t.Fatal("codes of nil or of a foreign error are wrong")
	}
	if got := ErrorCode(4711).String(); got != "ERROR_4711" {
		t.Fatal(got)
	}
}

// TestErrorProtoIsCurrent regenerates the enum of the public API and compares.
func TestErrorProtoIsCurrent(t *testing.T) {
	want, err := exec.Command("go", "run", "./errgen").Output()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../api/proto/penstock/v1/error_code.proto")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Fatal("api/proto/penstock/v1/error_code.proto is not what errgen writes; run `make generate`")
	}
}
