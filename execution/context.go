package execution

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	// DefaultFunction is what runs when a context names no function.
	DefaultFunction = "main"
	// MaxMetaBytes bounds the meta object, which is copied into every result.
	MaxMetaBytes = 4 << 10

	maxNameBytes = 512
	maxSeconds   = 10 * 365 * 24 * 3600 // ten years: beyond it a duration is surely a mistake in units
)

// ErrInvalidContext is what every error of [ParseContext] is.
var ErrInvalidContext = errors.New("invalid context")

// Context is the document that says what an execution runs. The zero value of an optional field means "not given": the
// worker's default applies. Goroutines may share one that nobody parses into.
type Context struct {
	Workflow      string
	Function      string          // DefaultFunction unless given
	Params        json.RawMessage // always an object; {} unless given
	Timeout       time.Duration   // 0: the worker's default
	Retry         *Retry          // nil: a failure is final
	ReplyTTL      time.Duration   // 0: no reply list
	ContentSHA256 string          // lower-case hex, or empty
	Isolation     string          // "resident", "fork", or empty: the worker's default
	Group         string
	Traceparent   string
	Meta          json.RawMessage // always an object; {} unless given
}

// Retry says how often, and after which pause, a failed or timed-out execution is tried again.
type Retry struct {
	MaxAttempts    int           // attempts in all, the first included
	InitialBackoff time.Duration // before the second attempt
	MaxBackoff     time.Duration // the pause doubles up to this
}

// Backoff returns the pause before the attempt that follows the given number of spent ones: InitialBackoff doubled for
// each one after the first, at most MaxBackoff.
func (r *Retry) Backoff(spent int) time.Duration {
	doublings := min(max(spent-1, 0), 62) // enough for any limit; without an end, none of 0 would be NaN
	pause := math.Ldexp(float64(r.InitialBackoff), doublings)
	return time.Duration(min(pause, float64(r.MaxBackoff)))
}

