package consumer

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/bobbin-run/bobbin/internal/failpoint"
	"github.com/bobbin-run/bobbin/queue"
)

// The heartbeats of a worker that has nothing to do go along with its pops: of an idle fleet Redis hears little else, and for one
// request in two parts it wakes up, reads and writes once (bobbin bench fleet). The heart offers the next heartbeat, a pop that lasts
// until it is due takes it along, and what Redis answers comes back to the heart. Whatever goes wrong, the heart sends it by itself.
//
// Only a worker with nothing to do does so, and not over TLS, where it takes heartbeats to keep a connection at hand for results.

// piggyback is a heartbeat for a pop to take along. It has nothing to tell, so that it does not matter what else happens before it does.
type piggyback struct {
	queue.Along
	due   time.Time
	taken atomic.Bool
}

// piggybacked is one that was taken along: it happened between sent and back, if it has a pulse.
type piggybacked struct {
	*piggyback
	sent, back time.Time
}

// until is when Redis's clock showed redisMS, or a little earlier: by how much later that is than the moment, but between sent and back.
// Where somebody has set that clock, the answer is at most late by what it took to arrive.
func (m moment) until(redisMS int64, sent, back time.Time) time.Time {
	if m.redisMS == 0 {
		return sent
	}
	at := m.at.Add(time.Duration(redisMS-m.redisMS) * time.Millisecond)
	switch {
	case at.Before(sent):
		return sent
	case at.After(back):
		return back
	}
	return at
}

// offer lets a pop take along the heartbeat that is due after the pause, where the worker holds nothing and has nothing to tell.
func (h *heart) offer(pause time.Duration) {
	if h.told == nil || h.forgotten || h.w.queue.Sealed() {
		return
	}
	h.w.piggyback.Store(&piggyback{Along: queue.Along{Beat: h.nothingNew()}, due: time.Now().Add(pause)})
	// In this order: what is claimed from now on finds the offer, and has the heart take it back.
	if h.w.ledger.size() > 0 || len(h.changed(h.w.figures())) > 0 {
		h.w.piggyback.Store(nil)
	}
}

// rest waits until a heartbeat is to be sent, or has happened: then it returns that. Claims end the offer, so that the next heartbeat
// comes a third of the lease after that is sure to have been renewed.
func (h *heart) rest(ctx context.Context, pause time.Duration) *piggybacked {
	offered, due := h.w.piggyback.Load(), time.Now().Add(pause)
	defer h.w.piggyback.Store(nil)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	patience := min(5*slot, h.w.opts.Lease/15)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.w.beatNow:
			return nil
		case <-h.w.woken:
			offered = nil
			h.w.piggyback.Store(nil)
			timer.Reset(min(time.Until(due), h.w.opts.Lease/3-time.Since(h.lastBeat)))
		case p := <-h.w.piggybacked:
			switch {
			case p.piggyback != offered: // of another offer
			case p.Pulse == nil || time.Since(p.due) > patience: // too late: this process was stopped
				return nil
			default:
				return p
			}
		case <-timer.C:
			if offered == nil || !offered.taken.Load() || time.Since(offered.due) > patience/2 {
				return nil
			}
			timer.Reset(patience)
		}
	}
}

// along returns how long the next pop is to wait, most at most and where something is scheduled after due (below 0: nothing is), and the
// heartbeat that it is to take along, or nil.
func (w *Worker) along(most, due time.Duration) (time.Duration, *piggyback) {
	limit, p := w.coalesced(most), w.piggyback.Load()
	if due >= 0 {
		limit = min(limit, due+time.Millisecond)
	}
	const short = 10 * time.Millisecond // the heart may be about to send it
	if p == nil || time.Until(p.due) < short {
		return limit, nil
	}
	left := time.Until(p.due)
	if due >= 0 && limit < left {
		return limit, nil
	}
	if left <= most {
		if p.taken.CompareAndSwap(false, true) {
			return left, p
		}
		return limit, nil
	}
	pops := (left + most - 1) / most // of equal length
	return w.coalesced(left / pops), nil
}

// wait blocks until there is something to claim, and sees to it that a heartbeat goes along where one is due.
func (f *fetcher) wait(c queue.Claim) (*queue.ClaimReply, error) {
	limit, p := f.w.along(f.w.waker.MaxBlock(), f.due)
	if p == nil {
		return f.w.waker.Claim(c, limit)
	}
	failpoint.Hit("before-heartbeat")
	c.Along = &p.Along
	sent := time.Now()
	reply, err := f.w.waker.Claim(c, limit)
	select {
	case f.w.piggybacked <- &piggybacked{piggyback: p, sent: sent, back: time.Now()}:
	default: // the heart has not looked at an earlier one: it is sending one
	}
	return reply, err
}
