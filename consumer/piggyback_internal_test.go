package consumer

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/queue"
	"github.com/bobbin-run/bobbin/runner"
)

// idling is the heart of a registered worker with nothing to do, a moment after a heartbeat.
func idling(t *testing.T) *heart {
	t.Helper()
	w := newWorker(t)
	h := &heart{w: w, lastBeat: time.Now(), results: &backpressure{w: w}}
	h.told = w.figures()
	return h
}

// offers says whether the heart offers the next heartbeat.
func (h *heart) offers() bool {
	h.w.piggyback.Store(nil) // as after a rest
	h.offer(third)
	return h.w.piggyback.Load() != nil
}

const third = 10 * time.Second / 3 // of the default lease

func TestWhatHeartbeatsMayGoAlong(t *testing.T) {
	t.Parallel()
	h := idling(t)
	require.True(t, h.offers())
	offered := h.w.piggyback.Load()
	require.Equal(t, h.w.Incarnation(), offered.Beat.Incarnation)
	require.Empty(t, offered.Beat.Fields)

	held := newJob(&queue.Claimed{ID: "x", Token: "t"}, &arrival{incarnation: "i"})
	h.w.ledger.add([]*job{held})
	require.False(t, h.offers(), "the worker holds something")
	h.w.ledger.remove([]item{{job: held}})
	require.True(t, h.offers())

	h.w.processed.Add(1)
	require.False(t, h.offers(), "there is something to tell")
	require.Nil(t, h.w.piggyback.Load())
	h.told = h.w.figures()
	require.True(t, h.offers())

	h.forgotten = true
	require.False(t, h.offers(), "the registration is to be written again")
	h.forgotten, h.told = false, nil
	require.False(t, h.offers(), "all is to be told again")
}

// Pops end when the heartbeat is due, two of equal length where one would last too long, and the last takes it along.
func TestPopsThatEndWithAHeartbeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := idling(t)
		w := h.w
		w.clock.Store(&moment{1_795_000_000_000, time.Now()})
		limit, p := w.along(queue.MaxBlock, -1)
		require.Equal(t, queue.MaxBlock, limit)
		require.Nil(t, p, "none is offered")

		pause := w.coalesced(third)
		h.offer(pause)
		due := time.Now().Add(pause)
		limit, p = w.along(queue.MaxBlock, -1)
		require.Nil(t, p)
		require.InDelta(t, pause/2, limit, float64(slot))
		<-time.After(limit)
		limit, p = w.along(queue.MaxBlock, time.Second)
		require.Nil(t, p, "something is scheduled before")
		require.Equal(t, time.Second+time.Millisecond, limit)
		limit, p = w.along(queue.MaxBlock, -1)
		require.NotNil(t, p)
		require.True(t, p.taken.Load())
		require.Equal(t, time.Until(due), limit)
		<-time.After(limit - time.Millisecond)
		_, p = w.along(queue.MaxBlock, -1)
		require.Nil(t, p, "the heart is about to send it")
	})
}

// The heart sends a heartbeat by itself where none comes back, and does not take what says too little.
func TestTheHeartRests(t *testing.T) {
	t.Parallel()
	pulse := &queue.Pulse{NowMS: 1}
	const patience = 5 * slot
	for name, c := range map[string]struct {
		offered bool
		happens func(w *Worker, p *piggyback) // after a second
		until   time.Duration
		arrives bool
	}{
		"nothing is offered":       {until: third},
		"nobody takes it":          {offered: true, until: third},
		"it is taken and lost":     {offered: true, happens: func(_ *Worker, p *piggyback) { p.taken.Store(true) }, until: third + patience},
		"told to beat":             {offered: true, happens: func(w *Worker, _ *piggyback) { poke(w.beatNow) }, until: time.Second},
		"something is claimed":     {offered: true, happens: func(w *Worker, _ *piggyback) { poke(w.woken) }, until: third - 2*time.Second},
		"it happened":              {offered: true, happens: came(pulse), until: time.Second, arrives: true},
		"it may not have happened": {offered: true, happens: came(nil), until: time.Second},
		"another one happened": {offered: true, happens: func(w *Worker, _ *piggyback) {
			w.piggybacked <- &piggybacked{piggyback: &piggyback{Along: queue.Along{Pulse: pulse}}}
		}, until: third},
		"it was answered long ago": {offered: true, happens: func(w *Worker, p *piggyback) {
			p.due = time.Now().Add(-time.Second)
			came(pulse)(w, p)
		}, until: time.Second},
		"something is claimed long after": {offered: true, happens: func(w *Worker, p *piggyback) {
			<-time.After(time.Second)
			poke(w.woken)
		}, until: 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := idling(t)
				h.lastBeat = time.Now().Add(-2 * time.Second)
				require.Equal(t, c.offered, c.offered && h.offers())
				p := h.w.piggyback.Load()
				if c.happens != nil {
					time.AfterFunc(time.Second, func() { c.happens(h.w, p) })
				}
				begun := time.Now()
				arrived := h.rest(context.Background(), third)
				require.Equal(t, c.until, time.Since(begun))
				require.Nil(t, h.w.piggyback.Load(), "nothing is offered while the heart is at work")
				require.Equal(t, c.arrives, arrived != nil)
			})
		})
	}
}

