package process

import (
	"strings"
	"syscall"
	"time"
)

const dumpTime = 300 * time.Millisecond

// Stack asks the interpreter that runs an execution what it is doing, and returns what it writes; "" when no interpreter of
// this runner runs it, or its language cannot tell. The same lines go to the execution's log.
func (r *Runner) Stack(id string) string {
	if !r.lang.Dumps {
		return ""
	}
	for _, i := range r.running() {
		if runs := i.runs.Load(); runs != nil && string(*runs) == id {
			return i.dump()
		}
	}
	return ""
}

// dump has the process that runs user code, which is a child where it was forked, write its stacks. Not the group: a program
// that a workflow started would die of the signal.
func (i *interpreter) dump() string {
	pids := []int{i.pid}
	if i.mode == Fork {
		pids = childrenOf(i.pid)
	}
	before := i.output.total.Load()
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGUSR2)
	}
	for deadline := time.After(dumpTime); ; {
		select {
		case <-deadline:
			return ""
		case <-i.gone:
			return ""
		case <-time.After(10 * time.Millisecond): // written in one go: once something is there, all of it is
			if i.output.total.Load() > before {
				return ownFrames(i.output.last())
			}
		}
	}
}

// ownFrames leaves the shim's frames out of the stacks of an interpreter's threads, and threads that have no others: what is left
// is the workflow's.
func ownFrames(dump string) string {
	var kept, thread []string
	own, shim := false, false
	next := func() {
		if own {
			kept = append(kept, thread...)
		}
		thread, own, shim = nil, false, false
	}
	for line := range strings.Lines(dump) {
		frame := strings.HasPrefix(line, "  File ")
		if !frame {
			next()
		}
		shim = shim || strings.HasPrefix(line, `  File "<bobbin>"`)
		if shim && frame && (strings.Contains(line, `"<bobbin>"`) || strings.Contains(line, `"<string>"`)) {
			continue // what called the shim is no more of the workflow
		}
		own = own || frame
		thread = append(thread, line)
	}
	next()
	if len(kept) == 0 {
		return dump
	}
	return strings.TrimSpace(strings.Join(kept, ""))
}
