package script_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/runner"
	"github.com/bobbin-run/bobbin/runner/script"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shelf is a store in memory.
type shelf struct {
	mu      sync.Mutex
	version int
	sources map[string]string
	err     error
	reads   atomic.Int64
}

func (s *shelf) Snapshot(context.Context, string) (string, map[string]string, error) {
	s.reads.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprint(s.version), s.sources, s.err
}

func (s *shelf) push(path, source string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sources = maps.Clone(s.sources)
	s.sources[path] = source
	s.version++
}

// bench is a runner over modules, for one test.
type bench struct {
	*script.Runner
	t     testing.TB
	shelf *shelf
	log   bytes.Buffer
}

func setup(t testing.TB, sources map[string]string) *bench {
	t.Helper()
	s := &shelf{sources: sources}
	return &bench{Runner: script.New(s, script.Options{}), t: t, shelf: s}
}

func (b *bench) call(workflow, params string) *runner.Call {
	return &runner.Call{
		ID: "7f3a", Attempt: 2, Workflow: workflow, Function: "main", Params: json.RawMessage(params), Meta: json.RawMessage(`{"tenant":"acme"}`),
		Log: slog.New(slog.NewTextHandler(&b.log, nil)),
	}
}

// runs returns the result of a workflow that succeeds.
func (b *bench) runs(workflow, params string) string {
	b.t.Helper()
	value, err := b.Run(context.Background(), b.call(workflow, params))
	require.NoError(b.t, err)
	return string(value)
}

// fails returns the error of a workflow that fails.
func (b *bench) fails(workflow, params string) *execution.Error {
	b.t.Helper()
	_, err := b.Run(context.Background(), b.call(workflow, params))
	var failed *execution.Error
	require.ErrorAs(b.t, err, &failed)
	return failed
}

// one is a bench with a single module, a.star.
func one(t testing.TB, source string) *bench {
	t.Helper()
	return setup(t, map[string]string{"a.star": source})
}

func TestParamsAndResults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ source, params, result string }{
		{"def main(): return None", `{}`, `null`},
		{"def main(a, b=2): return [a, b]", `{"a":1}`, `[1,2]`},
		{"def main(params): return params", `{"z":1,"a":[true,null,"x"]}`, `{"z":1,"a":[true,null,"x"]}`},
		{"def main(**kw): return kw", `{"z":1,"a":2}`, `{"z":1,"a":2}`},
		{"def main(n, *rest): return n", `{"n":5}`, `5`},
		{"def main(n): return n + 1", `{"n":123456789012345678901234567890}`, `123456789012345678901234567891`},
		{"def main(f): return f", `{"f":1.5}`, `1.5`},
		{"def main(f): return type(f)", `{"f":1.0}`, `"float"`},
		{"def main(): return (1, set([2]), struct(b=1, a='<&>'))", `{}`, `[1,[2],{"a":"<&>","b":1}]`},
		{`def main(): return "q\"\\ \n ü \x01"`, `{}`, `"q\"\\ \n ü \u0001"`},
		{"def main(s): return len(s)", `{"s":"\u0000"}`, `1`},
	} {
		require.Equal(t, c.result, one(t, c.source).runs("a.star", c.params), c.source)
	}
}

func TestBadParamsNameTheParameter(t *testing.T) {
	t.Parallel()
	b := one(t, "def main(name, times=1): return name")
	e := b.fails("a.star", `{"title":"Ada"}`)
	require.Equal(t, execution.TypeInvalidParams, e.Type)
	require.Equal(t, `params: unknown parameter "title"; main in a.star takes (name, times=…)`, e.Message)
	require.Contains(t, b.fails("a.star", `{"times":3}`).Message, `missing parameter "name"`)
}

