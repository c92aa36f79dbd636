package queue_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/queue"
)

// model is all there is to know: where each execution is, and under which token.
type model struct {
	pending map[string]bool
	held    map[string]string // ID → token
	done    map[string]bool
}

// machine drives the real scripts and the model side by side.
type machine struct {
	model
	q       *queue.Queue
	n       int
	seq     int64
	workers []string
	stale   []queue.Commit // commits whose claim is gone, one way or another
}

var machines atomic.Int64

const lease = time.Hour // nobody dies of silence here

func newMachine(t *rapid.T, server *redistest.Server) *machine {
	q, err := queue.Open(queue.Options{URL: server.URL(), Prefix: fmt.Sprintf("%s-model-%d", server.Prefix, machines.Add(1))})
	require.NoError(t, err)
	m := &machine{q: q, model: model{map[string]bool{}, map[string]string{}, map[string]bool{}}}
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
	require.Len(t, reply.Claimed, min(c.Want, len(m.pending)))
	m.take(t, reply.Claimed)
}

func (m *machine) take(t *rapid.T, claimed []queue.Claimed) {
	for _, c := range claimed {
		require.True(t, m.pending[c.ID], "%s was claimed and is not pending", c.ID)
		delete(m.pending, c.ID)
		m.held[c.ID] = c.Token
	}
}

// lostClaim claims, forgets the reply, and reconciles.
func (m *machine) lostClaim(t *rapid.T) {
	m.seq++
	c := queue.Claim{Incarnation: m.worker(t), Seq: m.seq, Want: rapid.IntRange(1, 4).Draw(t, "want"), MaxContextBytes: 1000}
	_, err := m.q.Claim(context.Background(), c)
	require.NoError(t, err)
	reply, err := m.q.Reconcile(context.Background(), c, func(h queue.Held) bool { return m.held[h.ID] == h.Token })
	require.NoError(t, err)
	require.Len(t, reply.Claimed, min(c.Want, len(m.pending)))
	m.take(t, reply.Claimed)
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
	require.EqualValues(t, len(m.pending), d.Pending+d.Handoff, "pending")
	require.EqualValues(t, len(m.held), d.Claimed, "claimed")
	require.EqualValues(t, len(m.done), d.Results, "results")
}

// Random interleavings of everything that can happen to executions, on the real scripts, are what the model says they are.
func TestModel(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, server *redistest.Server) {
		rapid.Check(t, func(rt *rapid.T) {
			m := newMachine(rt, server)
			defer func() { _ = m.q.Close() }()
			rt.Repeat(map[string]func(*rapid.T){
				"submit": m.submit, "claim": m.claim, "lost claim": m.lostClaim, "commit": m.commit, "late commit": m.lateCommit,
				"release": m.release, "crash": m.crash, "": m.check,
			})
		})
	})
}
