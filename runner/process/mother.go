package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
)

// motherhood looks after the one process from which all slots of a runner are forked. It imports what its slots have imported
// from the standard library and from installed packages, so that later slots share that memory with it; workflows' own modules
// never run in it.
type motherhood struct {
	r *Runner

	turn   chan struct{} // taken while forking: one at a time
	mother *mother       // of whoever has the turn

	known     sync.Mutex // guards the rest
	learned   []string   // modules to import
	proven    int        // how many of them a mother has imported and still forked
	forgotten []string   // modules that a mother did not survive
}

// mother is one such process.
type mother struct {
	*child
	spawned chan int // the pid of the slot that was just forked
	told    int      // how much of what was learned; of whoever has the turn

	mu       sync.Mutex
	children map[int]*child // slots that live; nil when she is gone
	early    map[int]exit   // of slots that ended before we knew them
}

// fork returns a new slot, ready, and how much the mother had imported when it was born.
func (m *motherhood) fork(s *snapshot) (*child, int, error) {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-m.r.ctx.Done():
		return nil, 0, context.Cause(m.r.ctx)
	}
	c, born, err := m.bear(s)
	if errors.Is(err, errUntaught) {
		c, born, err = m.bear(s) // by another mother, who is told less
	}
	if err != nil {
		return nil, 0, err
	}
	if err := m.r.awaitReady(c, s); err != nil {
		c.kill()
		err = fmt.Errorf("a slot did not become ready: %w%s", err, quoted(c.output.last()))
		c.close()
		return nil, 0, err
	}
	return c, born, nil
}

// bear forks a slot from the mother, and says how much she had imported. turn is taken.
func (m *motherhood) bear(s *snapshot) (*child, int, error) {
	mother, err := m.ensure(s)
	if err != nil {
		return nil, 0, err
	}
	c, err := m.spawn(mother, m.untold(mother))
	return c, mother.told, m.proved(mother, err)
}

// spawn has the mother import what she does not know yet, and fork a slot. turn is taken. Nothing else ends this than her
// answer and her end.
func (m *motherhood) spawn(mother *mother, fresh []string) (*child, error) {
	ctx, cancel := m.r.starting()
	defer cancel()
	defer context.AfterFunc(ctx, func() { mother.condemn(context.Cause(ctx).Error()) })()
	conn, theirs, err := newPair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = theirs.Close() }()
	out, writer, err := newOutput(m.r.stray)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("process: %w", err)
	}
	defer func() { _ = writer.Close() }()
	c := &child{wire: newWire(conn, m.r.opts.FrameMaxBytes), output: out, gone: make(chan struct{})}
	if c.pid, err = mother.ask(fresh, theirs, writer); err != nil {
		_ = conn.Close()
		out.close()
		return nil, fmt.Errorf("the process to fork from: %w%s", err, quoted(mother.output.last()))
	}
	m.r.wg.Go(out.run)
	mother.adopt(c)
	return c, nil
}

// ask sends what is to be imported and forked, and returns the pid of the slot.
func (mother *mother) ask(fresh []string, files ...*os.File) (int, error) {
	var err error
	if len(fresh) > 0 {
		err = mother.wire.send(&frame{Type: "preload", Modules: fresh})
	}
	if err == nil {
		err = mother.wire.send(&frame{Type: "spawn"}, files...)
	}
	if err != nil {
		mother.condemn(mother.lost(err, lastReport).Error()) // half a frame may be on its way
	}
	select {
	case pid := <-mother.spawned:
		return pid, nil
	case <-mother.gone:
		return 0, errors.New(mother.exit.String())
	}
}

// ensure starts the mother where there is none. turn is taken.
func (m *motherhood) ensure(s *snapshot) (*mother, error) {
	if m.mother != nil && !m.mother.over() {
		return m.mother, nil
	}
	if m.mother != nil {
		m.mother.close()
		m.mother = nil
	}
	c, err := m.r.begin(Fork, s)
	if err != nil {
		return nil, err
	}
	m.mother = &mother{child: c, spawned: make(chan int, 1), children: map[int]*child{}, early: map[int]exit{}}
	m.r.wg.Go(m.mother.listen)
	return m.mother, nil
}

