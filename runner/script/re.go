package script

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"sync"

	"go.starlark.net/starlark"
	"go.starlark.net/starlarkstruct"
)

// reModule is Python's re over Go's regular expressions (RE2: no backreferences in patterns, no lookaround, time linear in the
// text): compile, match, fullmatch, search, findall, sub, split. Positions count bytes, as Starlark's strings do.
var reModule = &starlarkstruct.Module{Name: "re", Members: func() starlark.StringDict {
	members := starlark.StringDict{"compile": starlark.NewBuiltin("re.compile", reCompile)}
	for name, method := range patternMethods {
		members[name] = reFunction(name, method)
	}
	return members
}()}

// patternMethod is what a pattern does with a text. extra is the replacement of sub.
type patternMethod struct {
	params []string // after the pattern
	do     func(p *pattern, text string, extra string) (starlark.Value, error)
}

var patternMethods = map[string]patternMethod{
	"match":     {[]string{"string"}, func(p *pattern, text, _ string) (starlark.Value, error) { return p.first(p.anchored, text), nil }},
	"fullmatch": {[]string{"string"}, func(p *pattern, text, _ string) (starlark.Value, error) { return p.first(p.whole, text), nil }},
	"search":    {[]string{"string"}, func(p *pattern, text, _ string) (starlark.Value, error) { return p.first(p.re, text), nil }},
	"findall":   {[]string{"string"}, func(p *pattern, text, _ string) (starlark.Value, error) { return p.findall(text), nil }},
	"split":     {[]string{"string"}, func(p *pattern, text, _ string) (starlark.Value, error) { return p.split(text), nil }},
	"sub":       {[]string{"repl", "string"}, func(p *pattern, text, repl string) (starlark.Value, error) { return p.sub(repl, text), nil }},
}

func reFunction(name string, m patternMethod) *starlark.Builtin {
	return starlark.NewBuiltin("re."+name, func(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		var first starlark.Value
		var repl, text string
		targets := []any{"pattern", &first}
		if len(m.params) == 2 {
			targets = append(targets, "repl", &repl)
		}
		if err := starlark.UnpackArgs(b.Name(), args, kwargs, append(targets, "string", &text)...); err != nil {
			return nil, err
		}
		p, err := patternOf(first)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", b.Name(), err)
		}
		return m.do(p, text, repl)
	})
}

func reCompile(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var first starlark.Value
	if err := starlark.UnpackArgs(b.Name(), args, kwargs, "pattern", &first); err != nil {
		return nil, err
	}
	return patternOf(first)
}

// pattern is a compiled regular expression.
type pattern struct {
	source              string
	re, anchored, whole *regexp.Regexp
}

// compiled remembers patterns that were written as strings. Past its bound it starts afresh.
var compiled = struct {
	mu sync.Mutex
	by map[string]*pattern
}{by: map[string]*pattern{}}

const maxCompiled = 256

func patternOf(value starlark.Value) (*pattern, error) {
	if p, ok := value.(*pattern); ok {
		return p, nil
	}
	source, ok := starlark.AsString(value)
	if !ok {
		return nil, fmt.Errorf("pattern is a %s, expected a string or a compiled pattern", value.Type())
	}
	compiled.mu.Lock()
	defer compiled.mu.Unlock()
	if p := compiled.by[source]; p != nil {
		return p, nil
	}
	p := &pattern{source: source}
	var err error
	if p.re, err = regexp.Compile(source); err != nil {
		return nil, err
	}
	parsed, err := syntax.Parse(source, syntax.Perl)
	if err != nil {
		return nil, err
	}
	normal := parsed.String() // without an open \Q, which would swallow what is put behind it
	p.anchored, p.whole = regexp.MustCompile(`\A(?:`+normal+`)`), regexp.MustCompile(`\A(?:`+normal+`)\z`)
	if len(compiled.by) >= maxCompiled {
		clear(compiled.by)
	}
	compiled.by[source] = p
	return p, nil
}

func (p *pattern) String() string        { return fmt.Sprintf("re.compile(%q)", p.source) }
func (p *pattern) Type() string          { return "pattern" }
func (p *pattern) Freeze()               {}
func (p *pattern) Truth() starlark.Bool  { return true }
func (p *pattern) Hash() (uint32, error) { return starlark.String(p.source).Hash() }

