package queue_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

// Whatever the items of a batch have alike, and in whichever runs: every entry is that of its own item.
func TestEveryEntryIsThatOfItsItem(t *testing.T) {
	suite(t, func(s *store) {
		rapid.Check(s.t, func(t *rapid.T) {
			s.raw.Del(s.ctx, s.Keys.Results)
			batch := make([]queue.Commit, rapid.IntRange(1, 80).Draw(t, "items"))
			longest := rapid.IntRange(1, 60).Draw(t, "longest")
			for i := range batch {
				id := fmt.Sprintf("x%d", i)
				s.submit(id)
				batch[i] = drawCommit(t, id, longest)
				// Not by a claim: tokens change from item to item too.
				require.NoError(t, s.raw.HSet(s.ctx, s.Keys.Claims, id, batch[i].Token).Err())
			}
			outcomes, err := s.Commit(s.ctx, batch)
			require.NoError(t, err)
			entries, err := s.raw.XRange(s.ctx, s.Keys.Results, "-", "+").Result()
			require.NoError(t, err)
			require.Len(t, entries, len(batch))
			for i := range batch {
				require.Equal(t, queue.CommitDone, outcomes[i])
				require.Equal(t, mapOf(batch[i].Result.Fields()), entries[i].Values)
				if batch[i].ReplyTTL > 0 {
					document, err := json.Marshal(batch[i].Result)
					require.NoError(t, err)
					require.Equal(t, string(document), s.raw.LPop(s.ctx, s.Keys.Reply(batch[i].Result.ID)).Val())
				}
			}
		})
	})
}

func drawCommit(t *rapid.T, id string, longest int) queue.Commit {
	few := func(what string) int { return rapid.IntRange(1, 2).Draw(t, what) }
	r := &execution.Result{
		ID: id, Workflow: fmt.Sprintf("w%d", few("workflow")), Worker: fmt.Sprintf("worker-%d", few("worker")), Attempt: few("attempt"),
		ClaimedMS: int64(few("claimed")), StartedMS: int64(few("started")), FinishedMS: int64(few("finished")),
		Duration: time.Duration(rapid.IntRange(1, longest).Draw(t, "took")) * time.Microsecond, Status: execution.Succeeded, Value: []byte{'0' + byte(few("value"))},
	}
	if few("meta") == 1 {
		r.Meta = []byte(`{"tenant":"acme"}`)
	}
	c := queue.Commit{Token: fmt.Sprintf("t:%d", few("token")), Result: r, History: few("history") == 1}
	if few("status") == 1 {
		r.Status, r.Value, r.Err, c.Dead = execution.Failed, nil, &execution.Error{Type: "T", Message: "m"}, few("dead") == 1
	}
	if few("reply") == 1 {
		c.ReplyTTL = time.Minute
	}
	return c
}

func mapOf(fields []string) map[string]any {
	values := map[string]any{}
	for i := 0; i < len(fields); i += 2 {
		values[fields[i]] = fields[i+1]
	}
	return values
}
