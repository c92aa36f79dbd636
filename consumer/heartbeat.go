package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/internal/failpoint"
	"github.com/bobbin-run/bobbin/pool"
	"github.com/bobbin-run/bobbin/queue"
)

// heart keeps the worker's lease, and gives it up when it was lost. One goroutine runs it; its fields are its own.
type heart struct {
	w            *Worker
	registered   bool
	lastBeat     time.Time // when the last heartbeat that succeeded was sent, or happened, on the monotonic clock
	happened     moment    // when it happened, or a little earlier; unlike lastBeat also where the answer took long
	steadySince  time.Time // since when heartbeats have come without a gap: only a steady worker judges others
	results      *backpressure
	told         map[string]string // live fields as the registration has them; nil: that is not known
	beats        int               // that were answered
	forgotten    bool              // the registration is gone: the next heartbeat writes it
	predecessors []string          // incarnations of this process that were fenced and may still hold claims
}

// Run beats every third of the lease until ctx ends, more often while Redis does not answer: at once, at first, so that connections
// that break, even several in a row, cost no lease.
func (h *heart) Run(ctx context.Context) error {
	var arrived *piggybacked // nil: the heartbeat is to be sent
	for failures := 0; ctx.Err() == nil; {
		var pause time.Duration
		if err := h.beat(ctx, arrived); err != nil && ctx.Err() == nil {
			h.w.health.failed("heartbeat", err)
			pause = min(h.w.opts.Lease/3, time.Second, backoffPause(failures))
			failures++
		} else {
			h.w.health.recovered("heartbeat")
			failures = 0
			pause = h.w.coalesced(max(0, h.w.opts.Lease/3-time.Since(h.lastBeat)))
			h.offer(pause)
		}
		arrived = h.rest(ctx, pause)
	}
	return nil
}

// beat does one heartbeat, or takes to heart one that happened: fences first if the lease is over, registers if that is needed.
func (h *heart) beat(ctx context.Context, arrived *piggybacked) error {
	if h.registered && time.Since(h.lastBeat) > h.w.opts.Lease {
		h.fence(fmt.Sprintf("no heartbeat for %s", time.Since(h.lastBeat).Round(time.Millisecond)))
	}
	if !h.registered {
		if err := h.register(ctx); err != nil {
			return err
		}
	}
	if arrived != nil && arrived.Beat.Incarnation != h.w.Incarnation() {
		arrived = nil
	}
	pulse, sent, err := h.take(ctx, arrived)
	if errors.Is(err, queue.ErrNotRegistered) {
		h.fence("another worker declared this one dead")
		return h.register(ctx)
	}
	if err != nil {
		h.steadySince = time.Time{}
		return err
	}
	failpoint.Hit("after-heartbeat")
	heard := &moment{pulse.NowMS, time.Now()}
	if h.stepped(heard) {
		h.steadySince, pulse.Silent = time.Time{}, nil
	}
	if arrived != nil {
		heard.at = sent
	}
	h.w.clock.Store(heard)
	h.steady(sent)
	h.lastBeat = sent
	h.obey(ctx, pulse)
	h.w.queue.CloseIdle(h.w.opts.Lease * 3 / 5)
	return errors.Join(h.bury(ctx), h.results.check(ctx, pulse.Results), h.results.trim(ctx))
}

// take returns the answer to a heartbeat, and since when at least the lease runs by it. It sends one unless one has arrived.
func (h *heart) take(ctx context.Context, arrived *piggybacked) (pulse *queue.Pulse, sent time.Time, err error) {
	var back time.Time
	if arrived != nil {
		pulse, sent, back = arrived.Pulse, arrived.sent, arrived.back
	} else {
		if pulse, sent, err = h.send(ctx); err != nil {
			return nil, sent, err
		}
		back = time.Now()
	}
	// Also of one that was sent, whose answer may have taken long: those that go along after it would count from that much too early.
	h.happened = moment{pulse.NowMS, h.happened.until(pulse.NowMS, sent, back)}
	if arrived != nil {
		sent = h.happened.at
	}
	if h.forgotten = pulse.Forgotten; h.forgotten {
		poke(h.w.beatNow)
	}
	if h.beats++; h.beats%retell == 0 {
		h.told = nil
	}
	return pulse, sent, nil
}

// nothingNew is a heartbeat that tells nothing.
func (h *heart) nothingNew() queue.Beat {
	return queue.Beat{
		Incarnation: h.w.Incarnation(), Lease: h.w.opts.Lease,
		MayReap: !h.steadySince.IsZero() && time.Since(h.steadySince) > h.w.opts.Lease,
	}
}

