// Package history checks the promise from outside. It knows nothing of the implementation: from what an orchestrator
// submitted, what handlers saw start and end, and what stands in Redis afterwards, it says what was lost, doubled, run too
// often, or left behind.
package history

import (
	"bufio"
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
	Started time.Time
	Ended   bool // it was seen to end, or to stop when told
}

// History is what was seen. Fill it, then ask [History.Check].
type History struct {
	Accepted map[string]bool     // IDs whose submission was acknowledged
	Maybe    map[string]bool     // IDs whose submission may or may not have arrived
	Runs     map[string][]Run    // by ID, in order
	Results  map[string][]string // statuses by ID, as they stand in the stream
	Hit      map[int]int         // how often each process was killed, stopped, or told to leave
	Deaths   map[int]time.Time   // when each process that was killed was seen to be dead
	Bound    time.Duration       // how soon after a death its executions must run again; 0: not asked
	Outages  int                 // times that every worker was cut off for longer than a lease
	Left     map[string]int64    // what is left under keys that must be empty
}

// New returns an empty history.
func New() *History {
	return &History{
		Accepted: map[string]bool{}, Maybe: map[string]bool{}, Runs: map[string][]Run{}, Results: map[string][]string{},
		Hit: map[int]int{}, Deaths: map[int]time.Time{}, Left: map[string]int64{},
	}
}

// ReadRuns reads the lines that handlers wrote: "start ID attempt pid nanoseconds", then "end" or "stop" alike.
func (h *History) ReadRuns(in io.Reader) error {
	scanner := bufio.NewScanner(in)
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		if len(fields) != 5 {
			continue // the last line of a process that was killed while it wrote
		}
		pid, err := strconv.Atoi(fields[3])
		if err != nil {
			return fmt.Errorf("history: %q: %w", scanner.Text(), err)
		}
		id := fields[1]
		if fields[0] == "start" {
			nanoseconds, err := strconv.ParseInt(fields[4], 10, 64)
			if err != nil {
				return fmt.Errorf("history: %q: %w", scanner.Text(), err)
			}
			h.Runs[id] = append(h.Runs[id], Run{PID: pid, Started: time.Unix(0, nanoseconds)})
			continue
		}
		for i := range slices.Backward(h.Runs[id]) {
			if h.Runs[id][i].PID == pid && !h.Runs[id][i].Ended {
				h.Runs[id][i].Ended = true
				break
			}
		}
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
	Unrun      []string // succeeded without a run that ended
	Excess     []string // run more often than faults explain
	Left       []string // leftovers, by key
	Slow       []string // run again later after a death than the bound

	LongestRecovery time.Duration // from a death to the next run of what it interrupted
}

// Failed says whether anything is wrong.
func (r *Report) Failed() bool {
	return len(r.Lost)+len(r.Doubled)+len(r.Unknown)+len(r.Unrun)+len(r.Excess)+len(r.Left)+len(r.Slow) > 0
}

// String says it in one line, with a few examples of each kind of failure.
func (r *Report) String() string {
	text := fmt.Sprintf("%d executions, %d runs, %d lost, %d doubled", r.Executions, r.Runs, len(r.Lost), len(r.Doubled))
	for _, kind := range []struct {
		name string
		list []string
	}{
		{"lost", r.Lost}, {"doubled", r.Doubled}, {"results of unknown", r.Unknown}, {"succeeded without a run", r.Unrun},
		{"run too often", r.Excess}, {"left behind", r.Left}, {"recovered late", r.Slow},
	} {
		if len(kind.list) > 0 {
			text += fmt.Sprintf("; %s: %s", kind.name, strings.Join(kind.list[:min(len(kind.list), 5)], ", "))
		}
	}
	return text
}

// Check compares everything with everything. retries says how many further runs an execution's own retries explain; nil: none.
func (h *History) Check(retries func(id string) int) *Report {
	r := &Report{Executions: len(h.Accepted)}
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
		case statuses[0] == "succeeded" && !slices.ContainsFunc(h.Runs[id], func(run Run) bool { return run.Ended }):
			r.Unrun = append(r.Unrun, id)
		}
	}
	for id, runs := range h.Runs {
		r.Runs += len(runs)
		if allowed := h.allowed(id, runs, retries); len(runs) > allowed {
			r.Excess = append(r.Excess, fmt.Sprintf("%s ran %d times, %d explained", id, len(runs), allowed))
		}
	}
	h.recoveries(r)
	for key, n := range h.Left {
		if n != 0 {
			r.Left = append(r.Left, fmt.Sprintf("%s (%d)", key, n))
		}
	}
	for _, list := range [][]string{r.Lost, r.Doubled, r.Unknown, r.Unrun, r.Excess, r.Left, r.Slow} {
		slices.Sort(list)
	}
	return r
}

// recoveries measures, for each run that a death cut off, when its execution ran again.
func (h *History) recoveries(r *Report) {
	for id, runs := range h.Runs {
		for i, run := range runs[:max(len(runs)-1, 0)] {
			died, killed := h.Deaths[run.PID]
			if run.Ended || !killed {
				continue
			}
			took := runs[i+1].Started.Sub(died)
			r.LongestRecovery = max(r.LongestRecovery, took)
			if h.Bound > 0 && took > h.Bound {
				r.Slow = append(r.Slow, fmt.Sprintf("%s after %s, expected %s", id, took, h.Bound))
			}
		}
	}
}

// allowed is how many runs of an execution are explained: one, one more for each run in a process that was hit, for each
// outage, and for its own retries.
func (h *History) allowed(id string, runs []Run, retries func(string) int) int {
	n := 1 + h.Outages
	for _, run := range runs {
		if h.Hit[run.PID] > 0 {
			n++
		}
	}
	if retries != nil {
		n += retries(id)
	}
	return n
}
