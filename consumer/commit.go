package consumer

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/failpoint"
	"github.com/bobbin-run/bobbin/pool"
	"github.com/bobbin-run/bobbin/queue"
)

const (
	// committers write batches side by side: while Redis works on one, the next is being encoded.
	committers    = 2
	maxBatchItems = queue.MaxBatch
	maxBatchBytes = 4 << 20
	// A worker stops claiming while this much waits to be written, so that a Redis that is away costs bounded memory.
	maxBufferItems = 4096
	maxBufferBytes = 64 << 20
)

// While executions keep the processors busy, every commit takes time from them, here and in a Redis beside them: the fewer the better.
// So where they end more slowly than Redis would take their results, and many more wait behind full slots, results wait for company: until
// an end finds enough of them, or the oldest old enough, or few that wait; or until anything else is to be said.
//
// No timer is in their way. There is one behind them, for what no end comes after.
const (
	slowPace   = 5 * time.Microsecond // from one end to the next: about what an execution costs Redis
	crowd      = 64                   // tasks behind full slots
	company    = maxBatchItems / 2
	maxWaiting = 2 * time.Millisecond
	backstop   = pool.AheadWait
)

// kind is what is to be done about a claim.
type kind int

const (
	commit  kind = iota // write its result
	release             // give it back
	again               // give it back for a later attempt
	drop                // the ID was pushed again after its execution had ended: forget the claim
	late                // the claim is resolved already; keep what came after
)

// item is one claim on its way out of the worker.
type item struct {
	job    *job
	kind   kind
	result execution.Result // for commit and late
	pause  time.Duration    // for again
	err    *execution.Error // for again: what is tried again
	why    string           // for late
}

func (it *item) bytes() int {
	bytes := 256 + len(it.job.id) + int(it.job.context)
	bytes += len(it.result.Value) + len(it.result.Meta)
	if failed := it.result.Err; failed != nil {
		bytes += len(failed.Message) + len(failed.Traceback)
	}
	return bytes
}

// committer writes what executions ended in, in batches that form by themselves: what finishes while one batch is on its way
// to Redis goes into the next. Nothing waits on a timer. Several goroutines may Run it.
type committer struct {
	w    *Worker
	more chan struct{}

	mu      sync.Mutex
	items   []item      // from head on: waiting to be written
	head    int         // what is before it is on its way, or written, and its space empty
	patient bool        // they wait for company
	oldest  time.Time   // while patient: when the first of them ended
	behind  *time.Timer // the backstop: ends their waiting
	size    int         // their bytes, and those of the batch on its way
	count   int
}

func newCommitter(w *Worker) *committer {
	c := &committer{w: w, more: make(chan struct{}, 1)}
	c.behind = time.AfterFunc(backstop, func() { c.add() })
	return c
}

// finished takes what is to be said to Redis about a claim whose task ended. It never blocks: what can be added is bounded by what was
// claimed. Retries have a committer of their own, so that one that Redis refuses holds no result back.
func (w *Worker) finished(it item, o *pool.Outcome) {
	switch it.kind {
	case again:
		w.retrier.add(it)
		w.committer.add() // an end is an end
	case release:
		w.release(it.job)
	default:
		w.committer.addResult(it, o)
	}
}

// add takes items, and ends the waiting of those that were there.
func (c *committer) add(items ...item) {
	c.mu.Lock()
	for i := range items {
		c.size += items[i].bytes()
	}
	c.count += len(items)
	c.items = append(c.items, items...)
	c.patient = false
	c.mu.Unlock()
	poke(c.more)
}

// addResult takes the result of a task that ended; it may wait for company.
func (c *committer) addResult(it item, o *pool.Outcome) {
	if o.Backlog < crowd || o.Pace < slowPace || !c.wait(it, o.Finished) {
		c.add(it)
	}
}