func (h *heart) send(ctx context.Context) (*queue.Pulse, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, min(h.w.opts.Lease/3, ioTimeout))
	defer cancel()
	failpoint.Hit("before-heartbeat")
	sent := time.Now()
	figures := h.w.figures()
	beat := h.nothingNew()
	beat.Whole, beat.Fields = h.forgotten, h.changed(figures)
	if beat.Whole {
		beat.Fields = h.w.registration()
		maps.Copy(beat.Fields, figures)
	}
	h.told = nil
	pulse, err := h.w.queue.Heartbeat(ctx, beat)
	if err == nil {
		h.told = figures
	}
	return pulse, sent, err
}

// retell is every how many heartbeats all figures are told again: a Redis that was restarted may have forgotten the newest.
const retell = 20

// changed returns what the registration has otherwise: in an idle fleet that is nothing, and each field costs Redis as much as some
// whole commands do. What it does return becomes what was told; what was left out for being about the same is kept in figures as it
// was told.
func (h *heart) changed(figures map[string]string) map[string]string {
	if about(h.told["rss_bytes"], figures["rss_bytes"]) {
		figures["rss_bytes"] = h.told["rss_bytes"]
	}
	if h.told == nil {
		return figures
	}
	changed := map[string]string{}
	for name, value := range figures {
		if h.told[name] != value {
			changed[name] = value
		}
	}
	return changed
}

// about says whether two sizes differ by less than people look at: 1 MiB, or a thirty-second.
func about(told, bytes string) bool {
	a, errA := strconv.ParseInt(told, 10, 64)
	b, errB := strconv.ParseInt(bytes, 10, 64)
	return errors.Join(errA, errB) == nil && max(a, b)-min(a, b) < max(1<<20, a/32)
}

// steady notes a heartbeat. After a gap, the others' silence may be Redis's: a full lease must pass before it counts.
func (h *heart) steady(sent time.Time) {
	if h.steadySince.IsZero() || sent.Sub(h.lastBeat) > h.w.opts.Lease*2/3 {
		h.steadySince = sent
	}
}

// stepped says whether Redis's clock went on by another amount than ours since the last heartbeat. To a clock that was set forward
// everybody is silent: a lease must pass in which they can say otherwise.
func (h *heart) stepped(heard *moment) bool {
	before := h.w.clock.Load()
	if before == nil {
		return false
	}
	theirs, ours := time.Duration(heard.redisMS-before.redisMS)*time.Millisecond, heard.at.Sub(before.at)
	if (theirs - ours).Abs() <= h.w.opts.Lease/2 { // replies may take a third of it
		return false
	}
	h.w.log.Warn("redis's clock was set; nobody is declared dead for a lease", "by", (theirs - ours).Round(time.Millisecond))
	return true
}

// register makes the current incarnation known and opens the gate.
func (h *heart) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	sent := time.Now()
	figures := h.w.figures()
	fields := h.w.registration()
	maps.Copy(fields, figures)
	err := h.w.queue.Register(ctx, queue.Registration{Incarnation: h.w.Incarnation(), Lease: h.w.opts.Lease, Fields: fields})
	if errors.Is(err, queue.ErrNotRegistered) {
		h.fence("this incarnation was declared dead before it registered")
	}
	if err != nil {
		return err
	}
	failpoint.Hit("after-register")
	h.registered, h.lastBeat, h.happened, h.steadySince, h.told = true, sent, moment{}, sent, figures
	h.w.registered.Store(true)
	poke(h.w.regate)
	h.w.tell(event{Type: "worker.online"})
	return nil
}

// fence ends the current incarnation: what it runs is cancelled with cause "lease lost", nothing is claimed until a new one
// is registered, and its tokens match nothing that others have claimed meanwhile.
func (h *heart) fence(why string) {
	h.w.fencing.Lock()
	defer h.w.fencing.Unlock()
	old, fresh := h.w.Incarnation(), h.w.process.newIncarnation()
	h.registered = false
	h.w.registered.Store(false)
	h.predecessors = append(h.predecessors, old)
	h.w.giveBack() // first, or what waits would begin where the cancelled ones end
	cancelled := h.w.pool.Cancel(pool.ErrLeaseLost, func(t pool.Task) bool { return t.Job.(*job).incarnation == old })
	h.w.log.Warn("lease lost; going on as a new incarnation", "because", why, "cancelled", cancelled, "new", fresh)
	h.w.incarnation.Store(&fresh)
}

// bury reaps the predecessors of this very process, once nothing of theirs is left to be run or written here. It costs their
// executions no attempt.
func (h *heart) bury(ctx context.Context) error {
	for len(h.predecessors) > 0 && !h.w.ledger.holds(h.predecessors[0]) {
		ctx, cancel := context.WithTimeout(ctx, ioTimeout)
		_, err := h.w.queue.Reap(ctx, h.predecessors[0], h.w.opts.Lease, true, false)
		cancel()
		if err != nil {
			return err
		}
		h.predecessors = h.predecessors[1:]
	}
	return nil
}

