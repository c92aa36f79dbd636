package redistest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// releaseTimeout bounds the wait for the answer to a held request.
const releaseTimeout = 10 * time.Second

type faultKind string

const (
	dropRequest  faultKind = "drop-request"
	dropReply    faultKind = "drop-reply"
	swallowReply faultKind = "swallow-reply"
	holdRequest  faultKind = "hold-request"
	injectError  faultKind = "inject-error"
)

// A Fault is a trap set for one command: it goes off once, for the nth command of its name from the moment it was set.
// Its methods may be called at the same time from anywhere.
type Fault struct {
	proxy   *Proxy
	kind    faultKind
	name    string
	message string // of an injected error

	left  int    // commands of the name until it goes off; guarded by proxy.mu
	title string // what it caught, as in [Proxy.Fired]; guarded by proxy.mu
	fired chan struct{}
	held  *held // of a hold-request
}

// Wait returns when the fault took effect, or with an error that says which one did not when ctx ends first. After a
// DropReply or SwallowReply took effect, the server has run the command.
func (f *Fault) Wait(ctx context.Context) error {
	select {
	case <-f.fired:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("redistest: waiting for %s %s: %w", f.kind, f.name, context.Cause(ctx))
	}
}

// Fired says whether the fault took effect.
func (f *Fault) Fired() bool {
	select {
	case <-f.fired:
		return true
	default:
		return false
	}
}

// Disarm takes a fault back that has not caught its command yet, and says whether that was so.
func (f *Fault) Disarm() bool {
	return f.proxy.disarm(f)
}

// fire is called once, by the session that caught the command.
func (f *Fault) fire() {
	f.proxy.record(string(f.kind) + " " + f.proxy.titleOf(f))
	close(f.fired)
}

// held is a request on its way: the session that caught it delivers it when it is released.
type held struct {
	once     sync.Once
	released chan struct{}
	finished chan error // one value, from the session
}

func newHeld() *held {
	return &held{released: make(chan struct{}), finished: make(chan error, 1)}
}

// release delivers the request and waits until the server answered it.
func (f *Fault) release() error {
	if f.Disarm() {
		return fmt.Errorf("redistest: release: no %s was held", f.name)
	}
	err := errReleased
	f.held.once.Do(func() {
		close(f.held.released)
		select {
		case err = <-f.held.finished:
		case <-time.After(releaseTimeout):
			err = fmt.Errorf("redistest: release %s: no answer in %v", f.name, releaseTimeout)
		}
	})
	return err
}

var (
	errReleased = errors.New("redistest: release: it was released or disarmed before")
	errGone     = errors.New("redistest: release: the connection to the server is gone")
)

// loss decides by chance. The zero value loses nothing.
type loss struct {
	random      *rand.Rand
	probability float64
}

// roll returns what befalls the next command, or nothing.
func (l *loss) roll() faultKind {
	if l.random == nil || l.random.Float64() >= l.probability {
		return ""
	}
	if l.random.IntN(2) == 0 {
		return dropRequest
	}
	return dropReply
}
