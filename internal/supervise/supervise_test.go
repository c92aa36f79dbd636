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

// run supervises a shell script, which finds its number of the run in $n, until it ends. signals are sent once it said "up".
func run(t *testing.T, script string, signals ...os.Signal) (code int, runs int) {
	t.Helper()
	dir := t.TempDir()
	log := &bytes.Buffer{}
	incoming := make(chan os.Signal, len(signals))
	s := &supervise.Supervisor{
		Command: []string{"sh", "-c", "echo run >>" + dir + "/runs; n=$(wc -l <" + dir + "/runs)\n" + strings.ReplaceAll(script, "UP", dir+"/up")},
		Env:     os.Environ(), Output: os.Stderr, Log: slog.New(slog.NewTextHandler(log, nil)), Pause: time.Millisecond,
	}
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
	code = s.Run(t.Context(), incoming)
	data, err := os.ReadFile(dir + "/runs")
	require.NoError(t, err)
	t.Log(log.String())
	return code, strings.Count(string(data), "run")
}

const (
	recycles = "echo PENDING_KILL recycle >&3; "
	drains   = "echo DRAINING drain >&3; "
)

// How a worker ends, and what becomes of it.
func TestEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script     string
		code, runs int
	}{
		"drained":                        {drains + "exit 0", 0, 1},
		"shut down":                      {"echo EXITING shutdown >&3; exit 0", 0, 1},
		"recycled once":                  {"if [ $n = 1 ]; then " + recycles + "exit 75; fi; " + drains + "exit 0", 0, 2},
		"recycled without a word":        {"if [ $n = 1 ]; then exit 75; fi; exit 0", 0, 2},
		"stuck":                          {"if [ $n = 1 ]; then echo DRAINING stuck-limit >&3; exit 75; fi; exit 0", 0, 2},
		"crashed twice":                  {"if [ $n -lt 3 ]; then kill -SEGV $$; fi; exit 0", 0, 3},
		"crash loop":                     {"exit 1", supervise.ExitCrashLoop, 8},
		"wrong configuration":            {"exit 2", execution.ExitUsage, 1},
		"crashed while it was recycling": {"if [ $n = 1 ]; then " + recycles + "kill -9 $$; fi; " + drains + "exit 0", 0, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, runs := run(t, c.script)
			require.Equal(t, c.code, code)
			require.Equal(t, c.runs, runs)
		})
	}
}

// The old one works on beside its replacement, for as long as it takes, and both hear the signal that ends everything.
func TestReplacementRunsBesideTheOldOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// The first waits until the second is there: it would wait in vain if they took turns.
	code, runs := run(t, "if [ $n = 1 ]; then "+recycles+"for i in $(seq 1000); do [ -e "+dir+"/second ] && exit 75; sleep 0.01; done; exit 1; fi; touch "+dir+"/second; exit 0")
	require.Zero(t, code)
	require.Equal(t, 2, runs)
}

func TestSignalsArePassedOn(t *testing.T) {
	t.Parallel()
	code, runs := run(t, "trap 'exit 0' TERM; touch UP; while true; do sleep 0.01; done", syscall.SIGCONT, syscall.SIGTERM)
	require.Zero(t, code)
	require.Equal(t, 1, runs, "nothing is started after a signal to end")
}
