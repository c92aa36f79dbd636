// Package runnertest is the conformance suite for runners: what a user may expect whichever language a workflow is in, from
// Redis to Redis, with a real worker between. A runner passes by giving the suite the same workflows in its own language:
//
//   - echo returns its params
//   - fail fails with the word "deliberate"
//   - sleeper waits until it is cancelled, and heeds it
//   - stubborn does not heed it
//   - huge returns a string of two million bytes
//   - lines writes the line "a line of its own" wherever its language writes lines
//   - whole returns the "version" of a helper that it imports; the suite publishes another helper (Changed)
//   - missing imports what is not published
//   - cyclic imports itself by way of another
//   - flood writes 5,000 lines and one of 200,000 characters, and returns "dry"
//   - leftover leaves behind what goes on after it returned, where its language can: lines, imports, progress
package runnertest

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/queue"
	"github.com/bobbin-run/bobbin/runner"
)

// Grace is the cancel grace of the suite's worker.
const Grace = 2 * time.Second

const patience = 60 * time.Second

// Subject is a runner under test.
type Subject struct {
	// Handlers runs the workflows by their bare names, or Build makes what runs modules that end in Suffix.
	Handlers runner.Runner
	Suffix   string
	Build    func(consumer.Modules) runner.Runner

	Modules map[string]string // what is published, by path; nil for handlers
	Changed map[string]string // what is published later: whole returns "two" and not "one"

	FailType    string            // error_type of fail
	FailShows   []string          // parts of the traceback of fail
	FailsToo    map[string]string // other workflows that fail with the word "deliberate", and their error_type
	Stubborn    execution.Status  // how stubborn ends: Stuck, or TimedOut where it can be stopped
	MissingType string            // error_type of missing; "" where there are no modules
	// CyclicType is the error_type of cyclic; "" where the language allows it, and cyclic returns "fine".
	CyclicType string
}

// bench is a queue with one worker.
type bench struct {
	s       Subject
	queue   *queue.Queue
	raw     *redis.Client
	from    string
	results map[string]*execution.Result

	submitted int
}

// Run runs the suite.
func Run(t *testing.T, s Subject) {
	t.Helper()
	b := start(t, s)
	t.Run("success", func(t *testing.T) {
		r := b.run(t, "echo", `"params":{"a":[1,2.5,null,"é"],"b":{}}`)
		require.Equal(t, execution.Succeeded, r.Status, "%+v", r.Err)
		require.JSONEq(t, `{"a":[1,2.5,null,"é"],"b":{}}`, string(r.Value))
	})
	t.Run("error", func(t *testing.T) {
		r := b.run(t, "fail", "")
		require.Equal(t, execution.Failed, r.Status)
		require.Equal(t, s.FailType, r.Err.Type)
		require.Contains(t, r.Err.Message, "deliberate")
		for _, part := range s.FailShows {
			require.Contains(t, r.Err.Traceback, part)
		}
		for workflow, kind := range s.FailsToo {
			r := b.run(t, workflow, "")
			require.Equal(t, execution.Failed, r.Status, workflow)
			require.Equal(t, kind, r.Err.Type, workflow)
			require.Contains(t, r.Err.Message, "deliberate", workflow)
		}
	})
	t.Run("timeout", func(t *testing.T) {
		r := b.run(t, "sleeper", `"timeout_seconds":0.5`)
		require.Equal(t, execution.TimedOut, r.Status, "%+v", r.Err)
		require.Equal(t, execution.TypeTimeout, r.Err.Type)
	})
	t.Run("cancel", func(t *testing.T) { b.cancels(t) })
	t.Run("ignored cancel", func(t *testing.T) {
		beside := b.submit(t, "sleeper", `"timeout_seconds":1`) // its neighbour is not touched
		r := b.run(t, "stubborn", `"timeout_seconds":0.5`)
		require.Equal(t, s.Stubborn, r.Status, "%+v", r.Err)
		r = b.await(t, beside)
		require.Equal(t, execution.TimedOut, r.Status, "%+v", r.Err)
	})
	t.Run("oversized result", func(t *testing.T) {
		r := b.run(t, "huge", "")
		require.Equal(t, execution.Failed, r.Status)
		require.Equal(t, execution.TypeResultTooLarge, r.Err.Type)
		require.Contains(t, r.Err.Message, "1048576")
	})
	t.Run("log lines", func(t *testing.T) { b.logs(t) })
	t.Run("flood of lines", func(t *testing.T) {
		require.JSONEq(t, `"dry"`, string(b.run(t, "flood", "").Value))
	})
	t.Run("leftover work", func(t *testing.T) {
		for range 5 {
			require.Equal(t, execution.Succeeded, b.run(t, "leftover", "").Status)
			r := b.run(t, "echo", `"params":{"a":1}`)
			require.JSONEq(t, `{"a":1}`, string(r.Value), "%+v", r.Err)
		}
	})
	if s.Modules != nil {
		t.Run("modules", func(t *testing.T) { b.modules(t) })
	}
	t.Run("works on", func(t *testing.T) {
		require.Equal(t, execution.Succeeded, b.run(t, "echo", "").Status)
	})
}

