// Package supervise keeps one ACTIVE worker process alive. It knows nothing of Redis: a child says on a pipe what state it is
// in, and how it ends says the rest.
//
// # What it does
//
// One child is in charge. When it begins to leave and wants a replacement (recycle, stuck limit, its own limits of memory or
// executions), another is started at once, and the old one finishes its healthy executions for as long as they take. A child
// that crashes is started again after a pause that grows; one that crashes again and again ends the supervisor with
// [ExitCrashLoop]. A child that leaves for good (drain, shutdown) is not replaced: when the last one has ended, so does the
// supervisor.
//
// # Signals
//
// All are passed on to every child. The kernel kills the children when the supervisor itself is killed.
package supervise

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/leash"
)

// ExitCrashLoop is the exit code of a supervisor whose workers crash as soon as they are started.
const ExitCrashLoop = 70

// ReportVariable is set, to the number of a descriptor, in the environment of a child: there it writes its states.
const ReportVariable = "BOBBIN_SUPERVISED_FD"

const (
	reportFD    = 3
	shortLife   = 10 * time.Second // a child that crashes younger than this counts towards the crash loop
	maxCrashes  = 8                // in a row
	maxPause    = 15 * time.Second
	killedAfter = 5 * time.Second // from a second signal to end, to SIGKILL
)

// Supervisor keeps a worker running. Use it once, by [Supervisor.Run].
type Supervisor struct {
	Command []string // the worker's program and arguments
	Env     []string // its environment
	Output  io.Writer
	Log     *slog.Logger
	Pause   time.Duration // after a first crash; doubled by each further one. 0: 100 ms

	happened chan happening // to Run
	wg       sync.WaitGroup

	// Run's own.
	charge   *child // the ACTIVE child; nil while none is meant to be there
	children map[*child]bool
	crashes  int // of short-lived children, in a row
	leaving  bool
	code     int
}

type child struct {
	cmd     *exec.Cmd
	started time.Time
	leaving bool // it told us that it does
}

// happening is something that a child did.
type happening struct {
	child *child
	state string // it said so
	why   string // the event that led there
	ended bool
}

// Run supervises until the last child has ended, and returns the exit code: that of an orderly end, [ExitCrashLoop], or
// the code of a worker that cannot start at all. Signals come through the channel.
func (s *Supervisor) Run(ctx context.Context, signals <-chan os.Signal) int {
	s.happened, s.children = make(chan happening), map[*child]bool{}
	defer s.wg.Wait()
	var again <-chan time.Time // when to start after a crash
	s.start()
	asked := 0
	for len(s.children) > 0 || again != nil {
		select {
		case <-ctx.Done():
			ctx = context.WithoutCancel(ctx)
			s.leave(syscall.SIGTERM)
			again = nil
		case sig := <-signals:
			if sig == syscall.SIGTERM || sig == syscall.SIGINT {
				asked++
				again = nil
				s.leave(sig.(syscall.Signal))
				if asked == 2 {
					time.AfterFunc(killedAfter, s.killer())
				}
				continue
			}
			s.pass(sig.(syscall.Signal))
		case h := <-s.happened:
			if pause := s.hear(h); pause > 0 {
				again = time.After(pause)
			}
		case <-again:
			again = nil
			s.start()
		}
	}
	return s.code
}

// start starts a child and puts it in charge.
func (s *Supervisor) start() {
	read, write, err := os.Pipe()
	if err != nil {
		s.fail(err)
		return
	}
	cmd := exec.Command(s.Command[0], s.Command[1:]...)
	cmd.Env = append(append([]string{}, s.Env...), fmt.Sprintf("%s=%d", ReportVariable, reportFD))
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = s.Output, s.Output, []*os.File{write}
	err = leash.Start(cmd)
	_ = write.Close()
	if err != nil {
		_ = read.Close()
		s.fail(err)
		return
	}
	c := &child{cmd: cmd, started: time.Now()}
	s.charge, s.children[c] = c, true
	s.Log.Info("worker process started", "pid", cmd.Process.Pid)
	s.wg.Go(func() { s.follow(c, read) })
}

