package process_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/runner"
	"github.com/bobbin-run/bobbin/runner/process"
)

// folder is a folder that workflows and tests leave files in, and packages are installed from.
type folder struct {
	t    *testing.T
	path string
}

func newFolder(t *testing.T) *folder { return &folder{t, t.TempDir()} }

func (f *folder) write(name, text string) {
	f.t.Helper()
	require.NoError(f.t, os.WriteFile(filepath.Join(f.path, name), []byte(text), 0o600))
}

func (f *folder) read(name string) string {
	data, _ := os.ReadFile(filepath.Join(f.path, name))
	return string(data)
}

func (f *folder) await(name string) {
	f.t.Helper()
	require.Eventually(f.t, func() bool { return f.read(name) != "" }, 20*time.Second, 5*time.Millisecond, name)
}

// python returns a Python that finds the folder's packages.
func (f *folder) python() *process.Language {
	language := python(f.t)
	language.Env = append(language.Env, "PYTHONPATH="+f.path, "FOLDER="+f.path)
	return language
}

// waits is the source of what waits until a file is there.
const waits = `
import os, time
def wait(name):
    while not os.path.exists(os.environ["FOLDER"] + "/" + name): time.sleep(0.01)
def note(name, text="x"):
    with open(os.environ["FOLDER"] + "/" + name, "a") as f: f.write(text + "\n")
`

// until runs a workflow that is cancelled with ctx.
func (r *rig) until(ctx context.Context, workflow, params string) error {
	_, err := r.Run(ctx, &runner.Call{ID: "short", Workflow: workflow, Function: "main", Params: json.RawMessage(params), Meta: json.RawMessage("{}")})
	return err
}

// stopped runs a workflow that is cancelled when it has left its file "running".
func (r *rig) stopped(f *folder, workflow, params string) error {
	ctx, cancel := context.WithCancel(r.t.Context())
	var running sync.WaitGroup
	var err error
	running.Go(func() { err = r.until(ctx, workflow, params) })
	f.await("running")
	cancel()
	running.Wait()
	return err
}

// An execution that gives up waiting for a slot, while the mother imports what takes long, takes nothing down with it: neither
// her nor what runs.
func TestTimeoutWhileASlotIsAwaited(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	f.write("waits.py", waits)
	f.write("slow_package.py", `
import os, waits
if os.path.exists(os.environ["FOLDER"] + "/imported"): waits.note("again"); waits.wait("go")
`)
	r := setup(t, f.python(), process.Options{Mode: process.Fork}, map[string]string{
		"long.py":    "import waits\ndef main():\n    waits.note('running')\n    waits.wait('go')\n    return 'whole'\n",
		"teaches.py": "import slow_package, waits\ndef main():\n    waits.note('imported')\n    waits.wait('go')\n    return 'whole'\n",
		"any.py":     "def main(): return 2\n",
	})
	var running sync.WaitGroup
	var values [2]string
	for at, started := range []string{"running", "imported"} {
		running.Go(func() {
			values[at] = r.gives([]string{"long.py", "teaches.py"}[at], "{}")
		})
		f.await(started)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var err error
	running.Go(func() {
		err = r.until(ctx, "any.py", "{}")
		f.write("go", "x")
	})
	f.await("again") // the mother imports what a slot did, before she forks the next
	cancel()
	running.Wait()
	require.ErrorContains(t, err, "waited for an interpreter")
	require.Equal(t, [2]string{`"whole"`, `"whole"`}, values)
	require.Equal(t, "2", r.gives("any.py", "{}"))
	require.NotContains(t, r.lines.String(), "level=WARN")
}

// A start belongs to nobody: executions whose timeout is shorter wait for it one after another, and one has it in the end.
func TestTimeoutShorterThanAStart(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, mode process.Mode) {
		f := newFolder(t)
		f.write("waits.py", waits)
		f.write("heavy.py", "import waits\nwaits.note('running', 'one')\nwaits.wait('go')\n")
		r := setup(t, f.python(), process.Options{Mode: mode, Preload: "heavy"}, map[string]string{"any.py": "def main(): return 2\n"})
		require.ErrorContains(t, r.stopped(f, "any.py", "{}"), "waited for an interpreter")
		f.write("go", "x")
		require.Equal(t, "2", r.gives("any.py", "{}"))
		require.Equal(t, "one\n", f.read("running"))
	})
}

