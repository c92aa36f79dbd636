package chaos

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bobbin-run/bobbin/internal/history"
)

const (
	clock  = "15:04:05.000"
	around = 5 * time.Second
)

// circumstances tells what was seen around a breach, which begins with the ID that it befell: its runs and results, what hit the
// processes that ran it, and what these warned of.
func (a *arena) circumstances(breach string) string {
	id, _, _ := strings.Cut(breach, " ")
	runs := a.seen.Runs[id]
	lines := []string{breach, fmt.Sprintf("results: %v", a.entries[id])}
	for _, run := range runs {
		lines = append(lines, fmt.Sprintf("attempt %d in %d started %s, ended: %t", run.Attempt, run.PID, run.Started.Format(clock), run.Ended))
	}
	if len(runs) == 0 {
		return strings.Join(lines, "\n  ")
	}
	from, until := runs[0].Started.Add(-around), runs[len(runs)-1].Started.Add(around)
	for _, f := range a.seen.Faults {
		hit := f.PID == 0 || slices.ContainsFunc(runs, func(run history.Run) bool { return run.PID == f.PID })
		if hit && f.Until.After(from) && f.From.Before(until) {
			lines = append(lines, fmt.Sprintf("%d (0: all) was hit from %s to %s", f.PID, f.From.Format(clock), f.Until.Format(clock)))
		}
	}
	for line := range strings.Lines(a.log.tail(1 << 30)) {
		fields := strings.Fields(line)
		if len(fields) < 5 || fields[3] != "WRN" || fields[2] < from.Format(clock) || fields[2] > until.Format(clock) {
			continue
		}
		if slices.ContainsFunc(runs, func(run history.Run) bool { return strings.Contains(line, fmt.Sprintf("-%d-", run.PID)) }) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines, "\n  ")
}
