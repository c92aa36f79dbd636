package queue

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bobbin-run/bobbin/execution"
)

// MaxBatch is the most results that one commit takes. Of so many Redis is busy for about 2 ms, as with a claim of a thousand.
const MaxBatch = 512

const (
	// maxDead caps the dead stream, approximately. Beyond it the oldest are forgotten.
	maxDead = 100_000
	// maxLate caps the late stream, approximately.
	maxLate = 10_000
)

// Commit is one result to be written by the holder of a claim.
type Commit struct {
	Token    string
	Result   *execution.Result
	ReplyTTL time.Duration // above 0: also push the result to reply:<id>
	Dead     bool          // keep context and error in dead
	History  bool          // attempts, recoveries or a cancel request may have been stored for it
}

// CommitOutcome says what became of one [Commit].
type CommitOutcome int

// What became of a commit.
const (
	CommitGone   CommitOutcome = 0  // no claim: this very commit ran before, or the execution was recovered and finished
	CommitDone   CommitOutcome = 1  // written now
	CommitFenced CommitOutcome = -1 // another token holds the claim: nothing was written
)

// arguments are those of commits that were made.
var arguments = sync.Pool{New: func() any { return new([]any) }}

// Commit writes a batch of results, each at most once, and reports per item. It is safe to repeat after any error: items
// that the first run wrote come back as [CommitGone], as does a claim that is in the batch before. A batch has at most [MaxBatch]
// items.
func (q *Queue) Commit(ctx context.Context, batch []Commit) ([]CommitOutcome, error) {
	if len(batch) == 0 {
		return nil, nil
	}
	if again := firstAgain(batch); again >= 0 {
		return q.commitWithout(ctx, batch, again)
	}
	if len(batch) == 1 && batch[0].flags() == "" {
		done, err := q.commitOne(ctx, &batch[0])
		switch {
		case err != nil:
			return nil, err
		case done:
			return []CommitOutcome{CommitDone}, nil
		}
	}
	k := q.Keys
	keys := []string{k.Results, k.Claims, k.Executions, k.Attempts, k.Recoveries, k.Cancels, k.Dead, k.Ended}
	space := arguments.Get().(*[]any)
	args := columns(append(*space, maxDead, len(batch), joined(batch)), batch)
	defer func() { // the call has ended, and nothing of it is sent later
		clear(args)
		*space = args[:0]
		arguments.Put(space)
	}()
	for i := range batch {
		c := &batch[i]
		if r := c.Result; r.Status != execution.Succeeded {
			failure := cmp.Or(r.Err, &execution.Error{})
			args = append(args, string(r.Status), failure.Type, failure.Message, failure.Traceback)
		}
		if c.ReplyTTL > 0 {
			document, err := json.Marshal(c.Result)
			if err != nil {
				return nil, fmt.Errorf("commit: encode reply of %q: %w", c.Result.ID, err)
			}
			keys = append(keys, k.Reply(c.Result.ID))
			args = append(args, len(keys), max(c.ReplyTTL.Milliseconds(), 1), document)
		}
	}
	raw, err := q.run(ctx, "commit", commitScript, keys, args...)
	if err != nil {
		return nil, err
	}
	return outcomes(raw, len(batch))
}

// commitOne commits a single plain success. It returns false when its claim is not there: then nothing was written.
func (q *Queue) commitOne(ctx context.Context, c *Commit) (bool, error) {
	k, r := q.Keys, c.Result
	raw, err := q.run(ctx, "commit", commitOneScript, []string{k.Results, k.Claims, k.Executions, k.Ended}, &r.ID, &c.Token, &r.Workflow,
		&r.Worker, &r.Attempt, &r.ClaimedMS, &r.StartedMS, &r.FinishedMS, c.took(), (*rawArgument)(&r.Value), metaArgument(r))
	return err == nil && number(raw) == 1, err
}

// outcomes reads the reply of commit.lua.
func outcomes(raw any, n int) ([]CommitOutcome, error) {
	out := make([]CommitOutcome, n)
	if all, ok := raw.(int64); ok && all == int64(n) {
		for i := range out {
			out[i] = CommitDone
		}
		return out, nil
	}
	values, _ := raw.([]any)
	if len(values) != n {
		return nil, fmt.Errorf("commit: %d outcomes for %d results", len(values), n)
	}
	for i, value := range values {
		out[i] = CommitOutcome(number(value))
	}
	return out, nil
}

var seenClaims = sync.Pool{New: func() any { return map[Held]struct{}{} }}

// firstAgain returns the first item of a batch whose claim is in it before, or -1. The script, in which it would cost Redis'
// time, relies on it.
func firstAgain(batch []Commit) int {
	seen := seenClaims.Get().(map[Held]struct{})
	defer seenClaims.Put(seen)
	clear(seen)
	for i := range batch {
		seen[Held{batch[i].Result.ID, batch[i].Token}] = struct{}{}
		if len(seen) <= i {
			return i
		}
	}
	return -1
}

