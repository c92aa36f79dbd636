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
	s.counts = slices.DeleteFunc(append(s.counts, count{s.nowMS, r.added}), func(c count) bool { return c.atMS < from })
	weight := 0
	for _, e := range r.results {
		s.since = e.StreamID
		s.sample = append(s.sample, endedOf(e))
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

func endedOf(e queue.Entry) ended {
	r := e.Result
	one := ended{atMS: queue.StreamMS(e.StreamID), duration: -1, waitMS: -1, succeeded: r.Status == execution.Succeeded}
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
	failed, durations, waits := 0, []time.Duration{}, []int64{}
	for _, e := range s.sample {
		if !e.succeeded {
			failed++
		}
		if e.duration >= 0 {
			durations = append(durations, e.duration)
		}
		if e.waitMS >= 0 {
			waits = append(waits, e.waitMS)
		}
	}
	if s.wholly <= s.nowMS-speedWindow.Milliseconds() {
		return append([]string{fmt.Sprintf("last minute: %s ended", perSecond(rate)), fmt.Sprintf("%d not succeeded", failed)}, percentiles(durations, waits)...)
	}
	parts := []string{fmt.Sprintf("last %s: %s ended", age(over.Milliseconds()), perSecond(rate))}
	if len(s.sample) == 0 {
		return parts
	}
	parts = append(parts, fmt.Sprintf("of %d seen in the last %s: %.1f%% not succeeded", len(s.sample), age(s.nowMS-s.sample[0].atMS),
		100*float64(failed)/float64(len(s.sample))))
	return append(parts, percentiles(durations, waits)...)
}

func perSecond(rate float64) string {
	if rate < 1 {
		return fmt.Sprintf("%.3f/s", rate)
	}
	return fmt.Sprintf("%.1f/s", rate)
}

func percentiles(durations []time.Duration, waits []int64) []string {
	var parts []string
	if len(durations) > 0 {
		slices.Sort(durations)
		parts = append(parts, fmt.Sprintf("ran p50 %s p95 %s p99 %s", brief(at(durations, 0.5)), brief(at(durations, 0.95)), brief(at(durations, 0.99))))
	}
	if len(waits) > 0 {
		slices.Sort(waits)
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

// at is a percentile of sorted values.
func at[T cmp.Ordered](sorted []T, p float64) T { return sorted[int(p*float64(len(sorted)-1)+0.5)] }
