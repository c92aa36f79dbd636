package chaos

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

// order is one execution as an orchestrator submits it, and what it may expect.
type order struct {
	id       string // begins it; "": e
	context  string // "": the ID is pushed without one
	pushes   int    // how often the ID is pushed; 0: once
	due      time.Duration
	replies  bool     // the context asks for a reply
	retries  int      // further runs that the context's retry explains
	expected []string // statuses; nil: succeeded
}

// place submits an execution and notes whether Redis acknowledged it.
func (a *arena) place(o order) (id string, accepted bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if o.id == "" {
		o.id = "e"
	}
	a.mu.Lock()
	a.n++
	id = fmt.Sprint(o.id, a.n)
	if o.expected != nil {
		a.seen.Expected[id] = o.expected
	}
	if o.replies {
		a.seen.Replies[id] = 0
	}
	a.retries[id] = o.retries
	a.mu.Unlock()
	_, err := a.raw.TxPipelined(ctx, func(p redis.Pipeliner) error {
		if o.context != "" {
			p.HSet(ctx, a.keys.Executions, id, o.context)
		}
		if o.due > 0 {
			p.ZAdd(ctx, a.keys.Scheduled, redis.Z{Member: id, Score: float64(time.Now().Add(o.due).UnixMilli())})
			return nil
		}
		for range max(o.pushes, 1) {
			p.LPush(ctx, a.keys.Pending, id)
		}
		return nil
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		a.seen.Accepted[id] = true
	} else {
		a.seen.Maybe[id] = true
	}
	return id, err == nil
}

// submit submits n executions.
func (a *arena) submit(n int, document func(i int) string) {
	for range n {
		a.place(order{context: document(a.n)})
	}
}

// submitMixture submits twenty plain executions, and now and then some of every other kind.
func (s *storm) submitMixture() {
	s.mixed["plain"] += 20
	s.submit(20, sleeps(s.load.IntN(60)))
	ms := s.load.IntN(60)
	mixture := []struct {
		name string
		do   func()
	}{
		{"Python", func() { s.place(order{context: s.inPython(ms)(s.n)}) }},
		{"retried", func() {
			s.place(order{id: "retried", retries: 1, context: fmt.Sprintf(
				`{"workflow":"chaos","params":{"sleep_ms":%d,"fail":1},"retry":{"max_attempts":3,"initial_backoff_seconds":0.05}}`, ms)})
		}},
		{"scheduled", func() {
			s.place(order{id: "scheduled", context: sleeps(ms)(0), due: time.Duration(ms*20+1) * time.Millisecond})
		}},
		{"answered", func() {
			s.place(order{id: "answered", replies: true, context: fmt.Sprintf(`{"workflow":"chaos","params":{"sleep_ms":%d},"reply_ttl_seconds":86400}`, ms)})
		}},
		{"pushed twice", func() {
			if id, accepted := s.place(order{id: "twice", context: sleeps(ms)(0), pushes: 2}); accepted {
				s.twice = append(s.twice, pushed{id, s.n})
			}
		}},
		{"pushed again", s.pushAgain},
		{"cancelled while it waits", func() {
			id, _ := s.place(order{id: "cancelled", context: sleeps(ms)(0), due: time.Hour, expected: []string{"cancelled"}})
			s.cancels[id] = struct{}{}
		}},
		{"cancelled at any time", func() {
			id, _ := s.place(order{id: "any", context: sleeps(ms * 10)(0), expected: []string{"cancelled", "succeeded"}})
			s.cancel(id)
		}},
		{"not JSON", func() { s.place(order{id: "broken", context: `{"workflow":`, expected: []string{"rejected"}}) }},
		{"without a context", func() { s.place(order{id: "bare", expected: []string{"rejected"}}) }},
		{"not an ID", func() { s.place(order{id: "two words", context: sleeps(ms)(0), expected: []string{"rejected"}}) }},
		{"of no workflow", func() { s.place(order{id: "nobody", context: `{"workflow":"nobody"}`, expected: []string{"rejected"}}) }},
	}
	for range 4 {
		one := mixture[s.load.IntN(len(mixture))]
		s.mixed[one.name]++
		one.do()
	}
}

// pushed is an ID that is to be pushed again, and how many had been submitted until it was.
type pushed struct {
	id string
	n  int
}

// pushAgain pushes an ID that was submitted a while ago and has most likely ended; not so long ago that it would be forgotten, with
// the last 2,000 commits.
func (s *storm) pushAgain() {
	for len(s.twice) > 0 && s.n-s.twice[0].n > 800 {
		s.twice = s.twice[1:]
	}
	if len(s.twice) == 0 || s.n-s.twice[0].n < 100 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.raw.LPush(ctx, s.keys.Pending, s.twice[0].id).Err() // should it be lost, nothing is
	s.twice = s.twice[1:]
}

// cancel asks for an execution to be cancelled, as bobbin cancel does, and says whether it was while it waited.
func (s *storm) cancel(id string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	command := control.Command{Verb: control.Cancel, Worker: control.Everyone, ExecutionID: id, RequestID: "of-" + id}
	result := &execution.Result{ID: id, Status: execution.Cancelled, Err: &execution.Error{Type: execution.TypeCancelled}}
	outcome, err := s.orders.Cancel(ctx, id, string(command.Encode()), result, 0)
	return err == nil && outcome == queue.CancelDone
}

// cancelSome cancels what was scheduled for that, if Redis answers. What it says is unknown may have been cancelled by a call whose
// reply was lost, or not have arrived yet: it is asked again in the end.
func (s *storm) cancelSome() {
	for id := range s.cancels {
		if s.load.IntN(4) == 0 && s.cancel(id) {
			delete(s.cancels, id)
		}
	}
}

// cancelRest asks again for whatever was not answered, once Redis answers.
func (s *storm) cancelRest() {
	s.t.Helper()
	for id := range s.cancels {
		// Redis may be on its way back still, and go-redis full of connections that died with it.
		require.Eventually(s.t, func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			return s.orders.Ping(ctx) == nil && (s.cancel(id) || errors.Is(s.raw.ZScore(ctx, s.keys.Scheduled, id).Err(), redis.Nil))
		}, patience, 20*time.Millisecond, "%s is cancelled", id)
	}
	clear(s.cancels)
}