func (s *Supervisor) fail(err error) {
	s.Log.Error("worker process cannot be started", "error", err)
	s.code = execution.ExitFailure
}

// follow passes on what a child says, and its end.
func (s *Supervisor) follow(c *child, report *os.File) {
	defer func() { _ = report.Close() }()
	lines := bufio.NewScanner(report)
	for lines.Scan() {
		state, why, _ := strings.Cut(lines.Text(), " ")
		s.happened <- happening{child: c, state: state, why: why}
	}
	_ = c.cmd.Wait()
	s.happened <- happening{child: c, ended: true}
}

// Report writes the line with which a child tells its state.
func Report(w io.Writer, state execution.State, because execution.Event) {
	_, _ = fmt.Fprintf(w, "%s %s\n", state, because)
}

// hear acts on what a child did. It returns how long to wait before another is started; 0: none is to be.
func (s *Supervisor) hear(h happening) time.Duration {
	if h.ended {
		return s.bury(h.child)
	}
	if h.state == string(execution.Active) {
		return 0
	}
	h.child.leaving = true
	if h.child != s.charge {
		return 0
	}
	s.charge = nil
	wanted := h.why == string(execution.EventRecycle) || h.why == string(execution.EventStuckLimit)
	if wanted && !s.leaving {
		s.Log.Info("worker is leaving; starting its replacement", "pid", h.child.cmd.Process.Pid, "because", h.why)
		s.crashes = 0
		s.start()
	}
	return 0
}

// bury looks at how a child ended.
func (s *Supervisor) bury(c *child) time.Duration {
	delete(s.children, c)
	code, lived := c.cmd.ProcessState.ExitCode(), time.Since(c.started)
	s.Log.Info("worker process ended", "pid", c.cmd.Process.Pid, "how", c.cmd.ProcessState.String(), "lived", lived.Round(time.Millisecond))
	inCharge := c == s.charge
	if inCharge {
		s.charge = nil
	}
	switch {
	case s.leaving:
		if code != execution.ExitDone && code != execution.ExitReplace {
			s.code = execution.ExitFailure
		}
		return 0
	case c.leaving || !inCharge, code == execution.ExitDone:
		return 0
	case code == execution.ExitReplace: // it left before it could say so
		s.start()
		return 0
	case code == execution.ExitUsage:
		s.Log.Error("the worker's configuration is wrong; starting it again would not help")
		s.code = code
		return 0
	}
	return s.crashed(lived)
}

// crashed returns how long to wait after a crash; 0 when it was one too many.
func (s *Supervisor) crashed(lived time.Duration) time.Duration {
	s.crashes++
	if lived >= shortLife {
		s.crashes = 1
	}
	if s.crashes >= maxCrashes {
		s.Log.Error("the worker crashes as soon as it is started; giving up", "crashes", s.crashes, "exit_code", ExitCrashLoop)
		s.code = ExitCrashLoop
		s.leave(syscall.SIGTERM)
		return 0
	}
	pause := min(maxPause, cmp.Or(s.Pause, 100*time.Millisecond)<<(s.crashes-1))
	pause = pause/2 + rand.N(pause/2)
	s.Log.Warn("worker process crashed", "crashes_in_a_row", s.crashes, "next_start_in", pause.Round(time.Millisecond))
	return pause
}

// leave passes on a signal to end; nothing is started any more.
func (s *Supervisor) leave(sig syscall.Signal) {
	s.leaving, s.charge = true, nil
	s.pass(sig)
}

func (s *Supervisor) pass(sig syscall.Signal) {
	for c := range s.children {
		_ = c.cmd.Process.Signal(sig)
	}
}

// killer returns what kills the children there are now.
func (s *Supervisor) killer() func() {
	var cmds []*exec.Cmd
	for c := range s.children {
		cmds = append(cmds, c.cmd)
	}
	return func() {
		for _, cmd := range cmds {
			leash.Kill(cmd)
		}
	}
}
