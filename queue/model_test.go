package queue_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/queue"
)

// model is all there is to know: where each execution is, and under which token.
type model struct {
	pending map[string]bool   // also what is to be tried again at once
	later   map[string]bool   // scheduled, and not due
	held    map[string]string // ID → token
	done    map[string]bool
	again   map[string]bool // done, and pushed once more
}

// machine drives the real scripts and the model side by side.
type machine struct {
	model
	q       *queue.Queue
	raw     *redis.Client
	n       int
	seq     int64
	workers []string
	stale   []queue.Commit // commits whose claim is gone, one way or another
}

var machines atomic.Int64

const lease = time.Hour // nobody dies of silence here

func newMachine(t *rapid.T, server *redistest.Server, raw *redis.Client) *machine {
	q, err := queue.Open(queue.Options{URL: server.URL(), Prefix: fmt.Sprintf("%s-model-%d", server.Prefix, machines.Add(1))})
	require.NoError(t, err)
	m := &machine{q: q, raw: raw, model: model{
		map[string]bool{}, map[string]bool{}, map[string]string{}, map[string]bool{}, map[string]bool{},
	}}
	for range 3 {
		m.hire(t)
	}
	return m
}

func (m *machine) hire(t *rapid.T) {
	m.n++
	name := fmt.Sprintf("h-%d-x", m.n)
	require.NoError(t, m.q.Register(context.Background(), queue.Registration{Incarnation: name, Lease: lease}))
	m.workers = append(m.workers, name)
}

func (m *machine) submit(t *rapid.T) {
	m.n++
	id := fmt.Sprintf("e%d", m.n)
	require.NoError(t, m.q.Submit(context.Background(), queue.Submission{ID: execution.ID(id), Context: []byte(`{"workflow":"w"}`)}))
	m.pending[id] = true
}

func (m *machine) worker(t *rapid.T) string { return rapid.SampledFrom(m.workers).Draw(t, "worker") }

func (m *machine) claim(t *rapid.T) {
	m.seq++
	c := queue.Claim{Incarnation: m.worker(t), Seq: m.seq, Want: rapid.IntRange(1, 4).Draw(t, "want"), MaxContextBytes: 1000}
	reply, err := m.q.Claim(context.Background(), c)
	require.NoError(t, err)
	m.take(t, c.Want, reply.Claimed)
}

// take takes what was claimed. What had ended is known to have, has no context, and is dropped.
func (m *machine) take(t *rapid.T, want int, claimed []queue.Claimed) {
	require.Len(t, claimed, min(want, len(m.pending)+len(m.again)))
	for _, c := range claimed {
		require.True(t, m.pending[c.ID] || m.again[c.ID], "%s was claimed and is not pending", c.ID)
		require.Equal(t, m.again[c.ID], c.Missing)
		if m.again[c.ID] {
			m.drop(t, queue.Held{ID: c.ID, Token: c.Token})
			continue
		}
		delete(m.pending, c.ID)
		m.held[c.ID] = c.Token
	}
}

func (m *machine) drop(t *rapid.T, claim queue.Held) {
	ended, err := m.q.EndedLately(context.Background(), []string{claim.ID})
	require.NoError(t, err)
	require.True(t, ended[claim.ID])
	for range rapid.IntRange(1, 2).Draw(t, "times") {
		require.NoError(t, m.q.Drop(context.Background(), []queue.Held{claim}))
	}
	delete(m.again, claim.ID)
}

// pushAgain pushes an execution that has ended.
func (m *machine) pushAgain(t *rapid.T) {
	id := m.any(t, m.done)
	if !m.again[id] {
		require.NoError(t, m.raw.LPush(context.Background(), m.q.Keys.Pending, id).Err())
		m.again[id] = true
	}
}

// any draws an ID of a set.
func (m *machine) any(t *rapid.T, set map[string]bool) string {
	if len(set) == 0 {
		t.Skip("there is none")
	}
	return rapid.SampledFrom(slices.Sorted(maps.Keys(set))).Draw(t, "id")
}