func TestBadResultsNameThePlace(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"def main(): return {'a': [1, {'f': main}]}":                 "result.a[1].f: a value of type function is not JSON",
		"def main(): return [float('nan')]":                          "result[0]: NaN is not JSON",
		"def main(): return {1: 2}":                                  "result: the key 1 is of type int, expected a string",
		"def main():\n  l = []\n  l.append(l)\n  return {'self': l}": "nested deeper than",
	} {
		e := one(t, source).fails("a.star", `{}`)
		require.Equal(t, execution.TypeInvalidResult, e.Type)
		require.Contains(t, e.Message, want)
	}
}

func TestLoadsRelativeAndAbsolute(t *testing.T) {
	t.Parallel()
	b := setup(t, map[string]string{
		"billing/invoice.star": `load("./tax.star", "tax"); load("//shared/text.star", "upper"); load("../shared/text.star", u2="upper"); load("shared/text.star", u3="upper")` + "\ndef main(x): return [upper(x), u2(x), u3(x), tax(100)]",
		"billing/tax.star":     `load("rates/de.star", "rate")` + "\ndef tax(n): return n * rate // 100",
		"rates/de.star":        "rate = 19",
		"shared/text.star":     "def upper(s): return s.upper()",
		"escape.star":          `load("../../etc/passwd", "x")`,
		"private.star":         "def _hidden(): return 1\ndef shown(): return 2\nvalue = 3",
		"uses/missing.star":    `load("./none.star", "x")`,
		"uses/uses.star":       `load("./missing.star", "x")` + "\ndef main(): return 1",
		"circle/a.star":        `load("./b.star", "x")`,
		"circle/b.star":        `load("./c.star", "x")`,
		"circle/c.star":        `load("./a.star", "x")`,
	})
	require.Equal(t, `["X","X","X",19]`, b.runs("billing/invoice.star", `{"x":"x"}`))
	require.Contains(t, b.fails("escape.star", `{}`).Message, "leaves the root")

	e := b.fails("uses/uses.star", `{}`)
	require.Equal(t, "ModuleNotFound", e.Type)
	require.Contains(t, e.Message, "uses/uses.star -> uses/missing.star -> uses/none.star")
	e = b.fails("circle/a.star", `{}`)
	require.Equal(t, "ImportCycle", e.Type)
	require.Contains(t, e.Message, "circle/a.star -> circle/b.star -> circle/c.star -> circle/a.star")

	e = b.fails("private.star", `{}`)
	require.Equal(t, execution.TypeFunctionNotFound, e.Type)
	require.Equal(t, `module "private.star" has no function "main"; it has: shown`, e.Message)
	e = b.fails("nobody.star", `{}`)
	require.Equal(t, execution.TypeWorkflowNotFound, e.Type)
	require.True(t, e.Rejected)
}

func TestErrorsCarryATraceback(t *testing.T) {
	t.Parallel()
	b := setup(t, map[string]string{
		"a.star":     "load('./lib/b.star', 'deep')\n\ndef main(n):\n    return deep(n)\n",
		"lib/b.star": "def deep(n):\n    if n > 1:\n        fail('too deep:', n)\n    return 1 // n\n",
		"bad.star":   "def main():\n    return undefined_name\n",
	})
	e := b.fails("a.star", `{"n":2}`)
	require.Equal(t, "StarlarkError", e.Type)
	require.Equal(t, "fail: too deep: 2", e.Message)
	require.Contains(t, e.Traceback, "a.star:4:16: in main\n    return deep(n)")
	require.Contains(t, e.Traceback, "lib/b.star:3:13: in deep\n    fail('too deep:', n)")
	require.Contains(t, b.fails("a.star", `{"n":0}`).Message, "division by zero")
	e = b.fails("bad.star", `{}`)
	require.Equal(t, "SyntaxError", e.Type)
	require.Contains(t, e.Message, "bad.star:2:12: undefined: undefined_name")
}

func TestContentSHA256(t *testing.T) {
	t.Parallel()
	source := "def main(): return 1"
	b := one(t, source)
	sum := sha256.Sum256([]byte(source))
	call := b.call("a.star", `{}`)
	call.ContentSHA256 = hex.EncodeToString(sum[:])
	_, err := b.Run(context.Background(), call)
	require.NoError(t, err)
	call.ContentSHA256 = strings.Repeat("0", 64)
	_, err = b.Run(context.Background(), call)
	var e *execution.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, execution.TypeContentMismatch, e.Type)
	require.True(t, e.Rejected)
	require.Contains(t, e.Message, hex.EncodeToString(sum[:]))
}

