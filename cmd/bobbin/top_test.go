package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/config"
	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

// screen is a view without Redis, on a terminal of a size, at a moment that the test sets.
type screen struct {
	*top
	t     *testing.T
	clock time.Time
}

func newScreen(t *testing.T, width, height int) *screen {
	t.Helper()
	cfg := &config.Config{Queue: "default", RedisURL: "redis://somebody:secret@redis.production.svc.cluster.local:6379/0"}
	s := &screen{newTop(context.Background(), &app{}, cfg, nil), t, time.UnixMilli(1_000_000_000)}
	s.now = func() time.Time { return s.clock }
	s.Update(tea.WindowSizeMsg{Width: width, Height: height})
	return s
}

func working(name string, runs ...string) workerStatus {
	w := workerStatus{Worker: name, State: "ACTIVE", Concurrency: 4, Running: int64(len(runs)), Processed: 123456, Failed: 1234, RSSBytes: 300 << 20, HeartbeatAgeMS: 1600}
	for _, id := range runs {
		w.runs = append(w.runs, consumer.Run{ID: id, Workflow: "nap.py", SinceMS: 999_956_493})
	}
	return w
}

// reads gives the view a reading of workers, and returns what it shows.
func (s *screen) reads(workers ...workerStatus) string {
	s.t.Helper()
	s.Update(&reading{status: &queueStatus{Queue: "default", Depths: &queue.Depths{NowMS: 1_000_000_000}, Workers: workers}, most: speedSample})
	return s.sees()
}

// sees returns the view, which fits the terminal.
func (s *screen) sees() string {
	s.t.Helper()
	view := s.View()
	lines := strings.Split(view, "\n")
	require.LessOrEqual(s.t, len(lines), s.height, view)
	for _, line := range lines {
		require.LessOrEqual(s.t, len([]rune(line)), s.width, view)
	}
	return view
}

func (s *screen) press(keys ...string) string {
	s.t.Helper()
	for _, key := range keys {
		s.key(key)
	}
	return s.sees()
}

// marked returns the selected line.
func (s *screen) marked() string {
	s.t.Helper()
	for line := range strings.Lines(s.sees()) {
		if strings.HasPrefix(line, ">") {
			return line
		}
	}
	return ""
}

// What is selected stays selected, and what is asked about stays asked about, wherever its line goes meanwhile.
func TestTopSelectsWhatItSelected(t *testing.T) {
	t.Parallel()
	s := newScreen(t, 100, 30)
	s.reads(working("vm-a", "one", "two"), working("vm-b", "three"))
	s.press("down", "down")
	require.Contains(t, s.marked(), "two")
	s.reads(working("vm-b", "three"), working("vm-a", "zero", "one", "two"))
	require.Contains(t, s.marked(), "two")
	require.Contains(t, s.press("c"), "y to do it, any other key not to: cancel two?")
	s.reads(working("vm-b", "three"), working("vm-a", "zero"))
	require.Contains(t, s.marked(), "vm-a", "of an execution that has ended its worker stays selected")
	require.Equal(t, "two", s.asking.command.ExecutionID)
	require.Contains(t, s.press("n"), "not done: cancel two")
	s.press("r")
	s.reads(working("vm-b", "three"))
	require.Equal(t, control.Command{Verb: control.Recycle, Worker: "vm-a"}, s.asking.command)
	require.Contains(t, s.sees(), "recycle vm-a?")
	s.press("n")
	s.reads(working("vm-b", "three"), working("vm-c"))
	s.press("end")
	require.Contains(t, s.marked(), "vm-c")
	require.Contains(t, s.reads(working("vm-b", "three")), "vm-c has left; vm-b is selected now")
}

// On the smallest terminal that people use nothing that matters is cut off, however long the names.
func TestTopFitsEightyColumns(t *testing.T) {
	t.Parallel()
	s := newScreen(t, 80, 24)
	long := strings.Repeat("A", 100) + strings.Repeat("Z", 100)
	view := s.reads(working("bobbin-worker-7d9f8b6c5d-x2x4z-1-sb4vlso7p5", long), working("vm-b", "three"))
	for _, whole := range []string{"quarantined 0", "1.6s ago", "HEARTBEAT", "AAA…", "ZZZ  nap.py  for 43.507s", "q quit", "x4z-1-sb4vlso7p5"} {
		require.Contains(t, view, whole)
	}
	require.NotContains(t, view, "secret")
	view = s.press("down", "c")
	require.Contains(t, view, "y to do it, any other key not to: cancel AAA")
	require.Contains(t, strings.ReplaceAll(view, "\n", ""), long)
	s.reads(workerStatus{Worker: "vm-\x1b[31mred", State: "ACTIVE"})
	require.NotContains(t, s.sees(), "\x1b")
}

// A fleet of hundreds: pages, both ends, how much there is, and first what somebody should look at.
func TestTopWithABigFleet(t *testing.T) {
	t.Parallel()
	s := newScreen(t, 100, 30)
	var fleet []workerStatus
	for i := range 300 {
		ids := []string{}
		for j := range 20 {
			ids = append(ids, fmt.Sprintf("id-%d-%d", i, j))
		}
		fleet = append(fleet, working(fmt.Sprintf("vm-%03d", i), ids...))
	}
	fleet[0].Silent, fleet[0].HeartbeatAgeMS = true, 42_000
	view := s.reads(fleet...)
	require.Contains(t, view, "of 6300")
	require.Contains(t, view, "300 workers: 1 silent, 0 stuck")
	require.Contains(t, view, ">!vm-000")
	s.press("pgdown")
	require.Equal(t, s.room, s.index())
	s.press("pgdown", "pgup", "tab", "tab")
	require.Contains(t, s.marked(), "vm-003")
	s.press("G")
	require.Contains(t, s.marked(), "id-299-19")
	require.Contains(t, s.sees(), "-6300 of 6300")
	s.press("f")
	require.Contains(t, s.marked(), "vm-299")
	require.Contains(t, s.sees(), "-300 of 300")
	s.press("f", "g", "pgup")
	require.Zero(t, s.index())
}

