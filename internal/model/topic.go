package model

import (
	"errors"
	"fmt"
	"strings"
)

// MaxTopicNameLength is the longest topic name in bytes.
const MaxTopicNameLength = 249

// InternalTopicPrefix is reserved for topics that Penstock itself creates.
const InternalTopicPrefix = "__"

// ErrInvalidTopicName is wrapped by every error of ValidateTopicName.
var ErrInvalidTopicName = errors.New("invalid topic name")

// ValidateTopicName checks a name against [A-Za-z0-9._-]{1,249}, not "." or "..". It accepts reserved names: whether
// a caller may use those is for IsInternalTopic and the caller to decide.
func ValidateTopicName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: it is empty; use 1 to %d of A-Z a-z 0-9 . _ -", ErrInvalidTopicName, MaxTopicNameLength)
	case len(name) > MaxTopicNameLength:
		return fmt.Errorf("%w: it has %d bytes, the limit is %d", ErrInvalidTopicName, len(name), MaxTopicNameLength)
	case name == "." || name == "..":
		return fmt.Errorf("%w: %q is not allowed", ErrInvalidTopicName, name)
	}
	for i, r := range name {
		if !isTopicRune(r) {
			return fmt.Errorf("%w: %q has %q at byte %d; use only A-Z a-z 0-9 . _ -", ErrInvalidTopicName, name, r, i)
		}
	}
	return nil
}

func isTopicRune(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return true
	default:
		return r == '.' || r == '_' || r == '-'
	}
}

// IsInternalTopic reports whether the name is reserved for Penstock itself.
func IsInternalTopic(name string) bool { return strings.HasPrefix(name, InternalTopicPrefix) }
