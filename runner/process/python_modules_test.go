package process_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/runner"
	"github.com/bobbin-run/bobbin/runner/process"
)

// Each of many threads gets the module that it asked for.
func TestImportsFromManyThreads(t *testing.T) {
	t.Parallel()
	sources := map[string]string{"w.py": `
import importlib, threading
def main(n):
    got, go = [None] * n, threading.Barrier(n)
    def one(i):
        go.wait()
        got[i] = importlib.import_module(f"m.x{i}").v
    threads = [threading.Thread(target=one, args=(i,)) for i in range(n)]
    for t in threads: t.start()
    for t in threads: t.join()
    return got == list(range(n)) or got
`}
	for i := range 60 {
		sources[fmt.Sprintf("m/x%d.py", i)] = fmt.Sprintf("v = %d\n", i)
	}
	both(t, func(t *testing.T, mode process.Mode) {
		r := setup(t, python(t), process.Options{Mode: mode}, sources)
		require.Equal(t, "true", r.gives("w.py", `{"n":60}`))
	})
}

// A thread that outlives its execution asks for nothing: the answer would come in the middle of another execution.
func TestImportOfAThreadWhoseExecutionIsOver(t *testing.T) {
	t.Parallel()
	r := setup(t, python(t), process.Options{Limit: 1}, map[string]string{"late.py": "", "w.py": `
import threading
go, said = threading.Event(), []
def work():
    go.wait(20)
    try:
        import late
    except ImportError as e:
        said.append(str(e))
thread = threading.Thread(target=work, daemon=True)
def start(): thread.start()
def main():
    go.set()
    thread.join(20)
    return said
`})
	r.gives("w.py", "{}", func(c *runner.Call) { c.Function = "start" })
	require.Contains(t, r.gives("w.py", "{}"), "execution is over")
}

// A change is seen whatever stands under a module's name by now, and what is published wins over what was imported before.
func TestModulesThatChange(t *testing.T) {
	t.Parallel()
	r := setup(t, python(t), process.Options{Limit: 1}, map[string]string{
		"own.py": "import sys\nclass L:\n    def main(self): return 'one'\nsys.modules[__name__] = L()\n",
		"pip.py": "def main(): return 'ours'\n",
	})
	require.Equal(t, `"one"`, r.gives("own.py", "{}"))
	r.shelf.publish(map[string]string{
		"own.py": "def main(): return 'two'\n",
		"w.py":   "import pip\ndef main(): return getattr(pip, 'whose', 'installed')\n",
	})
	require.Equal(t, `"two"`, r.gives("own.py", "{}"))
	require.Equal(t, `"installed"`, r.gives("w.py", "{}"))
	r.shelf.publish(map[string]string{
		"w.py":            "import json, pip\ndef main(): return getattr(pip, 'whose', 'installed') + json.dumps(1)\n",
		"pip/__init__.py": "whose = 'published'\n", "json.py": "",
	})
	require.Equal(t, `"published1"`, r.gives("w.py", "{}"))
}

// What runs is the source at the path that was asked for, and no other of that name.
func TestWorkflowsOfOneName(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, mode process.Mode) {
		r := setup(t, python(t), process.Options{Mode: mode}, map[string]string{
			"foo.py":          "def main(): return 'file'\n",
			"foo/__init__.py": "def main(): return 'package'\n",
			"bar.py":          "def main(): return 'bar'\n",
			"bar/leaf.py":     "def main(): return 'leaf'\n", // its parent is no package
			"__main__.py":     "def main(): return 'not the shim'\n",
			"bom.py":          "\ufeffdef main(): return 'bom'\n",
			"cookie.py":       "# -*- coding: latin-1 -*-\ndef main(): return 'é'\n",
		})
		for path, gives := range map[string]string{
			"foo.py": "file", "foo/__init__.py": "package", "bar.py": "bar", "bar/leaf.py": "leaf", "__main__.py": "not the shim",
			"bom.py": "bom", "cookie.py": "é",
		} {
			require.Equal(t, `"`+gives+`"`, r.gives(path, "{}"), path)
		}
	})
}