func TestPublishedChangeIsSeenByTheNextCall(t *testing.T) {
	t.Parallel()
	b := setup(t, map[string]string{
		"a.star": "load('./b.star', 'v')\nload('./same.star', 's')\ndef main(): return [v, s]", "b.star": "v = 1", "same.star": "s = 's'",
	})
	require.Equal(t, `[1,"s"]`, b.runs("a.star", `{}`))
	b.shelf.push("b.star", "v = 2")
	require.Equal(t, `[2,"s"]`, b.runs("a.star", `{}`), "a module that a changed one loads is new too")
	b.shelf.push("b.star", "v = ")
	require.Equal(t, "SyntaxError", b.fails("a.star", `{}`).Type)
	b.shelf.push("b.star", "v = 3")
	require.Equal(t, `[3,"s"]`, b.runs("a.star", `{}`))
}

func TestStoreThatIsAway(t *testing.T) {
	t.Parallel()
	b := one(t, "def main(): return 1")
	b.shelf.err = errors.New("no redis")
	e := b.fails("a.star", `{}`)
	require.Equal(t, execution.TypeModuleUnavailable, e.Type)
	require.Contains(t, e.Message, "no redis")
}

// A loop that never ends, in a function or at the top level of a module, ends with its context, and says why.
func TestBusyLoopsAreStopped(t *testing.T) {
	t.Parallel()
	cause := errors.New("because")
	for _, source := range []string{
		"def main():\n  while True: pass",
		"def main():\n  for x in range(1 << 62): pass",
		"while True: pass\ndef main(): return 1",
		"def main(): return sleep(1000)",
	} {
		b := one(t, source)
		ctx, cancel := context.WithCancelCause(context.Background())
		timer := time.AfterFunc(20*time.Millisecond, func() { cancel(cause) })
		_, err := b.Run(ctx, b.call("a.star", `{}`))
		timer.Stop()
		require.ErrorIs(t, err, cause, source)
	}
}

func TestSleepTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := one(t, "def main(): return sleep(90)")
		before := time.Now()
		b.runs("a.star", `{}`)
		require.Equal(t, 90*time.Second, time.Since(before))
		require.Contains(t, one(t, "def main(): return sleep(-1)").fails("a.star", `{}`).Message, "seconds is -1")
	})
}

func TestPrintAndLogCarryTheExecution(t *testing.T) {
	t.Parallel()
	b := one(t, "print('top level')\ndef main():\n  print('hello', 1)\n  log.warn('careful', n=3)")
	b.runs("a.star", `{}`)
	require.Contains(t, b.log.String(), `level=INFO msg="hello 1" execution_id=7f3a`)
	require.Contains(t, b.log.String(), `level=WARN msg=careful execution_id=7f3a workflow=a.star n=3`)
	require.NotContains(t, b.log.String(), "top level")
}

func TestExecutionsOwnData(t *testing.T) {
	t.Parallel()
	b := one(t, "def main():\n  c = bobbin.context()\n  return [c.execution_id, c.attempt, c.workflow, c.meta, c.deadline]")
	require.Equal(t, `["7f3a",2,"a.star",{"tenant":"acme"},null]`, b.runs("a.star", `{}`))
	require.Contains(t, one(t, "x = bobbin.context()\ndef main(): return 1").fails("a.star", `{}`).Message, "belongs to an execution")
}

func TestLibraries(t *testing.T) {
	t.Parallel()
	b := one(t, `def main():
    return [json.decode('{"a":[]}'), math.floor(2.5), time.parse_duration("90s").minutes,
            re.match("(a+)(?P<b>b)", "aab").group("b"), hashlib.sha256("x").hexdigest()[:8]]`)
	require.Equal(t, `[{"a":[]},2,1.5,"b","2d711642"]`, b.runs("a.star", `{}`))
}

