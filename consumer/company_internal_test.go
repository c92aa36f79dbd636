package consumer

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/pool"
)

// results is what ended while others waited.
type results struct {
	*Worker
	backlog int
	pace    time.Duration
	began   time.Time
}

// end adds the result of a task that ended so long after the test began.
func (r *results) end(after time.Duration) { r.endAs(commit, after, "") }

func (r *results) endAs(k kind, after time.Duration, value string) {
	it := item{job: &job{id: "x"}, kind: k, result: execution.Result{Value: []byte(value)}}
	r.finished(it, &pool.Outcome{Finished: r.began.Add(after), Backlog: r.backlog, Pace: r.pace})
}

// withCompany runs a test with a worker of which only that much is there, at no time but the test's own.
func withCompany(t *testing.T, test func(t *testing.T, r *results)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &Worker{pool: pool.New(pool.Options{Concurrency: 4, Done: func(pool.Outcome) {}})}
		w.committer, w.retrier, w.releaser = newCommitter(w), newCommitter(w), newCommitter(w)
		<-time.After(time.Second) // the backstops have passed
		test(t, &results{w, crowd, slowPace, time.Now()})
	})
}

func TestResultsWaitUntilThereAreMany(t *testing.T) {
	withCompany(t, func(t *testing.T, r *results) {
		for range company {
			r.end(0)
			require.Empty(t, r.committer.take(nil))
		}
		r.end(0)
		require.Len(t, r.committer.take(nil), company+1)
		r.end(0) // the next ones wait again
		require.Empty(t, r.committer.take(nil))
	})
}

func TestResultsWaitUntilTheFirstIsOld(t *testing.T) {
	withCompany(t, func(t *testing.T, r *results) {
		r.end(0)
		r.end(maxWaiting)
		require.Empty(t, r.committer.take(nil))
		r.end(maxWaiting + 1)
		require.Len(t, r.committer.take(nil), 3)
	})
}

func TestResultsWaitUntilTheyAreHeavy(t *testing.T) {
	withCompany(t, func(t *testing.T, r *results) {
		r.endAs(commit, 0, strings.Repeat("1", maxBatchBytes))
		require.Empty(t, r.committer.take(nil))
		r.end(0)
		require.Len(t, r.committer.take(nil), 1, "what one batch holds")
		require.Len(t, r.committer.take(nil), 1)
	})
}

func TestResultsWaitOnlyInACrowd(t *testing.T) {
	withCompany(t, func(t *testing.T, r *results) {
		r.pace = slowPace - 1
		r.end(0)
		require.Len(t, r.committer.take(nil), 1, "Redis takes them as fast")
		r.pace, r.backlog = slowPace, crowd-1
		r.end(0)
		require.Len(t, r.committer.take(nil), 1, "few are left to wait for")
	})
}

// Whatever else is to be said, results go with it; and the end of an execution that is to be tried again is one.
func TestResultsWaitUntilSomethingElseIsSaid(t *testing.T) {
	withCompany(t, func(t *testing.T, r *results) {
		r.end(0)
		r.endAs(again, 0, "")
		require.Len(t, r.committer.take(nil), 1)
		r.end(0)
		r.endAs(release, 0, "")
		require.Len(t, r.committer.take(nil), 1)
		r.end(0)
		r.giveBack()
		require.Len(t, r.committer.take(nil), 1)
	})
}

// Where nothing ends any more, a result waits for no longer than a task waits for its slot.
func TestResultsDoNotWaitForWhatDoesNotCome(t *testing.T) {
	withCompany(t, func(t *testing.T, r *results) {
		r.end(0)
		<-time.After(backstop - 1)
		synctest.Wait()
		require.Empty(t, r.committer.take(nil))
		<-time.After(1)
		synctest.Wait()
		require.Len(t, r.committer.take(nil), 1)
	})
}