// A traceback shows what is published, whatever lies in the worker's folder, and nothing of how it was imported.
func TestTracebacks(t *testing.T) {
	t.Parallel()
	r := setup(t, python(t), process.Options{}, map[string]string{
		"shim/python/parts.py": "def main():\n    page = '\f'\n    raise ValueError(page) # of the published one\n",
		"broken.py":            "import inner\n",
		"inner.py":             "try:\n    1 / 0\nexcept Exception:\n    import nothing\n",
		"rude.py":              "class E(Exception):\n    def __str__(self): raise KeyboardInterrupt\ndef main(): raise E\n",
	})
	_, err := r.call("shim/python/parts.py", "{}")
	require.Contains(t, err.Traceback, "of the published one")
	_, err = r.call("broken.py", "{}")
	require.Equal(t, "ModuleNotFoundError", err.Type)
	require.Contains(t, err.Traceback, `File "inner.py", line 2`)
	require.NotContains(t, err.Traceback, "importlib")
	require.NotContains(t, err.Traceback, "bobbin")
	_, err = r.call("rude.py", "{}")
	require.Equal(t, "E", err.Type)
	require.Contains(t, err.Message, "KeyboardInterrupt")
}

// Whatever a preload does, executions run.
func TestPreloadsThatFail(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, mode process.Mode) {
		r := setup(t, python(t), process.Options{Mode: mode, Limit: 1, Preload: "none.such, exits.py, tells.py, warm.py"}, map[string]string{
			"exits.py": "import sys\nsys.exit(3)\n",
			"tells.py": "import bobbin\nbobbin.progress(1, 2)\nbobbin.context.execution_id\n",
			"warm.py":  "import sys\nsys.warmed = True\n",
			"own.py": `
import sys, sqlite3
class L:
    warmed = sys.warmed
    def main(self): return self.warmed
sys.modules[__name__] = L() # its loader cannot be told
`,
		})
		for range 3 { // after the first one, new slots come of a mother that was told what to import
			require.Equal(t, "true", r.gives("own.py", "{}"))
		}
		for _, says := range []string{"preload of none.such: ModuleNotFoundError", "sys.exit(3)", "no execution runs"} {
			require.Contains(t, r.lines.String(), says)
		}
	})
}

// A process that a workflow forks has no connection: what it has not imported before, it cannot.
func TestImportInAForkedProcess(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, mode process.Mode) {
		r := setup(t, python(t), process.Options{Mode: mode}, map[string]string{"late.py": "", "early.py": "def f(n): return n + 1\n", "w.py": `
import multiprocessing, early
def lazily(_):
    try:
        import late
    except ImportError as e:
        return str(e)
def main():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(early.f, [1, 2]) + pool.map(lazily, [0])
`})
		require.Contains(t, r.gives("w.py", "{}"), `[2,3,"published modules cannot be imported in a process that the workflow forked`)
	})
}

func TestPythonThatIsTooOld(t *testing.T) {
	t.Parallel()
	language := python(t)
	language.Command[2] = "import sys; sys.version_info = (3, 8)\n" + language.Command[2]
	r := setup(t, language, process.Options{}, map[string]string{"w.py": "def main(): pass\n"})
	_, err := r.call("w.py", "{}")
	require.Equal(t, process.TypeUnavailable, err.Type)
	require.Contains(t, err.Message, "CPython 3.9 or later is needed")
}

func digits(n int) string { return strings.Repeat("9", n) }

func nested(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }

// Params that Python cannot decode, and results that the worker could not, are errors of their execution alone.
func TestDocumentsOutOfBounds(t *testing.T) {
	t.Parallel()
	r := setup(t, python(t), process.Options{Limit: 1}, map[string]string{"pid.py": `
import os, sys
def main(n=0, v=None): return os.getpid()
def nested():
    sys.setrecursionlimit(100000)
    v = []
    for _ in range(9500): v = [v]
    return v
def keys(): return {"a": [{1: "a", "1": "b"}]}
def fine(): return {1: 2, None: 3, True: 4, 1.5: 5, "x": 6}
`})
	before := r.gives("pid.py", "{}")
	for _, params := range []string{
		`{"n":` + digits(5000) + `}`, `{"function":"}]{","v":"\"` + digits(10) + `","n":` + digits(5000) + `}`,
	} {
		_, err := r.call("pid.py", params)
		require.NotNil(t, err)
		require.Equal(t, execution.TypeInvalidParams, err.Type)
	}
	for function, says := range map[string]string{"nested": "", "keys": `keys 1 and '1'`} {
		_, err := r.call("pid.py", "{}", func(c *runner.Call) { c.Function = function })
		require.NotNil(t, err, function)
		require.Equal(t, execution.TypeInvalidResult, err.Type)
		require.Contains(t, err.Message, says)
	}
	require.JSONEq(t, `{"1":4,"null":3,"1.5":5,"x":6}`, r.gives("pid.py", "{}", func(c *runner.Call) { c.Function = "fine" }))
	_, _ = r.call("pid.py", `{"v":`+nested(9000)+`}`) // whether it is too deep depends on the version
	require.Equal(t, before, r.gives("pid.py", "{}"), "the interpreter lives")
}
