package process

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
)

// motherhood is the one process from which all slots of a runner are forked. It imports what its slots have imported from
// the standard library and from installed packages, so that later slots share that memory with it; workflows' own modules
// never run in it.
type motherhood struct {
	r *Runner

	turn    chan struct{} // taken while forking: one at a time
	mother  *child
	spawned chan int // the pid of the slot that was just forked

	known    sync.Mutex // guards the rest
	learned  []string   // modules to import
	count    int        // how many it was told to
	children map[int]*child
	early    map[int]exit // of slots that ended before we knew them
}

// fork returns a new slot, ready, and how much the mother had imported when it was born.
func (m *motherhood) fork(ctx context.Context, s *snapshot) (*child, int, error) {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return nil, 0, context.Cause(ctx)
	}
	if err := m.ensure(ctx, s); err != nil {
		return nil, 0, err
	}
	born, err := m.teach()
	if err != nil {
		return nil, 0, m.failed(err)
	}
	conn, theirs, err := newPair()
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = theirs.Close() }()
	out, writer, err := newOutput(m.r.stray)
	if err != nil {
		_ = conn.Close()
		return nil, 0, err
	}
	defer func() { _ = writer.Close() }()
	err = m.mother.wire.send(&frame{Type: "spawn"}, theirs, writer)
	if err != nil {
		_ = conn.Close()
		out.close()
		return nil, 0, m.failed(err)
	}
	c := &child{wire: newWire(conn, m.r.opts.FrameMaxBytes), output: out, gone: make(chan struct{})}
	m.r.wg.Go(out.run)
	select {
	case c.pid = <-m.spawned:
	case <-m.mother.gone:
		c.close()
		return nil, 0, m.failed(errors.New(m.mother.exit.String()))
	case <-m.r.ctx.Done():
		c.close()
		return nil, 0, errors.New("the runner is closed")
	case <-ctx.Done():
		m.mother.kill() // it is in an unknown state
		c.close()
		return nil, 0, m.failed(context.Cause(ctx))
	}
	m.adopt(c)
	if err := m.r.awaitReady(ctx, c, s); err != nil {
		c.kill()
		c.close()
		return nil, 0, fmt.Errorf("a slot did not become ready: %w", err)
	}
	return c, born, nil
}

// ensure starts the mother where there is none. turn is taken.
func (m *motherhood) ensure(ctx context.Context, s *snapshot) error {
	if m.mother != nil {
		select {
		case <-m.mother.gone:
			m.mother.close()
			m.mother = nil
		default:
			return nil
		}
	}
	mother, err := m.r.begin(ctx, Fork, s)
	if err != nil {
		return err
	}
	m.mother, m.spawned = mother, make(chan int, 1)
	m.known.Lock()
	m.children, m.early, m.count = map[int]*child{}, map[int]exit{}, 0
	m.known.Unlock()
	m.r.wg.Go(func() { m.listen(mother, m.spawned) })
	if m.r.ctx.Err() != nil {
		mother.kill()
	}
	return nil
}

// teach tells the mother what to import that she has not yet. turn is taken.
func (m *motherhood) teach() (int, error) {
	m.known.Lock()
	fresh := slices.Clone(m.learned[m.count:])
	m.count = len(m.learned)
	born := m.count
	m.known.Unlock()
	if len(fresh) == 0 {
		return born, nil
	}
	return born, m.mother.wire.send(&frame{Type: "preload", Modules: fresh})
}

func (m *motherhood) failed(err error) error { return fmt.Errorf("the process to fork from: %w", err) }

// listen hears of slots that were forked and slots that ended, until the mother is gone: her slots die with her.
func (m *motherhood) listen(mother *child, spawned chan<- int) {
	for {
		f, err := mother.wire.read()
		if err != nil {
			break
		}
		switch f.Type {
		case "spawned":
			spawned <- f.PID
		case "exited":
			m.bury(f.PID, exit{signal: sys(f.Signal), code: f.Code})
		case "log":
			m.r.log.Warn(f.Message)
		}
	}
	mother.kill()
	<-mother.gone
	m.known.Lock()
	defer m.known.Unlock()
	for pid, c := range m.children {
		delete(m.children, pid)
		c.kill() // it has, or is about to
		c.ended(exit{why: "ended with the process it was forked from, which " + mother.exit.String()})
	}
}

func (m *motherhood) adopt(c *child) {
	m.known.Lock()
	defer m.known.Unlock()
	if e, gone := m.early[c.pid]; gone {
		delete(m.early, c.pid)
		c.ended(e)
		return
	}
	m.children[c.pid] = c
}

func (m *motherhood) bury(pid int, e exit) {
	m.known.Lock()
	defer m.known.Unlock()
	if c, ok := m.children[pid]; ok {
		delete(m.children, pid)
		c.ended(e)
		return
	}
	m.early[pid] = e
}

const maxLearned = 2000

// learn remembers what a slot has imported.
func (m *motherhood) learn(names []string) {
	m.known.Lock()
	defer m.known.Unlock()
	for _, name := range names {
		if len(m.learned) < maxLearned && !slices.Contains(m.learned, name) {
			m.learned = append(m.learned, name)
		}
	}
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
