package consumer

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
	"github.com/bobbin-run/bobbin/runner"
)

// A context that our own code cannot bear to read costs its execution, and no worker.
func TestAContextWhoseReadingPanicsIsRefused(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	w, err := New(Options{Runner: runner.NewMux(), Log: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	defer func() { _ = w.queue.Close() }()
	tooFar := func(*execution.Context, []byte) error { panic("one byte too far") }
	err = w.guarded(tooFar, &execution.Context{}, &queue.Claimed{ID: "a", Context: []byte("{}")})
	require.ErrorContains(t, err, "context could not be read: one byte too far")
	require.Contains(t, log.String(), "job_internal_test.go", "where it was")
}