// A package that hangs, or dies, where the mother imports it, is not shared; it stops nobody.
func TestImportThatTheMotherDoesNotSurvive(t *testing.T) {
	t.Parallel()
	for how, source := range map[string]string{"hangs": "waits.wait('never')", "dies": "os._exit(4)"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			f := newFolder(t)
			f.write("waits.py", waits)
			f.write("poison.py", "import os, waits\nif os.path.exists(os.environ['FOLDER'] + '/imported'): "+source+"\n")
			r := setup(t, f.python(), process.Options{Mode: process.Fork, Limit: 1, StartTimeout: 5 * time.Second}, map[string]string{
				"w.py": "import poison, waits\ndef main():\n    waits.note('imported')\n    return 1\n", "any.py": "def main(): return 2\n",
			})
			require.Equal(t, "1", r.gives("w.py", "{}"))
			require.Equal(t, "2", r.gives("any.py", "{}"))
			require.Contains(t, r.lines.String(), "will not be shared")
			require.Contains(t, r.lines.String(), "poison")
		})
	}
}

// What a mother says that she may not, and how she ended, is the reason that the execution is given.
func TestMotherThatIsNone(t *testing.T) {
	t.Parallel()
	const ready = `printf '\000\000\000\035{"type":"ready","protocol":1}' >&3;`
	for script, says := range map[string]string{
		`printf '\000\000\000\034{"type":"source","path":"x"}' >&3; sleep 60`: `type "source" was not expected`,
		`printf '\000\000\000\022{"type":"spawned"}' >&3; sleep 60`:           `type "spawned" was not expected`,
		`echo 'no memory to fork' >&2; exit 9`:                                "exited with code 9: no memory to fork",
		`sleep 60`:                                                            "took longer than 1s",
	} {
		language := &process.Language{Name: "sh", Suffix: ".sh", Command: []string{"sh", "-c", ready + script}, Forks: true}
		r := setup(t, language, process.Options{Mode: process.Fork, StartTimeout: time.Second}, map[string]string{"w.sh": "x"})
		_, err := r.call("w.sh", "{}")
		require.NotNil(t, err, script)
		require.Equal(t, process.TypeUnavailable, err.Type, script)
		require.Contains(t, err.Message, says, script)
	}
}

// Programs that a workflow leaves behind and that write without end hold nobody up and fill no log. Those of a forked execution
// die with it.
func TestWhatIsLeftBehindWritesOn(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, mode process.Mode) {
		r := setup(t, python(t), process.Options{Mode: mode, Limit: 1}, map[string]string{"chatty.py": `
import os, subprocess
def main():
    return [subprocess.Popen(["yes", "left behind"]).pid for _ in range(2)]
def quiet():
    return 1
`})
		for range 3 {
			var pids []int
			require.NoError(t, json.Unmarshal([]byte(r.gives("chatty.py", "{}")), &pids))
			require.Len(t, pids, 2)
			if mode == process.Fork {
				for _, pid := range pids {
					require.Eventually(t, func() bool { return !alive(pid) }, 20*time.Second, 5*time.Millisecond)
				}
			}
		}
		require.Equal(t, "1", r.gives("chatty.py", "{}", func(c *runner.Call) { c.Function = "quiet" }))
		require.LessOrEqual(t, strings.Count(r.lines.String(), "from=interpreter"), 200)
	})
}

// alive says whether a process runs: one that only waits to be buried does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(stat), ") ")
	return err == nil && !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// A process that inherited the wire keeps nobody waiting for an interpreter that is gone, however that went.
