package execution

import (
	"errors"
	"fmt"
)

// State is where a worker is in its life. States only move forward.
type State string

// The states of docs/protocol.md.
const (
	Active      State = "ACTIVE"       // claims and runs
	Draining    State = "DRAINING"     // claims nothing; leaves when only stuck executions remain
	PendingKill State = "PENDING_KILL" // the same, on the way to a fresh process
	Exiting     State = "EXITING"      // cancels, releases, leaves
)

// States lists every state in the order in which a worker can pass through them.
var States = []State{Active, Draining, PendingKill, Exiting}

// Pause says whether an ACTIVE worker is paused, and what ends that.
type Pause string

// A worker that is paused claims nothing.
const (
	NotPaused        Pause = ""
	PausedByOperator Pause = "operator" // until resume
	PausedBySignal   Pause = "signal"   // SIGTSTP: until SIGCONT or resume
)

// Event is what moves a worker from one state to another.
type Event string

// The events of the transition table.
const (
	EventDrain      Event = "drain"       // an operator asked
	EventRecycle    Event = "recycle"     // an operator asked
	EventShutdown   Event = "shutdown"    // an operator or a signal asked
	EventStuckLimit Event = "stuck-limit" // as many executions are stuck as the worker bears
	EventIdle       Event = "idle"        // only stuck executions remain
)

// Events lists every event.
var Events = []Event{EventDrain, EventRecycle, EventShutdown, EventStuckLimit, EventIdle}

// ErrIllegalTransition is returned by [State.Next] when the event does not apply in the state.
var ErrIllegalTransition = errors.New("illegal state transition")

var transitions = map[State]map[Event]State{
	Active: {
		EventDrain: Draining, EventStuckLimit: Draining, EventRecycle: PendingKill, EventShutdown: Exiting,
	},
	Draining:    {EventIdle: Exiting, EventShutdown: Exiting},
	PendingKill: {EventIdle: Exiting, EventShutdown: Exiting},
	Exiting:     {},
}

// Next returns the state that event leads to, or an error that wraps [ErrIllegalTransition] and the state unchanged.
func (s State) Next(event Event) (State, error) {
	next, ok := transitions[s][event]
	if !ok {
		return s, fmt.Errorf("%w: %s in state %s", ErrIllegalTransition, event, s)
	}
	return next, nil
}

// Exit codes of a worker process. A supervisor starts a new process on ExitReplace and not on ExitDone.
const (
	ExitDone    = 0  // drained or shut down
	ExitFailure = 1  // it could not start
	ExitUsage   = 2  // bad usage or configuration
	ExitReplace = 75 // recycled, or drained itself at the stuck limit: start me again
)

// ExitCode returns the exit code of a worker that reached [Exiting], where cause was the event that
// made it leave ACTIVE and last the one that made it exit: 75 when a replacement is wanted, 0 otherwise. A shutdown
// overrides an earlier wish for a replacement, because whoever shuts down wants the worker gone.
func ExitCode(cause, last Event) int {
	if last == EventIdle && (cause == EventRecycle || cause == EventStuckLimit) {
		return ExitReplace
	}
	return ExitDone
}
