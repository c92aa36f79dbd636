package script

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"go.starlark.net/resolve"
	"go.starlark.net/starlark"
	"go.starlark.net/syntax"

	"github.com/bobbin-run/bobbin/execution"
)

// maxSourceBytes bounds one module. The compiler recurses over long operator chains, and a Go stack that overflows takes the
// process with it: a source of some megabytes can do that, one of this size cannot.
const maxSourceBytes = 1 << 20

// dialect leaves recursion and the reassignment of globals off.
var dialect = &syntax.FileOptions{Set: true, While: true, TopLevelControl: true}

// unit is one source, compiled at most once whoever asks. Compiling is bounded by maxSourceBytes and heeds no context, so
// that no caller's cancellation can spoil it; mistakes in the source are kept as well.
type unit struct {
	path, source string
	once         sync.Once
	program      *starlark.Program
	loads        []string // the paths it loads, in order
	err          error
}

func (u *unit) compile() error {
	u.once.Do(func() {
		if len(u.source) > maxSourceBytes {
			u.err = syntaxError(fmt.Sprintf("%s:1:1: the source is %d bytes long, expected at most %d", u.path, len(u.source), maxSourceBytes))
			return
		}
		_, program, err := starlark.SourceProgramOptions(dialect, u.path, u.source, predeclared.Has)
		if err != nil {
			u.err = compileError(err, u.source)
			return
		}
		u.program = program
		u.err = u.resolveLoads()
	})
	return u.err
}

func (u *unit) resolveLoads() error {
	for i := range u.program.NumLoads() {
		wanted, pos := u.program.Load(i)
		target, err := resolvePath(u.path, wanted)
		if err != nil {
			return &execution.Error{Type: TypeModuleNotFound, Message: fmt.Sprintf("%s: %v", pos, err)}
		}
		u.loads = append(u.loads, target)
	}
	return nil
}

// resolvePath turns what a load says into a path: "./x" and "../x" start at the loading module, "//x" and "x" at the root.
func resolvePath(from, wanted string) (string, error) {
	target := path.Clean(strings.TrimPrefix(wanted, "//"))
	if strings.HasPrefix(wanted, "./") || strings.HasPrefix(wanted, "../") {
		target = path.Join(path.Dir(from), wanted)
	}
	if target == ".." || strings.HasPrefix(target, "../") || strings.HasPrefix(target, "/") {
		return "", fmt.Errorf("load(%q) leaves the root of the modules", wanted)
	}
	if target == "." {
		return "", fmt.Errorf("load(%q) names no module", wanted)
	}
	return target, nil
}

// node is a unit in its place: with everything it loads, as of one version.
type node struct {
	*unit
	digest [sha256.Size]byte // of its source and of the digests of what it loads
	deps   []*node           // one for each of loads
	cell   *cell
}

// plan compiles the module at a path and all it loads, and finds what is missing or circular. It runs nothing. chain are
// the modules that lead here, outermost first. g.mu is held.
func (g *generation) plan(name string, chain []string) (*node, error) {
	if n := g.nodes[name]; n != nil {
		return n, nil
	}
	circle := slices.Contains(chain, name)
	chain = append(slices.Clip(chain), name)
	if circle {
		return nil, chainError(TypeImportCycle, "modules load each other in a circle", chain)
	}
	u, ok := g.unit(name)
	if !ok {
		return nil, chainError(TypeModuleNotFound, fmt.Sprintf("module %q is not published", name), chain)
	}
	if err := u.compile(); err != nil {
		return nil, err
	}
	n := &node{unit: u}
	hash := sha256.New()
	hash.Write([]byte(u.source))
	for _, target := range u.loads {
		dep, err := g.plan(target, chain)
		if err != nil {
			return nil, err
		}
		n.deps = append(n.deps, dep)
		hash.Write(dep.digest[:]) // as many as the source says, so that nothing is ambiguous
	}
	hash.Sum(n.digest[:0])
	n.cell = g.cell(n)
	g.nodes[name] = n
	return n, nil
}

func chainError(kind, message string, chain []string) error {
	return &execution.Error{Type: kind, Message: fmt.Sprintf("%s: %s", message, strings.Join(chain, " -> "))}
}

// compileError names the first mistake with its path, line and column, and lists all of them in the traceback.
func compileError(err error, source string) error {
	var parse syntax.Error
	var undefined resolve.ErrorList
	var lines []string
	add := func(pos syntax.Position, message string) {
		lines = append(lines, fmt.Sprintf("%s: %s", pos, message))
		if line := sourceLine(source, int(pos.Line)); line != "" {
			lines = append(lines, "    "+line)
		}
	}
	switch {
	case errors.As(err, &parse):
		add(parse.Pos, parse.Msg)
	case errors.As(err, &undefined):
		for _, e := range undefined {
			add(e.Pos, e.Msg)
		}
	default:
		return syntaxError(err.Error())
	}
	return &execution.Error{Type: TypeSyntax, Message: lines[0], Traceback: strings.Join(lines, "\n")}
}

func syntaxError(message string) error {
	return &execution.Error{Type: TypeSyntax, Message: message, Traceback: message}
}
