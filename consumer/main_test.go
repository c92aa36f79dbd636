package consumer_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/queue"
	"github.com/bobbin-run/bobbin/runner"
)

func TestMain(m *testing.M) { os.Exit(redistest.Main(m)) }

// patience bounds every wait for something that must happen.
const patience = 20 * time.Second

// fleet is a queue on a Redis, with workers on it and an orchestrator's view of it.
type fleet struct {
	t       *testing.T
	queue   *queue.Queue
	raw     *redis.Client // what an orchestrator without our library has
	options consumer.Options
	read    string // the place in results up to which results were read
	results map[string][]*execution.Result
	unique  string // differs between all tests and servers
	real    bool   // not miniredis
}

// setup returns a fleet without workers. Its options are quick to lose patience.
func setup(t *testing.T, server *redistest.Server, mux *runner.Mux) *fleet {
	t.Helper()
	q, err := queue.Open(queue.Options{URL: server.URL(), Prefix: server.Prefix})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, q.Close()) })
	if mux == nil {
		mux = runner.NewMux()
	}
	return &fleet{
		t: t, queue: q, raw: server.Client(), unique: server.Prefix, real: server.Real, read: "0", results: map[string][]*execution.Result{},
		options: consumer.Options{
			RedisURL: server.URL(), Prefix: server.Prefix, Runner: mux, Log: testLog(t),
			CancelGrace: 100 * time.Millisecond, ShutdownTimeout: 2 * time.Second, Lease: 2 * time.Second,
		},
	}
}

// testLog shows the workers' log when the test fails.
func testLog(t *testing.T) *slog.Logger {
	t.Helper()
	buffer := &syncBuffer{}
	t.Cleanup(func() {
		if t.Failed() {
			fmt.Fprintf(os.Stderr, "log of %s:\n%s", t.Name(), buffer.String())
		}
	})
	return slog.New(slog.NewTextHandler(buffer, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type syncBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// started is a worker that runs.
type started struct {
	*consumer.Worker
	t    *testing.T
	stop context.CancelFunc
	exit chan int
}

// start runs a worker until the test ends, or it ends by itself.
func (f *fleet) start() *started {
	f.t.Helper()
	before := f.listeners()
	w, err := consumer.New(f.options)
	require.NoError(f.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	s := &started{Worker: w, t: f.t, stop: cancel, exit: make(chan int, 1)}
	var running sync.WaitGroup
	running.Go(func() {
		code, err := w.Run(ctx)
		if err != nil {
			f.options.Log.Error("the worker could not start", "error", err)
			code = -1
		}
		s.exit <- code
	})
	f.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	f.until("the worker listens", func() bool { return f.listeners() > before })
	return s
}

// listeners counts the workers that hear the doorbell.
func (f *fleet) listeners() int64 {
	channel := f.queue.Keys.Control
	heard, err := f.raw.PubSubNumSub(context.Background(), channel).Result()
	require.NoError(f.t, err)
	return heard[channel]
}

// exits waits for the worker to leave and returns its exit code.
func (s *started) exits() int {
	s.t.Helper()
	select {
	case code := <-s.exit:
		return code
	case <-time.After(patience):
		require.FailNow(s.t, "the worker does not leave")
		return -1
	}
}

// submit is an orchestrator with two plain commands.
func (f *fleet) submit(id, document string) {
	f.t.Helper()
	ctx := context.Background()
	require.NoError(f.t, f.raw.HSet(ctx, f.queue.Keys.Executions, id, document).Err())
	require.NoError(f.t, f.raw.LPush(ctx, f.queue.Keys.Pending, id).Err())
}

// submitMany submits n executions, a multiple of a thousand, with one document.
func (f *fleet) submitMany(n int, prefix, document string) {
	f.t.Helper()
	for i := 0; i < n; i += 1000 {
		batch := make([]queue.Submission, 1000)
		for j := range batch {
			batch[j] = queue.Submission{ID: execution.ID(fmt.Sprint(prefix, i+j)), Context: []byte(document)}
		}
		require.NoError(f.t, f.queue.Submit(context.Background(), batch...))
	}
}

// result waits for the first result of an ID.
func (f *fleet) result(id string) *execution.Result {
	f.t.Helper()
	f.until("a result of "+id, func() bool {
		f.readAll()
		return len(f.results[id]) > 0
	})
	return f.results[id][0]
}

// readAll reads what is new in results and checks that no ID has two.
func (f *fleet) readAll() {
	f.t.Helper()
	entries, err := f.queue.ReadResults(context.Background(), f.read, 10_000, -1)
	require.NoError(f.t, err)
	for _, e := range entries {
		f.read = e.StreamID
		f.results[e.Result.ID] = append(f.results[e.Result.ID], e.Result)
		require.Len(f.t, f.results[e.Result.ID], 1, "results of %s", e.Result.ID)
	}
}

// until waits for a condition of Redis, which has no event to wait for.
func (f *fleet) until(what string, condition func() bool) {
	f.t.Helper()
	require.Eventually(f.t, condition, patience, 5*time.Millisecond, what)
}

// requireNothingLeft checks that nothing of any execution is left behind but its result.
func (f *fleet) requireNothingLeft() {
	f.t.Helper()
	ctx, k := context.Background(), f.queue.Keys
	for _, key := range []string{k.Pending, k.Handoff, k.Claims, k.Executions, k.Attempts, k.Recoveries, k.Scheduled, k.Cancels, k.Intents} {
		n, err := f.raw.Exists(ctx, key).Result()
		require.NoError(f.t, err)
		require.Zero(f.t, n, key)
	}
}

// each runs a test against every Redis there is.
func each(t *testing.T, mux func() *runner.Mux, test func(t *testing.T, f *fleet)) {
	t.Helper()
	t.Parallel()
	redistest.Each(t, func(t *testing.T, server *redistest.Server) {
		var handlers *runner.Mux
		if mux != nil {
			handlers = mux()
		}
		test(t, setup(t, server, handlers))
	})
}