// obey passes on what the heartbeat brought.
func (h *heart) obey(ctx context.Context, pulse *queue.Pulse) {
	h.w.heed(pulse.Quarantined)
	if pulse.Intent != "" {
		h.w.deliver(ctx, note{message: []byte(pulse.Intent), intent: true})
	}
	for id, request := range pulse.Cancels {
		h.w.deliver(ctx, note{message: []byte(request), cancels: id})
	}
	if len(pulse.Silent) > 0 {
		select {
		case h.w.silent <- pulse.Silent:
		default: // the reaper is at work; who is still silent is reported again
		}
	}
}

// figures are the live fields of the registration.
func (w *Worker) figures() map[string]string {
	f := w.pool.Figures()
	w.rss.Store(residentBytes())
	if w.opts.MaxRSS > 0 {
		poke(w.changed)
	}
	return map[string]string{
		"state": string(w.State()), "paused": flag(w.paused.Load()), "backpressure": flag(w.choked.Load()), "running": strconv.Itoa(f.Busy), "stuck": strconv.Itoa(f.Stuck),
		"processed": strconv.FormatInt(w.processed.Load(), 10), "failed": strconv.FormatInt(w.failed.Load(), 10),
		"executions": w.runs(),
		"rss_bytes":  strconv.FormatInt(w.rss.Load(), 10),
	}
}

// Run is an execution as the registration shows it, for people who look.
type Run struct {
	ID       string `json:"id"`
	Workflow string `json:"workflow"`
	SinceMS  int64  `json:"since_ms"` // Redis's clock
	Stuck    bool   `json:"stuck,omitempty"`
	Asked    bool   `json:"cancel_asked,omitempty"`
}

// MaxRuns is how many executions a registration lists at most.
const MaxRuns = 20

// runs lists the executions that run, the oldest first, as JSON. Of many it shows the oldest.
func (w *Worker) runs() string {
	if f := w.pool.Figures(); f.Busy+f.Stuck == 0 {
		return "[]"
	}
	running := w.pool.Running(false)
	slices.SortFunc(running, func(a, b pool.Running) int { return a.Started.Compare(b.Started) })
	list := []Run{}
	for _, r := range running[:min(len(running), MaxRuns)] {
		j := r.Job.(*job)
		list = append(list, Run{ID: r.ID, Workflow: j.workflow, SinceMS: j.redisClock(r.Started), Stuck: r.Stuck, Asked: !r.Cancelled.IsZero()})
	}
	document, _ := json.Marshal(list) // strings and numbers: cannot fail
	return string(document)
}

func flag(on bool) string {
	if on {
		return "1"
	}
	return "0"
}

// reap takes back what silent incarnations hold, one list at a time, beside the heartbeat so that a long scan cannot delay it.
func (w *Worker) reap(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case silent := <-w.silent:
			for _, incarnation := range silent {
				w.reapOne(ctx, incarnation, false)
			}
		}
	}
}

func (w *Worker) reapOne(ctx context.Context, incarnation string, certain bool) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	reaped, err := w.queue.Reap(ctx, incarnation, w.opts.Lease, certain, true)
	if err != nil {
		w.log.Warn("reaping stopped half-way; it will be taken up again", "incarnation", incarnation, "error", err)
		return
	}
	if reaped.Alive {
		return
	}
	cause := "lease"
	if certain {
		cause = "process_gone"
	}
	w.opts.Observer.Recovered(cause, len(reaped.Moved))
	w.log.Warn("recovered the executions of a dead worker", "incarnation", incarnation, "executions", len(reaped.Moved), "certain", certain)
	for _, id := range reaped.Moved[:min(len(reaped.Moved), 100)] { // events are for live views: a hundred say enough
		w.tell(event{Type: "execution.recovered", ExecutionID: printableID(id), Incarnation: incarnation})
	}
}

// reapPredecessors reaps, at start, workers of this machine whose process is gone: there is no need to wait for their lease.
func (w *Worker) reapPredecessors(ctx context.Context) error {
	workers, err := w.queue.Workers(ctx)
	if err != nil {
		return err
	}
	for _, other := range workers {
		if w.process.provablyGone(other.Fields) {
			w.reapOne(ctx, other.Incarnation, true)
		}
	}
	return nil
}

// note is a message on its way to the worker's loop.
type note struct {
	message []byte           // as received; parsed by the loop
	heard   chan<- struct{}  // closed when the loop takes it
	local   *control.Command // set instead for commands from this process
	intent  bool             // message was stored for this incarnation
	cancels string           // message was stored in cancels under this ID

	bySignal bool // local came from a signal
}

// stored says that the note came by way of a heartbeat, so that it is for this worker whatever it says.
func (n *note) stored() bool { return n.intent || n.cancels != "" }

// deliver hands a note to the loop, waiting for it to be taken.
func (w *Worker) deliver(ctx context.Context, n note) {
	select {
	case w.inbox <- n:
	case <-ctx.Done():
	}
}
