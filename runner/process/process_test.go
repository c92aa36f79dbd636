package process_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/runner"
	"github.com/bobbin-run/bobbin/runner/process"
)

// shelf is a store of modules in memory.
type shelf struct {
	mu      sync.Mutex
	version int
	sources map[string]string
}

func (s *shelf) Snapshot(context.Context, string) (string, map[string]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprint(s.version), s.sources, nil
}

func (s *shelf) publish(sources map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version, s.sources = s.version+1, sources
}

// rig is a runner with its modules and the log lines of its executions.
type rig struct {
	*process.Runner
	t     *testing.T
	shelf *shelf
	lines *lines
	notes []string // of progress
}

type lines struct {
	mu  sync.Mutex
	all strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

func setup(t *testing.T, language *process.Language, o process.Options, sources map[string]string) *rig {
	t.Helper()
	s := &shelf{version: 1, sources: sources}
	log := &lines{}
	if o.CancelGrace == 0 {
		o.CancelGrace = 2 * time.Second
	}
	o.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r := &rig{Runner: process.New(language, s, o), t: t, shelf: s, lines: log}
	t.Cleanup(func() {
		require.NoError(t, r.Close())
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return r
}

// Progress makes rig what an execution reports to.
func (r *rig) Progress(done, total float64, note string) {
	r.notes = append(r.notes, fmt.Sprint(done, "/", total, " ", note))
}

func (r *rig) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(r.lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// both runs a test in both modes of Python.
func both(t *testing.T, test func(t *testing.T, mode process.Mode)) {
	for _, mode := range []process.Mode{process.Resident, process.Fork} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			test(t, mode)
		})
	}
}

func (r *rig) call(workflow, params string, change ...func(*runner.Call)) (json.RawMessage, *execution.Error) {
	r.t.Helper()
	call := &runner.Call{
		ID: "x1", Attempt: 2, Workflow: workflow, Function: "main", Params: json.RawMessage(params), Meta: json.RawMessage(`{"tenant":7}`),
		ModulesVersion: "1", Log: r.logger(),
		Reporter: r,
	}
	for _, f := range change {
		f(call)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	value, err := r.Run(ctx, call)
	return value, execution.AsError(err)
}

// gives runs a workflow that must succeed and returns its result.
func (r *rig) gives(workflow, params string, change ...func(*runner.Call)) string {
	r.t.Helper()
	value, err := r.call(workflow, params, change...)
	require.Nil(r.t, err)
	return string(value)
}

// A process that dies costs the execution that killed it, and says how it died; the next execution runs.
func TestCrashes(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, mode process.Mode) {
		r := setup(t, python(t), process.Options{Mode: mode}, map[string]string{"crash.py": `
import os, signal
def main(how):
    os.write(2, b"last words\n")
    if how == "exit": os._exit(3)
    if how == "exit0": os._exit(0)
    if how == "segv": os.kill(os.getpid(), signal.SIGSEGV)
    if how == "kill": os.kill(os.getpid(), signal.SIGKILL)
    return "alive"
`})
		for how, says := range map[string]string{
			"exit": "exited with code 3", "exit0": "exited with code 0", "segv": "signal 11 (segmentation fault)", "kill": "signal 9 (killed)",
		} {
			_, err := r.call("crash.py", `{"how":"`+how+`"}`)
			require.NotNil(t, err, how)
			require.Equal(t, process.TypeCrashed, err.Type)
			require.Contains(t, err.Message, says)
			require.Contains(t, err.Traceback, "last words")
		}
		require.Equal(t, `"alive"`, r.gives("crash.py", `{"how":"not"}`))
	})
}