var (
	emptyObject = slices.Clip(json.RawMessage("{}")) // who appends to it gets a copy
	sha256Form  = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// fieldError builds the one sentence for a field that does not fit.
func fieldError(field, expected string, got json.RawMessage) error {
	return fmt.Errorf("%w: field %q: expected %s, got %s", ErrInvalidContext, field, expected, quote(got))
}

// quote returns a short piece of what was given. It is valid UTF-8 whatever was given, because it ends up in a result, and
// clients that decode results as text fail on the whole batch otherwise.
func quote(raw []byte) string { return strings.ToValidUTF8(clip(string(raw), 60), "\uFFFD") }

// ParseContext decodes a context document strictly: unknown fields (names are case-sensitive), wrong types and values out
// of range are errors that name the field, the value and what was expected. The returned Context keeps pieces of data.
func ParseContext(data []byte) (*Context, error) {
	x := &Context{}
	if err := x.Parse(data); err != nil {
		return nil, err
	}
	return x, nil
}

// Parse is [ParseContext] into a Context that exists. After an error it holds nothing to rely on.
func (x *Context) Parse(data []byte) error {
	*x = Context{Function: DefaultFunction, Params: emptyObject, Meta: emptyObject}
	var isObject bool
	var failed error
	for name, value := range members(data, &isObject) {
		if failed == nil { // that it is JSON at all comes first
			failed = x.set(name, value)
		}
	}
	switch {
	case !isObject:
		return documentError(data)
	case failed != nil:
		return failed
	case x.Workflow == "":
		return fmt.Errorf("%w: field \"workflow\" is missing, expected a module path or the name of a handler", ErrInvalidContext)
	}
	return nil
}

// set sets one field.
func (x *Context) set(name []byte, value json.RawMessage) error {
	for i := range contextFields {
		if field := &contextFields[i]; field.name == string(name) {
			return field.parse(x, field.name, value)
		}
	}
	return fmt.Errorf("%w: unknown field %q, expected one of workflow, function, params, timeout_seconds, retry, "+
		"reply_ttl_seconds, content_sha256, isolation, group, traceparent, meta", ErrInvalidContext, clip(string(name), 60))
}

// documentError says why a document is not an object.
func documentError(data []byte) error {
	var anything json.RawMessage
	var syntax *json.SyntaxError
	if err := json.Unmarshal(data, &anything); errors.As(err, &syntax) {
		return fmt.Errorf("%w: not JSON: %w at byte %d", ErrInvalidContext, err, syntax.Offset)
	}
	return fmt.Errorf("%w: expected a JSON object, got %s", ErrInvalidContext, quote(bytes.TrimSpace(data)))
}

type fieldParser func(x *Context, field string, raw json.RawMessage) error

// contextFields are few, and looked through in this order: those that nearly every context has come first.
var contextFields = [...]struct {
	name  string
	parse fieldParser
}{
	{"workflow", name(func(x *Context) *string { return &x.Workflow }, "a module path or the name of a handler")},
	{"params", func(x *Context, field string, raw json.RawMessage) error {
		return object(&x.Params, field, raw)
	}},
	{"meta", parseMeta},
	{"timeout_seconds", parseTimeout},
	{"function", name(func(x *Context) *string { return &x.Function }, "the name of a function")},
	{"retry", parseRetry},
	{"reply_ttl_seconds", func(x *Context, field string, raw json.RawMessage) error {
		return seconds(&x.ReplyTTL, field, 0, raw)
	}},
	{"content_sha256", parseSHA256},
	{"isolation", parseIsolation},
	{"group", name(func(x *Context) *string { return &x.Group }, "a string")},
	{"traceparent", func(x *Context, field string, raw json.RawMessage) error {
		return decode(&x.Traceparent, field, "a string", raw)
	}},
}

func name(target func(*Context) *string, expected string) fieldParser {
	return func(x *Context, field string, raw json.RawMessage) error {
		var value string
		if err := decode(&value, field, expected, raw); err != nil {
			return err
		}
		if value == "" || len(value) > maxNameBytes {
			return fieldError(field, fmt.Sprintf("%s of 1 to %d bytes", expected, maxNameBytes), raw)
		}
		for _, r := range value {
			if r < ' ' || r == 0x7f {
				return fieldError(field, expected+" without control characters", raw)
			}
		}
		*target(x) = value
		return nil
	}
}

func parseTimeout(x *Context, field string, raw json.RawMessage) error {
	if err := seconds(&x.Timeout, field, 0, raw); err != nil {
		return err
	}
	if x.Timeout <= 0 {
		return fieldError(field, "a number above 0", raw)
	}
	return nil
}

func parseMeta(x *Context, field string, raw json.RawMessage) error {
	if len(raw) > MaxMetaBytes {
		return fieldError(field, fmt.Sprintf("at most %d bytes", MaxMetaBytes), json.RawMessage(fmt.Sprintf("%d bytes", len(raw))))
	}
	return object(&x.Meta, field, raw)
}

func parseIsolation(x *Context, field string, raw json.RawMessage) error {
	const expected = `"resident" or "fork"`
	if err := decode(&x.Isolation, field, expected, raw); err != nil {
		return err
	}
	if x.Isolation != "resident" && x.Isolation != "fork" {
		return fieldError(field, expected, raw)
	}
	return nil
}

func parseSHA256(x *Context, field string, raw json.RawMessage) error {
	var value string
	if err := decode(&value, field, "64 hexadecimal digits", raw); err != nil {
		return err
	}
	value = string(bytes.ToLower([]byte(value)))
	if !sha256Form.MatchString(value) {
		return fieldError(field, "64 hexadecimal digits", raw)
	}
	x.ContentSHA256 = value
	return nil
}

func parseRetry(x *Context, field string, raw json.RawMessage) error {
	var given json.RawMessage // max_attempts
	if err := object(&given, field, raw); err != nil {
		return err
	}
	given = nil
	r := &Retry{InitialBackoff: time.Second, MaxBackoff: time.Minute}
	for key, value := range members(raw, new(bool)) { // it is an object: all of the document is JSON, and this begins with a brace
		var err error
		switch inner := field + "." + string(key); string(key) {
		case "max_attempts":
			given = value
			err = decode(&r.MaxAttempts, inner, "a whole number above 0", value)
		case "initial_backoff_seconds":
			err = seconds(&r.InitialBackoff, inner, 0, value)
		case "max_backoff_seconds":
			err = seconds(&r.MaxBackoff, inner, 0, value)
		default:
			err = fmt.Errorf("%w: unknown field %q, expected one of max_attempts, initial_backoff_seconds, max_backoff_seconds",
				ErrInvalidContext, clip(inner, 60))
		}
		if err != nil {
			return err
		}
	}
	if r.MaxAttempts < 1 {
		return fieldError(field+".max_attempts", "a whole number above 0", orMissing(given))
	}
	r.MaxBackoff = max(r.MaxBackoff, r.InitialBackoff)
	x.Retry = r
	return nil
}

func orMissing(raw json.RawMessage) json.RawMessage {
	if raw == nil {
		return json.RawMessage("nothing")
	}
	return raw
}

func decode(target any, field, expected string, raw json.RawMessage) error {
	if string(raw) == "null" {
		return fieldError(field, expected, raw)
	}
	if err := decodeValue(target, raw); err != nil {
		return fieldError(field, expected, raw)
	}
	return nil
}

func object(target *json.RawMessage, field string, raw json.RawMessage) error {
	if len(raw) == 0 || raw[0] != '{' {
		return fieldError(field, "an object", raw)
	}
	*target = raw
	return nil
}

func seconds(target *time.Duration, field string, least float64, raw json.RawMessage) error {
	var value float64
	if err := decode(&value, field, "a number of seconds", raw); err != nil {
		return err
	}
	if value < least || value > maxSeconds {
		return fieldError(field, fmt.Sprintf("a number of seconds from %g to %d", least, maxSeconds), raw)
	}
	*target = time.Duration(math.Round(value * float64(time.Second))) // 2.01 is 2.01 s, not a nanosecond less
	return nil
}

// MarshalJSON writes the wire form of a context; fields that were not given are left out.
func (x *Context) MarshalJSON() ([]byte, error) {
	doc := contextJSON{
		Workflow: x.Workflow, Params: x.Params, TimeoutSeconds: x.Timeout.Seconds(), ReplyTTLSeconds: x.ReplyTTL.Seconds(),
		ContentSHA256: x.ContentSHA256, Isolation: x.Isolation, Group: x.Group, Traceparent: x.Traceparent, Meta: x.Meta,
	}
	if x.Function != DefaultFunction {
		doc.Function = x.Function
	}
	if r := x.Retry; r != nil {
		doc.Retry = &retryJSON{r.MaxAttempts, r.InitialBackoff.Seconds(), r.MaxBackoff.Seconds()}
	}
	return json.Marshal(doc)
}

type contextJSON struct {
	Workflow        string          `json:"workflow"`
	Function        string          `json:"function,omitempty"`
	Params          json.RawMessage `json:"params,omitempty"`
	TimeoutSeconds  float64         `json:"timeout_seconds,omitempty"`
	Retry           *retryJSON      `json:"retry,omitempty"`
	ReplyTTLSeconds float64         `json:"reply_ttl_seconds,omitempty"`
	ContentSHA256   string          `json:"content_sha256,omitempty"`
	Isolation       string          `json:"isolation,omitempty"`
	Group           string          `json:"group,omitempty"`
	Traceparent     string          `json:"traceparent,omitempty"`
	Meta            json.RawMessage `json:"meta,omitempty"`
}

type retryJSON struct {
	MaxAttempts    int     `json:"max_attempts"`
	InitialBackoff float64 `json:"initial_backoff_seconds"`
	MaxBackoff     float64 `json:"max_backoff_seconds"`
}
