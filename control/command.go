// Package control is how a worker hears what an operator wants: the codec of commands and receipts, and the subscription to
// the control channel. It emits commands and changes no state; the worker's loop decides what they mean.
//
// Pub/sub loses messages, so the channel is only a doorbell. A command that matters is stored as an intent or a cancel
// request as well, and reaches the worker with its next heartbeat; the request ID tells it that the two are one.
package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/bobbin-run/bobbin/execution"
)

// Verb is what a command asks for.
type Verb string

// The verbs of docs/protocol.md.
const (
	Drain    Verb = "drain"
	Recycle  Verb = "recycle"
	Shutdown Verb = "shutdown"
	Pause    Verb = "pause"
	Resume   Verb = "resume"
	Cancel   Verb = "cancel"
	Ping     Verb = "ping"
	Stacks   Verb = "stacks"
)

// Verbs lists every verb.
var Verbs = []Verb{Drain, Recycle, Shutdown, Pause, Resume, Cancel, Ping, Stacks}

const (
	// MaxMessageBytes bounds a control message.
	MaxMessageBytes = 4 << 10
	// Everyone is the worker pattern that every worker matches.
	Everyone = "*"

	version           = 1
	maxRequestIDBytes = 128
)

// Errors of [Parse], matched with [errors.Is].
var (
	// ErrMalformed is returned for a message that is not in a form of docs/protocol.md.
	ErrMalformed = errors.New("malformed control message")
	// ErrTooLarge is returned for a message above MaxMessageBytes.
	ErrTooLarge = errors.New("control message too large")
	// ErrUnknownCommand is returned for a verb that is none of Verbs.
	ErrUnknownCommand = errors.New("unknown control command")
)

// Command is one control message.
type Command struct {
	Verb        Verb
	Worker      string // an incarnation, a glob, or Everyone
	ExecutionID string // for Cancel
	RequestID   string // names the receipts; empty: nobody waits for any
	IssuedMS    int64  // when it was signed, Unix ms on Redis's clock; 0: not signed
	Signature   string // base64 of an Ed25519 signature; empty: not signed
}

type commandJSON struct {
	V           int    `json:"v"`
	Command     Verb   `json:"command"`
	Worker      string `json:"worker,omitempty"`
	ExecutionID string `json:"execution_id,omitempty"`
	RequestID   string `json:"request_id,omitempty"`
	IssuedMS    int64  `json:"issued_at_ms,omitempty"`
	Signature   string `json:"signature,omitempty"`
}

// Parse reads a control message: plain words ("drain", "drain host-*", "cancel 7f3a") or JSON. On an error the command
// returned holds the request ID where there was one, so that the refusal can be answered.
func Parse(message []byte) (Command, error) {
	if len(message) > MaxMessageBytes {
		return Command{}, fmt.Errorf("%w: %d bytes, expected at most %d", ErrTooLarge, len(message), MaxMessageBytes)
	}
	trimmed := bytes.TrimSpace(message)
	if len(trimmed) > 0 && trimmed[0] == '{' {
		return parseJSON(trimmed)
	}
	return parseWords(string(trimmed))
}

func parseWords(text string) (Command, error) {
	words := strings.Fields(text)
	if len(words) == 0 || len(words) > 2 {
		return Command{}, fmt.Errorf("%w: %d words, expected a command and at most one target", ErrMalformed, len(words))
	}
	c := Command{Verb: Verb(words[0])}
	if len(words) == 2 && c.Verb == Cancel {
		c.ExecutionID = words[1]
	} else if len(words) == 2 {
		c.Worker = words[1]
	}
	return c.checked()
}

func parseJSON(message []byte) (Command, error) {
	var doc commandJSON
	decoder := json.NewDecoder(bytes.NewReader(message))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&doc); err != nil {
		var partial struct {
			RequestID string `json:"request_id"`
		}
		_ = json.Unmarshal(message, &partial) // best effort: the refusal is answered where it can be
		return Command{RequestID: answerable(partial.RequestID)}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	c := Command{
		Verb: doc.Command, Worker: doc.Worker, ExecutionID: doc.ExecutionID, RequestID: answerable(doc.RequestID),
		IssuedMS: doc.IssuedMS, Signature: doc.Signature,
	}
	if decoder.More() {
		return c, fmt.Errorf("%w: more than one JSON value", ErrMalformed)
	}
	if doc.V != version {
		return c, fmt.Errorf("%w: field \"v\" is %d, expected %d", ErrMalformed, doc.V, version)
	}
	if c.RequestID != doc.RequestID {
		return c, fmt.Errorf("%w: field \"request_id\": expected at most %d bytes of printable ASCII", ErrMalformed, maxRequestIDBytes)
	}
	return c.checked()
}

// answerable returns the request ID where a key may be made of it.
func answerable(request string) string {
	if len(request) > maxRequestIDBytes || (request != "" && !printable(request)) {
		return ""
	}
	return request
}

func printable(s string) bool {
	_, err := execution.ParseID(s) // the same alphabet
	return err == nil
}

func (c Command) checked() (Command, error) {
	if !slices.Contains(Verbs, c.Verb) {
		return c, fmt.Errorf("%w: %.40q, expected one of %v", ErrUnknownCommand, string(c.Verb), Verbs)
	}
	if c.Worker == "" {
		c.Worker = Everyone
	}
	if _, err := path.Match(c.Worker, ""); err != nil {
		return c, fmt.Errorf("%w: worker pattern %.60q: %w", ErrMalformed, c.Worker, err)
	}
	if c.Verb == Cancel {
		if _, err := execution.ParseID(c.ExecutionID); err != nil {
			return c, fmt.Errorf("%w: cancel: %w", ErrMalformed, err)
		}
	}
	return c, nil
}

// Encode writes the command as a JSON message.
func (c Command) Encode() []byte {
	message, _ := json.Marshal(commandJSON{version, c.Verb, c.Worker, c.ExecutionID, c.RequestID, c.IssuedMS, c.Signature}) // cannot fail
	return message
}

// Targets says whether the command is for the given incarnation.
func (c Command) Targets(incarnation string) bool {
	matched, err := path.Match(c.Worker, incarnation)
	return c.Worker == incarnation || (err == nil && matched)
}

// ReceiptOutcome is what became of a command at one worker.
type ReceiptOutcome string

// What became of a command.
const (
	Accepted ReceiptOutcome = "accepted" // it was, or is being, obeyed
	Ignored  ReceiptOutcome = "ignored"  // it changes nothing in this state
	Refused  ReceiptOutcome = "refused"  // it is not in order
)

// Receipt is a worker's answer to a command.
type Receipt struct {
	Worker    string          `json:"worker"`
	RequestID string          `json:"request_id"`
	Outcome   ReceiptOutcome  `json:"outcome"`
	State     execution.State `json:"state"`
	Reason    string          `json:"reason,omitempty"`
	Stacks    string          `json:"stacks,omitempty"` // the answer to Stacks
}
