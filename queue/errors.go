package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Errors of the verbs, matched with [errors.Is].
var (
	// ErrNotRegistered is returned when the incarnation is not in workers, or was declared dead: it must fence itself.
	ErrNotRegistered = errors.New("incarnation is not registered")
	// ErrStaleClaim is returned by Claim when a later Reconcile made this call void. Nothing was claimed.
	ErrStaleClaim = errors.New("claim was overtaken")
	// ErrAlive is returned by Reap for an incarnation that was not fenced. Nothing was moved.
	ErrAlive = errors.New("incarnation is alive")
	// ErrDuplicate is returned by Submit for an execution ID that is in use.
	ErrDuplicate = errors.New("execution ID is already in use")
	// ErrRefused is returned when Redis answered with an error: nothing, or a safe prefix, was done. An error that is not
	// ErrRefused leaves open whether the command ran.
	ErrRefused = errors.New("refused by redis")
)

// classify turns what go-redis returns into the errors above. A reply that says no is told from a reply that never came:
// after the first nothing is in doubt, after the second everything is.
func classify(err error) error {
	var reply redis.Error
	if !errors.As(err, &reply) {
		return err
	}
	text := reply.Error()
	for prefix, known := range map[string]error{
		"NOTREGISTERED": ErrNotRegistered, "FENCED": ErrNotRegistered, "STALECLAIM": ErrStaleClaim, "ALIVE": ErrAlive,
	} {
		if strings.HasPrefix(text, prefix) {
			return known
		}
	}
	return fmt.Errorf("%w: %s", ErrRefused, refusalText(reply))
}

// refusalText is what Redis says. Where a script met a condition of the server, which one it was tells nobody anything.
func refusalText(refusal error) string {
	text := refusal.Error()
	if IsPassing(refusal) {
		text, _, _ = strings.Cut(text, " script: ")
	}
	return strings.TrimSpace(text)
}

// execute runs a transaction. Where Redis would not queue one of its commands, that refusal is the error: the transaction's own says
// only that there was one.
func execute(ctx context.Context, tx redis.Pipeliner) error {
	commands, err := tx.Exec(ctx)
	if err == nil || !strings.HasPrefix(err.Error(), "EXECABORT") {
		return err
	}
	for _, command := range commands {
		if refusal := command.Err(); refusal != nil && !strings.HasPrefix(refusal.Error(), "EXECABORT") {
			return refusal
		}
	}
	return err
}

// IsPassing says whether an [ErrRefused] is about the server's condition, which passes, rather than about the request:
// loading, read-only after a failover, out of memory, unable to persist, and the like.
func IsPassing(err error) bool {
	for _, word := range []string{"LOADING", "READONLY", "MASTERDOWN", "OOM", "MISCONF", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED", "BUSY", "NOREPLICAS", "max number of clients"} {
		if strings.Contains(err.Error(), word) {
			return true
		}
	}
	return false
}
