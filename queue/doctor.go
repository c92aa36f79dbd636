package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

var (
	whereisScript = load("whereis")
	rescueScript  = load("spend", "rescue")
)

// Ailment is one thing that is wrong with a queue or its server.
type Ailment struct {
	Subject string   `json:"subject"`           // what it is about
	Problem string   `json:"problem"`           // what is wrong
	Advice  string   `json:"advice"`            // what to do
	IDs     []string `json:"ids,omitempty"`     // the executions, where it is about some
	Mends   bool     `json:"repairable"`        // Repair mends it
	Warning bool     `json:"warning,omitempty"` // worth knowing, and no breach of the promise

	silent []string // the incarnations that hold IDs and are heard of no more
}

// Examine looks for executions that are in no place or in several, for claims that nobody works on, and for settings of the
// server under which the promise cannot be kept. It writes nothing. Executions on their way between two places are asked
// after a second time, after settle, before they are called wrong.
//
// Cost: one pass over executions, pending, claims and scheduled, in pages, and over results where something looks wrong or is
// claimed; memory for the IDs of all live executions.
func (q *Queue) Examine(ctx context.Context, settle time.Duration) ([]Ailment, error) {
	c := &census{q: q, seen: map[string]int{}, claims: map[string]string{}}
	if err := c.take(ctx); err != nil {
		return nil, err
	}
	suspects, silent := c.suspects(), c.silent()
	if len(suspects)+len(silent) > 0 {
		timer := time.NewTimer(settle)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timer.C:
		}
	}
	found, err := c.diagnose(ctx, suspects)
	if err != nil {
		return nil, err
	}
	if err := c.compareWithResults(ctx, found); err != nil {
		return nil, err
	}
	held, err := c.stillHeld(ctx, silent)
	if err != nil {
		return nil, err
	}
	server, err := q.examineServer(ctx, len(c.workers) > 0)
	return append(append(server, found.ailments()...), held...), err
}

// census is what is in the keys, read one after another while executions move on.
type census struct {
	q        *Queue
	contexts []string
	seen     map[string]int    // by ID: in how many places
	claims   map[string]string // ID → incarnation
	workers  []Worker
	nowMS    int64
}

// take reads every key once. Contexts come first: what is submitted meanwhile is not missed elsewhere.
func (c *census) take(ctx context.Context) (err error) {
	if c.contexts, err = c.q.executionIDs(ctx); err != nil {
		return err
	}
	if c.workers, err = c.q.Workers(ctx); err != nil {
		return err
	}
	err = c.q.scanHash(ctx, c.q.Keys.Claims, func(id, token string) {
		c.seen[id]++
		c.claims[id] = owner(token)
	})
	if err != nil {
		return err
	}
	for _, list := range []string{c.q.Keys.Pending, c.q.Keys.Handoff} {
		if err := c.q.scanList(ctx, list, func(id string) { c.seen[id]++ }); err != nil {
			return err
		}
	}
	scheduled, err := c.q.rdb.ZRange(ctx, c.q.Keys.Scheduled, 0, -1).Result()
	for _, id := range scheduled {
		c.seen[id]++
	}
	if err != nil {
		return wrap("doctor", err)
	}
	now, err := c.q.rdb.Time(ctx).Result()
	c.nowMS = now.UnixMilli()
	return wrap("doctor", err)
}

// executionIDs returns the IDs that have a context. Contexts may be large, and HSCAN would bring them along: the IDs alone are
// asked for at once, unless there are so many that they must be small.
func (q *Queue) executionIDs(ctx context.Context) (ids []string, err error) {
	const many = 200_000
	n, err := q.rdb.HLen(ctx, q.Keys.Executions).Result()
	if err != nil {
		return nil, wrap("doctor", err)
	}
	if n <= many {
		ids, err = q.rdb.HKeys(ctx, q.Keys.Executions).Result()
		return ids, wrap("doctor", err)
	}
	err = q.scanHash(ctx, q.Keys.Executions, func(id, _ string) { ids = append(ids, id) })
	return ids, err
}

// registered says whether an incarnation is in workers.
func (c *census) registered(incarnation string) bool {
	return slices.ContainsFunc(c.workers, func(w Worker) bool { return w.Incarnation == incarnation })
}

// suspects returns the IDs that do not look as they should.
func (c *census) suspects() []string {
	odd := map[string]bool{}
	for id, incarnation := range c.claims {
		if !c.registered(incarnation) {
			odd[id] = true
		}
	}
	for _, id := range c.contexts {
		if c.seen[id] != 1 {
			odd[id] = true
		}
	}
	for id, n := range c.seen {
		if n > 1 {
			odd[id] = true
		}
	}
	return slices.Sorted(maps.Keys(odd))
}

// silence is an incarnation that is heard of no more, with the executions that it holds.
type silence struct {
	incarnation, how string
	ids              []string
}

