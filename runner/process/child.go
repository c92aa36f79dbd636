package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/bobbin-run/bobbin/internal/leash"
)

// child is one process that speaks frames: started by us, or forked by a mother.
type child struct {
	pid    int
	wire   *wire
	output *output
	gone   chan struct{} // closed when it has ended
	exit   exit          // how; readable once gone is closed
	once   sync.Once

	killed atomic.Bool            // we did
	reason atomic.Pointer[string] // why we killed it, where that says more than the signal
}

// exit is how a process ended.
type exit struct {
	signal syscall.Signal
	code   int
	why    string // instead of both
}

// String says it in words: "was killed by signal 11 (segmentation fault)".
func (e exit) String() string {
	switch {
	case e.why != "":
		return e.why
	case e.signal != 0:
		return fmt.Sprintf("was killed by signal %d (%s)", int(e.signal), e.signal)
	default:
		return fmt.Sprintf("exited with code %d", e.code)
	}
}

const (
	lastFrames = 150 * time.Millisecond // from a process's end until its wire is closed: what it sent before is read by then
	lastReport = 100 * time.Millisecond // from killing a process until its end is reported: a mother may be busy
)

// kill kills the process and everything in its group. It may be called at any time, by anybody.
func (c *child) kill() {
	if c.over() { // its number may be another's by now
		return
	}
	c.killed.Store(true)
	_ = syscall.Kill(-c.pid, syscall.SIGKILL)
	_ = syscall.Kill(c.pid, syscall.SIGKILL) // it may have left its group
	c.hangUp()
}

func (c *child) over() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

// condemn kills the process and has its end told with the reason.
func (c *child) condemn(why string) {
	c.reason.CompareAndSwap(nil, &why)
	c.kill()
}

// interrupt asks the process to stop what it runs.
func (c *child) interrupt() {
	if c.over() {
		return
	}
	_ = syscall.Kill(-c.pid, syscall.SIGINT)
	if group, err := syscall.Getpgid(c.pid); err == nil && group != c.pid {
		_ = syscall.Kill(c.pid, syscall.SIGINT) // it left its group; never twice, which means more
	}
}

// ended records how the process ended, and kills what it left behind in its group.
func (c *child) ended(e exit) {
	c.once.Do(func() {
		_ = syscall.Kill(-c.pid, syscall.SIGKILL) // the number stays theirs while one of them lives
		if why := c.reason.Load(); why != nil {
			e = exit{why: "was killed: " + *why}
		}
		c.exit = e
		close(c.gone)
		if !c.killed.Load() {
			c.hangUp()
		}
	})
}

// hangUp ends what is read from and written to a process that is dead or about to be. The end of the connection does not
// always come: something that the process started may have inherited the other end.
func (c *child) hangUp() { _ = c.wire.conn.SetDeadline(time.Now().Add(lastFrames)) }

// lost says how a process ended whose connection broke.
func (c *child) lost(err error, patience time.Duration) error {
	if c.killed.Load() {
		patience = min(patience, lastReport)
	}
	select {
	case <-c.gone:
		return errors.New(c.exit.String())
	case <-time.After(patience): // it closed its wire, or broke the protocol, and lives
	}
	switch {
	case c.killed.Load():
		return errors.New(exit{signal: syscall.SIGKILL}.String())
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return errors.New("closed its connection")
	default:
		return err
	}
}

// close lets go of what we hold of a process that was killed or is to end by itself.
func (c *child) close() {
	_ = c.wire.conn.Close()
	c.output.close()
}

// spawn starts the language's program and gives it the shim. wg counts the goroutines that look after it.
func (l *Language) spawn(wg *sync.WaitGroup, frameMax int, listen func(string)) (*child, error) {
	conn, theirs, err := newPair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = theirs.Close() }()
	out, writer, err := newOutput(listen)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("process: %w", err)
	}
	defer func() { _ = writer.Close() }()
	cmd := exec.Command(l.Command[0], l.Command[1:]...)
	cmd.Env = append(environment(os.Environ()), l.Env...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = writer, writer, []*os.File{theirs}
	if err := leash.Start(cmd); err != nil {
		_ = conn.Close()
		out.close()
		return nil, fmt.Errorf("process: start %s: %w", l.Name, err)
	}
	c := &child{pid: cmd.Process.Pid, wire: newWire(conn, frameMax), output: out, gone: make(chan struct{})}
	wg.Go(out.run)
	wg.Go(func() { c.ended(waited(cmd)) })
	_ = c.wire.sendBytes([]byte(l.Shim)) // where that fails, awaiting its ready says why
	return c, nil
}

func waited(cmd *exec.Cmd) exit {
	err := cmd.Wait()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		return exit{why: err.Error()}
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case !ok:
		return exit{why: cmd.ProcessState.String()}
	case status.Signaled():
		return exit{signal: status.Signal()}
	default:
		return exit{code: status.ExitStatus()}
	}
}

// environment is ours without our settings: where Redis is, and with which password, is no interpreter's business.
func environment(all []string) []string {
	var kept []string
	for _, entry := range all {
		if !strings.HasPrefix(entry, "BOBBIN_") {
			kept = append(kept, entry)
		}
	}
	return kept
}
