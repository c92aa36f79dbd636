// Package history checks the promise from outside. It knows nothing of the implementation: from what an orchestrator
// submitted, what handlers saw start and end, and what stands in Redis afterwards, it says what was lost, doubled, run too
// often, or left behind.
package history

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Run is one time that a handler was seen to start.
type Run struct {
	PID     int
	Attempt int // which one the handler was told it was
	Started time.Time
	Ended   bool // it was seen to end, or to stop when told
}

// Fault is something that was done to one process, or to all of them at once.
type Fault struct {
	PID         int // 0: everybody was cut off from Redis, or Redis from them
	From, Until time.Time
}

// History is what was seen. Fill it, then ask [History.Check].
type History struct {
	Accepted map[string]bool     // IDs whose submission was acknowledged
	Maybe    map[string]bool     // IDs whose submission may or may not have arrived
	Expected map[string][]string // the statuses that an ID may end with; without an entry it must have succeeded
	Runs     map[string][]Run    // by ID, in the order of their attempts
	Results  map[string][]string // statuses by ID, as they stand in the stream
	Replies  map[string]int64    // by ID that asked for a reply: how many it got
	Faults   []Fault             // in the order in which they began
	Slack    time.Duration       // how long after a fault what it interrupted may still be lost: a lease, and what a loaded machine adds
	Deaths   map[int]time.Time   // when each process that was killed was seen to be dead
	Bound    time.Duration       // how soon after a death its executions must run again, outages apart; 0: not asked
	Steady   time.Duration       // how long after an outage nobody is declared dead
	Left     map[string]int64    // what is left under keys that must be empty
	Growth   map[string][2]int64 // figures of a process after it had warmed up, and at the end
	Room     map[string]int64    // how much each of them may grow
}

// New returns an empty history.
func New() *History {
	return &History{
		Accepted: map[string]bool{}, Maybe: map[string]bool{}, Expected: map[string][]string{}, Runs: map[string][]Run{},
		Results: map[string][]string{}, Replies: map[string]int64{}, Deaths: map[int]time.Time{}, Left: map[string]int64{},
		Growth: map[string][2]int64{}, Room: map[string]int64{},
	}
}

// ReadRuns reads the lines that handlers wrote: "start ID attempt pid nanoseconds", then "end" or "stop" alike. An attempt that began
// after the one that replaced it (its process was stopped between the claim and the start) comes before it all the same.
func (h *History) ReadRuns(in io.Reader) error {
	scanner := bufio.NewScanner(in)
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		if len(fields) != 5 {
			continue // the last line of a process that was killed while it wrote
		}
		pid, err := strconv.Atoi(fields[3])
		attempt, malformed := strconv.Atoi(fields[2])
		if err = errors.Join(err, malformed); err != nil {
			return fmt.Errorf("history: %q: %w", scanner.Text(), err)
		}
		id := fields[1]
		if fields[0] == "start" {
			nanoseconds, err := strconv.ParseInt(fields[4], 10, 64)
			if err != nil {
				return fmt.Errorf("history: %q: %w", scanner.Text(), err)
			}
			h.Runs[id] = append(h.Runs[id], Run{PID: pid, Attempt: attempt, Started: time.Unix(0, nanoseconds)})
			continue
		}
		for i := range slices.Backward(h.Runs[id]) {
			if h.Runs[id][i].PID == pid && !h.Runs[id][i].Ended {
				h.Runs[id][i].Ended = true
				break
			}
		}
	}
	for _, runs := range h.Runs {
		slices.SortStableFunc(runs, func(a, b Run) int { return a.Attempt - b.Attempt })
	}
	return scanner.Err()
}

// Report is what a history shows.
type Report struct {
	Executions int // accepted
	Runs       int
	Lost       []string // accepted and without a result
	Doubled    []string // with more than one result
	Unknown    []string // results of what nobody submitted
	Unexpected []string // ended otherwise than they had to
	Unrun      []string // succeeded without a run that ended
	Replies    []string // that asked for a reply and did not get exactly one
	Excess     []string // run more often than faults explain
	Left       []string // leftovers, by key
	Slow       []string // run again later after a death than the bound
	Grown      []string // figures that grew

	LongestRecovery time.Duration // from a death to the next run of what it interrupted, without outages
}

// kinds are the ways to fail, in the order in which they are told.
func (r *Report) kinds() []kind {
	return []kind{
		{"lost", r.Lost}, {"doubled", r.Doubled}, {"results of unknown", r.Unknown}, {"ended otherwise", r.Unexpected},
		{"succeeded without a run", r.Unrun}, {"replies", r.Replies}, {"run too often", r.Excess}, {"left behind", r.Left},
		{"recovered late", r.Slow}, {"grown", r.Grown},
	}
}

type kind struct {
	name string
	list []string
}

// Failed says whether anything is wrong.
func (r *Report) Failed() bool {
	return slices.ContainsFunc(r.kinds(), func(k kind) bool { return len(k.list) > 0 })
}