// wait takes a result that may wait for company, and returns false where it may not.
func (c *committer) wait(it item, ended time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	waiting := len(c.items) - c.head
	if waiting == 0 {
		c.patient, c.oldest = true, ended
		c.behind.Reset(backstop)
	}
	if !c.patient || waiting >= company || c.size >= maxBatchBytes || ended.Sub(c.oldest) > maxWaiting {
		return false
	}
	c.size += it.bytes()
	c.count++
	c.items = append(c.items, it)
	return true
}

// full says that claiming must wait until results are written.
func (c *committer) full() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count >= maxBufferItems || c.size >= maxBufferBytes
}

// take appends the next batch to an empty one, whose space is used again. The space of its items in the buffer is not free yet.
func (c *committer) take(batch []item) []item {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.patient {
		return batch
	}
	waiting := c.items[c.head:]
	n, bytes := 0, 0
	for n < len(waiting) && n < maxBatchItems && (n == 0 || bytes < maxBatchBytes) {
		bytes += waiting[n].bytes()
		n++
	}
	batch = append(batch, waiting[:n]...)
	clear(waiting[:n])
	c.head += n
	c.tidy()
	return batch
}

// tidy makes the space of what was taken free to be filled again, without moving an item more than once for each that was taken. What a
// crowd needed is not kept. The mutex is held.
func (c *committer) tidy() {
	switch waiting := c.items[c.head:]; {
	case len(waiting) > 0 && c.head > len(waiting):
		n := copy(c.items, waiting)
		clear(c.items[n:])
		c.items, c.head = c.items[:n], 0
	case len(waiting) == 0 && cap(c.items) > maxBufferItems:
		c.items, c.head = nil, 0
	case len(waiting) == 0:
		c.items, c.head = c.items[:0], 0
	}
	if c.head < len(c.items) {
		poke(c.more)
	}
}

func (c *committer) written(batch []item) {
	c.mu.Lock()
	for i := range batch {
		c.size -= batch[i].bytes()
	}
	c.count -= len(batch)
	c.mu.Unlock()
	c.w.ledger.remove(batch)
	poke(c.w.changed)
	poke(c.w.regate)
}

// Run writes batches until ctx ends. What is left then stays claimed, and is run again after the lease.
func (c *committer) Run(ctx context.Context) error {
	var batch []item
	for {
		batch = c.take(batch[:0])
		if len(batch) == 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-c.more:
			}
			continue
		}
		if !c.write(ctx, batch) {
			return nil
		}
		c.written(batch)
		clear(batch)
	}
}

// write writes one batch, again and again until Redis takes it. Every script involved is safe to repeat. It returns false
// when ctx ended before.
func (c *committer) write(ctx context.Context, batch []item) bool {
	rest := split(batch)
	for failures := 0; ; failures++ {
		err := c.once(ctx, rest, failures > 0)
		if err == nil {
			c.w.health.recovered("commit")
			return true
		}
		c.w.health.failed("commit", err)
		if !backoff(ctx, failures) {
			return false
		}
	}
}

// parts is a batch by what is to be done; each part is cleared once it is done.
type parts [5][]item

func split(batch []item) *parts {
	p, first := &parts{}, batch[0].kind
	if !slices.ContainsFunc(batch, func(it item) bool { return it.kind != first }) {
		p[first] = batch
		return p
	}
	for _, it := range batch {
		p[it.kind] = append(p[it.kind], it)
	}
	return p
}

// once tries every part: what Redis refuses of one (results of the wrong type, say) holds no other back.
func (c *committer) once(ctx context.Context, p *parts, repeated bool) (failed error) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	for k := range p {
		if len(p[k]) == 0 {
			continue
		}
		if err := c.do(ctx, kind(k), p[k], repeated); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		p[k] = nil
	}
	return failed
}

func (c *committer) do(ctx context.Context, k kind, items []item, repeated bool) error {
	switch k {
	case release:
		return c.release(ctx, items)
	case again:
		return c.again(ctx, items)
	case drop:
		return c.drop(ctx, items)
	case late:
		c.late(ctx, items)
		return nil
	default:
		return c.commit(ctx, items, repeated)
	}
}

