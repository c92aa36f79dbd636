package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/redistest"
)

// asBobbin makes the test binary behave as the program, so that tests run real processes with real signals.
const asBobbin = "BOBBIN_TEST_AS_BOBBIN"

func TestMain(m *testing.M) {
	if os.Getenv(asBobbin) == "1" {
		os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(redistest.Main(m))
}

const (
	patience  = 30 * time.Second
	pollEvery = 20 * time.Millisecond
)

// shell runs the program against one Redis.
type shell struct {
	t   *testing.T
	env []string
}

func setup(t *testing.T, server *redistest.Server) *shell {
	t.Helper()
	return &shell{t, []string{
		asBobbin + "=1", "PATH=" + os.Getenv("PATH"), "BOBBIN_REDIS_URL=" + server.URL(), "BOBBIN_PREFIX=" + server.Prefix,
		"BOBBIN_LEASE=2s", "BOBBIN_CANCEL_GRACE=300ms", "BOBBIN_NICE=0", // the tests beside this one leave little of two processors
	}}
}

func (s *shell) with(env ...string) *shell {
	return &shell{s.t, append(append([]string{}, s.env...), env...)}
}

// said is what a finished command printed, and its exit code.
type said struct {
	out, err string
	code     int
}

func (s *shell) command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = s.env
	return cmd
}

// do runs a command to its end.
func (s *shell) do(stdin string, args ...string) said {
	s.t.Helper()
	cmd := s.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	timer := time.AfterFunc(2*patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Run()
	if cmd.ProcessState == nil {
		require.NoError(s.t, err)
	}
	return said{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// ok runs a command that must succeed and returns its output.
func (s *shell) ok(args ...string) string {
	s.t.Helper()
	r := s.do("", args...)
	require.Zero(s.t, r.code, "%v: %s", args, r.err)
	return r.out
}

// job is a command that runs on.
type job struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  *buffer
	done chan struct{}
}

type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// start runs a command until the test ends.
func (s *shell) start(args ...string) *job {
	s.t.Helper()
	p := &job{t: s.t, cmd: s.command(args...), log: &buffer{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	require.NoError(s.t, p.cmd.Start())
	var waiting sync.WaitGroup
	waiting.Go(func() {
		_ = p.cmd.Wait()
		close(p.done)
	})
	s.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		waiting.Wait()
		if s.t.Failed() {
			_, _ = io.WriteString(os.Stderr, p.log.String())
		}
	})
	return p
}

func (p *job) signal(s syscall.Signal) { require.NoError(p.t, p.cmd.Process.Signal(s)) }

func (p *job) exits() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		require.FailNow(p.t, "the process does not end", p.log.String())
		return -1
	}
}

func (p *job) says(text string) {
	p.t.Helper()
	require.Eventually(p.t, func() bool { return strings.Contains(p.log.String(), text) }, patience, 5*time.Millisecond, text)
}

func (s *shell) worker(env ...string) *job {
	s.t.Helper()
	p := s.with(env...).start("worker")
	p.says("worker started")
	return p
}

// workflows is a folder of modules for a test.
func workflows(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, source := range files {
		require.NoError(t, os.MkdirAll(filepath.Dir(dir+"/"+name), 0o700))
		require.NoError(t, os.WriteFile(dir+"/"+name, []byte(source), 0o600))
	}
	return dir
}

var testModules = map[string]string{
	"echo.star":  "def main(params): return params",
	"sleep.star": "def main(seconds): sleep(seconds)",
	"fail.star":  "def main(): fail('on purpose')",
}

func results(t *testing.T, lines string) []map[string]any {
	t.Helper()
	var all []map[string]any
	decoder := json.NewDecoder(strings.NewReader(lines))
	for {
		var one map[string]any
		err := decoder.Decode(&one)
		if err == io.EOF {
			return all
		}
		require.NoError(t, err)
		all = append(all, one)
	}
}

