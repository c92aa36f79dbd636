package history_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/internal/history"
)

// good is a history in which all is well: one run, one result; one killed, run again, one result.
func good(t *testing.T) *history.History {
	t.Helper()
	h := history.New()
	h.Accepted["a"], h.Accepted["b"] = true, true
	h.Results["a"], h.Results["b"] = []string{"succeeded"}, []string{"succeeded"}
	require.NoError(t, h.ReadRuns(strings.NewReader("start a 1 7 1\nend a 1 7 2\nstart b 1 7 3\nstart b 2 8 4\nend b 2 8 5\nsta")))
	h.Hit[7] = 1
	return h
}

func TestCheckerPassesWhatIsRight(t *testing.T) {
	t.Parallel()
	report := good(t).Check(nil)
	require.False(t, report.Failed(), report)
	require.Equal(t, "2 executions, 3 runs, 0 lost, 0 doubled", report.String())
}

// A checker that cannot fail proves nothing.
func TestCheckerCatchesEachBreach(t *testing.T) {
	t.Parallel()
	for what, spoil := range map[string]func(h *history.History){
		"lost: a":               func(h *history.History) { delete(h.Results, "a") },
		"doubled: a":            func(h *history.History) { h.Results["a"] = []string{"succeeded", "failed"} },
		"results of unknown: x": func(h *history.History) { h.Results["x"] = []string{"rejected"} },
		"succeeded without a run: c": func(h *history.History) {
			h.Accepted["c"], h.Results["c"] = true, []string{"succeeded"}
		},
		"run too often: b ran 2 times, 1 explained": func(h *history.History) { h.Hit = map[int]int{} },
		"recovered late: b after 4ns, expected 3ns": func(h *history.History) {
			h.Deaths[7], h.Bound = time.Unix(0, 0), 3
		},
		"left behind: claims (1)": func(h *history.History) { h.Left["claims"] = 1 },
	} {
		h := good(t)
		spoil(h)
		report := h.Check(nil)
		require.True(t, report.Failed(), what)
		require.Contains(t, report.String(), what)
	}
}