// While Redis is away the view says so, and how old it is.
func TestTopAdmitsThatRedisIsAway(t *testing.T) {
	t.Parallel()
	s := newScreen(t, 80, 24)
	s.reads(working("vm-a"))
	require.NotContains(t, s.sees(), "has not answered")
	s.clock = s.clock.Add(3 * time.Second)
	require.Contains(t, s.sees(), "! Redis has not answered for 3s; what follows is that old")
	s.Update(&reading{err: errors.New("ping: it is gone")})
	require.Contains(t, s.sees(), "ping: it is gone")
	require.Contains(t, s.sees(), "vm-a")
	require.NotContains(t, s.reads(working("vm-a")), "has not answered")
}

// Keys on a page of stacks turn it or leave it, and do nothing else.
func TestTopShowsStacksOnAPage(t *testing.T) {
	t.Parallel()
	s := newScreen(t, 80, 24)
	s.reads(working("vm-a", "one"))
	require.Contains(t, s.press("s"), "asking vm-a what it is doing…")
	s.press("r")
	lines := []string{}
	for i := range 100 {
		lines = append(lines, fmt.Sprintf("line %d", i))
	}
	s.Update(answer{control.Command{Verb: control.Stacks}, "vm-a, ACTIVE:\n\n" + strings.Join(lines, "\n") + "\n" + strings.Repeat("x", 100)})
	require.Nil(t, s.asking, "a question that nobody sees is not open")
	require.Contains(t, s.sees(), "lines 1-22 of ")
	require.Contains(t, s.press("G"), "line 99\n"+strings.Repeat("x", 80)+"\n"+strings.Repeat("x", 20))
	require.Nil(t, s.key("q"), "q leaves the page and not the program")
	require.Nil(t, s.page)
	require.Contains(t, s.sees(), "q quit")
	s.Update(answer{control.Command{Verb: control.Stacks}, "vm-a, ACTIVE:\n\nnothing runs"})
	s.press("d")
	require.Nil(t, s.asking)
	require.NotNil(t, s.key("q"))
}

func ending(atMS int64, result execution.Result) queue.Entry {
	return queue.Entry{StreamID: fmt.Sprintf("%d-0", atMS), Result: &result}
}

// The rate is Redis's own count, however many results end between two readings; what never ran is in no percentile.
func TestTopSpeed(t *testing.T) {
	t.Parallel()
	at := func(ms int64, added int64, results ...queue.Entry) *reading {
		return &reading{status: &queueStatus{Depths: &queue.Depths{NowMS: ms}}, added: added, results: results, most: 2}
	}
	ran := func(ms int64) queue.Entry {
		return ending(ms, execution.Result{Status: execution.Succeeded, StartedMS: ms - 10, Duration: 10 * time.Millisecond})
	}
	rejected := ending(100_000, execution.Result{Status: execution.Rejected, ClaimedMS: 99_000})

	few := &speed{}
	few.take(at(100_000, 7, ran(99_000)))
	require.Equal(t, []string{"last minute: 0.017/s ended", "0 not succeeded", "ran p50 10ms p95 10ms p99 10ms"}, few.figures())
	few.take(at(101_000, 8, rejected))
	require.Equal(t, []string{"last minute: 0.033/s ended", "1 not succeeded", "ran p50 10ms p95 10ms p99 10ms"}, few.figures())

	many := &speed{}
	many.take(at(100_000, 500_000, ran(99_500), ran(99_990)))
	rate, over := many.rate()
	require.Equal(t, []any{4.0, 500 * time.Millisecond}, []any{rate, over}, "the first reading has nothing to compare with")
	many.take(at(101_000, 540_000, ran(100_990), ran(100_995)))
	require.Equal(t, []string{"last 1s: 40000.0/s ended", "by 4 of the last 1.5s: 0.0% not succeeded", "ran p50 10ms p95 10ms p99 10ms"}, many.figures())
	since, _ := many.next()
	require.Equal(t, "100995-0", since)
	slow := ending(101_990, execution.Result{Status: execution.Failed, StartedMS: 1, Duration: time.Second})
	many.take(at(102_000, 580_000, ran(101_985), slow))
	require.Equal(t, []string{"last 2s: 40000.0/s ended", "by 6 of the last 2.5s: 25.0% not succeeded", "ran p50 10ms p95 1s p99 1s"}, many.figures(),
		"a sample of what ended between two readings stands for all of it")
	many.take(at(102_500, 100))
	require.Len(t, many.counts, 1, "a stream that begins anew is counted anew")

	heavy := &speed{}
	large := ran(100_000)
	large.Result.Value = slices.Repeat([]byte("1"), 1<<20)
	heavy.take(at(100_000, 1, large))
	_, most := heavy.next()
	require.Equal(t, int64(10), most, "of large results fewer are read")
}