// What a workflow or a program that it starts writes to descriptors 1 and 2 ends in its log and nowhere else.
func TestOutputIsTheExecutionsLog(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, mode process.Mode) {
		r := setup(t, python(t), process.Options{Mode: mode}, map[string]string{"out.py": `
import os, sys, logging, subprocess, bobbin
def main():
    os.write(1, b'\x00\x00\x00\x02{}\n')
    subprocess.run(["echo", "from a program"])
    print("printed", file=sys.stderr)
    logging.getLogger("a.b").warning("logged %d", 7)
    bobbin.log.info("through bobbin")
    sys.stdout.write("no end of line")
    return 1
`})
		require.Equal(t, "1", r.gives("out.py", "{}"))
		for _, text := range []string{"from a program", "printed", "logged 7", "logger=a.b", "through bobbin", "no end of line"} {
			for line := range strings.Lines(r.lines.String()) {
				if strings.Contains(line, text) {
					require.Contains(t, line, "execution_id=x1", "of an execution, not of nobody")
				}
			}
			require.Contains(t, r.lines.String(), text)
		}
	})
}

func TestResultsThatJSONCannotCarry(t *testing.T) {
	t.Parallel()
	r := setup(t, python(t), process.Options{}, map[string]string{"bad.py": `
import sys
def main(what):
    loop = []; loop.append(loop)
    if what == "exit": sys.exit(4)
    return {"nan": float("nan"), "set": {1}, "loop": loop, "surrogate": "\ud800", "big": 10**5000, "bytes": b"x"}[what]
`})
	for what, says := range map[string]string{
		"nan": "not JSON", "set": "not JSON", "loop": "not JSON", "surrogate": "not JSON", "bytes": "not JSON", "big": "4300",
	} {
		_, err := r.call("bad.py", `{"what":"`+what+`"}`)
		require.NotNil(t, err, what)
		require.Contains(t, err.Message, says)
	}
	_, err := r.call("bad.py", `{"what":"exit"}`)
	require.Equal(t, "SystemExit", err.Type)
	_, err = r.call("bad.py", `{"wat":1}`)
	require.Equal(t, execution.TypeInvalidParams, err.Type)
	require.Contains(t, err.Message, "what")
}

func TestContextAndProgress(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, mode process.Mode) {
		r := setup(t, python(t), process.Options{Mode: mode}, map[string]string{"own.py": `
import bobbin
def main():
    for n in range(1001):
        bobbin.progress(n, 1000, "rows")
    c = bobbin.context
    return [c.execution_id, c.attempt, c.workflow, c.meta, c.deadline.isoformat(), 0 < c.remaining() <= 60]
`})
		value := r.gives("own.py", "{}", func(c *runner.Call) { c.Deadline = time.Now().Add(time.Minute) })
		require.Contains(t, value, `["x1",2,"own.py",{"tenant":7},"20`)
		require.Contains(t, value, "true]")
		require.Equal(t, "1000/1000 rows", r.notes[len(r.notes)-1])
		require.Less(t, len(r.notes), 100, "rate-limited")
	})
}

// Globals survive in a resident interpreter, until a published module changes, and never in a forked one.
func TestStateBetweenExecutions(t *testing.T) {
	t.Parallel()
	source := "runs = []\ndef main():\n    runs.append(1)\n    return len(runs)\n"
	r := setup(t, python(t), process.Options{Limit: 1}, map[string]string{"count.py": source})
	fork := func(c *runner.Call) { c.Isolation = "fork" }
	require.Equal(t, "1", r.gives("count.py", "{}"))
	require.Equal(t, "2", r.gives("count.py", "{}"))
	r.shelf.publish(map[string]string{"count.py": source, "other.star": "x"})
	require.Equal(t, "3", r.gives("count.py", "{}"), "no module of this language changed")
	r.shelf.publish(map[string]string{"count.py": source, "other.py": "x"})
	require.Equal(t, "1", r.gives("count.py", "{}"))
	require.Equal(t, "1", r.gives("count.py", "{}", fork))
	require.Equal(t, "1", r.gives("count.py", "{}", fork))
}

func TestNodeHasNoFork(t *testing.T) {
	t.Parallel()
	r := setup(t, node(t), process.Options{}, map[string]string{"w.mjs": "export const main = () => 1"})
	_, err := r.call("w.mjs", "{}", func(c *runner.Call) { c.Isolation = "fork" })
	require.True(t, err.Rejected)
	require.Contains(t, err.Message, `"isolation"`)
}

