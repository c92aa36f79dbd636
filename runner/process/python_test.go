package process_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/runner"
	"github.com/bobbin-run/bobbin/runner/process"
)

func called(id string, function string) func(*runner.Call) {
	return func(c *runner.Call) { c.ID, c.Function = execution.ID(id), function }
}

// A module that keeps bobbin.context has that of each execution.
func TestContextThatAModuleKeeps(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, mode process.Mode) {
		r := setup(t, python(t), process.Options{Mode: mode, Limit: 1}, map[string]string{"w.py": `
from bobbin import context
first = context.execution_id
def main(): return [context.execution_id, context.meta, "execution_id" in dir(context), repr(context)]
`})
		for _, id := range []string{"a", "b"} {
			require.JSONEq(t, `["`+id+`",{"tenant":7},true,"<bobbin.context `+id+` attempt 2 of w.py>"]`, r.gives("w.py", "{}", called(id, "main")))
		}
	})
}

// A thread belongs to the execution that started it, and what a pool does to the one that asked for it.
func TestThreadsOfAnotherExecution(t *testing.T) {
	t.Parallel()
	r := setup(t, python(t), process.Options{Limit: 1}, map[string]string{"late.py": "v = 'late'\n", "w.py": `
import bobbin, threading
from concurrent.futures import ThreadPoolExecutor
go, said, pool = threading.Event(), [], ThreadPoolExecutor(1)
def who():
    return bobbin.context.execution_id
def work():
    go.wait(20)
    bobbin.progress(1, 1, "of before")
    said.append(who())
thread = threading.Thread(target=work, daemon=True)
def start():
    thread.start()
    return pool.submit(who).result()
def load():
    import late
    print("from the pool")
    return late.v
def main():
    go.set()
    thread.join(20)
    return said + [pool.submit(who).result(), pool.submit(load).result()]
`})
	require.Equal(t, `"a"`, r.gives("w.py", "{}", called("a", "start")))
	require.JSONEq(t, `["a","b","late"]`, r.gives("w.py", "{}", called("b", "main")))
	require.Empty(t, r.notes)
	require.Contains(t, r.lines.String(), `msg="from the pool" execution_id=b`)
}

// Whatever a workflow does to logging and the streams, the next one's lines arrive.
func TestLinesAfterAnotherWorkflow(t *testing.T) {
	t.Parallel()
	r := setup(t, python(t), process.Options{Limit: 1}, map[string]string{
		"rude.py": `
import io, logging.config, sys
def main():
    logging.config.dictConfig({"version": 1, "root": {"handlers": ["h"]}, "handlers": {"h": {"class": "logging.StreamHandler"}}})
    logging.disable(logging.CRITICAL)
    sys.stdout = sys.stderr = io.StringIO()
    print("into the void")
`,
		"w.py": `
import bobbin, logging, sys
def main():
    print("printed"), print("to stderr", file=sys.stderr)
    logging.getLogger("some").warning("logged"), bobbin.log.info("through bobbin"), bobbin.log.debug("in detail")
    logging.basicConfig(level=logging.DEBUG)
    logging.debug("at the root")
`,
	})
	for range 2 {
		r.gives("rude.py", "{}")
		r.gives("w.py", "{}")
	}
	for _, text := range []string{"printed", `"to stderr"`, "msg=logged", `"through bobbin"`, `level=DEBUG msg="in detail"`, `level=DEBUG msg="at the root"`} {
		require.Equal(t, 2, strings.Count(r.lines.String(), text), text)
	}
}

// The streams are what programs expect of streams, and nothing of what is written is lost.
func TestStreams(t *testing.T) {
	t.Parallel()
	r := setup(t, python(t), process.Options{}, map[string]string{"w.py": `
import io, os, sys, tempfile, threading
def main():
    sys.stdout.reconfigure(encoding="utf-8", line_buffering=True)
    io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8").write("wrapped\n")
    sys.stdout.buffer.write(b"in two \xc3")
    sys.stdout.buffer.write(b"\xa9\n")
    sys.stdout.buffer.raw.write(b"raw\n")
    print("x" * 1_000_000, end="")
    sys.stdout.flush()
    print("y" * 1_000_000)
    threads = [threading.Thread(target=lambda: [print("one", "line") for _ in range(50)]) for _ in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    return [isinstance(sys.stdout, io.TextIOBase), isinstance(sys.stdout.buffer, io.BufferedIOBase), sys.stdout.isatty(), sys.stderr.fileno()]
def closer():
    os.close(3) if is_open(3) else None
    with tempfile.TemporaryFile() as f:
        print("a line")
        return f.read().decode()
def is_open(fd):
    try:
        return bool(os.fstat(fd))
    except OSError:
        return False
`})
	require.JSONEq(t, "[true,true,false,2]", r.gives("w.py", "{}"))
	log := r.lines.String()
	for _, text := range []string{"msg=wrapped", `msg="in two é"`, "msg=raw"} {
		require.Contains(t, log, text)
	}
	require.Equal(t, 200, strings.Count(log, `msg="one line"`))
	require.Equal(t, 1_000_000, strings.Count(log, "x")-strings.Count(log, "execution_id=x1")-strings.Count(log, "execution"), "of x")
	require.Equal(t, 1_000_000, strings.Count(log, "y")-strings.Count(log, "w.py")-strings.Count(log, "python")-strings.Count(log, "ready"), "of y")
	require.Equal(t, `""`, r.gives("w.py", "{}", called("c", "closer")), "no frame in the file of a workflow")
}

