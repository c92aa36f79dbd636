package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/internal/bench"
	"github.com/bobbin-run/bobbin/internal/redistest"
)

// Time varies, counts do not: the bench runs end to end, and no execution costs more commands or allocations than committed.
// Raise a number in testdata/budget.json only in a commit that says what it buys.
func TestBenchSmokeStaysWithinItsBudget(t *testing.T) {
	t.Parallel()
	said := benching(t).do("", "bench", "smoke", "--runs", "1", "--executions", "20000", "--json")
	require.Zero(t, said.code, said.err)
	var reports []bench.Report
	require.NoError(t, json.Unmarshal([]byte(said.out), &reports))
	raw, err := os.ReadFile("testdata/budget.json")
	require.NoError(t, err)
	budget := map[string]float64{}
	require.NoError(t, json.Unmarshal(raw, &budget))
	require.Len(t, reports[0].Rows, len(budget))
	for _, row := range reports[0].Rows {
		require.Contains(t, budget, row.What)
		require.LessOrEqual(t, row.Value, budget[row.What], row.What)
	}
}

// Each measurement runs with few executions; its figures are of no matter.
func TestBenchMeasurementsRun(t *testing.T) {
	t.Parallel()
	s := benching(t)
	for _, args := range [][]string{
		{"drain", "--executions", "2000"}, {"starlark", "--executions", "1000"}, {"idle", "--executions", "20"},
		{"fairness", "--executions", "40"}, {"inflight", "--executions", "1000", "--concurrency", "50"},
		{"scale", "--executions", "10000"},
	} {
		t.Run(args[0], func(t *testing.T) {
			said := s.do("", append(append([]string{"bench"}, args...), "--runs", "1")...)
			require.Zero(t, said.code, said.err)
			require.Contains(t, said.out, args[0]+": ")
			require.Contains(t, said.out, "Redis ")
		})
	}
}

// What fails is done sooner: its rate must not be taken for one.
func TestBenchOfWhatFailsIsAnError(t *testing.T) {
	t.Parallel()
	s := benching(t).with("BOBBIN_PYTHON=false")
	said := s.do("", "bench", "python", "--runs", "1", "--executions", "100")
	require.NotZero(t, said.code, said.out)
	require.Contains(t, said.err, "executions did not succeed")
	require.Contains(t, said.err, "of spawn, is failed: ")
	require.NotContains(t, said.out, "python: ")
}

func TestBenchRefusesBadFlags(t *testing.T) {
	t.Parallel()
	said := benching(t).do("", "bench", "drain", "--runs", "0")
	require.Equal(t, 2, said.code)
	require.Contains(t, said.err, "--runs is 0, expected at least 1")
}

// benching is a shell for measurements, which start a Redis of their own.
// Its workers do not step back: behind the tests of other packages they would wait for most of a minute.
func benching(t *testing.T) *shell {
	t.Helper()
	if !redistest.RealAvailable() && os.Getenv("BOBBIN_REQUIRE_REDIS") != "1" {
		t.Skip("no redis-server was found")
	}
	path, err := redistest.Lookup()
	require.NoError(t, err)
	return &shell{t, []string{asBobbin + "=1", "BOBBIN_NICE=0", "PATH=" + filepath.Dir(path) + ":" + os.Getenv("PATH")}}
}