func TestImports(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, mode process.Mode) {
		r := setup(t, python(t), process.Options{Mode: mode}, map[string]string{
			"crm/sync.py":         "from .util import f\nfrom shared.crm import g\nimport plain.inner.leaf as leaf\nimport json\ndef main():\n    from shared import late\n    return [f(), g(), leaf.x, late.y, json.dumps([1]), __name__, __file__]\n",
			"crm/util.py":         "def f(): return 'f'\n",
			"shared/__init__.py":  "base = 'b'\n",
			"shared/crm.py":       "from . import base\ndef g(): return base\n",
			"shared/late.py":      "y = 'late'\n",
			"plain/inner/leaf.py": "x = 'leaf'\n", // no __init__.py on the way
			"json.py":             "def dumps(x): return 'published'\n",
			"email.py":            "import email.message\ndef main(): return email.message.Message.__name__\n", // named like a module of Python's own
			"odd-name/v1.2.py":    "def main(): return 'odd'\n",
			"pip/__init__.py":     "def main(): return 'ours'\n", // named like an installed package
		})
		require.JSONEq(t, `["f","b","leaf","late","[1]","crm.sync","crm/sync.py"]`, r.gives("crm/sync.py", "{}"), "the standard library wins")
		require.Equal(t, `"Message"`, r.gives("email.py", "{}"))
		require.Equal(t, `"odd"`, r.gives("odd-name/v1.2.py", "{}"))
		require.Equal(t, `"ours"`, r.gives("pip/__init__.py", "{}"), "a published package wins over an installed one")
	})
}

func TestRecycling(t *testing.T) {
	t.Parallel()
	pid := map[string]string{"pid.py": "import os\ndef main(mb=0):\n    global kept\n    kept = bytearray(mb << 20)\n    return os.getpid()\n"}
	r := setup(t, python(t), process.Options{MaxExecutions: 3, Limit: 1}, pid)
	seen := map[string]int{}
	for range 9 {
		seen[r.gives("pid.py", "{}")]++
	}
	require.Len(t, seen, 3)

	r = setup(t, python(t), process.Options{MaxRSS: 200 << 20, Limit: 1}, map[string]string{"pid.py": pid["pid.py"], "hog.py": `
import time
def main():
    hog = bytearray(400 << 20)
    time.sleep(60)
`})
	before := r.gives("pid.py", `{"mb":172}`) // with the interpreter's own, between nine tenths and all of it
	require.NotEqual(t, before, r.gives("pid.py", `{}`), "above nine tenths it is replaced")
	_, err := r.call("hog.py", "{}")
	require.Equal(t, process.TypeMemory, err.Type)
	require.Contains(t, err.Message, "209715200")
}

func TestPreload(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, mode process.Mode) {
		r := setup(t, python(t), process.Options{Mode: mode, Preload: "sqlite3, warm.py"}, map[string]string{
			"warm.py": "import sys\nsys.warmed = True\n",
			"w.py":    "import sys\ndef main(): return ['sqlite3' in sys.modules, sys.warmed]\n",
		})
		require.JSONEq(t, "[true,true]", r.gives("w.py", "{}"))
	})
}

// A program that is no interpreter, or one that breaks the protocol, is an error with its last words; nothing hangs.
func TestWhatIsNoInterpreter(t *testing.T) {
	t.Parallel()
	for script, says := range map[string]string{
		"echo 'no such option' >&2; exit 2":                                    "exited with code 2: no such option",
		`printf '\377\377\377\377' >&3; sleep 60`:                              "4294967295 bytes",
		`printf '\000\000\000\002[]' >&3; sleep 60`:                            "malformed frame",
		`printf '\000\000\000\002{}' >&3; sleep 60`:                            "no type",
		`printf '\000\000\000\003{x}' >&3; sleep 60`:                           "malformed frame",
		`exec 3>&-; sleep 60`:                                                  "closed its connection",
		`printf '\000\000\000\031{"type":"ready","protocol":9}' >&3; sleep 60`: "",
	} {
		language := &process.Language{Name: "sh", Suffix: ".sh", Command: []string{"sh", "-c", script}}
		r := setup(t, language, process.Options{}, map[string]string{"w.sh": "x"})
		_, err := r.call("w.sh", "{}")
		require.NotNil(t, err, script)
		require.Equal(t, process.TypeUnavailable, err.Type, script)
		require.Contains(t, err.Message, says, script)
	}
}