// batches are those of commits that were made.
var batches = sync.Pool{New: func() any { return new([]queue.Commit) }}

func (c *committer) commit(ctx context.Context, items []item, repeated bool) error {
	batch := batches.Get().(*[]queue.Commit)
	defer func() {
		clear(*batch) // it would keep what it points to
		batches.Put(batch)
	}()
	*batch = (*batch)[:0]
	for i := range items {
		*batch = append(*batch, items[i].commit())
	}
	failpoint.Hit("before-commit")
	outcomes, err := c.w.queue.Commit(ctx, *batch)
	if err != nil {
		return err
	}
	failpoint.Hit("after-commit")
	var lost []queue.LateOutcome
	for i, outcome := range outcomes {
		if outcome == queue.CommitDone || (outcome == queue.CommitGone && repeated) {
			c.w.count(items[i].result.Status)
			c.w.opts.Observer.Executed(items[i].result)
			c.w.incident(items[i].job, items[i].result.Status)
			continue
		}
		c.w.log.Warn("the claim was no longer ours; the outcome goes to late", items[i].job.attrs()...)
		lost = append(lost, queue.LateOutcome{Result: &items[i].result, Why: "claim lost"})
	}
	c.keepLate(ctx, lost)
	return nil
}

func (it *item) commit() queue.Commit {
	j := it.job
	out := queue.Commit{
		Token: j.token, Result: &it.result, ReplyTTL: j.replyTTL,
		History: j.attempts > 0 || j.asked || it.result.Status == execution.Cancelled,
	}
	switch it.result.Status {
	case execution.Succeeded, execution.Cancelled:
	case execution.Rejected:
		out.Dead = j.read // without a context there is nothing to submit again
	default:
		out.Dead = true
	}
	return out
}

func (c *committer) release(ctx context.Context, items []item) error {
	failpoint.Hit("before-release")
	claims := held(items)
	slices.Reverse(claims) // see Worker.release
	_, err := c.w.queue.Release(ctx, claims)
	failpoint.Hit("after-release")
	return err
}

func (c *committer) drop(ctx context.Context, items []item) error {
	return c.w.queue.Drop(ctx, held(items))
}

func held(items []item) []queue.Held {
	claims := make([]queue.Held, len(items))
	for i := range items {
		claims[i] = items[i].job.held()
	}
	return claims
}

func (c *committer) again(ctx context.Context, items []item) error {
	batch := make([]queue.Again, len(items))
	for i := range items {
		batch[i] = queue.Again{Held: items[i].job.held(), Pause: items[i].pause}
	}
	failpoint.Hit("before-retry")
	if err := c.w.queue.Retry(ctx, batch); err != nil {
		return err
	}
	failpoint.Hit("after-retry")
	for i := range items {
		attrs := append(items[i].job.attrs(), slog.Duration("pause", items[i].pause), slog.String("error", items[i].err.Message))
		c.w.log.Info("execution failed and will be tried again", attrs...)
	}
	c.w.waker.Interrupt() // a fetcher that blocks does not know that something will be due
	return nil
}

func (c *committer) late(ctx context.Context, items []item) {
	batch := make([]queue.LateOutcome, len(items))
	for i := range items {
		batch[i] = queue.LateOutcome{Result: &items[i].result, Why: items[i].why}
	}
	c.keepLate(ctx, batch)
}

// keepLate writes late outcomes, if it can: nothing depends on them, so that nothing waits for them.
func (c *committer) keepLate(ctx context.Context, batch []queue.LateOutcome) {
	if len(batch) == 0 {
		return
	}
	if err := c.w.queue.Late(ctx, batch); err != nil {
		c.w.log.Warn("late outcomes not kept", "outcomes", len(batch), "error", err)
	}
}