// silent finds the workers that are heard of no more and hold executions.
func (c *census) silent() []silence {
	var list []silence
	for _, w := range c.workers {
		lease, quiet := ParseMS(w.Fields["lease_ms"]), c.nowMS-w.HeartbeatMS
		if quiet < 2*lease+repairLease.Milliseconds() {
			continue
		}
		s := silence{incarnation: w.Incarnation, how: "declared dead"}
		if w.HeartbeatMS > 0 {
			s.how = fmt.Sprintf("silent for %s", (time.Duration(quiet) * time.Millisecond).Round(time.Second))
		}
		for id, incarnation := range c.claims {
			if incarnation == w.Incarnation {
				s.ids = append(s.ids, id)
			}
		}
		if slices.Sort(s.ids); len(s.ids) > 0 {
			list = append(list, s)
		}
	}
	return list
}

// stillHeld says what the silent hold still, a while later: no worker runs that would have taken it over.
func (c *census) stillHeld(ctx context.Context, silent []silence) ([]Ailment, error) {
	var list []Ailment
	for _, s := range silent {
		var held []string
		for page := range slices.Chunk(s.ids, 1000) {
			tokens, err := c.q.rdb.HMGet(ctx, c.q.Keys.Claims, page...).Result()
			if err != nil {
				return nil, wrap("doctor", err)
			}
			for i, token := range tokens {
				if owner(text(token)) == s.incarnation {
					held = append(held, page[i])
				}
			}
		}
		if len(held) > 0 {
			list = append(list, Ailment{
				Subject: "executions", Problem: fmt.Sprintf("%d are claimed by %s, which is %s, and nobody has taken them over", len(held), s.incarnation, s.how),
				Advice: "start a worker: it takes them over within two leases; bobbin doctor --repair does it now", IDs: held, Mends: true, silent: []string{s.incarnation},
			})
		}
	}
	return list, nil
}

// owner returns the incarnation in a claim token.
func owner(token string) string {
	for range 2 {
		at := strings.LastIndexByte(token, ':')
		if at < 0 {
			return ""
		}
		token = token[:at]
	}
	return token
}