// String says it in one line, with a few examples of each kind of failure.
func (r *Report) String() string {
	text := fmt.Sprintf("%d executions, %d runs, %d lost, %d doubled", r.Executions, r.Runs, len(r.Lost), len(r.Doubled))
	for _, k := range r.kinds() {
		if len(k.list) > 0 {
			text += fmt.Sprintf("; %s: %s", k.name, strings.Join(k.list[:min(len(k.list), 5)], ", "))
		}
	}
	return text
}

// Check compares everything with everything. retries says how many further runs an execution's own retries explain; nil: none.
func (h *History) Check(retries func(id string) int) *Report {
	if retries == nil {
		retries = func(string) int { return 0 }
	}
	r := &Report{Executions: len(h.Accepted)}
	h.ends(r)
	for id, runs := range h.Runs {
		r.Runs += len(runs)
		if at := h.unexplained(runs, retries(id)); at > 0 {
			r.Excess = append(r.Excess, fmt.Sprintf("%s ran %d times, nothing explains run %d", id, len(runs), at+1))
		}
	}
	h.recoveries(r)
	for key, n := range h.Left {
		if n != 0 {
			r.Left = append(r.Left, fmt.Sprintf("%s (%d)", key, n))
		}
	}
	for figure, n := range h.Growth {
		if n[1] > n[0]+h.Room[figure] {
			r.Grown = append(r.Grown, fmt.Sprintf("%s from %d to %d, expected at most %d more", figure, n[0], n[1], h.Room[figure]))
		}
	}
	for _, k := range r.kinds() {
		slices.Sort(k.list)
	}
	return r
}

// ends compares what was submitted with what stands in results.
func (h *History) ends(r *Report) {
	for id := range h.Accepted {
		if len(h.Results[id]) == 0 {
			r.Lost = append(r.Lost, id)
		}
	}
	for id, statuses := range h.Results {
		switch {
		case len(statuses) > 1:
			r.Doubled = append(r.Doubled, fmt.Sprintf("%s %v", id, statuses))
		case !h.Accepted[id] && !h.Maybe[id]:
			r.Unknown = append(r.Unknown, id)
		case !slices.Contains(h.expected(id), statuses[0]):
			r.Unexpected = append(r.Unexpected, fmt.Sprintf("%s %s, expected %v", id, statuses[0], h.expected(id)))
		case statuses[0] == "succeeded" && !slices.ContainsFunc(h.Runs[id], func(run Run) bool { return run.Ended }):
			r.Unrun = append(r.Unrun, id)
		}
	}
	for id, n := range h.Replies {
		if want := int64(min(len(h.Results[id]), 1)); n != want {
			r.Replies = append(r.Replies, fmt.Sprintf("%s got %d, expected %d", id, n, want))
		}
	}
}

func (h *History) expected(id string) []string {
	if statuses, ok := h.Expected[id]; ok {
		return statuses
	}
	return []string{"succeeded"}
}

// unexplained returns the first run, by its place, that neither a fault nor one of the execution's own retries explains, or 0. A
// fault explains one run, and only the one after the run that it interrupted: it befell that run's process, or everybody,
// between its start and the start of the next, or shortly before (a worker that was cut off for a while notices late).
func (h *History) unexplained(runs []Run, retries int) int {
	spent := map[int]bool{}
	for i := 1; i < len(runs); i++ {
		fault := h.interrupted(runs[i-1], runs[i].Started, spent)
		switch {
		case fault >= 0:
			spent[fault] = true
		case retries > 0:
			retries--
		default:
			return i
		}
	}
	return 0
}

// interrupted finds the fault, of those that are not spent, that may have cut a run short or its outcome off before until; of
// several the one that was over first, which is of the least use to later runs; -1: there is none.
func (h *History) interrupted(run Run, until time.Time, spent map[int]bool) int {
	found := -1
	for i, f := range h.Faults {
		if spent[i] || (f.PID != 0 && f.PID != run.PID) || f.From.After(until) || f.Until.Add(h.Slack).Before(run.Started) {
			continue
		}
		if found < 0 || f.Until.Before(h.Faults[found].Until) {
			found = i
		}
	}
	return found
}

// recoveries measures, for each run that a death cut off, when its execution ran again.
func (h *History) recoveries(r *Report) {
	for id, runs := range h.Runs {
		for i, run := range runs[:max(len(runs)-1, 0)] {
			died, killed := h.Deaths[run.PID]
			if run.Ended || !killed {
				continue
			}
			took := runs[i+1].Started.Sub(died) - h.outages(died, runs[i+1].Started)
			r.LongestRecovery = max(r.LongestRecovery, took)
			if h.Bound > 0 && took > h.Bound {
				r.Slow = append(r.Slow, fmt.Sprintf("%s after %s, expected %s", id, took, h.Bound))
			}
		}
	}
}

// outages is how much of a time everybody was cut off, or had been just before.
func (h *History) outages(from, until time.Time) (total time.Duration) {
	for _, f := range h.Faults { // they begin in order; what one covered the next does not count again
		if f.PID != 0 {
			continue
		}
		begin, end := latest(f.From, from), earliest(f.Until.Add(h.Steady), until)
		if end.After(begin) {
			total += end.Sub(begin)
			from = end
		}
	}
	return total
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