func TestWireThatAnotherProcessHolds(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, mode process.Mode) {
		f := newFolder(t)
		f.write("waits.py", waits)
		language := f.python()
		language.Env = append(language.Env, "MODE="+string(mode))
		r := setup(t, language, process.Options{Mode: mode, CancelGrace: time.Second}, map[string]string{"held.py": `
import os, signal, time, waits
def main(how):
    if os.fork() == 0:
        os.setsid()
        waits.note("holders", str(os.getpid()))
        time.sleep(600)
    waits.wait("holders")
    if how == "exit": os._exit(3)
    if how == "interpreter": os.kill(os.getpid() if os.environ["MODE"] == "resident" else os.getppid(), signal.SIGKILL)
    while True:
        try:
            if how == "ignore": waits.note("running") # here, where the cancellation that it brings is ignored
            time.sleep(600)
        except BaseException: pass
`})
		t.Cleanup(func() {
			for _, pid := range strings.Fields(f.read("holders")) {
				if n, err := strconv.Atoi(pid); err == nil {
					_ = syscall.Kill(n, syscall.SIGKILL)
				}
			}
		})
		_, err := r.call("held.py", `{"how":"exit"}`)
		require.Contains(t, err.Message, "exited with code 3")
		_, err = r.call("held.py", `{"how":"interpreter"}`)
		require.Contains(t, err.Message, "signal 9")
		require.ErrorContains(t, r.stopped(f, "held.py", `{"how":"ignore"}`), "signal 9")
	})
}

// One workflow that crashes again and again does not make others wait longer and longer.
func TestCrashesStarveNobody(t *testing.T) {
	t.Parallel()
	r := setup(t, python(t), process.Options{Limit: 2}, map[string]string{
		"poison.py": "import os\ndef main(): os._exit(7)\n", "good.py": "def main(): return 1\n",
	})
	for range 10 {
		_, err := r.call("poison.py", "{}")
		require.Equal(t, process.TypeCrashed, err.Type)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, r.until(ctx, "good.py", "{}"))
}

// An interpreter that leaves its process group is killed all the same.
func TestInterpreterThatLeavesItsGroup(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, mode process.Mode) {
		f := newFolder(t)
		f.write("waits.py", waits)
		r := setup(t, f.python(), process.Options{Mode: mode, CancelGrace: time.Second}, map[string]string{"leaves.py": `
import os, time, waits
def main():
    os.setpgid(0, os.getpgid(os.getppid()))
    told = False
    while True:
        try:
            if not told: # in here, or the cancellation may come between the two
                told = True
                waits.note("running")
            time.sleep(600)
        except BaseException: pass
`})
		require.ErrorContains(t, r.stopped(f, "leaves.py", "{}"), "signal 9")
	})
}

// An interpreter that was killed while it was idle costs no execution anything.
func TestInterpreterThatDiedBeforeTheRun(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, mode process.Mode) {
		r := setup(t, python(t), process.Options{Mode: mode, Limit: 1}, map[string]string{
			"pid.py": "import os\ndef main(up=0): return os.getppid() if up else os.getpid()\n",
		})
		params := "{}"
		if mode == process.Fork {
			params = `{"up":1}`
		}
		for range 8 {
			pid, err := strconv.Atoi(r.gives("pid.py", params))
			require.NoError(t, err)
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		}
	})
}

// A crash tells the last lines of stderr, which the shim catches, among those that it cannot.
func TestLastLinesOfACrash(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, mode process.Mode) {
		r := setup(t, python(t), process.Options{Mode: mode}, map[string]string{"crash.py": `
import logging, os, sys
def main():
    print("not this one")
    print("printed to stderr", file=sys.stderr)
    logging.error("logged as an error")
    os._exit(5)
`})
		_, err := r.call("crash.py", "{}")
		require.Equal(t, "printed to stderr\nlogged as an error", err.Traceback)
		require.Contains(t, err.Message, "exited with code 5 while it ran the execution: logged as an error")
	})
}

// A line for an execution that never ran in this interpreter is the worker's, whatever it says.
func TestLinesOfStrangers(t *testing.T) {
	t.Parallel()
	r := setup(t, python(t), process.Options{}, map[string]string{"wire.py": findsTheWire, "w.py": `
import wire
def main():
    wire.send(b'{"type":"log","execution_id":"stranger","level":"info","message":"forged"}')
    wire.send(b'{"type":"progress","execution_id":"stranger","done":3}')
    return 2
`})
	require.Equal(t, "2", r.gives("w.py", "{}"))
	require.Contains(t, r.lines.String(), "msg=forged")
	require.NotContains(t, r.lines.String(), "execution_id=stranger")
	require.Empty(t, r.notes)
}