func came(pulse *queue.Pulse) func(w *Worker, p *piggyback) {
	return func(w *Worker, p *piggyback) {
		p.Pulse = pulse
		w.piggybacked <- &piggybacked{piggyback: p, sent: time.Now(), back: time.Now()}
	}
}

// What was renewed under an incarnation that is over is not the lease of the present one.
func TestHeartbeatsOfAnotherIncarnationDoNotCount(t *testing.T) {
	t.Parallel()
	h := idling(t)
	h.registered = true
	require.True(t, h.offers())
	now := time.Now()
	arrived := &piggybacked{piggyback: h.w.piggyback.Load(), sent: now, back: now}
	arrived.Pulse = &queue.Pulse{NowMS: 7}
	over, cancel := context.WithCancel(context.Background()) // whatever is sent fails
	cancel()
	_ = h.beat(over, arrived)
	require.Equal(t, now, h.lastBeat)
	require.Equal(t, moment{7, now}, h.happened)
	require.Equal(t, 1, h.beats)

	fresh := h.w.process.newIncarnation()
	h.w.incarnation.Store(&fresh)
	require.Error(t, h.beat(over, arrived))
	require.Equal(t, 1, h.beats)
}

// A heartbeat that went along counts from when Redis says that it happened, as far as this process can tell that it did then: a worker
// with nothing to do stands an outage as long as any other.
func TestWhenHeartbeatsHappened(t *testing.T) {
	t.Parallel()
	sent := time.Now()
	back := sent.Add(2 * time.Second)
	before := moment{5000, sent.Add(-time.Second)}
	for nowMS, want := range map[int64]time.Time{
		7900: before.at.Add(2900 * time.Millisecond),
		9000: back, // that clock was set forward
		5500: sent, // or back
	} {
		require.Equal(t, want, before.until(nowMS, sent, back), nowMS)
		require.Equal(t, sent, moment{}.until(nowMS, sent, back), "it is not known what it showed")
	}
}

// One that takes long to arrive counts from when it was sent, since it may have happened then. Those after it do not.
func TestASlowHeartbeatMakesNoOtherCountEarlier(t *testing.T) {
	t.Parallel()
	server, ctx := redistest.Real(t), t.Context()
	raw, proxy := server.Client(), redistest.NewProxy(t, server.Addr)
	w, err := New(Options{RedisURL: proxy.URL(), Prefix: server.Prefix, Runner: runner.NewMux(), Lease: time.Hour, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer func() { require.NoError(t, w.queue.Close()) }()
	h := &heart{w: w, results: &backpressure{w: w}}
	require.NoError(t, h.beat(ctx, nil), "which connects and registers")
	require.NoError(t, raw.Do(ctx, "client", "pause", 60_000, "write").Err()) // scripts too
	before, beaten := proxy.Count("EVALSHA"), make(chan error, 1)
	go func() { beaten <- h.beat(ctx, nil) }()
	require.Eventually(t, func() bool { return proxy.Count("EVALSHA") > before }, 20*time.Second, time.Millisecond)
	paused := raw.Time(ctx).Val()
	require.Eventually(t, func() bool { return raw.Time(ctx).Val().Sub(paused) > 50*time.Millisecond }, 20*time.Second, time.Millisecond)
	require.NoError(t, raw.Do(ctx, "client", "unpause").Err())
	require.NoError(t, <-beaten)
	require.Greater(t, h.happened.at.Sub(h.lastBeat), 40*time.Millisecond, "it happened when Redis took it up")
	slow := h.happened
	arrived := &piggybacked{piggyback: &piggyback{Along: queue.Along{Beat: h.nothingNew()}}, sent: slow.at, back: slow.at.Add(time.Minute)}
	arrived.Pulse = &queue.Pulse{NowMS: slow.redisMS + 3000}
	require.NoError(t, h.beat(ctx, arrived))
	require.Equal(t, slow.at.Add(3*time.Second), h.lastBeat)
}

// A worker that has claimed something offers no heartbeat to its pops any more, and does again when that has ended.
func TestClaimsEndTheOffer(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	hold := make(chan struct{})
	mux := runner.NewMux()
	mux.Handle("hold", runner.Func(func(context.Context, *runner.Call) (json.RawMessage, error) {
		<-hold
		return nil, nil
	}))
	w, err := New(Options{
		RedisURL: server.URL(), Prefix: server.Prefix, Runner: mux, Concurrency: 2, Lease: time.Hour, Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() { _, _ = w.Run(ctx) })
	offers := func(want bool) func() bool {
		return func() bool { return (w.piggyback.Load() != nil) == want }
	}
	const patience, often = 20 * time.Second, time.Millisecond
	require.Eventually(t, offers(true), patience, often)
	require.NoError(t, w.queue.Submit(ctx, queue.Submission{ID: "x", Context: []byte(`{"workflow":"hold"}`)}))
	require.Eventually(t, offers(false), patience, often, "or the lease would be known less well while something runs")
	close(hold)
	require.Eventually(t, func() bool { return w.ledger.size() == 0 }, patience, often)
	poke(w.beatNow)
	require.Eventually(t, offers(true), patience, often)
}
