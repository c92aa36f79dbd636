// Package supervise keeps one ACTIVE worker process alive. It knows nothing of Redis: a child says on a pipe how it fares, and
// how it ends says the rest.
//
// # What it does
//
// One child is in charge. When it begins to leave and wants a replacement (recycle, stuck limit, its own limits of memory or
// executions), another is started at once, and the old one finishes its healthy executions for as long as they take. A child
// that crashes is started again after a pause that grows; when one after another ends before it was ACTIVE, and no old one
// works any more, the supervisor ends with [ExitCrashLoop]. A child that leaves for good (drain, shutdown) is not replaced:
// when the last one has ended, so does the supervisor. A child that falls silent is replaced, and told to leave.
//
// A pause outlives its worker: what is started in place of a paused one starts paused.
//
// # Signals
//
// Those to end are passed on to every child, the others to those that have been ACTIVE, which have learnt to obey them. The
// kernel kills the children when the supervisor itself is killed.
package supervise

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/leash"
)

// ExitCrashLoop is the exit code of a supervisor whose workers crash as soon as they are started.
const ExitCrashLoop = 70

const (
	shortLife   = 10 * time.Second // a child that crashes older than this begins a new row of crashes
	maxCrashes  = 8                // in a row, before they were ACTIVE
	maxPause    = 15 * time.Second
	hasty       = time.Second            // a child that wants to be replaced younger than this has its replacement wait
	maxWait     = 800 * time.Millisecond // for that: there is to be a gap of less than a second
	killedAfter = 5 * time.Second        // from a second signal to end, to SIGKILL
	maxSilent   = 3                      // children that are silent at the same time; more would not help
)

// Supervisor keeps a worker running. Use it once, by [Supervisor.Run].
type Supervisor struct {
	Command []string // the worker's program and arguments
	Env     []string // its environment
	Output  io.Writer
	Log     *slog.Logger
	Pause   time.Duration // after a first crash; doubled by each further one. 0: 100 ms
	Silence time.Duration // after which a child in charge is replaced; it is to report a few times in it. 0: never

	happened chan happening // to Run
	wg       sync.WaitGroup

	// Run's own.
	charge   *child // the ACTIVE child, or the one that is to be; nil while none is meant to be there
	children map[*child]bool
	again    <-chan time.Time // when to start the next
	kill     <-chan time.Time // when to kill those that do not end
	paused   execution.Pause  // what is started starts so
	crashes  int              // in a row
	failures int              // of young children since one was ACTIVE
	haste    int              // children in a row that wanted to be replaced at once
	asked    int              // signals to end
	leaving  bool
	code     int
}

// Run supervises until the last child has ended, and returns the exit code: that of an orderly end, [ExitCrashLoop],
// [execution.ExitFailure] when a child died while it was to leave, or the code of a worker whose configuration is wrong.
// Signals come through the channel.
func (s *Supervisor) Run(ctx context.Context, signals <-chan os.Signal) int {
	s.happened, s.children = make(chan happening), map[*child]bool{}
	defer s.wg.Wait()
	var beat <-chan time.Time
	if s.Silence > 0 {
		ticker := time.NewTicker(s.Silence / beats)
		defer ticker.Stop()
		beat = ticker.C
	}
	s.start()
	for len(s.children) > 0 || s.again != nil {
		select {
		case <-ctx.Done():
			ctx = context.WithoutCancel(ctx)
			s.leave(syscall.SIGTERM)
		case sig := <-signals:
			s.obey(sig.(syscall.Signal))
		case h := <-s.happened:
			s.hear(h)
		case <-s.again:
			s.again = nil
			s.start()
		case <-s.kill:
			for c := range s.children {
				leash.Kill(c.cmd)
			}
		case <-beat:
			s.listen()
		}
	}
	return s.code
}

// obey passes a signal on, and remembers what it means for children to come.
func (s *Supervisor) obey(sig syscall.Signal) {
	switch sig {
	case syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT:
		if s.asked++; s.asked == 2 {
			s.kill = time.After(killedAfter)
		}
		s.leave(sig)
		return
	case syscall.SIGTSTP:
		s.paused = cmp.Or(s.paused, execution.PausedBySignal)
	case syscall.SIGCONT:
		if s.paused == execution.PausedBySignal {
			s.paused = execution.NotPaused
		}
	}
	for c := range s.children {
		if c.active { // to one that is being started they would do what the system does, such as kill it
			c.signal(sig)
		}
	}
}

// hear acts on what a child did.
func (s *Supervisor) hear(h happening) {
	c := h.child
	c.silent = 0
	switch h.word {
	case ended:
		s.bury(c)
	case alive:
	case paused:
		if c == s.charge {
			s.paused = execution.Pause(h.detail)
		}
	case toldAll:
		s.heed(c, h.detail)
	case string(execution.Active):
		c.active, s.failures = true, 0
		s.catchUp(c)
	default:
		s.depart(c, execution.Event(h.detail))
	}
}

// catchUp has a child that is ACTIVE now obey the signals that came while it was being started.
func (s *Supervisor) catchUp(c *child) {
	switch {
	case c.paused == s.paused:
	case s.paused == execution.NotPaused:
		c.signal(syscall.SIGCONT)
	default:
		c.signal(syscall.SIGTSTP)
	}
}

