package queue

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unsafe"
)

// Claimed is one execution that this incarnation holds.
type Claimed struct {
	ID         string // raw: it need not be a valid execution.ID
	Token      string
	Context    []byte // nil when there is none, or when it is above the limit
	Size       int64  // of the context, also when it is above the limit
	Missing    bool   // there is no context
	Attempts   int    // spent before this one
	Recoveries int    // of those, how many because a worker died
	Cancel     string // the request that asked to cancel it, or empty
	ClaimedMS  int64  // Redis's clock
}

// Attempt returns the number of this attempt; the first is 1.
func (c *Claimed) Attempt() int { return c.Attempts + 1 }

// Claim asks for up to Want executions.
type Claim struct {
	Incarnation     string
	Seq             int64 // rises with every claim of the incarnation
	Want            int
	MaxContextBytes int64
	Space           []Claimed // for what is claimed; the reply takes it
	Along           *Along    // what [Waker.Claim] is to send as well; nil: nothing
}

// ClaimReply is what a claim brought.
type ClaimReply struct {
	Claimed        []Claimed
	NowMS          int64 // Redis's clock
	ModulesVersion string
	NextDueMS      int64 // until the next scheduled execution is due; -1: none is scheduled
	Duplicates     int   // IDs dropped because they were claimed already
	More           bool  // there may be more to claim; false: nothing was pending any more
}

// Claim takes executions for an incarnation. It is not safe to repeat: after an error that is not [ErrRefused],
// [ErrNotRegistered] or [ErrStaleClaim], call [Queue.Reconcile] before the next claim.
func (q *Queue) Claim(ctx context.Context, c Claim) (*ClaimReply, error) {
	keys, args := q.claimCall(c, c.Want)
	raw, err := q.run(ctx, "claim", claimScript, keys, args...)
	if err != nil {
		return nil, err
	}
	return c.reply(raw)
}

// claimCall is a call of claim.lua; want is below 0 where nothing is to be expected.
func (q *Queue) claimCall(c Claim, want int) (keys []string, args []any) {
	k := q.Keys
	return []string{
		k.Handoff, k.Pending, k.Claims, k.Executions, k.Attempts, k.Recoveries, k.Cancels, k.Scheduled,
		k.Workers, k.Worker(c.Incarnation), k.ModulesVersion,
	}, []any{c.Incarnation, c.Seq, want, c.MaxContextBytes}
}

func (c Claim) reply(raw any) (*ClaimReply, error) {
	values, _ := raw.([]any)
	if joined, ok := raw.(string); ok {
		values = loneJoined(joined)
	}
	_, nothing := raw.(int64)
	switch {
	case nothing:
		return &ClaimReply{ModulesVersion: "0", NextDueMS: -1}, nil
	case len(values) == loneValues:
		return c.lone(values)
	case len(values) != 5+describedValues:
		return nil, fmt.Errorf("claim: unexpected reply %T of %d values", raw, len(values))
	}
	reply := &ClaimReply{
		NowMS: number(values[0]), ModulesVersion: text(values[1]), NextDueMS: number(values[2]), Duplicates: int(number(values[3])),
		More: number(values[4]) == 1,
	}
	reply.Claimed = described(values[5:], reply.NowMS, c.Space)
	first := c.token(1)
	for i := range reply.Claimed {
		x := &reply.Claimed[i]
		if x.Token = first; x.Attempts > 0 {
			x.Token = c.token(x.Attempt())
		}
	}
	return reply, nil
}

// loneValues is how many values lone.lua returns with a claim.
const loneValues = 5

// lone decodes them. ID and version are copied where they are part of a longer string, which would be kept for them otherwise.
func (c Claim) lone(values []any) (*ClaimReply, error) {
	seconds, err := strconv.ParseInt(text(values[0]), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("claim: unexpected reply: seconds: %w", err)
	}
	x := Claimed{ID: strings.Clone(text(values[3])), Token: c.token(1), ClaimedMS: seconds*1000 + number(values[1])/1000}
	x.found(values[4])
	version := strings.Clone(text(values[2]))
	return &ClaimReply{NowMS: x.ClaimedMS, ModulesVersion: version, NextDueMS: -1, Claimed: append(c.Space[:0], x)}, nil
}

// loneJoined takes apart what lone.lua joined. What is of another shape is no values: the claim is found by [Queue.Reconcile].
func loneJoined(reply string) []any {
	if len(reply) < 2 {
		return nil
	}
	version, id := int(reply[0]), int(reply[1])
	head := strings.SplitN(reply[2:], " ", 3)
	if len(head) < 3 || version+id > len(head[2]) {
		return nil
	}
	rest := head[2]
	return []any{head[0], head[1], rest[:version], rest[version : version+id], rest[version+id:]}
}

