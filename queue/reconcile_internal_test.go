package queue

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/internal/redistest"
)

// twice is what HSCAN may do while a hash shrinks: it reports every pair twice, in one page and in another.
type twice struct{ rounds int }

func (t *twice) DialHook(next redis.DialHook) redis.DialHook { return next }

func (t *twice) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (t *twice) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if scan, ok := cmd.(*redis.ScanCmd); ok && err == nil {
			page, _ := scan.Val()
			t.rounds++
			scan.SetVal(append(page, page...), uint64(t.rounds%2)) // cursor 1, then the end
		}
		return err
	}
}

func TestReconcileAdoptsNothingTwice(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, server *redistest.Server) {
		q, err := Open(Options{URL: server.URL(), Prefix: server.Prefix})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, q.Close()) })
		ctx, c := t.Context(), Claim{Incarnation: "w-1-a", Seq: 1, Want: 2, MaxContextBytes: 1000}
		require.NoError(t, q.Register(ctx, Registration{Incarnation: c.Incarnation, Lease: time.Hour}))
		require.NoError(t, q.Submit(ctx, Submission{ID: "a", Context: []byte("{}")}, Submission{ID: "b", Context: []byte("{}")}))
		_, err = q.Claim(ctx, c) // the reply is lost
		require.NoError(t, err)
		scans := &twice{}
		q.rdb.AddHook(scans)
		reply, err := q.Reconcile(ctx, c, func(Held) bool { return false })
		require.NoError(t, err)
		require.Equal(t, 2, scans.rounds)
		var found []string
		for _, x := range reply.Claimed {
			found = append(found, x.ID)
		}
		require.ElementsMatch(t, []string{"a", "b"}, found)
	})
}