// lostClaim claims, forgets the reply, and reconciles.
func (m *machine) lostClaim(t *rapid.T) {
	m.seq++
	c := queue.Claim{Incarnation: m.worker(t), Seq: m.seq, Want: rapid.IntRange(1, 4).Draw(t, "want"), MaxContextBytes: 1000}
	_, err := m.q.Claim(context.Background(), c)
	require.NoError(t, err)
	reply, err := m.q.Reconcile(context.Background(), c, func(h queue.Held) bool { return m.held[h.ID] == h.Token })
	require.NoError(t, err)
	m.take(t, c.Want, reply.Claimed)
	_, err = m.q.Claim(context.Background(), c)
	require.ErrorIs(t, err, queue.ErrStaleClaim, "a claim that comes late is void")
}

func (m *machine) anyHeld(t *rapid.T) (string, string) {
	if len(m.held) == 0 {
		t.Skip("nothing is held")
	}
	id := rapid.SampledFrom(slices.Sorted(maps.Keys(m.held))).Draw(t, "id")
	return id, m.held[id]
}

func commitOf(id, token string) queue.Commit {
	return queue.Commit{Token: token, History: true, Result: &execution.Result{ID: id, Status: execution.Succeeded}}
}

func (m *machine) commit(t *rapid.T) {
	id, token := m.anyHeld(t)
	repeats := rapid.IntRange(1, 3).Draw(t, "times") // lost replies: the same commit again
	for i := range repeats {
		outcomes, err := m.q.Commit(context.Background(), []queue.Commit{commitOf(id, token)})
		require.NoError(t, err)
		require.Equal(t, i == 0, outcomes[0] == queue.CommitDone)
	}
	delete(m.held, id)
	m.done[id] = true
	m.stale = append(m.stale, commitOf(id, token))
}

// lateCommit is one by a worker that no longer holds the claim.
func (m *machine) lateCommit(t *rapid.T) {
	if len(m.stale) == 0 {
		t.Skip("nothing is stale")
	}
	outcomes, err := m.q.Commit(context.Background(), []queue.Commit{rapid.SampledFrom(m.stale).Draw(t, "stale")})
	require.NoError(t, err)
	require.NotEqual(t, queue.CommitDone, outcomes[0])
}

func (m *machine) release(t *rapid.T) {
	id, token := m.anyHeld(t)
	for range rapid.IntRange(1, 2).Draw(t, "times") {
		_, err := m.q.Release(context.Background(), []queue.Held{{ID: id, Token: token}})
		require.NoError(t, err)
	}
	m.giveBack(id, token)
}

func (m *machine) giveBack(id, token string) {
	delete(m.held, id)
	m.pending[id] = true
	m.stale = append(m.stale, commitOf(id, token))
}

// retry gives one back for later: at once, or in an hour.
func (m *machine) retry(t *rapid.T) {
	id, token := m.anyHeld(t)
	pause := rapid.SampledFrom([]time.Duration{0, time.Hour}).Draw(t, "pause")
	for range rapid.IntRange(1, 2).Draw(t, "times") {
		require.NoError(t, m.q.Retry(context.Background(), []queue.Again{{Held: queue.Held{ID: id, Token: token}, Pause: pause}}))
	}
	m.giveBack(id, token)
	if pause > 0 {
		delete(m.pending, id)
		m.later[id] = true
	}
}

// ripen has one that is scheduled come due.
func (m *machine) ripen(t *rapid.T) {
	id := m.any(t, m.later)
	require.NoError(t, m.raw.ZAdd(context.Background(), m.q.Keys.Scheduled, redis.Z{Member: id, Score: 1}).Err())
	delete(m.later, id)
	m.pending[id] = true
}

// cancel cancels one, wherever it is.
func (m *machine) cancel(t *rapid.T) {
	known := maps.Clone(m.pending)
	maps.Copy(known, m.later)
	maps.Copy(known, m.done)
	for id := range m.held {
		known[id] = true
	}
	id := m.any(t, known)
	want := queue.CancelDone
	switch {
	case m.done[id]:
		want = queue.CancelUnknown
	case m.held[id] != "":
		want = queue.CancelClaimed
	default:
		delete(m.pending, id)
		delete(m.later, id)
		m.done[id] = true
	}
	for range rapid.IntRange(1, 2).Draw(t, "times") {
		outcome, err := m.q.Cancel(context.Background(), id, "request", &execution.Result{ID: id, Status: execution.Cancelled}, 0)
		require.NoError(t, err)
		require.Equal(t, want, outcome)
		if want == queue.CancelDone {
			want = queue.CancelUnknown
		}
	}
}

