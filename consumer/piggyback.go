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
// Only a worker with nothing to do does so. When Redis renewed the lease is then known no better than that it was after the pop began,
// and a worker that holds executions does not give up seconds of it.

// piggyback is a heartbeat for a pop to take along. It has nothing to tell, so that it does not matter what else happens before it does.
type piggyback struct {
	beat  queue.Beat
	due   time.Time
	taken atomic.Bool
}

// piggybacked is what became of one.
type piggybacked struct {
	*piggyback
	sent  time.Time    // it happened later
	pulse *queue.Pulse // nil: it may not have happened
}

// offer lets a pop take along the heartbeat that is due after the pause, and says so, where the worker holds nothing and has nothing to
// tell.
func (h *heart) offer(pause time.Duration) bool {
	if h.told == nil || h.forgotten {
		return false
	}
	h.w.piggyback.Store(&piggyback{beat: h.nothingNew(), due: time.Now().Add(pause)})
	// In this order: what is claimed from now on finds the offer, and has the heart take it back.
	if h.w.ledger.size() > 0 || len(h.changed(h.w.figures())) > 0 {
		h.w.piggyback.Store(nil)
		return false
	}
	return true
}

// rest waits until a heartbeat is to be sent, or has happened: then it returns that. Claims end the offer, so that the next heartbeat
// comes a pause after the lease is sure to have been renewed.
func (h *heart) rest(ctx context.Context, pause time.Duration) *piggybacked {
	offered := h.w.piggyback.Load()
	defer h.w.piggyback.Store(nil)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	patience := min(2*slot, h.w.opts.Lease/6)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.w.beatNow:
			return nil
		case <-h.w.woken:
			offered = nil
			h.w.piggyback.Store(nil)
			timer.Reset(pause - time.Since(h.lastBeat))
		case p := <-h.w.piggybacked:
			switch {
			case p.piggyback != offered: // too late
			case p.pulse == nil || time.Since(p.due) > patience: // which says little of Redis's clock: this process was stopped
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

// along returns how long the next pop is to wait at most, where something is scheduled after due (below 0: nothing is), and the
// heartbeat that it is to take along, or nil.
func (w *Worker) along(due time.Duration) (time.Duration, *piggyback) {
	limit, p := w.coalesced(queue.MaxBlock), w.piggyback.Load()
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
	if left <= queue.MaxBlock {
		p.taken.Store(true)
		return left, p
	}
	pops := (left + queue.MaxBlock - 1) / queue.MaxBlock // of equal length
	return w.coalesced(left / pops), nil
}

// wait blocks until there is something to claim, and sees to it that a heartbeat goes along where one is due.
func (f *fetcher) wait(c queue.Claim) (*queue.ClaimReply, error) {
	limit, p := f.w.along(f.due)
	if p == nil {
		return f.w.waker.Claim(c, limit)
	}
	failpoint.Hit("before-heartbeat")
	c.Along = &p.beat
	came := &piggybacked{piggyback: p, sent: time.Now()}
	reply, err := f.w.waker.Claim(c, limit)
	if err == nil {
		came.pulse = reply.Pulse
	}
	select {
	case f.w.piggybacked <- came:
	default: // the heart has not looked at an earlier one: it is sending one
	}
	return reply, err
}
