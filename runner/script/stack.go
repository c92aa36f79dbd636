package script

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"go.starlark.net/starlark"
)

const (
	// lookEvery is how many steps an execution takes between two looks whether somebody asks where it is: about a
	// millisecond. Those that end before cost nothing at all.
	lookEvery = 1 << 16
	// fewSteps is how many steps an execution that was asked goes on at most to come to a line.
	fewSteps = 100
	// stackTime is how long an execution may take to answer. One that is inside of a long built-in does not.
	stackTime = 300 * time.Millisecond
)

// Stack asks an execution where it is, and returns its call stack with the lines of source, the innermost last; "" when none of
// that ID runs here, or it does not get to answer. Only the goroutine that runs a Starlark thread may look at it, so the
// execution itself answers, between two steps or while it sleeps.
func (r *Runner) Stack(id string) string {
	p := r.asked.find(id)
	if p == nil {
		return ""
	}
	timer := time.NewTimer(stackTime)
	defer timer.Stop()
	answer := make(chan string, 1)
	select {
	case p.questions <- answer:
	case <-p.left:
		return ""
	case <-timer.C:
		return ""
	}
	select {
	case stack := <-answer:
		return stack
	case <-p.left:
	case <-timer.C:
	}
	return ""
}

// asked are the executions that can be asked, by ID: those that have run for a moment. The zero value is ready.
type asked struct {
	mu   sync.Mutex
	byID map[string]*place
}

// place is where an execution is asked.
type place struct {
	questions chan chan string
	left      chan struct{} // closed once it answers no more
}

func (a *asked) find(id string) *place {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.byID[id]
}

func (a *asked) enter(id string) *place {
	p := &place{questions: make(chan chan string), left: make(chan struct{})}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byID == nil {
		a.byID = map[string]*place{}
	}
	a.byID[id] = p
	return p
}

func (a *asked) leave(id string, p *place) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byID[id] == p { // and not that of a later attempt, when this one was given up
		delete(a.byID, id)
	}
	close(p.left)
}

// listen returns where this execution is asked; nil, on which nobody asks, for the top level of a module. Only its own
// goroutine calls it.
func (r *running) listen() <-chan chan string {
	if r.call == nil {
		return nil
	}
	if r.place == nil {
		r.place = r.asked.enter(string(r.call.ID))
	}
	return r.place.questions
}

// leave ends what listen began.
func (r *running) leave() {
	if r.place != nil {
		r.asked.leave(string(r.call.ID), r.place)
	}
}

// look is called by the interpreter, on the thread's goroutine, once a thread has taken as many steps as were set: to stop it at
// its limit, or to answer who asks where it is.
func look(thread *starlark.Thread) {
	r := runningOf(thread)
	if steps := thread.ExecutionSteps(); r.maxSteps > 0 && steps >= r.maxSteps {
		thread.Cancel("too many steps")
		return
	}
	r.lookLater(thread)
	if r.question == nil {
		select {
		case r.question = <-r.listen():
		default:
			return
		}
	}
	if r.tries < fewSteps && unplaced(thread) {
		r.tries++
		thread.SetMaxExecutionSteps(thread.ExecutionSteps() + 1)
		return
	}
	r.answer(thread)
}

// unplaced says that the thread is where the interpreter knows no line, since nothing can fail there: it names the beginning
// of the function. A few steps on it knows.
func unplaced(thread *starlark.Thread) bool {
	function, ok := thread.DebugFrame(0).Callable().(*starlark.Function)
	return ok && thread.CallFrame(0).Pos == function.Position()
}

// answer answers who asked, if somebody did.
func (r *running) answer(thread *starlark.Thread) {
	if r.question != nil {
		r.question <- r.stack(thread)
		r.question, r.tries = nil, 0
	}
}

func (r *running) lookLater(thread *starlark.Thread) {
	next := thread.ExecutionSteps() + lookEvery
	if r.maxSteps > 0 {
		next = min(next, r.maxSteps)
	}
	thread.SetMaxExecutionSteps(next)
}

func (r *running) stack(thread *starlark.Thread) string {
	var b strings.Builder
	b.WriteString("Stack (most recent call last):\n")
	writeFrames(&b, thread.CallStack(), r.sources)
	return strings.TrimRight(b.String(), "\n")
}

// writeFrames writes a call stack with the line of source below each frame, the innermost last.
func writeFrames(b *strings.Builder, frames starlark.CallStack, sources map[string]string) {
	for _, frame := range frames {
		fmt.Fprintf(b, "  %s: in %s\n", frame.Pos, frame.Name)
		if line := sourceLine(sources[frame.Pos.Filename()], int(frame.Pos.Line)); line != "" {
			fmt.Fprintf(b, "    %s\n", line)
		}
	}
}