// Globals are frozen: one execution cannot leave anything behind for another.
func TestModulesAreSharedAndFrozen(t *testing.T) {
	t.Parallel()
	b := one(t, "seen = []\ndef main(): seen.append(1)")
	require.Contains(t, b.fails("a.star", `{}`).Message, "frozen")
}

// Many goroutines that ask at once compile once: the top level runs once, which its print-free side effect, a time, shows.
func TestOneCompileForManyCallers(t *testing.T) {
	t.Parallel()
	b := one(t, "born = time.now().unix_nano\ndef main(): return born")
	results := make([]string, 100)
	var all sync.WaitGroup
	for i := range results {
		all.Go(func() {
			value, err := b.Run(context.Background(), b.call("a.star", `{}`))
			if err == nil {
				results[i] = string(value)
			}
		})
	}
	all.Wait()
	for _, r := range results {
		require.Equal(t, results[0], r)
		require.NotEmpty(t, r)
	}
}

// A caller that is cancelled while it compiles does not spoil the module for those who wait for it.
func TestCancelledCompileIsNoAnswerForOthers(t *testing.T) {
	t.Parallel()
	b := one(t, "sleep(0.05)\ndef main(): return 1")
	ctx, cancel := context.WithCancel(context.Background())
	var first sync.WaitGroup
	first.Go(func() { _, _ = b.Run(ctx, b.call("a.star", `{}`)) })
	timer := time.AfterFunc(10*time.Millisecond, cancel)
	require.Equal(t, "1", b.runs("a.star", `{}`))
	first.Wait()
	timer.Stop()
	cancel()
}

func TestMaxSteps(t *testing.T) {
	t.Parallel()
	s := &shelf{sources: map[string]string{"a.star": "def main():\n  while True: pass"}}
	b := &bench{Runner: script.New(s, script.Options{MaxSteps: 10_000}), t: t, shelf: s}
	require.Contains(t, b.fails("a.star", `{}`).Message, "too many steps")
	b = &bench{Runner: script.New(s, script.Options{MaxSteps: 200_000}), t: t, shelf: s}
	require.Contains(t, b.fails("a.star", `{}`).Message, "too many steps", "also far beyond the first look")
}

// An execution that loops or sleeps says where it is, down to the line and through what it loaded; once it ended it is forgotten.
func TestStackSaysWhereAnExecutionIs(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{"loops": "while True: x += 1", "sleeps": "sleep(1000)"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, map[string]string{
				"lib/deep.star": "def inner():\n  x = 1\n  " + body,
				"a.star":        "load('lib/deep.star', 'inner')\ndef main():\n  inner()",
			})
			require.Empty(t, b.Stack("7f3a"))
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var running sync.WaitGroup
			running.Go(func() { _, _ = b.Run(ctx, b.call("a.star", `{}`)) })
			stack := ""
			require.Eventually(t, func() bool {
				stack = b.Stack("7f3a")
				return stack != ""
			}, 20*time.Second, time.Millisecond)
			require.True(t, strings.HasPrefix(stack, "Stack (most recent call last):\n  a.star:3:8: in main\n    inner()\n  lib/deep.star:3:"), stack)
			require.Contains(t, stack, body)
			require.Empty(t, b.Stack("another"))
			cancel()
			running.Wait()
			require.Empty(t, b.Stack("7f3a"))
		})
	}
}

const tenLines = `def main(items, factor = 2):
    total = 0
    names = []
    for item in items:
        if item["n"] % 2 == 0:
            total += item["n"] * factor
            names.append(item["name"].upper())
        else:
            names.append(item["name"])
    return {"total": total, "names": names}
`

func BenchmarkCall(b *testing.B) {
	s := one(b, tenLines)
	call := s.call("a.star", `{"items":[{"n":1,"name":"a"},{"n":2,"name":"b"},{"n":3,"name":"c"}]}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Run(context.Background(), call); err != nil {
			b.Fatal(err)
		}
	}
}