// depart notes that a child leaves, and starts its replacement if it wants one.
func (s *Supervisor) depart(c *child, why execution.Event) {
	c.leaving = cmp.Or(c.leaving, why)
	if c != s.charge {
		return
	}
	s.charge = nil
	wanted := why == execution.EventRecycle || why == execution.EventStuckLimit
	if wanted && !s.leaving {
		s.replace(c, string(why))
	}
}

// heed looks at a command to all workers to leave for good. One that leaves already has nothing to do for it, but its
// replacement is not there yet to hear of it.
func (s *Supervisor) heed(c *child, command string) {
	if c == s.charge || c.forGood() || s.leaving || (s.charge != nil && s.charge.active) {
		return
	}
	s.Log.Info("all workers are told to leave; the replacement is not started", "command", command)
	s.leaving, s.again = true, nil
	if s.charge != nil {
		s.charge.signal(syscall.SIGTERM)
	}
}

// replace starts the replacement of a child, at once unless that child was started only now.
func (s *Supervisor) replace(c *child, because string) {
	if lived := time.Since(c.started); lived < hasty {
		s.haste++
		s.again = time.After(s.pause(s.haste, maxWait))
		s.Log.Warn("worker is leaving as soon as it was started; its replacement waits a little", "pid", c.cmd.Process.Pid, "because", because,
			"lived", lived.Round(time.Millisecond), "in_a_row", s.haste, "look_at", "BOBBIN_MAX_RSS, BOBBIN_MAX_EXECUTIONS")
		return
	}
	s.Log.Info("worker is leaving; starting its replacement", "pid", c.cmd.Process.Pid, "because", because)
	s.crashes, s.haste = 0, 0
	s.start()
}

// listen notes that a moment has passed in which the child in charge may have said something, and replaces it after too many.
// Moments are counted, not time: the supervisor itself may have been stopped.
func (s *Supervisor) listen() {
	c := s.charge
	if c == nil {
		return
	}
	if c.silent++; c.silent%beats != 0 {
		return
	}
	silent := 1
	for other := range s.children {
		if other.leaving == fallenSilent {
			silent++
		}
	}
	s.Log.Error("worker process is silent: it is stopped or hangs", "pid", c.cmd.Process.Pid, "for", s.Silence*time.Duration(c.silent/beats), "silent_ones", silent)
	if silent > maxSilent {
		return
	}
	c.leaving = fallenSilent
	c.signal(syscall.SIGTERM)
	s.start()
}

// bury looks at how a child ended.
func (s *Supervisor) bury(c *child) {
	delete(s.children, c)
	code := c.cmd.ProcessState.ExitCode()
	s.Log.Info("worker process ended", "pid", c.cmd.Process.Pid, "how", c.cmd.ProcessState.String(), "lived", time.Since(c.started).Round(time.Millisecond))
	inCharge := c == s.charge
	if inCharge {
		s.charge = nil
	}
	inOrder := code == execution.ExitDone || code == execution.ExitReplace
	switch {
	case s.leaving, !inCharge && c.forGood():
		if !inOrder && c.active { // before that it had claimed nothing
			s.Log.Error("worker died while it was to finish; others run what it had claimed", "pid", c.cmd.Process.Pid)
			s.code = cmp.Or(s.code, execution.ExitFailure)
		}
	case !inCharge, code == execution.ExitDone:
	case code == execution.ExitReplace: // it left before it could say so
		s.replace(c, "exit code 75")
	case code == execution.ExitUsage && !c.active: // later it is how Go's runtime ends a program
		s.Log.Error("the worker's configuration is wrong; starting it again would not help")
		s.code = code
	default:
		s.crashed(c.active, time.Since(c.started))
	}
}

// crashed has another started after a pause, unless this was one too many.
func (s *Supervisor) crashed(wasActive bool, lived time.Duration) {
	s.crashes++
	if lived >= shortLife {
		s.crashes = 1
	} else if !wasActive {
		s.failures++
	}
	if s.failures >= maxCrashes && len(s.children) == 0 { // while an old one works there is time to try on
		s.Log.Error("the worker crashes as soon as it is started; giving up", "crashes", s.failures, "exit_code", ExitCrashLoop)
		s.leaving, s.code = true, ExitCrashLoop
		return
	}
	pause := s.pause(s.crashes, maxPause)
	s.again = time.After(pause)
	s.Log.Warn("worker process crashed", "crashes_in_a_row", s.crashes, "next_start_in", pause.Round(time.Millisecond))
}

// pause is how long to wait after the nth of a row, with jitter.
func (s *Supervisor) pause(n int, longest time.Duration) time.Duration {
	pause := min(longest, cmp.Or(s.Pause, 100*time.Millisecond)<<min(n-1, 10))
	return pause/2 + rand.N(pause/2)
}

// leave passes on a signal to end; nothing is started any more.
func (s *Supervisor) leave(sig syscall.Signal) {
	s.leaving, s.charge, s.again = true, nil, nil
	for c := range s.children {
		c.signal(sig)
	}
}