// cancelAt runs a workflow and cancels it when it writes a line.
func (r *rig) cancelAt(workflow, line string) *execution.Error {
	r.t.Helper()
	ctx, cancel := context.WithCancelCause(r.t.Context())
	defer cancel(nil)
	ended := make(chan error, 1)
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() {
		_, err := r.Run(ctx, &runner.Call{ID: "x1", Workflow: workflow, Function: "main", Params: json.RawMessage("{}"), Meta: json.RawMessage("{}"), Log: r.logger()})
		ended <- err
	})
	require.Eventually(r.t, func() bool { return len(ended) > 0 || strings.Contains(r.lines.String(), line) }, 20*time.Second, 10*time.Millisecond)
	cancel(errors.New("cancelled"))
	return execution.AsError(<-ended)
}

// Whoever knows that it is cancelled has the whole grace to clean up; a loop that is blocked is interrupted.
func TestCleaningUp(t *testing.T) {
	t.Parallel()
	const grace = 5 * time.Second // asked again after 2.25 s, killed after 4.5 s: whoever cleans up is past the first and far from the second
	// Said by a thread while the workflow sleeps: a signal that comes between Python's last look for signals and the sleep is seen only
	// after it, or with the next one.
	const begun = "import threading\ndef begun():\n    threading.Timer(0.3, print, ['begun']).start()\n"
	for name, source := range map[string]string{
		"coroutine": "import asyncio\nasync def main():\n    try:\n        print('begun')\n        await asyncio.sleep(50)\n    finally:\n        await asyncio.sleep(2.6)\n        print('cleaned')\n",
		"plain":     begun + "import time\ndef main():\n    try:\n        begun()\n        time.sleep(50)\n    except KeyboardInterrupt:\n        time.sleep(2.6)\n        print('cleaned')\n        raise\n",
		"blocked":   begun + "import time\nasync def main():\n    try:\n        begun()\n        time.sleep(50)\n    finally:\n        print('cleaned')\n",
		"finalizer": begun + "import time\nclass F:\n    def __del__(self):\n        begun()\n        time.sleep(50)\ndef main():\n    try:\n        F()\n        time.sleep(50)\n    finally:\n        print('cleaned')\n",
	} {
		both(t, func(t *testing.T, mode process.Mode) {
			t.Log(name)
			r := setup(t, python(t), process.Options{Mode: mode, CancelGrace: grace}, map[string]string{"w.py": source})
			err := r.cancelAt("w.py", "begun")
			require.NotNil(t, err)
			require.Contains(t, []string{"CancelledError", "Cancelled"}, err.Type)
			require.Contains(t, r.lines.String(), "cleaned")
		})
	}
}

// A crash has what the workflow wrote last, however it wrote it, and where it was.
func TestLastWordsOfACrash(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, mode process.Mode) {
		r := setup(t, python(t), process.Options{Mode: mode}, map[string]string{"w.py": `
import logging, os, sys
def main(how):
    print("to stderr", file=sys.stderr)
    logging.error("logged")
    if how == "exit": os._exit(3)
    import faulthandler
    faulthandler._sigsegv()
`})
		_, err := r.call("w.py", `{"how":"exit"}`)
		require.Equal(t, process.TypeCrashed, err.Type)
		require.Equal(t, "to stderr\nlogged", err.Traceback)
		_, err = r.call("w.py", `{"how":"segv"}`)
		require.Contains(t, err.Message, "Fatal Python error: Segmentation fault")
		require.Contains(t, err.Traceback, `File "w.py", line 8 in main`)
	})
}

// What a workflow forks can be terminated, and ends with the interpreter, out of whose group it went.
func TestProcessesOfAWorkflow(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("no /proc")
	}
	both(t, func(t *testing.T, mode process.Mode) {
		r := setup(t, python(t), process.Options{Mode: mode}, map[string]string{"w.py": `
import multiprocessing, os, subprocess, threading, time
def fork(pids):
    pid = os.fork()
    if pid == 0:
        os.setsid()
        time.sleep(60)
        os._exit(0)
    pids.append(pid)
def main():
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    program = subprocess.Popen(["sleep", "60"])
    child.start(), child.terminate(), program.terminate()
    child.join(), program.wait()
    pids = []
    fork(pids)
    thread = threading.Thread(target=fork, args=(pids,)) # which ends, and its child does not
    thread.start(), thread.join()
    print("pids", *pids)
    time.sleep(60)
`})
		err := r.cancelAt("w.py", "pids ")
		require.NotNil(t, err)
		_, rest, _ := strings.Cut(r.lines.String(), "pids ")
		rest, _, _ = strings.Cut(rest, `"`)
		require.Len(t, strings.Fields(rest), 2)
		require.NoError(t, r.Close())
		for _, pid := range strings.Fields(rest) {
			require.Eventually(t, func() bool {
				stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
				return err != nil || strings.Contains(string(stat), ") Z ")
			}, 20*time.Second, 20*time.Millisecond, pid)
		}
	})
}
