package queue

import (
	"context"
	"slices"
	"strings"
)

// ResultsAdded returns how many results were ever written. Its differences are a rate, whatever was trimmed meanwhile. Where the
// server does not count them (before Redis 7), it is how many there are.
func (q *Queue) ResultsAdded(ctx context.Context) (int64, error) {
	info, err := q.rdb.XInfoStream(ctx, q.Keys.Results).Result()
	if err != nil && strings.Contains(err.Error(), "no such key") {
		return 0, nil // as long as nothing ended
	}
	if err != nil {
		return 0, wrap("results", err)
	}
	return max(info.EntriesAdded, info.Length), nil
}

// NewestSince returns the newest results after a stream ID, at most count of them, the oldest of those first.
func (q *Queue) NewestSince(ctx context.Context, after string, count int64) ([]Entry, error) {
	messages, err := q.rdb.XRevRangeN(ctx, q.Keys.Results, "+", "("+after, count).Result()
	if err != nil {
		return nil, wrap("results", err)
	}
	out := entries(messages)
	slices.Reverse(out)
	return out, nil
}
