package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

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

// kill kills the process and everything in its group. It may be called at any time, by anybody.
func (c *child) kill() {
	select {
	case <-c.gone: // its number may be another's by now
	default:
		_ = syscall.Kill(-c.pid, syscall.SIGKILL)
	}
}

// interrupt asks the process to stop what it runs.
func (c *child) interrupt() {
	select {
	case <-c.gone:
	default:
		_ = syscall.Kill(-c.pid, syscall.SIGINT)
	}
}

// ended records how the process ended, and kills what it left behind in its group.
func (c *child) ended(e exit) {
	c.once.Do(func() {
		_ = syscall.Kill(-c.pid, syscall.SIGKILL) // the number stays theirs while one of them lives
		c.exit = e
		close(c.gone)
	})
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
