package supervise_test

import (
	"bytes"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/supervise"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/bobbin-run/bobbin/internal/leash.serve"))
}

// story is what came of a supervised script.
type story struct {
	code, runs int
	log        string
}

// run supervises a shell script, which finds its number of the run in $n, until it ends. signals are sent once it said "up".
func run(t *testing.T, script string, signals ...os.Signal) story {
	t.Helper()
	return runWith(t, &supervise.Supervisor{}, script, signals...)
}

func runWith(t *testing.T, s *supervise.Supervisor, script string, signals ...os.Signal) story {
	t.Helper()
	dir := t.TempDir()
	log := &bytes.Buffer{}
	incoming := make(chan os.Signal, len(signals))
	s.Command = []string{"sh", "-c", "echo run >>" + dir + "/runs; n=$(wc -l <" + dir + "/runs)\n" + strings.ReplaceAll(script, "DIR", dir)}
	s.Env, s.Output, s.Log, s.Pause = os.Environ(), os.Stderr, slog.New(slog.NewTextHandler(log, nil)), time.Millisecond
	var sending sync.WaitGroup
	defer sending.Wait()
	if len(signals) > 0 {
		sending.Go(func() {
			up := func() bool { _, err := os.Stat(dir + "/up"); return err == nil }
			for deadline := time.Now().Add(10 * time.Second); !up() && time.Now().Before(deadline); {
				runtime.Gosched()
			}
			for _, signal := range signals {
				incoming <- signal
			}
		})
	}
	code := s.Run(t.Context(), incoming)
	data, err := os.ReadFile(dir + "/runs")
	require.NoError(t, err)
	t.Log(log.String())
	return story{code, strings.Count(string(data), "run"), log.String()}
}

const (
	works    = "echo 'ACTIVE ' >&3; "
	recycles = works + "echo PENDING_KILL recycle >&3; "
	drains   = works + "echo DRAINING drain >&3; "
	first    = "if [ $n = 1 ]; then "
	waits    = "for i in $(seq 1000); do sleep 0.01; done; exit 2"
)

// How a worker ends, and what becomes of it.
func TestEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script     string
		code, runs int
	}{
		"drained":                         {drains + "exit 0", 0, 1},
		"shut down":                       {works + "echo EXITING shutdown >&3; exit 0", 0, 1},
		"recycled once":                   {first + recycles + "exit 75; fi; " + drains + "exit 0", 0, 2},
		"recycled without a word":         {first + "exit 75; fi; exit 0", 0, 2},
		"stuck":                           {first + works + "echo DRAINING stuck-limit >&3; exit 75; fi; exit 0", 0, 2},
		"crashed twice":                   {"if [ $n -lt 3 ]; then kill -SEGV $$; fi; exit 0", 0, 3},
		"crash loop":                      {"exit 1", supervise.ExitCrashLoop, 8},
		"crashed often, but had worked":   {"if [ $n -lt 10 ]; then " + works + "exit 1; fi; exit 0", 0, 10},
		"wrong configuration":             {"exit 2", execution.ExitUsage, 1},
		"a panic, which is exit code 2":   {first + works + "exit 2; fi; exit 0", 0, 2},
		"crashed while it was recycling":  {first + recycles + "kill -9 $$; fi; " + drains + "exit 0", 0, 2},
		"crashed while it was draining":   {drains + "kill -9 $$", execution.ExitFailure, 1},
		"paused, and crashed":             {first + works + "echo PAUSED operator >&3; exit 1; fi; [ $BOBBIN_SUPERVISED_PAUSE = operator ] || exit 2", 0, 2},
		"paused, resumed, and crashed":    {first + works + "echo PAUSED operator >&3; echo 'PAUSED ' >&3; exit 1; fi; [ -z $BOBBIN_SUPERVISED_PAUSE ] || exit 2", 0, 2},
		"told to leave with all, at once": {first + recycles + "until [ -e DIR/2 ]; do sleep 0.01; done; echo TOLD_ALL drain >&3; exit 75; fi; touch DIR/2; " + waits, 0, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := run(t, c.script)
			require.Equal(t, c.code, s.code)
			require.Equal(t, c.runs, s.runs)
		})
	}
}