// broken has a batch of all that is held fail, or fail half-way, on a key of the wrong type, and repeats it when the key is mended.
func (m *machine) broken(t *rapid.T) {
	if len(m.held) == 0 {
		t.Skip("nothing is held")
	}
	ctx, k := context.Background(), m.q.Keys
	var commits []queue.Commit
	var again []queue.Again
	var held []queue.Held
	for _, id := range slices.Sorted(maps.Keys(m.held)) {
		one := queue.Held{ID: id, Token: m.held[id]}
		held, again, commits = append(held, one), append(again, queue.Again{Held: one}), append(commits, commitOf(id, one.Token))
	}
	release := func() error { _, err := m.q.Release(ctx, held); return err }
	retry := func() error { return m.q.Retry(ctx, again) }
	commit := func() error { _, err := m.q.Commit(ctx, commits); return err }
	way := rapid.SampledFrom([]struct {
		key  string
		call func() error
	}{{k.Pending, release}, {k.Scheduled, retry}, {k.Attempts, retry}, {k.Results, commit}}).Draw(t, "way")
	_ = m.raw.Rename(ctx, way.key, way.key+":aside").Err() // there need not be one
	require.NoError(t, m.raw.Set(ctx, way.key, "in the way", 0).Err())
	if err := way.call(); err != nil {
		require.ErrorIs(t, err, queue.ErrRefused)
	}
	require.NoError(t, m.raw.Del(ctx, way.key).Err())
	_ = m.raw.Rename(ctx, way.key+":aside", way.key).Err()
	require.NoError(t, way.call())
	for _, h := range held {
		m.giveBack(h.ID, h.Token)
		if way.key == k.Results {
			delete(m.pending, h.ID)
			m.done[h.ID] = true
		}
	}
}

// crash loses a worker; another takes its place.
func (m *machine) crash(t *rapid.T) {
	victim := m.worker(t)
	for range rapid.IntRange(1, 2).Draw(t, "reapers") {
		_, err := m.q.Reap(context.Background(), victim, lease, true, true)
		require.NoError(t, err)
	}
	for id, token := range maps.Clone(m.held) {
		if len(token) > len(victim) && token[:len(victim)+1] == victim+":" {
			m.giveBack(id, token)
		}
	}
	_, err := m.q.Claim(context.Background(), queue.Claim{Incarnation: victim, Seq: 1 << 40, Want: 4, MaxContextBytes: 1000})
	require.ErrorIs(t, err, queue.ErrNotRegistered)
	m.workers = slices.DeleteFunc(m.workers, func(name string) bool { return name == victim })
	m.hire(t)
}

// check compares Redis with the model.
func (m *machine) check(t *rapid.T) {
	d, err := m.q.Depths(context.Background())
	require.NoError(t, err)
	require.EqualValues(t, len(m.pending)+len(m.later)+len(m.again), d.Pending+d.Handoff+d.Scheduled, "pending and scheduled")
	require.EqualValues(t, len(m.held), d.Claimed, "claimed")
	require.EqualValues(t, len(m.done), d.Results, "results")
}

// Random interleavings of everything that can happen to executions, on the real scripts, are what the model says they are.
func TestModel(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, server *redistest.Server) {
		raw := server.Client()
		rapid.Check(t, func(rt *rapid.T) {
			m := newMachine(rt, server, raw)
			defer func() { _ = m.q.Close() }()
			rt.Repeat(map[string]func(*rapid.T){
				"submit": m.submit, "claim": m.claim, "lost claim": m.lostClaim, "commit": m.commit, "late commit": m.lateCommit,
				"release": m.release, "crash": m.crash, "retry": m.retry, "ripen": m.ripen, "cancel": m.cancel,
				"push again": m.pushAgain, "broken": m.broken, "": m.check,
			})
		})
	})
}
