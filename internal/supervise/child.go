package supervise

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/leash"
)

// What the environment of a child has: the number of the descriptor on which it reports, and whether it is to start paused.
const (
	ReportVariable = "BOBBIN_SUPERVISED_FD"
	PauseVariable  = "BOBBIN_SUPERVISED_PAUSE"
)

const (
	reportFD = 3
	beats    = 10 // in the time after which a child counts as silent
)

// What a child says, besides its states.
const (
	alive   = "ALIVE"
	paused  = "PAUSED"
	toldAll = "TOLD_ALL"
	ended   = "" // it did
)

// fallenSilent is why a child leaves that did not say so.
const fallenSilent execution.Event = "silent"

// child is a worker process.
type child struct {
	cmd     *exec.Cmd
	started time.Time
	paused  execution.Pause // so it was started
	active  bool            // it has been
	leaving execution.Event // why it does; "" while it does not
	silent  int             // moments in a row
}

func (c *child) signal(sig syscall.Signal) { _ = c.cmd.Process.Signal(sig) }

// forGood says that the child leaves and is not to be replaced.
func (c *child) forGood() bool {
	return c.leaving == execution.EventDrain || c.leaving == execution.EventShutdown
}

// happening is something that a child did.
type happening struct {
	child        *child
	word, detail string
}

// start starts a child and puts it in charge.
func (s *Supervisor) start() {
	c, report, err := s.spawn()
	if err != nil {
		s.Log.Error("worker process cannot be started", "error", err)
		s.crashed(false, 0)
		return
	}
	s.charge, s.children[c] = c, true
	s.Log.Info("worker process started", "pid", c.cmd.Process.Pid)
	s.wg.Go(func() { s.follow(c, report) })
}

func (s *Supervisor) spawn() (*child, *os.File, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = write.Close() }()
	cmd := exec.Command(s.Command[0], s.Command[1:]...)
	cmd.Env = append(append([]string{}, s.Env...), fmt.Sprintf("%s=%d", ReportVariable, reportFD), fmt.Sprintf("%s=%s", PauseVariable, s.paused))
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = s.Output, s.Output, []*os.File{write}
	if err := leash.Start(cmd); err != nil {
		_ = read.Close()
		return nil, nil, err
	}
	return &child{cmd: cmd, started: time.Now(), paused: s.paused}, read, nil
}

// follow passes on what a child says, and its end.
func (s *Supervisor) follow(c *child, report *os.File) {
	defer func() { _ = report.Close() }()
	lines := bufio.NewScanner(report)
	for lines.Scan() {
		if word, detail, _ := strings.Cut(lines.Text(), " "); word != ended {
			s.happened <- happening{c, word, detail}
		}
	}
	_ = c.cmd.Wait()
	s.happened <- happening{c, ended, ""}
}

// Report writes the line with which a child tells its state.
func Report(w io.Writer, state execution.State, because execution.Event) {
	report(w, string(state), string(because))
}

// ReportPause writes the line with which a child tells that it was paused or resumed.
func ReportPause(w io.Writer, pause execution.Pause) { report(w, paused, string(pause)) }

// ReportToldAll writes the line with which a child tells that it was commanded to leave for good, with all workers. One that
// leaves already writes it too: its replacement may not have heard.
func ReportToldAll(w io.Writer, event execution.Event) { report(w, toldAll, string(event)) }

// ReportAlive writes the line with which a child tells that it does not hang.
func ReportAlive(w io.Writer) { report(w, alive, "") }

func report(w io.Writer, word, detail string) { _, _ = fmt.Fprintf(w, "%s %s\n", word, detail) }