func (b *bench) cancels(t *testing.T) {
	id := b.submit(t, "sleeper", `"timeout_seconds":50`)
	require.Eventually(t, func() bool {
		held, err := b.raw.HExists(t.Context(), b.queue.Keys.Claims, string(id)).Result()
		return err == nil && held
	}, patience, 10*time.Millisecond)
	command := control.Command{Verb: control.Cancel, Worker: "*", ExecutionID: string(id), RequestID: "conformance"}
	err := b.raw.HSet(t.Context(), b.queue.Keys.Cancels, string(id), command.Encode()).Err()
	require.NoError(t, err)
	require.Equal(t, execution.Cancelled, b.await(t, id).Status)
}

func (b *bench) logs(t *testing.T) {
	id := b.submit(t, "lines", "")
	require.Equal(t, execution.Succeeded, b.await(t, id).Status)
	require.Eventually(t, func() bool {
		entries, err := b.raw.XRange(t.Context(), b.queue.Keys.Logs(string(id)), "-", "+").Result()
		require.NoError(t, err)
		for _, e := range entries {
			if line, _ := e.Values["line"].(string); strings.Contains(line, "a line of its own") {
				return true
			}
		}
		return false
	}, patience, 10*time.Millisecond)
}

func (b *bench) modules(t *testing.T) {
	require.JSONEq(t, `"one"`, string(b.run(t, "whole", "").Value))
	_, err := b.queue.PushModules(t.Context(), b.s.Changed)
	require.NoError(t, err)
	require.JSONEq(t, `"two"`, string(b.run(t, "whole", "").Value), "the next execution sees the module that is published")

	r := b.run(t, "missing", "")
	require.Equal(t, execution.Failed, r.Status)
	require.Equal(t, b.s.MissingType, r.Err.Type)
	require.Contains(t, r.Err.Message, "not_published")

	r = b.run(t, "cyclic", "")
	if b.s.CyclicType == "" {
		require.JSONEq(t, `"fine"`, string(r.Value), "%+v", r.Err)
	} else {
		require.Equal(t, b.s.CyclicType, r.Err.Type)
	}
	r = b.run(t, "never_published", "")
	require.Equal(t, execution.Rejected, r.Status)
	require.Equal(t, execution.TypeWorkflowNotFound, r.Err.Type)
	r = b.run(t, "echo", `"function":"nowhere"`)
	require.Equal(t, execution.Failed, r.Status)
	require.Equal(t, execution.TypeFunctionNotFound, r.Err.Type)
	r = b.run(t, "echo", `"content_sha256":"`+strings.Repeat("0", 64)+`"`)
	require.Equal(t, execution.Rejected, r.Status)
	require.Equal(t, execution.TypeContentMismatch, r.Err.Type)
}

func start(t *testing.T, s Subject) *bench {
	t.Helper()
	server := redistest.Mini(t)
	q, err := queue.Open(queue.Options{URL: server.URL(), Prefix: server.Prefix})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, q.Close()) })
	if s.Modules != nil {
		_, err := q.PushModules(t.Context(), s.Modules)
		require.NoError(t, err)
	}
	options := consumer.Options{
		RedisURL: server.URL(), Prefix: server.Prefix, Runner: s.Handlers, CancelGrace: Grace, StuckLimit: 2, Lease: 1500 * time.Millisecond, Concurrency: 4,
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if s.Handlers == nil {
		options.Runner = runner.NewMux()
		options.ScriptRunners = map[string]func(consumer.Modules) runner.Runner{s.Suffix: s.Build}
	}
	w, err := consumer.New(options)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _, _ = w.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return &bench{s: s, queue: q, raw: server.Client(), from: "0", results: map[string]*execution.Result{}}
}

func (b *bench) submit(t *testing.T, workflow, fields string) execution.ID {
	t.Helper()
	b.submitted++
	id := execution.ID(fmt.Sprintf("%s-%d", workflow, b.submitted))
	document := `{"workflow":"` + workflow + b.s.Suffix + `"`
	if fields != "" {
		document += "," + fields
	}
	document += "}"
	require.True(t, json.Valid([]byte(document)), document)
	require.NoError(t, b.queue.Submit(t.Context(), queue.Submission{ID: id, Context: []byte(document)}))
	return id
}

func (b *bench) await(t *testing.T, id execution.ID) *execution.Result {
	t.Helper()
	require.Eventually(t, func() bool {
		entries, err := b.queue.ReadResults(t.Context(), b.from, 100, -1)
		require.NoError(t, err)
		for _, e := range entries {
			require.Nil(t, b.results[e.Result.ID], "a second result")
			b.results[e.Result.ID], b.from = e.Result, e.StreamID
		}
		return b.results[string(id)] != nil
	}, patience, 10*time.Millisecond)
	return b.results[string(id)]
}

func (b *bench) run(t *testing.T, workflow, fields string) *execution.Result {
	t.Helper()
	return b.await(t, b.submit(t, workflow, fields))
}
