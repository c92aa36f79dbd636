package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

const (
	speedWindow = 60 * time.Second // over which rates and percentiles are taken
	speedSample = 1000             // results read at most in one go
	speedBytes  = 4 << 20          // about how much they may weigh: of large results fewer are read
)

// speed is how fast executions end and how long they take. The rate comes from Redis's own count of results, however many end;
// percentiles from a sample: what ended since the last reading, and where that is too much to read, the newest of it. The zero
// value is ready.
type speed struct {
	nowMS  int64
	counts []count
	sample []ended // within the window, the oldest first
	wholly int64   // since when the sample is everything that ended, Redis's clock
	since  string  // the stream ID up to which results were read
	most   int64
}

// count is how many results had been written at a moment.
type count struct{ atMS, added int64 }

// ended is what a result says of speed.
type ended struct {
	atMS      int64         // when it was written, by its stream ID
	duration  time.Duration // -1: it never ran
	waitMS    int64         // from submission to claim; -1: not known
	succeeded bool
	weight    float64 // how many it stands for: 1, or more where not all that ended was read
}

// next is what to read next: results after which, and how many at most.
func (s *speed) next() (since string, most int64) {
	return cmp.Or(s.since, "0"), cmp.Or(s.most, speedSample)
}

func (s *speed) take(r *reading) {
	s.nowMS = r.status.NowMS
	from := s.nowMS - speedWindow.Milliseconds()
	if n := len(s.counts); n > 0 && r.added < s.counts[n-1].added {
		s.counts = nil // the stream was trimmed where nothing else counts, or made anew
	}
	each := 1.0
	if n := len(s.counts); n > 0 && len(r.results) > 0 {
		each = max(float64(r.added-s.counts[n-1].added)/float64(len(r.results)), 1)
	}
	s.counts = slices.DeleteFunc(append(s.counts, count{s.nowMS, r.added}), func(c count) bool { return c.atMS < from })
	weight := 0
	for _, e := range r.results {
		s.since = e.StreamID
		s.sample = append(s.sample, endedOf(e, each))
		weight += len(e.Result.Value) + len(e.Result.Meta)
		if e.Result.Err != nil {
			weight += len(e.Result.Err.Traceback)
		}
	}
	if n := int64(len(r.results)); n > 0 {
		s.most = min(max(speedBytes/max(int64(weight)/n, 1), 10), speedSample)
		if n >= r.most {
			s.wholly = queue.StreamMS(r.results[0].StreamID)
		}
	}
	s.sample = slices.DeleteFunc(s.sample, func(e ended) bool { return e.atMS < from })
}

func endedOf(e queue.Entry, each float64) ended {
	r := e.Result
	one := ended{atMS: queue.StreamMS(e.StreamID), duration: -1, waitMS: -1, succeeded: r.Status == execution.Succeeded, weight: each}
	if r.StartedMS > 0 && r.Status != execution.Rejected {
		one.duration = r.Duration
	}
	if at, ok := submitted(r.ID); ok && r.ClaimedMS > 0 {
		one.waitMS = max(r.ClaimedMS-at, 0)
	}
	return one
}

// rate is how many executions ended in a second, and over how long that is.
func (s *speed) rate() (perSecond float64, over time.Duration) {
	from := s.nowMS - speedWindow.Milliseconds()
	if s.wholly <= from { // all that ended is in the sample
		return float64(len(s.sample)) / speedWindow.Seconds(), speedWindow
	}
	if first, last := s.counts[0], s.counts[len(s.counts)-1]; last.atMS-first.atMS >= topEvery.Milliseconds()/2 {
		over = time.Duration(last.atMS-first.atMS) * time.Millisecond
		return float64(last.added-first.added) / over.Seconds(), over
	}
	over = time.Duration(max(s.nowMS-s.wholly, 1)) * time.Millisecond // the first reading
	return float64(len(s.sample)) / over.Seconds(), over
}

// figures are the parts of a line.
func (s *speed) figures() []string {
	rate, over := s.rate()
	failed, all := 0.0, 0.0
	var durations, waits []weighed
	for _, e := range s.sample {
		all += e.weight
		if !e.succeeded {
			failed += e.weight
		}
		if e.duration >= 0 {
			durations = append(durations, weighed{int64(e.duration), e.weight})
		}
		if e.waitMS >= 0 {
			waits = append(waits, weighed{e.waitMS, e.weight})
		}
	}
	if s.wholly <= s.nowMS-speedWindow.Milliseconds() {
		return append([]string{fmt.Sprintf("last minute: %s ended", perSecond(rate)), fmt.Sprintf("%.0f not succeeded", failed)}, percentiles(durations, waits)...)
	}
	parts := []string{fmt.Sprintf("last %s: %s ended", over.Round(100*time.Millisecond), perSecond(rate))}
	if all == 0 {
		return parts
	}
	seen := time.Duration(s.nowMS-s.sample[0].atMS) * time.Millisecond
	parts = append(parts, fmt.Sprintf("by %d of the last %s: %.1f%% not succeeded", len(s.sample), seen.Round(100*time.Millisecond), 100*failed/all))
	return append(parts, percentiles(durations, waits)...)
}

func perSecond(rate float64) string {
	if rate > 0 && rate < 1 {
		return fmt.Sprintf("%.3f/s", rate)
	}
	return fmt.Sprintf("%.1f/s", rate)
}

func percentiles(durations, waits []weighed) []string {
	var parts []string
	if len(durations) > 0 {
		order(durations)
		ran := func(p float64) string { return brief(time.Duration(at(durations, p))) }
		parts = append(parts, fmt.Sprintf("ran p50 %s p95 %s p99 %s", ran(0.5), ran(0.95), ran(0.99)))
	}
	if len(waits) > 0 {
		order(waits)
		parts = append(parts, fmt.Sprintf("waited p50 %s p99 %s", age(at(waits, 0.5)), age(at(waits, 0.99))))
	}
	return parts
}

// brief is a duration with three digits.
func brief(d time.Duration) string {
	for unit := time.Duration(1); ; unit *= 10 {
		if d/unit < 1000 {
			return d.Round(unit).String()
		}
	}
}

// weighed is a value that stands for several.
type weighed struct {
	value  int64
	weight float64
}

func order(values []weighed) {
	slices.SortFunc(values, func(a, b weighed) int { return cmp.Compare(a.value, b.value) })
}

// at is a percentile of sorted values, of which there is one at least: the first that as many are not above.
func at(sorted []weighed, p float64) int64 {
	left := 0.0
	for _, v := range sorted {
		left += p * v.weight
	}
	for _, v := range sorted {
		if left -= v.weight; left <= 0 {
			return v.value
		}
	}
	return sorted[len(sorted)-1].value
}
