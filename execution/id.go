package execution

import (
	"errors"
	"fmt"
	"unicode"
)

// MaxIDBytes is the longest execution ID there may be.
const MaxIDBytes = 200

// ErrInvalidID is returned by [ParseID] when an ID breaks the rule in docs/protocol.md.
var ErrInvalidID = errors.New("invalid execution ID")

// ID names one execution: 1 to 200 bytes of printable ASCII without spaces, '{' or '}'.
type ID string

// ParseID checks raw against the rule for execution IDs. The error is an [ErrInvalidID] that names the first offending
// byte and never quotes more than a short piece of raw, which may be of any size.
func ParseID(raw string) (ID, error) {
	if len(raw) == 0 || len(raw) > MaxIDBytes {
		return "", fmt.Errorf("%w: %d bytes long, expected 1 to %d", ErrInvalidID, len(raw), MaxIDBytes)
	}
	for i := range len(raw) {
		if c := raw[i]; c <= ' ' || c > '~' || c == '{' || c == '}' {
			return "", fmt.Errorf("%w %q: byte %d is %s, expected printable ASCII without spaces, '{' or '}'",
				ErrInvalidID, clip(raw, 40), i, byteName(c))
		}
	}
	return ID(raw), nil
}

// byteName is how people know a byte: its character, or its number where it is only a piece of one.
func byteName(c byte) string {
	if c > unicode.MaxASCII {
		return fmt.Sprintf("%#x", c)
	}
	return fmt.Sprintf("%q", c)
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}