func TestStackSaysWhatAnExecutionIsDoing(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, mode process.Mode) {
		r := setup(t, python(t), process.Options{Mode: mode}, map[string]string{"deep.py": `
import time
def inner_most():
    time.sleep(30)
def main():
    inner_most()
`})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			_, _ = r.Run(ctx, &runner.Call{ID: "deep", Workflow: "deep.py", Function: "main", Params: json.RawMessage("{}"), Meta: json.RawMessage("{}")})
		})
		require.Eventually(t, func() bool { return strings.Contains(r.Stack("deep"), `File "deep.py", line 4 in inner_most`) }, 20*time.Second, 50*time.Millisecond)
		require.NotContains(t, r.Stack("deep"), "<bobbin>", "the workflow's own lines alone")
		require.Empty(t, r.Stack("another"))
		cancel()
		running.Wait()
	})
}

// A workflow that forks comes back twice. Only the process that was called answers, and the next execution gets its own result.
func TestForkInsideAWorkflow(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, mode process.Mode) {
		r := setup(t, python(t), process.Options{Mode: mode, Limit: 1}, map[string]string{"fork.py": `
import os
def main(name, fork):
    if fork and os.fork() == 0:
        print("from the child")
        return "the child's"
    return name
`})
		for i := range 20 {
			name := fmt.Sprint("n", i)
			require.Equal(t, fmt.Sprintf("%q", name), r.gives("fork.py", fmt.Sprintf(`{"name":%q,"fork":%t}`, name, i%2 == 0)))
		}
	})
}

// findsTheWire is a module that sends what its interpreter's shim did not say.
const findsTheWire = `
import os, stat
def is_wire(n):
    try:
        return stat.S_ISSOCK(os.fstat(n).st_mode)
    except OSError:
        return False
def send(body):
    os.write(next(n for n in range(3, 1024) if is_wire(n)), len(body).to_bytes(4, "big") + body)
`

// An answer for another execution, as a broken shim would send, is a broken protocol and not a result.
func TestAnswerForAnotherExecution(t *testing.T) {
	t.Parallel()
	r := setup(t, python(t), process.Options{}, map[string]string{"wire.py": findsTheWire, "w.py": `
import wire
def main():
    wire.send(b'{"type":"result","execution_id":"another","value":1}')
    return 2
`})
	_, err := r.call("w.py", "{}")
	require.Equal(t, process.TypeCrashed, err.Type)
	require.Contains(t, err.Message, `"another"`)
}

// Lines of a thread that outlives its execution stay that execution's.
func TestLinesOfThreads(t *testing.T) {
	t.Parallel()
	r := setup(t, python(t), process.Options{Limit: 1}, map[string]string{"t.py": `
import asyncio, threading
go, gone = threading.Event(), threading.Event()
def late():
    go.wait(20)
    print("a late line")
    gone.set()
def start():
    threading.Thread(target=late, daemon=True).start()
async def main():
    go.set()
    await asyncio.to_thread(gone.wait, 20)
    await asyncio.to_thread(print, "a line of now")
`})
	r.gives("t.py", "{}", func(c *runner.Call) { c.ID, c.Function = "first", "start" })
	r.gives("t.py", "{}", func(c *runner.Call) { c.ID = "second" })
	for line := range strings.Lines(r.lines.String()) {
		if strings.Contains(line, "a late line") {
			require.Contains(t, line, "execution_id=first")
		}
		if strings.Contains(line, "a line of now") {
			require.Contains(t, line, "execution_id=second")
		}
	}
	require.Contains(t, r.lines.String(), "a late line")
	require.Contains(t, r.lines.String(), "a line of now")
}