// commitWithout commits a batch without one of its items.
func (q *Queue) commitWithout(ctx context.Context, batch []Commit, item int) ([]CommitOutcome, error) {
	outcomes, err := q.Commit(ctx, slices.Delete(slices.Clone(batch), item, item+1))
	if err != nil {
		return nil, err
	}
	return slices.Insert(outcomes, item, CommitGone), nil
}

func (c *Commit) took() int64 { return c.Result.Duration.Microseconds() }

// flags are those of commit.lua.
func (c *Commit) flags() string {
	flags := ""
	if c.Result.Status != execution.Succeeded {
		flags += "f"
		if c.Dead {
			flags += "d"
		}
	}
	if c.Result.Status == execution.Rejected {
		if _, err := execution.ParseID(c.Result.ID); err != nil {
			flags += "o"
		}
	}
	if c.History {
		flags += "h"
	}
	if c.ReplyTTL > 0 {
		flags += "r"
	}
	return flags
}

// Held names a claim: an ID and the token that holds it.
type Held struct {
	ID, Token string
}

// Release gives claims back to run next, the first of the batch before the second, and returns how many were still held.
// It costs no attempt and is safe to repeat.
func (q *Queue) Release(ctx context.Context, batch []Held) (int, error) {
	args := make([]any, 0, 2*len(batch))
	for i := len(batch) - 1; i >= 0; i-- { // each is pushed in front of the one before
		args = append(args, batch[i].ID, batch[i].Token)
	}
	raw, err := q.run(ctx, "release", releaseScript, []string{q.Keys.Claims, q.Keys.Pending}, args...)
	return int(number(raw)), err
}

// Drop forgets claims of IDs whose execution had ended before they were pushed again. One that has a context by now was submitted
// again, and goes back to pending.
// It is safe to repeat.
func (q *Queue) Drop(ctx context.Context, batch []Held) error {
	k := q.Keys
	args := make([]any, 0, 2*len(batch))
	for _, held := range batch {
		args = append(args, held.ID, held.Token)
	}
	_, err := q.run(ctx, "drop", dropScript, []string{k.Claims, k.Executions, k.Attempts, k.Recoveries, k.Cancels, k.Pending}, args...)
	return err
}

// Again is a claim to be given back for another attempt after a pause.
type Again struct {
	Held
	Pause time.Duration
}

// Retry gives claims back to run again after a pause each, and spends an attempt of each. It is safe to repeat.
func (q *Queue) Retry(ctx context.Context, batch []Again) error {
	args := make([]any, 0, 3*len(batch))
	for _, a := range batch {
		args = append(args, a.ID, a.Token, a.Pause.Milliseconds())
	}
	keys := []string{q.Keys.Claims, q.Keys.Scheduled, q.Keys.Attempts}
	_, err := q.run(ctx, "retry", retryScript, keys, args...)
	return err
}

// LateOutcome is an outcome that came after its execution's result was written, or after another worker took it over.
type LateOutcome struct {
	Result *execution.Result
	Why    string
}

// Late records late outcomes, in one exchange. Repeated, it records them twice: nothing depends on late.
func (q *Queue) Late(ctx context.Context, batch []LateOutcome) error {
	_, err := q.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, o := range batch {
			values := append(o.Result.Fields(), "late_because", o.Why)
			p.XAdd(ctx, &redis.XAddArgs{Stream: q.Keys.Late, MaxLen: maxLate, Approx: true, Values: values})
		}
		return nil
	})
	return wrap("late", err)
}

// LogLine is one line of an execution's log.
type LogLine struct {
	ID    string
	Time  time.Time
	Level string
	Text  string
}

const (
	maxLogLines = 1000
	logTTL      = 24 * time.Hour
)

// AppendLogs writes log lines to the executions' streams: at most the last thousand of each, kept for a day.
func (q *Queue) AppendLogs(ctx context.Context, lines []LogLine) error {
	pipe := q.rdb.TxPipeline() // never a stream that does not expire
	touched := map[string]bool{}
	for _, line := range lines {
		key := q.Keys.Logs(line.ID)
		pipe.XAdd(ctx, &redis.XAddArgs{Stream: key, MaxLen: maxLogLines, Approx: true, Values: []string{
			"at_ms", strconv.FormatInt(line.Time.UnixMilli(), 10), "level", line.Level, "line", line.Text,
		}})
		touched[key] = true
	}
	for key := range touched {
		pipe.PExpire(ctx, key, logTTL)
	}
	return wrap("append logs", execute(ctx, pipe))
}
