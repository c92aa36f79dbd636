package script

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"go.starlark.net/starlark"
	"go.starlark.net/syntax"

	"github.com/bobbin-run/bobbin/execution"
)

var dialect = &syntax.FileOptions{Set: true, While: true, TopLevelControl: true}

// snapshot is every module of one version.
type snapshot struct {
	version string
	sources map[string]string
}

// module is a module whose top level has run. Its globals are frozen, so goroutines share it.
type module struct {
	path    string
	globals starlark.StringDict
	digest  string // of its source and of the digests of what it loads
}

// function returns the function that a context names. Those that begin with an underscore are private to their module.
func (m *module) function(name string) (*starlark.Function, error) {
	if function, ok := m.globals[name].(*starlark.Function); ok && !strings.HasPrefix(name, "_") {
		return function, nil
	}
	var there []string
	for other, value := range m.globals {
		if _, ok := value.(*starlark.Function); ok && !strings.HasPrefix(other, "_") {
			there = append(there, other)
		}
	}
	slices.Sort(there)
	return nil, &execution.Error{Type: execution.TypeFunctionNotFound, Message: fmt.Sprintf(
		"module %q has no function %q; it has: %s", m.path, name, strings.Join(there, ", "))}
}

// loader compiles modules, each once per content, however many goroutines ask.
type loader struct {
	mu      sync.Mutex
	version string
	loaded  map[string]*module // by path, of version
	kept    map[string]*module // by path and digest, from earlier versions: what did not change is not run again
	loading map[string]*flight // by path, of version
}

// flight is a load that is under way. Those who want the same module wait for it.
type flight struct {
	done   chan struct{}
	module *module
	err    error
}

func newLoader() *loader {
	return &loader{loaded: map[string]*module{}, kept: map[string]*module{}, loading: map[string]*flight{}}
}

// load returns the module at a path, as of the snapshot.
func (l *loader) load(ctx context.Context, s *snapshot, name string) (*module, error) {
	for {
		l.mu.Lock()
		if l.version != s.version {
			l.turn(s)
		}
		if m := l.loaded[name]; m != nil {
			l.mu.Unlock()
			return m, nil
		}
		f, busy := l.loading[name]
		if !busy {
			f = &flight{done: make(chan struct{})}
			l.loading[name] = f
		}
		l.mu.Unlock()
		if !busy {
			l.fly(ctx, s, name, f)
			return f.module, f.err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if f.err == nil || !errors.Is(f.err, errInterrupted) {
			return f.module, f.err
		}
		// Whoever compiled was cancelled; that is no answer for us. Try again.
	}
}

// turn goes over to a new version: what the old one had loaded may serve again where nothing changed. mu is held.
func (l *loader) turn(s *snapshot) {
	l.kept = map[string]*module{}
	for name, m := range l.loaded {
		l.kept[name] = m
	}
	l.version, l.loaded, l.loading = s.version, map[string]*module{}, map[string]*flight{}
}

var errInterrupted = errors.New("compiling was interrupted")

// fly loads a module and everything it loads, and tells those who wait.
func (l *loader) fly(ctx context.Context, s *snapshot, name string, f *flight) {
	b := &build{ctx: ctx, sources: s.sources, kept: l.keptModules(), done: map[string]*module{}}
	f.module, f.err = b.module(name, nil)
	if f.err != nil && ctx.Err() != nil {
		f.err = errors.Join(errInterrupted, f.err)
	}
	l.mu.Lock()
	if l.version == s.version {
		if f.err == nil {
			for path, m := range b.done {
				if l.loaded[path] == nil {
					l.loaded[path] = m
				}
			}
			f.module = l.loaded[name]
		}
		delete(l.loading, name)
	}
	l.mu.Unlock()
	close(f.done)
}

func (l *loader) keptModules() map[string]*module {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kept
}

// build is one run over a module and what it loads. One goroutine owns it.
type build struct {
	ctx     context.Context
	sources map[string]string
	kept    map[string]*module
	done    map[string]*module
}

// module compiles and runs the module at a path; chain are the modules that load it, outermost first.
func (b *build) module(name string, chain []string) (*module, error) {
	if m := b.done[name]; m != nil {
		return m, nil
	}
	chain = append(slices.Clip(chain), name)
	if slices.Contains(chain[:len(chain)-1], name) {
		return nil, chainError(TypeImportCycle, "modules load each other in a circle", chain)
	}
	source, ok := b.sources[name]
	if !ok {
		return nil, chainError(TypeModuleNotFound, fmt.Sprintf("module %q is not published", name), chain)
	}
	_, program, err := starlark.SourceProgramOptions(dialect, name, source, predeclared.Has)
	if err != nil {
		return nil, compileError(err)
	}
	digest, err := b.loads(program, source, name, chain)
	if err != nil {
		return nil, err
	}
	if m := b.kept[name]; m != nil && m.digest == digest {
		b.done[name] = m
		return m, nil
	}
	return b.run(program, name, digest)
}

// loads brings in everything a program loads, and returns the digest that names the whole.
func (b *build) loads(program *starlark.Program, source, name string, chain []string) (string, error) {
	parts := []string{sha256Hex(source)}
	for i := range program.NumLoads() {
		wanted, pos := program.Load(i)
		target, err := resolve(name, wanted)
		if err != nil {
			return "", &execution.Error{Type: TypeModuleNotFound, Message: fmt.Sprintf("%s: %v", pos, err)}
		}
		m, err := b.module(target, chain)
		if err != nil {
			return "", err
		}
		parts = append(parts, m.digest)
	}
	return sha256Hex(strings.Join(parts, "\n")), nil
}

// run runs the top level of a module.
func (b *build) run(program *starlark.Program, name, digest string) (*module, error) {
	thread := &starlark.Thread{Name: name, Print: printToLog, Load: func(_ *starlark.Thread, wanted string) (starlark.StringDict, error) {
		target, err := resolve(name, wanted)
		if err != nil {
			return nil, err
		}
		return b.done[target].globals, nil // loads brought it in
	}}
	thread.SetLocal(contextKey, b.ctx)
	stop := context.AfterFunc(b.ctx, func() { thread.Cancel("cancelled") })
	defer stop()
	globals, err := program.Init(thread, predeclared)
	if err != nil {
		return nil, err
	}
	globals.Freeze()
	b.done[name] = &module{path: name, globals: globals, digest: digest}
	return b.done[name], nil
}

// resolve turns what a load says into a path: "./x" and "../x" start at the loading module, "//x" and "x" at the root.
func resolve(from, wanted string) (string, error) {
	target := strings.TrimPrefix(wanted, "//")
	if strings.HasPrefix(wanted, "./") || strings.HasPrefix(wanted, "../") {
		target = path.Join(path.Dir(from), wanted)
	} else {
		target = path.Clean(target)
	}
	if target == ".." || strings.HasPrefix(target, "../") || strings.HasPrefix(target, "/") || wanted == "" {
		return "", fmt.Errorf("load(%q) leaves the root of the modules", wanted)
	}
	return target, nil
}

func chainError(kind, message string, chain []string) error {
	return &execution.Error{Type: kind, Message: fmt.Sprintf("%s: %s", message, strings.Join(chain, " -> "))}
}

// compileError names every mistake with its path, line and column.
func compileError(err error) error {
	return &execution.Error{Type: TypeSyntax, Message: err.Error(), Traceback: err.Error()}
}