// The old one works on beside its replacement, for as long as it takes, and both hear the signal that ends everything.
func TestReplacementRunsBesideTheOldOne(t *testing.T) {
	t.Parallel()
	// The first waits until the second is there: it would wait in vain if they took turns.
	s := run(t, first+recycles+"for i in $(seq 1000); do [ -e DIR/second ] && exit 75; sleep 0.01; done; exit 1; fi; touch DIR/second; exit 0")
	require.Zero(t, s.code)
	require.Equal(t, 2, s.runs)
}

// Replacements that crash as soon as they are started are tried again for as long as the old one works, which is left alone.
func TestCrashLoopBesideTheOldOne(t *testing.T) {
	t.Parallel()
	s := run(t, first+recycles+"until [ $(wc -l <DIR/runs) -gt 10 ]; do sleep 0.01; done; exit 75; fi; exit 1")
	require.Equal(t, supervise.ExitCrashLoop, s.code)
	require.Greater(t, s.runs, 10, "the old one was not told to end when eight had crashed")
}

// One that wants to be replaced at once, such as with a BOBBIN_MAX_RSS below what it holds, is no hot loop.
func TestHastyReplacementsWait(t *testing.T) {
	t.Parallel()
	s := run(t, "if [ $n -lt 4 ]; then "+recycles+"exit 75; fi; exit 0")
	require.Zero(t, s.code)
	require.Contains(t, s.log, "in_a_row=3")
}

// A program that is away for a moment, as in an upgrade, is tried again.
func TestProgramIsAway(t *testing.T) {
	t.Parallel()
	program := t.TempDir() + "/worker"
	back := writer(func(line []byte) (int, error) {
		if bytes.Contains(line, []byte("cannot be started")) {
			require.NoError(t, os.Symlink("/bin/true", program))
		}
		return len(line), nil
	})
	s := &supervise.Supervisor{Command: []string{program}, Output: os.Stderr, Log: slog.New(slog.NewTextHandler(back, nil)), Pause: time.Millisecond}
	require.Zero(t, s.Run(t.Context(), nil))
	s = &supervise.Supervisor{Command: []string{program + "-not"}, Output: os.Stderr, Log: slog.New(slog.DiscardHandler), Pause: time.Millisecond}
	require.Equal(t, supervise.ExitCrashLoop, s.Run(t.Context(), nil))
}

type writer func(line []byte) (int, error)

func (w writer) Write(line []byte) (int, error) { return w(line) }

// A worker that hangs is replaced, and told to leave; one that says that it lives is not.
func TestSilence(t *testing.T) {
	t.Parallel()
	s := runWith(t, &supervise.Supervisor{Silence: 300 * time.Millisecond}, first+"trap 'exit 0' TERM; "+works+waits+"; fi; exit 0")
	require.Zero(t, s.code)
	require.GreaterOrEqual(t, s.runs, 2)
	require.NotContains(t, s.log, "exit status 2", "it was told to leave")
	s = runWith(t, &supervise.Supervisor{Silence: time.Second}, works+"for i in $(seq 150); do echo 'ALIVE ' >&3; sleep 0.01; done; exit 0")
	require.Zero(t, s.code)
	require.Equal(t, 1, s.runs)
}

func TestSignalsArePassedOn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		trapped string
		signals []os.Signal
	}{
		{"TERM", []os.Signal{syscall.SIGCONT, syscall.SIGTERM}}, {"HUP", []os.Signal{syscall.SIGHUP}}, {"QUIT", []os.Signal{syscall.SIGQUIT}},
	} {
		s := run(t, "trap 'exit 0' "+c.trapped+"; "+works+"touch DIR/up; "+waits, c.signals...)
		require.Zero(t, s.code)
		require.Equal(t, 1, s.runs, "nothing is started after a signal to end")
	}
}

// While it starts, a worker does with signals what the system does: it is spared them, or its death is no failure.
func TestSignalsToOneThatStarts(t *testing.T) {
	t.Parallel()
	s := run(t, "touch DIR/up; "+waits, syscall.SIGTERM)
	require.Zero(t, s.code, "it had claimed nothing")
	s = run(t, "touch DIR/up; sleep 0.1; trap 'exit 0' TSTP; "+works+waits, syscall.SIGUSR1, syscall.SIGTSTP)
	require.Zero(t, s.code, "the pause is made up for")
	require.Equal(t, 1, s.runs)
	s = run(t, first+"trap '' TSTP; touch DIR/up; sleep 0.1; "+works+"exit 1; fi; [ $BOBBIN_SUPERVISED_PAUSE = signal ] || exit 2", syscall.SIGTSTP)
	require.Zero(t, s.code, "the next one starts paused")
}