// token is what claims of the call hold, for an attempt.
func (c Claim) token(attempt int) string {
	return c.Incarnation + ":" + strconv.FormatInt(c.Seq, 10) + ":" + strconv.Itoa(attempt)
}

// describedValues is how many values describe.lua appends.
const describedValues = 6

// described decodes what describe.lua appended: lists side by side. What is of another shape is as if it were absent.
func described(values []any, now int64, space []Claimed) []Claimed {
	var lists [describedValues][]any
	for i := range lists {
		lists[i], _ = values[i].([]any)
	}
	ids, contexts, sizes, attempts, recoveries, cancels := lists[0], lists[1], lists[2], lists[3], lists[4], lists[5]
	claimed := slices.Grow(space[:0], len(ids))[:len(ids)]
	for i := range claimed {
		x := &claimed[i]
		*x = Claimed{
			ID: text(ids[i]), ClaimedMS: now, Size: number(at(sizes, i)), Attempts: int(number(at(attempts, i))),
			Recoveries: int(number(at(recoveries, i))), Cancel: text(at(cancels, i)),
		}
		x.found(at(contexts, i))
	}
	return claimed
}

// found takes the context, or that there was none. The client made the string for this reply, and nobody else has it: its bytes are
// taken as they are, since a copy would be a tenth of what an execution allocates, and twice the memory of a large context.
func (c *Claimed) found(context any) {
	body, ok := context.(string)
	if ok {
		c.Context, c.Size = unsafe.Slice(unsafe.StringData(body), len(body)), int64(len(body))
	}
	c.Missing = !ok && c.Size == 0
}

func at(list []any, i int) any {
	if i >= len(list) {
		return nil
	}
	return list[i]
}

// Reconcile finds executions that an incarnation holds without knowing: a claim ran and its reply was lost. It first makes
// every claim call up to seq void that has not run yet, then reads all claims and returns those of the incarnation that known
// does not recognise. It is safe to repeat. Cost: one pass over claims, only after an error.
func (q *Queue) Reconcile(ctx context.Context, c Claim, known func(Held) bool) (*ClaimReply, error) {
	k := q.Keys
	if _, err := q.run(ctx, "reconcile", fenceClaimsScript, []string{k.Workers, k.Worker(c.Incarnation)}, c.Incarnation, c.Seq); err != nil {
		return nil, err
	}
	reply, seen := &ClaimReply{NextDueMS: -1}, map[Held]bool{} // HSCAN may report a pair twice, and nothing is to be adopted twice
	err := q.scanClaims(ctx, c.Incarnation, func(pairs []string) error {
		tokens := map[string]string{}
		args := []any{c.MaxContextBytes}
		for i := 0; i < len(pairs); i += 2 {
			if held := (Held{pairs[i], pairs[i+1]}); !seen[held] && !known(held) {
				seen[held] = true
				tokens[pairs[i]] = pairs[i+1]
				args = append(args, pairs[i], pairs[i+1])
			}
		}
		if len(tokens) == 0 {
			return nil
		}
		keys := []string{k.Claims, k.Executions, k.Attempts, k.Recoveries, k.Cancels, k.ModulesVersion}
		raw, err := q.run(ctx, "adopt", adoptScript, keys, args...)
		if err != nil {
			return err
		}
		values, ok := raw.([]any)
		if !ok || len(values) != 2+describedValues {
			return fmt.Errorf("adopt: unexpected reply %T of %d values", raw, len(values))
		}
		reply.NowMS, reply.ModulesVersion = number(values[0]), text(values[1])
		found := described(values[2:], reply.NowMS, nil)
		for i := range found {
			found[i].Token = tokens[found[i].ID]
		}
		reply.Claimed = append(reply.Claimed, found...)
		return nil
	})
	return reply, err
}

// scanClaims calls page with pairs of ID and token of one incarnation's claims. HSCAN may report a pair twice.
func (q *Queue) scanClaims(ctx context.Context, incarnation string, page func(pairs []string) error) error {
	prefix := incarnation + ":"
	var cursor uint64
	for {
		pairs, next, err := q.rdb.HScan(ctx, q.Keys.Claims, cursor, "", 1000).Result()
		if err != nil {
			return wrap("scan claims", err)
		}
		var own []string
		for i := 0; i+1 < len(pairs); i += 2 {
			if strings.HasPrefix(pairs[i+1], prefix) {
				own = append(own, pairs[i], pairs[i+1])
			}
		}
		if len(own) > 0 {
			if err := page(own); err != nil {
				return err
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// number reads an integer that Lua or Redis sent as a number or as a string; anything else is 0.
func number(value any) int64 {
	switch v := value.(type) {
	case int64:
		return v
	case string:
		n, _ := strconv.ParseInt(v, 10, 64)
		return n
	default:
		return 0
	}
}

func text(value any) string {
	s, _ := value.(string)
	return s
}

func texts(value any) []string {
	values, _ := value.([]any)
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = text(v)
	}
	return out
}