func TestSubmitAndWaitThroughTheBinary(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, server *redistest.Server) {
		s := setup(t, server)
		require.Equal(t, "echo.star\nfail.star\nsleep.star\n", s.ok("modules", "push", workflows(t, testModules)))
		s.worker()
		got := results(t, s.ok("submit", "echo.star", "--params", `{"n":1}`, "--id", "mine", "--wait"))
		require.Len(t, got, 1)
		require.Equal(t, "mine", got[0]["execution_id"])
		require.Equal(t, map[string]any{"n": 1.0}, got[0]["result"])

		failed := s.do("", "submit", "fail.star", "--wait")
		require.Equal(t, execution.ExitFailure, failed.code)
		require.Contains(t, failed.err, "not all succeeded: 1 failed")
		require.Contains(t, results(t, failed.out)[0]["traceback"], "fail.star:1:")

		bulk := s.do(strings.Repeat("{\"n\":2}\n", 2500), "submit", "echo.star", "--input", "-", "--wait")
		require.Zero(t, bulk.code, bulk.err)
		require.Len(t, results(t, bulk.out), 2500)

		id := strings.TrimSpace(s.ok("submit", "echo.star"))
		require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-7`, id)
	})
}

func TestSubmitRefusesBadInputWhole(t *testing.T) {
	t.Parallel()
	s := setup(t, redistest.Mini(t))
	file := t.TempDir() + "/in.jsonl"
	require.NoError(t, os.WriteFile(file, []byte("{\"n\":1}\n\n{\"n\":2}\n[3]\n{\"n\":4}\n"), 0o600))
	r := s.do("", "submit", "echo.star", "--input", file)
	require.Equal(t, execution.ExitUsage, r.code)
	require.Contains(t, r.err, `line 4: params are "[3]", expected a JSON object`)
	require.Contains(t, r.err, "nothing was submitted")
	require.Contains(t, s.ok("status"), "0 pending")

	for _, args := range [][]string{
		{"submit"}, {"submit", "a", "b"}, {"submit", "x", "--params", "[]"}, {"submit", "x", "--params", "{"}, {"submit", "x", "--id", "a b"},
		{"submit", "x", "--isolation", "thread"}, {"submit", "x", "--isolation", ""}, {"submit", "x", "--meta", "[]"}, {"submit", "x", "--meta", "{"},
		{"submit", "x", "--meta", `{"a":"` + strings.Repeat("x", 4096) + `"}`}, {"submit", "x", "--sha256", "abc"}, {"submit", "x", "--sha256", ""},
		{"submit", "x", "--timeout", "soon"}, {"submit", "x", "--timeout", "-1s"}, {"submit", "x", "--input", "/nowhere"},
		{"submit", "x", "--input", "-", "--id", "y"}, {"drain"}, {"drain", "a", "b"}, {"drain", "a", "--all"}, {"cancel"}, {"cancel", "a b"},
		{"results", "--from", "yesterday"}, {"modules"}, {"modules", "push"}, {"modules", "push", t.TempDir()}, {"explode"}, {"status", "--verbose"},
		{"demo", "--executions", "0"}, {"dev", "--workflows", "/nowhere"}, {"worker", "now"},
	} {
		r := s.do("", args...)
		require.Equal(t, execution.ExitUsage, r.code, "%v: %s%s", args, r.out, r.err)
		require.NotEmpty(t, r.err, args)
	}
}

func TestWrongConfigurationStopsTheStart(t *testing.T) {
	t.Parallel()
	s := (&shell{t, []string{asBobbin + "=1"}}).with("BOBBIN_CONCURRENCY=many", "BOBBIN_TIMEOUT=300", "BOBBIN_REDIS_URL=redis://u:hunter2@h:1/x")
	r := s.do("", "worker")
	require.Equal(t, execution.ExitUsage, r.code)
	for _, name := range []string{"BOBBIN_CONCURRENCY", "BOBBIN_TIMEOUT", "BOBBIN_REDIS_URL"} {
		require.Contains(t, r.err, name)
	}
	require.NotContains(t, r.err, "hunter2")
	help := (&shell{t, []string{asBobbin + "=1"}}).ok("worker", "--help")
	require.Contains(t, help, "BOBBIN_CANCEL_GRACE")
}

func TestDrainAndRecycleThroughTheBinary(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, server *redistest.Server) {
		s := setup(t, server)
		s.ok("modules", "push", workflows(t, testModules))
		first, second := s.worker(), s.worker()
		s.ok("submit", "sleep.star", "--params", `{"seconds":1}`, "--id", "nap")
		require.Contains(t, s.ok("drain", "--all"), "drain accepted, now ")
		require.Zero(t, first.exits())
		require.Zero(t, second.exits())
		require.Contains(t, s.ok("results"), "succeeded  nap")
		require.Contains(t, s.ok("status"), "no workers are registered")

		third := s.worker()
		require.Contains(t, s.ok("recycle", "*"), "recycle accepted")
		require.Equal(t, execution.ExitReplace, third.exits())
		r := s.do("", "drain", "nobody")
		require.Equal(t, execution.ExitFailure, r.code)
		require.Contains(t, r.err, `no registered worker matches "nobody"`)
	})
}

func TestSignalsThroughTheBinary(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, server *redistest.Server) {
		s := setup(t, server)
		s.ok("modules", "push", workflows(t, testModules))
		w := s.worker()
		w.signal(syscall.SIGTSTP)
		w.says("paused")
		require.Contains(t, s.ok("status"), "ACTIVE (paused)")
		w.signal(syscall.SIGCONT)
		w.says("resumed")
		s.ok("submit", "sleep.star", "--params", `{"seconds":1000}`, "--id", "nap")
		require.Eventually(t, func() bool { return strings.Contains(s.ok("status"), "1 in flight") }, patience, 20*time.Millisecond)
		w.signal(syscall.SIGUSR1)
		w.says("execution_id=nap")
		w.says("script.sleep")
		w.signal(syscall.SIGTERM)
		require.Zero(t, w.exits())
		require.Contains(t, s.ok("status"), "1 pending, 0 in flight", "what did not finish runs again")
		require.Contains(t, s.ok("cancel", "nap"), "cancelled before it ran")
		require.Contains(t, s.ok("results"), "cancelled  nap")
		require.Equal(t, execution.ExitFailure, s.do("", "cancel", "nap").code)
	})
}

func TestCancelRunningThroughTheBinary(t *testing.T) {
	t.Parallel()
	s := setup(t, redistest.Mini(t))
	s.ok("modules", "push", workflows(t, testModules))
	s.worker()
	s.ok("submit", "sleep.star", "--params", `{"seconds":1000}`, "--id", "nap")
	require.Eventually(t, func() bool { return strings.Contains(s.ok("status"), "1 in flight") }, patience, 20*time.Millisecond)
	require.Contains(t, s.ok("cancel", "nap"), "being cancelled by")
	require.Eventually(t, func() bool { return strings.Contains(s.ok("results"), "cancelled  nap") }, patience, 20*time.Millisecond)
}

func TestStatusForMachines(t *testing.T) {
	t.Parallel()
	s := setup(t, redistest.Mini(t))
	s.worker("BOBBIN_CONCURRENCY=7")
	var status struct {
		Queue   string
		Pending int
		Workers []struct {
			State       string
			Concurrency int
		}
	}
	require.NoError(t, json.Unmarshal([]byte(s.ok("status", "--json")), &status))
	require.Equal(t, "default", status.Queue)
	require.Len(t, status.Workers, 1)
	require.Equal(t, "ACTIVE", status.Workers[0].State)
	require.Equal(t, 7, status.Workers[0].Concurrency)
	s.ok("healthcheck")
}

func TestWorkerWithoutRedisSaysWhereItLooked(t *testing.T) {
	t.Parallel()
	s := &shell{t, []string{asBobbin + "=1", "BOBBIN_REDIS_URL=redis://:hunter2@127.0.0.1:1/0"}}
	r := s.do("", "worker")
	require.Equal(t, execution.ExitFailure, r.code)
	require.Contains(t, r.err, "redis is not available")
	require.Contains(t, r.err, "127.0.0.1:1")
	require.NotContains(t, r.err, "hunter2")
}

func TestModules(t *testing.T) {
	t.Parallel()
	s := setup(t, redistest.Mini(t))
	s.ok("modules", "push", workflows(t, testModules))
	require.Contains(t, s.ok("modules", "list"), "echo.star\t31 bytes")
	require.Equal(t, testModules["echo.star"], s.ok("modules", "show", "echo.star"))
	s.ok("modules", "delete", "echo.star")
	require.Equal(t, execution.ExitFailure, s.do("", "modules", "show", "echo.star").code)
	require.Equal(t, execution.ExitFailure, s.do("", "modules", "delete", "echo.star").code)
}

func TestDemo(t *testing.T) {
	t.Parallel()
	r := (&shell{t, []string{asBobbin + "=1"}}).do("", "demo", "--executions", "1200", "--concurrency", "3")
	require.Zero(t, r.code, r.err)
	require.Contains(t, r.out, "1200 executions in")
	require.Contains(t, r.out, "1200 succeeded")
}

func TestDevPublishesChanges(t *testing.T) {
	t.Parallel()
	dir := workflows(t, map[string]string{"v.star": "def main(): return 1"})
	dev := (&shell{t, []string{asBobbin + "=1"}}).start("dev", "--addr", "127.0.0.1:0", "--workflows", dir)
	dev.says("export BOBBIN_REDIS_URL=")
	_, rest, _ := strings.Cut(dev.log.String(), "export BOBBIN_REDIS_URL=")
	url, _, _ := strings.Cut(rest, "\n")
	s := &shell{t, []string{asBobbin + "=1", "BOBBIN_REDIS_URL=" + url}}
	require.EqualValues(t, 1, results(t, s.ok("submit", "v.star", "--wait"))[0]["result"])
	require.NoError(t, os.WriteFile(dir+"/v.star", []byte("def main(): return 2"), 0o600))
	dev.says("published v.star")
	require.EqualValues(t, 2, results(t, s.ok("submit", "v.star", "--wait"))[0]["result"])
	dev.signal(syscall.SIGINT)
	require.Zero(t, dev.exits())
}

// untilKilled is a workflow that takes forever, until whoever ran it has died.
var untilKilled = map[string]string{"nap.star": `
def main():
    if bobbin.context().attempt == 1:
        sleep(3600)
`}

// Killed with kill -9, its executions go on as soon as a worker starts on this machine: its process is provably gone, and the
// lease, an hour here, need not be waited for.
func TestRestartAfterKillGoesOnAtOnce(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, server *redistest.Server) {
		s := setup(t, server).with("BOBBIN_LEASE=1h")
		s.ok("modules", "push", workflows(t, untilKilled))
		first := s.worker()
		s.ok("submit", "nap.star", "--id", "nap")
		require.Eventually(t, func() bool { return strings.Contains(s.ok("status"), "1 in flight") }, patience, pollEvery)
		first.signal(syscall.SIGKILL)
		first.exits()
		s.worker()
		require.Eventually(t, func() bool { return strings.Contains(s.ok("results"), "succeeded  nap") }, patience, pollEvery)
		require.EqualValues(t, 2, results(t, s.ok("results", "--json"))[0]["attempt"])
		require.Equal(t, 1, strings.Count(s.ok("status"), "ACTIVE"), "the dead one is forgotten")
	})
}

// The same with another worker beside it: that one takes over when the lease is over.
func TestKilledWorkersExecutionsRunElsewhere(t *testing.T) {
	t.Parallel()
	s := setup(t, redistest.Shared(t))
	s.ok("modules", "push", workflows(t, untilKilled))
	first := s.worker()
	s.ok("submit", "nap.star", "--id", "nap")
	require.Eventually(t, func() bool { return strings.Contains(s.ok("status"), "1 in flight") }, patience, pollEvery)
	second := s.worker()
	first.signal(syscall.SIGKILL)
	first.exits()
	second.says("recovered the executions of a dead worker")
	require.Eventually(t, func() bool { return strings.Contains(s.ok("results"), "succeeded  nap") }, patience, pollEvery)
}

func TestSignedControlThroughTheBinary(t *testing.T) {
	t.Parallel()
	s := setup(t, redistest.Mini(t))
	file := t.TempDir() + "/key.pem"
	public := strings.TrimSpace(s.ok("keygen", file))
	require.Equal(t, execution.ExitFailure, s.do("", "keygen", file).code, "a key is never overwritten")
	w := s.worker("BOBBIN_CONTROL_PUBLIC_KEY=" + public)
	r := s.do("", "drain", "--all")
	require.Equal(t, execution.ExitFailure, r.code)
	require.Contains(t, r.out, "refused")
	require.Contains(t, r.out, "not signed")
	require.Contains(t, s.with("BOBBIN_CONTROL_PRIVATE_KEY_FILE="+file).ok("drain", "--all"), "drain accepted")
	require.Zero(t, w.exits())
}

// Flags that become fields of the context: the meta comes back, another source than the one that is meant does not run.
func TestSubmitSaysWhatItMeans(t *testing.T) {
	t.Parallel()
	s := setup(t, redistest.Mini(t))
	s.ok("modules", "push", workflows(t, testModules))
	s.worker()
	sum := fmt.Sprintf("%X", sha256.Sum256([]byte(testModules["echo.star"])))
	got := results(t, s.ok("submit", "echo.star", "--meta", `{"tenant": "acme"}`, "--sha256", sum, "--wait"))
	require.Equal(t, "succeeded", got[0]["status"])
	require.Equal(t, map[string]any{"tenant": "acme"}, got[0]["meta"])
	other := s.do("{}\n", "submit", "echo.star", "--sha256", strings.Repeat("0", 64), "--input", "-", "--wait")
	require.Equal(t, execution.ExitFailure, other.code)
	require.Equal(t, "ContentMismatch", results(t, other.out)[0]["error_type"])

	document, err := (&submission{workflow: "w.py", function: "main", isolation: "fork", meta: "{}", sha256: sum}).context([]byte("{}"))
	require.NoError(t, err)
	require.JSONEq(t, `{"workflow":"w.py","params":{},"isolation":"fork","meta":{},"content_sha256":"`+sum+`"}`, string(document))
}

// A folder of Python workflows, as in docs/python.md: pushed, submitted, read, with its lines in the execution's log.
func TestPythonThroughTheBinary(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("python3"); err != nil {
		require.Empty(t, os.Getenv("BOBBIN_REQUIRE_REDIS"), "CI has python3")
		t.Skip("no python3")
	}
	redistest.Each(t, func(t *testing.T, server *redistest.Server) {
		s := setup(t, server)
		s.ok("modules", "push", workflows(t, map[string]string{
			"billing/invoice.py": "from .rates import vat\n\nasync def main(net):\n    print('net', net)\n    return net * (1 + vat)\n",
			"billing/rates.py":   "vat = 0.5\n",
		}))
		w := s.worker("BOBBIN_PYTHON_WARM=1", "HOME="+os.Getenv("HOME"))
		require.EqualValues(t, 3, results(t, s.ok("submit", "billing/invoice.py", "--params", `{"net":2}`, "--wait"))[0]["result"])
		w.says("net 2")
		require.Contains(t, s.ok("status", "--json"), "python")
		w.signal(syscall.SIGTERM)
		require.Zero(t, w.exits())
		bad := s.with("BOBBIN_PYTHON=/nowhere/python").do("", "worker")
		require.NotZero(t, bad.code)
		require.Contains(t, bad.err, `BOBBIN_PYTHON="/nowhere/python"`)
	})
}
