package script

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"go.starlark.net/starlark"

	"github.com/bobbin-run/bobbin/execution"
)

// loader keeps the generation that was asked for last. What did not change is carried from one generation to the next; what
// the newest snapshot does not have is dropped, so the cache is never larger than the published modules.
type loader struct {
	maxSteps uint64
	mu       sync.Mutex // held to turn to another version
	current  atomic.Pointer[generation]
}

// at returns the generation of a version. A caller whose snapshot is overtaken turns back; that costs the modules that
// differ, and is right.
func (l *loader) at(version string, sources map[string]string) *generation {
	if g := l.current.Load(); g != nil && g.version == version {
		return g
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.current.Load()
	if old != nil && old.version == version {
		return old
	}
	g := &generation{
		version: version, sources: sources, maxSteps: l.maxSteps,
		units: map[string]*unit{}, cells: map[string]*cell{}, nodes: map[string]*node{},
	}
	if old != nil {
		g.inherit(old)
	}
	l.current.Store(g)
	return g
}

// generation is everything that is known of one version of the modules.
type generation struct {
	version  string
	sources  map[string]string
	maxSteps uint64
	ready    sync.Map // path → *module: the warm path, without a lock

	mu    sync.Mutex // guards the rest; held while compiling, never while a module runs
	units map[string]*unit
	cells map[string]*cell
	nodes map[string]*node
}

// inherit takes over what another generation knows of sources that are the same here.
func (g *generation) inherit(old *generation) {
	old.mu.Lock()
	defer old.mu.Unlock()
	for name, u := range old.units {
		if source, ok := g.sources[name]; ok && source == u.source {
			g.units[name] = u
			if c := old.cells[name]; c != nil {
				g.cells[name] = c
			}
		}
	}
}

// unit returns the unit of a path, and whether there is a module of that path. mu is held.
func (g *generation) unit(name string) (*unit, bool) {
	if u := g.units[name]; u != nil {
		return u, true
	}
	source, ok := g.sources[name]
	if !ok {
		return nil, false
	}
	u := &unit{path: name, source: source}
	g.units[name] = u
	return u, true
}

// cell returns where a node's module is kept: the one there is, if nothing that it loads changed either. mu is held.
func (g *generation) cell(n *node) *cell {
	if c := g.cells[n.path]; c != nil && c.digest == n.digest {
		return c
	}
	c := &cell{digest: n.digest, turn: make(chan struct{}, 1)}
	g.cells[n.path] = c
	return c
}

// module returns the module at a path, its top level run.
func (g *generation) module(ctx context.Context, name string) (*module, error) {
	if m, ok := g.ready.Load(name); ok {
		return m.(*module), nil
	}
	g.mu.Lock()
	n, err := g.plan(name, nil)
	g.mu.Unlock()
	if err != nil {
		return nil, err
	}
	m, err := n.load(ctx, g.maxSteps)
	if err != nil {
		return nil, err
	}
	g.ready.Store(name, m)
	return m, nil
}

// cell holds one module, or why it cannot be had, once somebody has run its top level. Whoever has the turn runs it; the
// others wait as long as their own context lets them, and take over when the one before was interrupted.
type cell struct {
	digest  [32]byte
	turn    chan struct{}
	outcome atomic.Pointer[outcome]
}

// outcome is how the top level of a module ended.
type outcome struct {
	module *module
	err    error
}

func (c *cell) get(ctx context.Context, run func() (*module, error)) (*module, error) {
	if o := c.outcome.Load(); o != nil {
		return o.module, o.err
	}
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-c.turn }() // also when a panic passes through
	if o := c.outcome.Load(); o != nil {
		return o.module, o.err
	}
	m, err := run()
	if err == nil || ctx.Err() == nil { // an interruption is no answer for others
		c.outcome.Store(&outcome{m, err})
	}
	return m, err
}

// load runs the top level of a node, after those of what it loads. No two nodes can wait for each other: plan lets no
// circle pass.
func (n *node) load(ctx context.Context, maxSteps uint64) (*module, error) {
	if o := n.cell.outcome.Load(); o != nil {
		return o.module, o.err
	}
	deps := make(map[string]*module, len(n.deps))
	for _, dep := range n.deps {
		m, err := dep.load(ctx, maxSteps)
		if err != nil {
			return nil, err
		}
		deps[dep.path] = m
	}
	return n.cell.get(ctx, func() (*module, error) { return n.run(ctx, deps, maxSteps) })
}

func (n *node) run(ctx context.Context, deps map[string]*module, maxSteps uint64) (*module, error) {
	thread, stop := newThread(&running{ctx: ctx, maxSteps: maxSteps}, n.path)
	defer stop()
	thread.Load = func(_ *starlark.Thread, wanted string) (starlark.StringDict, error) {
		target, err := resolvePath(n.path, wanted)
		if err != nil {
			return nil, err
		}
		return deps[target].globals, nil // all that the source names is there
	}
	globals, err := n.program.Init(thread, predeclared)
	if err != nil {
		return nil, err
	}
	globals.Freeze()
	return newModule(n.path, globals), nil
}

// module is a module whose top level has run. Its globals are frozen, so goroutines share it.
type module struct {
	path      string
	globals   starlark.StringDict
	functions map[string]*function // those that may be called from outside
}

func newModule(name string, globals starlark.StringDict) *module {
	m := &module{path: name, globals: globals, functions: map[string]*function{}}
	for name, value := range globals {
		if f, ok := value.(*starlark.Function); ok && !strings.HasPrefix(name, "_") {
			m.functions[name] = newFunction(f)
		}
	}
	return m
}

// function returns the function that a context names. Those that begin with an underscore are private to their module.
func (m *module) function(name string) (*function, error) {
	if f := m.functions[name]; f != nil {
		return f, nil
	}
	there := make([]string, 0, len(m.functions))
	for other := range m.functions {
		there = append(there, other)
	}
	slices.Sort(there)
	has := "none"
	if len(there) > 0 {
		has = strings.Join(there, ", ")
	}
	return nil, &execution.Error{Type: execution.TypeFunctionNotFound, Message: fmt.Sprintf(
		"module %q has no function %q; it has: %s", m.path, name, has)}
}
