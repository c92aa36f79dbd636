package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

// story is an execution for people and programs.
type story struct {
	ID string `json:"execution_id"`
	*queue.Whereabouts
	State   string            `json:"state"` // pending, hand-off, claimed, running, stuck, scheduled, unlisted, ended, unknown
	Running *consumer.Run     `json:"running,omitempty"`
	Ended   *execution.Result `json:"result,omitempty"` // in another state than ended: how the ID ended an earlier time
	worker  *queue.Worker
	runs    []consumer.Run // what the worker lists
}

func (a *app) inspectCommand() *cobra.Command {
	var asJSON bool
	var search int64
	cmd := &cobra.Command{
		Use: "inspect ID", Short: "Say where an execution is, and its story", Args: exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if search < 1 {
				return usageError("--search is %d, expected at least 1", search)
			}
			_, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			w, err := q.Inspect(cmd.Context(), args[0], search)
			if err != nil {
				return err
			}
			workers, err := q.Workers(cmd.Context())
			if err != nil {
				return err
			}
			s := tell(args[0], w, workers)
			if asJSON {
				err = json.NewEncoder(a.forData(a.stdout)).Encode(s)
			} else {
				s.print(a.forPeople())
			}
			if err == nil && s.State == "unknown" {
				return &exitError{code: execution.ExitFailure}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	cmd.Flags().Int64Var(&search, "search", 100_000, "look for its result among that many of the newest")
	return cmd
}

// tell puts together what Redis and the worker's registration say.
func tell(id string, w *queue.Whereabouts, workers []queue.Worker) *story {
	s := &story{ID: id, Whereabouts: w, State: "unknown", Ended: w.Result}
	for i := range workers {
		if workers[i].Incarnation != w.Incarnation || w.Incarnation == "" {
			continue
		}
		s.worker = &workers[i]
		s.runs = runsOf(workers[i])
		if at := slices.IndexFunc(s.runs, func(r consumer.Run) bool { return r.ID == id }); at >= 0 {
			s.Running = &s.runs[at]
		}
	}
	switch { // where it is comes before how it ended an earlier time
	case s.Running != nil && s.Running.Stuck:
		s.State = "stuck"
	case s.Running != nil:
		s.State = "running"
	case w.Token != "":
		s.State = "claimed"
	case w.DueMS > 0:
		s.State = "scheduled"
	case w.Position > 0:
		s.State = "pending"
	case w.Handoff:
		s.State = "hand-off"
	case w.Context != "":
		s.State = "unlisted"
	case w.Result != nil:
		s.State = "ended"
	}
	return s
}

// runsOf reads which executions a worker said it runs.
func runsOf(w queue.Worker) []consumer.Run {
	var runs []consumer.Run
	_ = json.Unmarshal([]byte(w.Fields["executions"]), &runs) // of an older worker: none
	return runs
}

func (s *story) print(out io.Writer) {
	line := func(label, format string, args ...any) {
		fmt.Fprintf(out, "%-11s %s\n", label, fmt.Sprintf(format, args...))
	}
	line("execution", "%s", s.ID)
	line("state", "%s", s.sentence())
	s.printContext(line)
	if s.Cancel != "" {
		line("cancel", "asked for; it ends as cancelled when it heeds it")
	}
	if s.Attempts > 0 {
		line("attempts", "%d spent, %d of them because a worker died", s.Attempts, s.Recoveries)
	}
	if at, ok := submitted(s.ID); ok {
		line("submitted", "%s, %s ago (from its ID)", clock(at), age(s.NowMS-at))
	}
	switch {
	case s.State == "ended":
		s.printResult(line)
	case s.Ended != nil:
		line("earlier", "the ID ended before: %s %s, %s in results", s.Ended.Status, clock(s.Ended.FinishedMS), s.ResultAt)
	}
	if s.DeadAt != "" {
		line("dead", "kept with its context, %s in dead: bobbin dead retry %s runs it again", s.DeadAt, s.ID)
	}
	for i, entry := range s.Lines {
		label := ""
		if i == 0 {
			label = "log"
		}
		line(label, "%s  %s  %s", clock(queue.ParseMS(fmt.Sprint(entry["at_ms"]))), entry["level"], entry["line"])
	}
}

func (s *story) sentence() string {
	switch s.State {
	case "pending":
		return fmt.Sprintf("pending at position %d of %d", s.Position, s.Pending)
	case "hand-off":
		return "on its way to a worker (in hand-off)"
	case "scheduled":
		return fmt.Sprintf("waits for its next attempt, due %s, in %s", clock(s.DueMS), age(s.DueMS-s.NowMS))
	case "running", "stuck":
		return fmt.Sprintf("%s on %s since %s, for %s%s", s.State, s.Incarnation, clock(s.Running.SinceMS), age(s.NowMS-s.Running.SinceMS), s.silence())
	case "claimed":
		return fmt.Sprintf("claimed by %s, %s%s", s.Incarnation, s.claimedSince(), s.silence())
	case "unlisted":
		return "not queued: it has a context and is in no list; pushed it never was, or it is lost: bobbin doctor --repair queues it"
	case "ended":
		return fmt.Sprintf("ended: %s", s.Ended.Status)
	default:
		return fmt.Sprintf("unknown: nothing of it is in Redis, and it is not among the newest %d results", s.Searched)
	}
}

// claimedSince says what is known of when an execution was claimed that its worker does not list as running.
func (s *story) claimedSince() string {
	switch {
	case s.worker == nil:
		return "since when is not known"
	case len(s.runs) >= consumer.MaxRuns:
		return fmt.Sprintf("since when is not known: it is not among the %d that run there longest, which began before %s", len(s.runs),
			clock(s.runs[len(s.runs)-1].SinceMS))
	}
	return fmt.Sprintf("since when is not known: it was not running at that worker's last heartbeat, %s ago", age(s.NowMS-s.worker.HeartbeatMS))
}

// silence says what is wrong with the worker that holds it.
func (s *story) silence() string {
	if s.worker == nil {
		return ", which is not registered: another takes over, or bobbin doctor --repair"
	}
	if d := describeWorker(*s.worker, s.NowMS); d.Silent {
		return fmt.Sprintf(", which was last heard of %s; another takes over when its lease is over", d.age())
	} else if d.State != string(execution.Active) {
		return ", which is " + d.State
	}
	return ""
}

func (s *story) printContext(line func(label, format string, args ...any)) {
	if s.Context == "" {
		if s.InUse() {
			line("context", "none: it is rejected when it is claimed")
		}
		return
	}
	x, err := execution.ParseContext([]byte(s.Context))
	if err != nil {
		line("context", "%v", err)
		return
	}
	line("workflow", "%s, function %s", x.Workflow, x.Function)
	line("params", "%s", shorten(string(x.Params), 200))
}

func (s *story) printResult(line func(label, format string, args ...any)) {
	r := s.Ended
	line("workflow", "%s", r.Workflow)
	line("worker", "%s, attempt %d", r.Worker, r.Attempt)
	line("claimed", "%s", clock(r.ClaimedMS))
	if r.StartedMS > 0 {
		line("ran", "%s, from %s to %s", r.Duration, clock(r.StartedMS), clock(r.FinishedMS))
	}
	if r.Err != nil {
		line("error", "%s: %s", r.Err.Type, r.Err.Message)
		for text := range strings.Lines(r.Err.Traceback) {
			line("", "%s", strings.TrimRight(text, "\n"))
		}
		return
	}
	line("result", "%s", shorten(string(r.Value), 500))
}

// submitted reads the moment, in Unix milliseconds, from an ID that is a UUID of version 7, as bobbin submit makes them.
func submitted(id string) (int64, bool) {
	parsed, err := uuid.Parse(id)
	if err != nil || parsed.Version() != 7 {
		return 0, false
	}
	seconds, nanos := parsed.Time().UnixTime()
	return seconds*1000 + nanos/1e6, true
}

func clock(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04:05.000Z") }

func age(ms int64) string {
	d := time.Duration(max(ms, 0)) * time.Millisecond
	switch {
	case d >= time.Hour:
		return d.Round(time.Minute).String()
	case d >= time.Minute:
		return d.Round(time.Second).String()
	default:
		return d.Round(time.Millisecond).String()
	}
}