func (p *pattern) AttrNames() []string {
	return []string{"findall", "fullmatch", "match", "pattern", "search", "split", "sub"}
}

func (p *pattern) Attr(name string) (starlark.Value, error) {
	if name == "pattern" {
		return starlark.String(p.source), nil
	}
	m, ok := patternMethods[name]
	if !ok {
		return nil, nil // Starlark's way to say that there is no such attribute
	}
	return starlark.NewBuiltin(name, func(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		var repl, text string
		var targets []any
		if len(m.params) == 2 {
			targets = append(targets, "repl", &repl)
		}
		if err := starlark.UnpackArgs(b.Name(), args, kwargs, append(targets, "string", &text)...); err != nil {
			return nil, err
		}
		return m.do(p, text, repl)
	}), nil
}

func (p *pattern) first(re *regexp.Regexp, text string) starlark.Value {
	at := re.FindStringSubmatchIndex(text)
	if at == nil {
		return starlark.None
	}
	return &match{p, text, at}
}

// findall returns the matches, or their one group, or tuples of their groups, as Python does.
func (p *pattern) findall(text string) starlark.Value {
	var found []starlark.Value
	for _, groups := range p.re.FindAllStringSubmatch(text, -1) {
		switch len(groups) {
		case 1, 2:
			found = append(found, starlark.String(groups[len(groups)-1]))
		default:
			tuple := make(starlark.Tuple, len(groups)-1)
			for i, group := range groups[1:] {
				tuple[i] = starlark.String(group)
			}
			found = append(found, tuple)
		}
	}
	return starlark.NewList(found)
}

func (p *pattern) split(text string) starlark.Value {
	var parts []starlark.Value
	for _, part := range p.re.Split(text, -1) {
		parts = append(parts, starlark.String(part))
	}
	return starlark.NewList(parts)
}

var pythonReference = regexp.MustCompile(`\\(\d+)|\\g<(\w+)>`)

// sub replaces every match. The replacement refers to groups as in Python: \1, \g<1>, \g<name>.
func (p *pattern) sub(repl, text string) starlark.Value {
	repl = pythonReference.ReplaceAllString(strings.ReplaceAll(repl, "$", "$$"), "$${$1$2}")
	return starlark.String(p.re.ReplaceAllString(text, repl))
}

// match is where a pattern matched.
type match struct {
	pattern *pattern
	text    string
	at      []int
}

func (m *match) String() string        { return fmt.Sprintf("<match %q>", m.text[m.at[0]:m.at[1]]) }
func (m *match) Type() string          { return "match" }
func (m *match) Freeze()               {}
func (m *match) Truth() starlark.Bool  { return true }
func (m *match) Hash() (uint32, error) { return 0, fmt.Errorf("match is not hashable") }
func (m *match) AttrNames() []string   { return []string{"end", "group", "groups", "start"} }

func (m *match) Attr(name string) (starlark.Value, error) {
	switch name {
	case "start":
		return constant(name, starlark.MakeInt(m.at[0])), nil
	case "end":
		return constant(name, starlark.MakeInt(m.at[1])), nil
	case "groups":
		all := make(starlark.Tuple, len(m.at)/2-1)
		for i := range all {
			all[i] = m.value(i + 1)
		}
		return constant(name, all), nil
	case "group":
		return starlark.NewBuiltin("group", m.group), nil
	default:
		return nil, nil // Starlark's way to say that there is no such attribute
	}
}

func (m *match) value(i int) starlark.Value {
	if m.at[2*i] < 0 {
		return starlark.None
	}
	return starlark.String(m.text[m.at[2*i]:m.at[2*i+1]])
}

func (m *match) group(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var which starlark.Value = starlark.MakeInt(0)
	if err := starlark.UnpackArgs(b.Name(), args, kwargs, "group?", &which); err != nil {
		return nil, err
	}
	i := -1
	if name, ok := starlark.AsString(which); ok {
		i = m.pattern.re.SubexpIndex(name)
	} else if n, err := strconv.Atoi(which.String()); err == nil {
		i = n
	}
	if i < 0 || i >= len(m.at)/2 {
		return nil, fmt.Errorf("group: there is no group %s in %q", which, m.pattern.source)
	}
	return m.value(i), nil
}
