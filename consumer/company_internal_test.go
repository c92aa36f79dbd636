package consumer

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/pool"
	"github.com/bobbin-run/bobbin/queue"
	"github.com/bobbin-run/bobbin/runner"
)

// crowded is a worker in whose pool, which does not run, so many tasks wait behind full slots.
func crowded(t *testing.T, behind int) *Worker {
	t.Helper()
	w, err := New(Options{Runner: runner.NewMux(), Concurrency: 4, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { _ = w.queue.Close() })
	for i := range 4 + behind {
		w.pool.Submit(pool.Task{ID: fmt.Sprint(i), Job: &job{claimed: queue.Claimed{ID: fmt.Sprint(i)}}})
	}
	require.Equal(t, behind, w.pool.Backlog())
	return w
}

// end adds the result of a task that ended after so long, while many others waited.
func end(w *Worker, after, pace time.Duration) {
	j := &job{claimed: queue.Claimed{ID: "x"}}
	w.finished(item{job: j, kind: commit, result: &execution.Result{}}, &pool.Outcome{
		Finished: time.Unix(1000, 0).Add(after), Backlog: crowd, Pace: pace,
	})
}

// While the pool has more to run than it can, results wait for company, and never for what does not come.
func TestResultsWaitForCompany(t *testing.T) {
	t.Parallel()
	t.Run("until there are many", func(t *testing.T) {
		t.Parallel()
		w := crowded(t, crowd)
		for range company {
			end(w, 0, slowPace)
			require.Empty(t, w.committer.take())
		}
		end(w, 0, slowPace)
		require.Len(t, w.committer.take(), company+1)
		end(w, 0, slowPace) // the next ones wait again
		require.Empty(t, w.committer.take())
	})
	t.Run("until the first is old", func(t *testing.T) {
		t.Parallel()
		w := crowded(t, crowd)
		end(w, 0, slowPace)
		end(w, maxWaiting, slowPace)
		require.Empty(t, w.committer.take())
		end(w, maxWaiting+1, slowPace)
		require.Len(t, w.committer.take(), 3)
	})
	t.Run("not where executions end as fast as Redis takes their results", func(t *testing.T) {
		t.Parallel()
		w := crowded(t, crowd)
		end(w, 0, slowPace-1)
		require.Len(t, w.committer.take(), 1)
	})
	t.Run("not where too few tasks wait", func(t *testing.T) {
		t.Parallel()
		w := crowded(t, crowd-1)
		end(w, 0, slowPace)
		require.Len(t, w.committer.take(), 1)
	})
	t.Run("not where those that waited have ended meanwhile", func(t *testing.T) {
		t.Parallel()
		w := crowded(t, crowd)
		w.pool.TakeBack()
		end(w, 0, slowPace)
		require.Len(t, w.committer.take(), 1)
	})
	t.Run("until something else is to be said", func(t *testing.T) {
		t.Parallel()
		w := crowded(t, crowd)
		end(w, 0, slowPace)
		w.giveBack()
		require.Len(t, w.committer.take(), 1+4+crowd)
	})
}
