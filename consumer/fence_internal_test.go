package consumer

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/pool"
	"github.com/bobbin-run/bobbin/queue"
	"github.com/bobbin-run/bobbin/runner"
)

// What waits for a slot when the lease is lost is given back, and does not begin where the cancelled ones end. From outside it is
// the matter of a few milliseconds, since nothing waits for longer.
func TestFenceGivesBackWhatWaits(t *testing.T) {
	t.Parallel()
	w, err := New(Options{Runner: runner.NewMux(), Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer func() { _ = w.queue.Close() }()
	old := w.Incarnation()
	for _, id := range []string{"a", "b"} { // the pool does not run: both wait
		j := &job{arrival: &arrival{incarnation: old}, id: id, token: old + ":1:1"}
		w.pool.Submit(pool.Task{ID: id, Job: j})
	}
	(&heart{w: w, registered: true}).fence("because")
	require.NotEqual(t, old, w.Incarnation())
	require.Empty(t, w.pool.TakeBack())
	given := w.releaser.take(nil)
	require.Len(t, given, 2)
	for i, id := range []string{"b", "a"} { // "a" is given back last: it runs first
		require.Equal(t, release, given[i].kind)
		require.Equal(t, queue.Held{ID: id, Token: old + ":1:1"}, given[i].job.held())
	}
}
