package queue

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bobbin-run/bobbin/execution"
)

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

// Commit writes a batch of results, each at most once, and reports per item. It is safe to repeat after any error: items
// that the first run wrote come back as [CommitGone]. A batch has at most a few thousand items.
func (q *Queue) Commit(ctx context.Context, batch []Commit) ([]CommitOutcome, error) {
	k := q.Keys
	keys := []string{k.Results, k.Claims, k.Executions, k.Attempts, k.Recoveries, k.Cancels, k.Dead, k.Ended, k.EndedBefore}
	marks := make([]byte, len(batch))
	args := make([]any, 0, 3+len(batch)*12)
	args = append(args, maxDead, len(batch), marks)
	for i := range batch {
		args = append(args, &batch[i].Result.ID)
	}
	for i := range batch {
		c := &batch[i]
		r := c.Result
		args = append(args, &c.Token)
		marks[i] = '.'
		if flags := c.flags(); flags != "" {
			marks[i] = '!'
			args = append(args, flags)
		}
		args = append(args, &r.Workflow, &r.Worker, &r.Attempt, &r.ClaimedMS, &r.StartedMS, &r.FinishedMS, r.Duration.Microseconds(),
			orEmptyObject(r))
		switch {
		case r.Status == execution.Succeeded:
			args = append(args, (*rawArgument)(&r.Value))
		case r.Err != nil:
			args = append(args, string(r.Status), r.Err.Type, r.Err.Message, r.Err.Traceback)
		default:
			args = append(args, string(r.Status), "", "", "")
		}
		if c.ReplyTTL > 0 {
			document, err := json.Marshal(r)
			if err != nil {
				return nil, fmt.Errorf("commit: encode reply of %q: %w", r.ID, err)
			}
			keys = append(keys, k.Reply(r.ID))
			args = append(args, len(keys), max(c.ReplyTTL.Milliseconds(), 1), document)
		}
	}
	raw, err := q.run(ctx, "commit", commitScript, keys, args...)
	if err != nil {
		return nil, err
	}
	values, _ := raw.([]any)
	if len(values) != len(batch) {
		return nil, fmt.Errorf("commit: %d outcomes for %d results", len(values), len(batch))
	}
	outcomes := make([]CommitOutcome, len(values))
	for i, value := range values {
		outcomes[i] = CommitOutcome(number(value))
	}
	return outcomes, nil
}

// flags are those of commit.lua.
func (c *Commit) flags() string {
	flags := ""
	if c.Result.Status != execution.Succeeded {
		flags += "f"
		if c.Dead {
			flags += "d"
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

func orEmptyObject(r *execution.Result) any {
	if len(r.Meta) == 0 {
		return "{}"
	}
	return (*rawArgument)(&r.Meta)
}

// rawArgument is bytes as an argument. Arguments are passed by reference where they can be: boxing a dozen values per result
// was most of what a commit allocated.
type rawArgument json.RawMessage

// MarshalBinary is how go-redis asks for the bytes.
func (r *rawArgument) MarshalBinary() ([]byte, error) { return *r, nil }

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
	pipe := q.rdb.Pipeline()
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
	_, err := pipe.Exec(ctx)
	return wrap("append logs", err)
}