func (q *Queue) scanHash(ctx context.Context, key string, each func(field, value string)) error {
	var cursor uint64
	for {
		// Contexts may be large: ask for few at a time.
		pairs, next, err := q.rdb.HScan(ctx, key, cursor, "", 200).Result()
		if err != nil {
			return wrap("doctor", err)
		}
		for i := 0; i+1 < len(pairs); i += 2 {
			each(pairs[i], pairs[i+1])
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

func (q *Queue) scanList(ctx context.Context, key string, each func(id string)) error {
	const page = 10_000
	for from := int64(0); ; from += page {
		ids, err := q.rdb.LRange(ctx, key, from, from+page-1).Result()
		if err != nil {
			return wrap("doctor", err)
		}
		for _, id := range ids {
			each(id)
		}
		if len(ids) < page {
			return nil
		}
	}
}

// scanResults calls each with the execution ID of every result. Results may be large: a page is of about 4 MiB, after a small one to
// see how large they are.
func (q *Queue) scanResults(ctx context.Context, each func(id string)) error {
	const pageBytes = 4 << 20
	from, size := "-", int64(16)
	for {
		page, err := q.rdb.XRangeN(ctx, q.Keys.Results, from, "+", size).Result()
		if err != nil {
			return wrap("doctor", err)
		}
		bytes := 1
		for _, entry := range page {
			each(text(entry.Values["execution_id"]))
			for _, value := range entry.Values {
				bytes += len(text(value))
			}
			from = "(" + entry.ID
		}
		if int64(len(page)) < size {
			return nil
		}
		size = min(max(size*pageBytes/int64(bytes), 4), 2*size, 2000)
	}
}

// repairLease is how long a worker must be silent at the least, whatever its own lease was, before a repair takes from it.
const repairLease = 10 * time.Second

// maxAsked is how many are asked after one by one, each a pass over pending.
const maxAsked = 1000

// findings are IDs by what is wrong with them.
type findings struct {
	nowhere, orphan, several, ended, twice []string
	unasked                                int
}

// diagnose asks after each suspect in one step, and says what is really wrong. Most have moved on by now: a look at their context
// and claim sorts those out.
func (c *census) diagnose(ctx context.Context, suspects []string) (*findings, error) {
	f, k := &findings{}, c.q.Keys
	left, err := c.narrow(ctx, suspects)
	if err != nil {
		return nil, err
	}
	f.unasked = max(len(left)-maxAsked, 0)
	for _, id := range left[:min(len(left), maxAsked)] {
		raw, err := c.q.run(ctx, "doctor", whereisScript, []string{k.Executions, k.Pending, k.Handoff, k.Claims, k.Scheduled, k.Workers}, id)
		if err != nil {
			return nil, err
		}
		switch at := texts(raw)[0]; {
		case at == "x":
			f.nowhere = append(f.nowhere, id)
		case strings.Contains(at, "o"):
			f.orphan = append(f.orphan, id)
		case len(strings.TrimPrefix(at, "x")) > 1:
			f.several = append(f.several, id)
		}
	}
	return f, nil
}

// narrow returns the suspects that still have a context or a claim and are not simply claimed by a worker that is there.
func (c *census) narrow(ctx context.Context, suspects []string) (left []string, err error) {
	for page := range slices.Chunk(suspects, 500) {
		pipe := c.q.rdb.Pipeline()
		contexts, claims := make([]*redis.BoolCmd, len(page)), make([]*redis.StringCmd, len(page))
		for i, id := range page {
			contexts[i], claims[i] = pipe.HExists(ctx, c.q.Keys.Executions, id), pipe.HGet(ctx, c.q.Keys.Claims, id)
		}
		if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
			return nil, wrap("doctor", err)
		}
		for i, id := range page {
			token := claims[i].Val()
			if token == "" && contexts[i].Val() || token != "" && (!c.registered(owner(token)) || c.seen[id] > 1) {
				left = append(left, id)
			}
		}
	}
	return left, nil
}

// compareWithResults finds, among the executions that are nowhere and those that are claimed, those that have a result.
func (c *census) compareWithResults(ctx context.Context, f *findings) error {
	nowhere := map[string]bool{}
	for _, id := range f.nowhere {
		nowhere[id] = true
	}
	if len(nowhere)+len(c.claims) == 0 {
		return nil
	}
	err := c.q.scanResults(ctx, func(id string) {
		if nowhere[id] {
			f.ended = append(f.ended, id)
			delete(nowhere, id)
		}
		if _, live := c.claims[id]; live {
			if token, err := c.q.rdb.HGet(ctx, c.q.Keys.Claims, id).Result(); err == nil && token != "" {
				f.twice = append(f.twice, id)
			}
		}
	})
	f.nowhere = slices.DeleteFunc(f.nowhere, func(id string) bool { return !nowhere[id] })
	return err
}

// ailments puts findings into words.
func (f *findings) ailments() []Ailment {
	var list []Ailment
	add := func(ids []string, problem, advice string, mends, warning bool) {
		if len(ids) > 0 {
			list = append(list, Ailment{
				Subject: "executions", Problem: fmt.Sprintf("%d %s", len(ids), problem), Advice: advice, IDs: ids, Mends: mends, Warning: warning,
			})
		}
	}
	add(f.nowhere, "have a context but are neither pending nor claimed nor scheduled: they would never run",
		"bobbin doctor --repair puts them back into pending; if an orchestrator sets contexts before it pushes IDs, it may be about to push them", true, false)
	add(f.orphan, "are claimed by a worker that is not registered: nobody runs them", "bobbin doctor --repair puts them back into pending", true, false)
	add(f.ended, "have a result and a context, and are not pending: they have run, and would run again if they were pushed",
		"push their IDs if they were submitted again; HDEL their contexts if not", false, true)
	add(f.several, "are in more than one place: most likely pushed more than once", "nothing: a worker drops the surplus when it comes to it", false, true)
	add(f.twice, "have a result and are claimed",
		"fine if they were submitted again under the same ID; otherwise something other than bobbin wrote to claims or results", false, true)
	if f.unasked > 0 {
		list = append(list, Ailment{
			Subject: "executions", Problem: fmt.Sprintf("%d more look wrong and were not asked after", f.unasked), Advice: "run bobbin doctor again after a repair", Warning: len(list) == 0,
		})
	}
	return list
}

// Repair mends an ailment of [Queue.Examine] that Mends says can be, and returns the executions that it put back into pending. Each
// is looked at again first. It is safe to repeat.
func (q *Queue) Repair(ctx context.Context, a Ailment) ([]string, error) {
	if len(a.silent) == 0 {
		return q.rescue(ctx, a.IDs)
	}
	var moved []string
	for _, incarnation := range a.silent {
		reaped, err := q.Reap(ctx, incarnation, repairLease, false, true)
		if err != nil {
			return moved, err
		}
		moved = append(moved, reaped.Moved...)
	}
	return moved, nil
}

// rescue puts executions back into pending that are nowhere or orphaned, and returns those it moved.
func (q *Queue) rescue(ctx context.Context, ids []string) ([]string, error) {
	var moved []string
	k := q.Keys
	keys := []string{k.Executions, k.Pending, k.Handoff, k.Claims, k.Scheduled, k.Workers, k.Attempts, k.Recoveries}
	for page := range slices.Chunk(ids, 100) {
		args := make([]any, len(page))
		for i, id := range page {
			args[i] = id
		}
		raw, err := q.run(ctx, "rescue", rescueScript, keys, args...)
		if err != nil {
			return moved, err
		}
		moved = append(moved, texts(raw)...)
	}
	return moved, nil
}
