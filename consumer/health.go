package consumer

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// health turns a stream of failures into a few lines of log, and knows whether Redis answers.
type health struct {
	log *slog.Logger
	mu  sync.Mutex
	bad map[string]*trouble // by operation
	saw func(err error)     // is told of every failure
}

type trouble struct {
	since, logged time.Time
	failures      int
}

// quiet is how long one operation's trouble is not mentioned again.
const quiet = 10 * time.Second

func newHealth(log *slog.Logger, saw func(error)) *health {
	return &health{log: log, bad: map[string]*trouble{}, saw: saw}
}

// failed notes that an operation failed, and says so in the log now and then.
func (h *health) failed(operation string, err error) {
	h.saw(err)
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	t := h.bad[operation]
	if t == nil {
		t = &trouble{since: now}
		h.bad[operation] = t
	}
	t.failures++
	if now.Sub(t.logged) >= quiet {
		t.logged = now
		h.log.Warn("redis: "+operation+" failed; trying again", "error", err, "failures", t.failures)
	}
}

// recovered notes that an operation works.
func (h *health) recovered(operation string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.bad[operation]; t != nil {
		delete(h.bad, operation)
		h.log.Info("redis: "+operation+" works again", "after", time.Since(t.since).Round(time.Millisecond), "failures", t.failures)
	}
}

// trouble lists the operations that are failing.
func (h *health) trouble() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.bad))
}

// ready says that no operation is in trouble.
func (h *health) ready() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.bad) == 0
}

// refusals counts control messages that were refused; a flood of them is a few lines of log.
type refusals struct {
	log    *slog.Logger
	total  int64
	fresh  int64 // since the last line
	logged time.Time
	last   error
}

func (r *refusals) add(err error) {
	r.total, r.fresh, r.last = r.total+1, r.fresh+1, err
	if time.Since(r.logged) >= time.Second {
		r.report()
	}
}

func (r *refusals) report() {
	if r.fresh > 0 {
		r.log.Warn("control messages refused", "refused", r.fresh, "total", r.total, "last", r.last)
		r.fresh, r.logged = 0, time.Now()
	}
}