// listen hears of slots that were forked and slots that ended, until the mother is gone: her slots die with her.
func (mother *mother) listen() {
	for {
		f, err := mother.wire.read()
		if err == nil {
			err = mother.hear(f)
		}
		if err != nil {
			mother.condemn(mother.lost(err, lastReport).Error())
			break
		}
	}
	<-mother.gone
	mother.mu.Lock()
	defer mother.mu.Unlock()
	for _, c := range mother.children {
		c.orphaned(mother)
	}
	mother.children = nil
}

func (mother *mother) hear(f *frame) error {
	switch {
	case f.Type == "spawned" && f.PID > 1:
		select {
		case mother.spawned <- f.PID:
			return nil
		default:
			return fmt.Errorf("%w: a slot that nobody asked for", ErrFrame)
		}
	case f.Type == "exited":
		mother.bury(f.PID, exit{signal: sys(f.Signal), code: f.Code})
	case f.Type == "log":
		mother.output.stray(f.Message)
	default:
		return fmt.Errorf("%w: type %q was not expected", ErrFrame, f.Type) // she may wait for an answer for ever
	}
	return nil
}

// orphaned ends a slot whose mother is gone.
func (c *child) orphaned(mother *mother) {
	c.kill() // the kernel has, or is about to
	c.ended(exit{why: "ended with the process it was forked from, which " + mother.exit.String()})
}

func (mother *mother) adopt(c *child) {
	mother.mu.Lock()
	defer mother.mu.Unlock()
	switch e, over := mother.early[c.pid]; {
	case over:
		delete(mother.early, c.pid)
		c.ended(e)
	case mother.children == nil:
		c.orphaned(mother)
	default:
		mother.children[c.pid] = c
	}
}

func (mother *mother) bury(pid int, e exit) {
	mother.mu.Lock()
	defer mother.mu.Unlock()
	if c, ok := mother.children[pid]; ok {
		delete(mother.children, pid)
		c.ended(e)
		return
	}
	mother.early[pid] = e
}

const maxLearned = 2000

// learn remembers what a slot has imported.
func (m *motherhood) learn(names []string) {
	m.known.Lock()
	defer m.known.Unlock()
	for _, name := range names {
		if len(m.learned) < maxLearned && !slices.Contains(m.learned, name) && !slices.Contains(m.forgotten, name) {
			m.learned = append(m.learned, name)
		}
	}
}

// untold returns what the mother is to import that she has not yet. turn is taken.
func (m *motherhood) untold(mother *mother) []string {
	m.known.Lock()
	defer m.known.Unlock()
	fresh := slices.Clone(m.learned[mother.told:])
	mother.told = len(m.learned)
	return fresh
}

// errUntaught is the error of a mother who did not survive what she was told to import.
var errUntaught = errors.New("it did not survive what it was to import")

// proved notes that the mother imported what she was told, or keeps the next one from importing what this one did not survive:
// slots do without sharing it. turn is taken.
func (m *motherhood) proved(mother *mother, err error) error {
	m.known.Lock()
	defer m.known.Unlock()
	if err == nil {
		m.proven = mother.told
		return nil
	}
	if !mother.over() || m.proven >= mother.told || m.r.ctx.Err() != nil {
		return err
	}
	doubtful := slices.Clone(m.learned[m.proven:mother.told])
	m.learned = slices.Delete(m.learned, m.proven, mother.told)
	m.forgotten = append(m.forgotten, doubtful...)
	m.r.log.Warn("what slots imported will not be shared among them", "error", err, "modules", doubtful)
	return fmt.Errorf("%w: %w", errUntaught, err)
}

// outgrew says whether the mother knows more than she did when a slot was born.
func (m *motherhood) outgrew(born int) bool {
	m.known.Lock()
	defer m.known.Unlock()
	return len(m.learned) > born
}

func (m *motherhood) close() {
	m.turn <- struct{}{} // Runner.ctx has ended, which ends every wait
	defer func() { <-m.turn }()
	if m.mother != nil {
		m.mother.kill()
		<-m.mother.gone
		m.mother.close()
	}
}

func sys(n int) syscall.Signal { return syscall.Signal(n) }
