package pool

import (
	"bytes"
	"runtime"
	"strconv"
	"time"
)

// Running describes a task that has started and not returned.
type Running struct {
	ID        string
	Slot      int
	Started   time.Time
	Deadline  time.Time // zero: none
	Cancelled time.Time // when cancellation was asked for; zero: never
	Cause     error     // why it was asked for
	Stuck     bool
	Stack     string // of its goroutine; only where asked for
	Job       Job
}

// Running lists the tasks that have started and not returned, by slot, the stuck ones included. Stacks cost a stop of the
// whole process, so ask for them only for people.
func (p *Pool) Running(withStacks bool) []Running {
	stacks := map[int64]string{}
	if withStacks {
		stacks = allStacks()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []Running
	for slot, h := range p.slots {
		if h == nil {
			continue
		}
		r := Running{
			ID: h.task.ID, Slot: slot, Started: p.at(h.started), Cancelled: h.asked, Cause: h.cause, Stuck: h.phase == stuck,
			Stack: stacks[p.routines[slot]], Job: h.task.Job, Deadline: h.context.until,
		}
		list = append(list, r)
	}
	return list
}

// Cancel cancels the running tasks that match, with cause, and returns how many there were. The matched jobs must not be
// touched by match beyond reading.
func (p *Pool) Cancel(cause error, match func(Task) bool) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := 0
	for _, h := range p.slots {
		if h != nil && h.phase == running && match(h.task) {
			h.ask(cause)
			found++
		}
	}
	return found
}

// CancelAll cancels every running task with cause.
func (p *Pool) CancelAll(cause error) int {
	return p.Cancel(cause, func(Task) bool { return true })
}

// Abandon gives up the tasks that still run and returns them: their outcomes will not be reported, their goroutines not
// awaited. It is for a process that is about to leave.
func (p *Pool) Abandon() []Task {
	p.mu.Lock()
	var left []Task
	for _, h := range p.slots {
		if h != nil && h.phase == running {
			h.phase = abandoned
			h.stopGrace()
			left = append(left, h.task)
		}
	}
	p.inPool -= len(left)
	p.mu.Unlock()
	for range left {
		p.loops.Done()
	}
	p.signal()
	return left
}

// goroutineID reads the number of the calling goroutine from the first line of its stack, "goroutine 7 [running]:". Go
// offers no other way to find a goroutine again, and its stack is what a stuck result must show.
func goroutineID() int64 {
	var line [64]byte
	return headerID(line[:runtime.Stack(line[:], false)])
}

func headerID(stack []byte) int64 {
	fields := bytes.Fields(stack[:min(len(stack), 64)])
	if len(fields) < 2 {
		return 0
	}
	id, _ := strconv.ParseInt(string(fields[1]), 10, 64)
	return id
}

// maxStackBytes bounds a dump of all goroutines.
const maxStackBytes = 64 << 20

// allStacks returns the stack of every goroutine by its number.
func allStacks() map[int64]string {
	size := 1 << 20
	dump := make([]byte, size)
	for n := runtime.Stack(dump, true); ; n = runtime.Stack(dump, true) {
		if n < size || size >= maxStackBytes {
			dump = dump[:n]
			break
		}
		size *= 2
		dump = make([]byte, size)
	}
	stacks := map[int64]string{}
	for _, one := range bytes.Split(dump, []byte("\n\n")) {
		stacks[headerID(one)] = string(one)
	}
	return stacks
}

// snapshot is the stacks of all goroutines at a moment.
type snapshot struct {
	at     time.Time
	stacks map[int64]string
}

// snapshotAge is how long one serves for several tasks that are found stuck together: a thousand that hang on the same thing must
// not stop the whole process a thousand times.
const snapshotAge = time.Second

// stackOf returns the stack of the goroutine that runs a task, as it was after the task was cancelled. The mutex is held, so that
// the goroutine cannot have gone on to another task.
func (p *Pool) stackOf(h *handle) string {
	if p.seen == nil || p.seen.at.Before(h.asked) || time.Since(p.seen.at) > snapshotAge {
		taken := &snapshot{at: time.Now(), stacks: allStacks()}
		p.seen = taken
		time.AfterFunc(snapshotAge, func() { p.forget(taken) })
	}
	return p.seen.stacks[p.routines[h.slot]]
}

// forget lets go of a snapshot's memory.
func (p *Pool) forget(s *snapshot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen == s {
		p.seen = nil
	}
}
