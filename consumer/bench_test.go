package consumer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/queue"
	"github.com/bobbin-run/bobbin/runner"
)

// BenchmarkDrain is the whole path of an execution that does nothing, from a real Redis back to it, in one process.
func BenchmarkDrain(b *testing.B) {
	server := redistest.Real(b)
	q, err := queue.Open(queue.Options{URL: server.URL(), Prefix: server.Prefix})
	require.NoError(b, err)
	defer func() { _ = q.Close() }()
	ctx := b.Context()
	var batch []queue.Submission
	for i := range b.N {
		batch = append(batch, queue.Submission{ID: execution.ID(fmt.Sprint(i)), Context: []byte(`{"workflow":"noop","params":{"customer":4711}}`)})
		if len(batch) == 1000 || i == b.N-1 {
			require.NoError(b, q.Submit(ctx, batch...))
			batch = batch[:0]
		}
	}
	var ended sync.WaitGroup
	ended.Add(b.N)
	mux := runner.NewMux()
	mux.Handle("noop", runner.Func(func(context.Context, *runner.Call) (json.RawMessage, error) {
		ended.Done()
		return nil, nil
	}))
	w, err := consumer.New(consumer.Options{
		RedisURL: server.URL(), Prefix: server.Prefix, Runner: mux, Concurrency: 16, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	require.NoError(b, err)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	running.Go(func() { _, _ = w.Run(ctx) })
	ended.Wait()
	b.StopTimer()
	stop()
	running.Wait()
}
