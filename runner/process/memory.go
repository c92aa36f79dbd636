package process

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

const (
	memoryEvery = 250 * time.Millisecond // while executions run
	memoryRest  = time.Second            // between looks at one interpreter between executions
)

// watchMemory kills interpreters that grow beyond the limit while they run an execution, until the runner is closed.
func (r *Runner) watchMemory() {
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.working: // with nothing to run, nothing wakes the worker
		}
		select {
		case <-r.ctx.Done():
			return
		case <-time.After(memoryEvery):
		}
		running := r.running()
		if len(running) > 0 {
			r.nowWorking()
		}
		for _, i := range running {
			if held := i.rss(); held > r.opts.MaxRSS && i.busy.Load() {
				r.log.Warn("interpreter holds too much memory and is killed", "pid", i.pid, "rss_bytes", held)
				i.fat.Store(true)
				i.kill()
			}
		}
	}
}

// nowWorking tells watchMemory that an interpreter runs, or ran, an execution.
func (r *Runner) nowWorking() {
	select {
	case r.working <- struct{}{}:
	default:
	}
}

func (r *Runner) running() []*interpreter {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*interpreter
	for i := range r.live {
		if i.busy.Load() {
			list = append(list, i)
		}
	}
	return list
}

// dueForMemory says whether it is time to look again. Reading /proc after every execution of a few microseconds would cost
// more than they do.
func (i *interpreter) dueForMemory() bool {
	if time.Since(i.looked) < memoryRest {
		return false
	}
	i.looked = time.Now()
	return true
}

// rss returns the resident memory of the interpreter, or of the child it forked if that holds more, in bytes. It is 0 where
// the system has no /proc.
func (i *interpreter) rss() int64 {
	most := rssOf(i.pid)
	if i.mode == Fork {
		for _, child := range childrenOf(i.pid) {
			most = max(most, rssOf(child))
		}
	}
	return most
}

func rssOf(pid int) int64 {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "statm"))
	fields := bytes.Fields(data)
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(string(fields[1]), 10, 64)
	return pages * int64(os.Getpagesize())
}

func childrenOf(pid int) []int {
	number := strconv.Itoa(pid)
	data, err := os.ReadFile(filepath.Join("/proc", number, "task", number, "children"))
	if err != nil {
		return nil
	}
	var pids []int
	for _, field := range bytes.Fields(data) {
		if child, err := strconv.Atoi(string(field)); err == nil {
			pids = append(pids, child)
		}
	}
	return pids
}
