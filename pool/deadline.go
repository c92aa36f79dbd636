package pool

import "time"

// alarm is the one timer for the timeouts of all tasks. It is set for the earliest that was there when it was set, and finds out
// when it rings whether that task still runs: a task that ends in time, as nearly all do, costs no timer anything.
type alarm struct {
	timer *time.Timer
	at    time.Time // zero: not set
}

// alarmRest is the least time between two rings: thousands of timeouts that pass one by one do not have the pool looked through for
// each.
const alarmRest = time.Millisecond

// wakeBy sees to it that the alarm rings at a time, if not before. The mutex is held.
func (p *Pool) wakeBy(at, now time.Time) {
	if !p.alarm.at.IsZero() && !at.Before(p.alarm.at) {
		return
	}
	p.alarm.at = at
	if p.alarm.timer == nil {
		p.alarm.timer = time.AfterFunc(at.Sub(now), p.ring)
	} else {
		p.alarm.timer.Reset(at.Sub(now))
	}
}

// ring cancels the tasks whose timeout has passed and sets the alarm for the next.
func (p *Pool) ring() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, next := time.Now(), time.Time{}
	for _, h := range p.slots {
		if h == nil || h.phase != running || h.cause != nil || h.task.Timeout <= 0 {
			continue
		}
		if until := h.context.until; !until.After(now) {
			h.ask(ErrTimeout)
		} else if next.IsZero() || until.Before(next) {
			next = until
		}
	}
	p.alarm.at = time.Time{}
	if next.IsZero() {
		return
	}
	if earliest := now.Add(alarmRest); next.Before(earliest) {
		next = earliest
	}
	p.wakeBy(next, now)
}

// silence ends the alarm: nothing that could time out runs any more.
func (p *Pool) silence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.alarm.timer != nil {
		p.alarm.timer.Stop()
	}
}
