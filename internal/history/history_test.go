package history_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/internal/history"
)

func at(nanoseconds int64) time.Time { return time.Unix(0, nanoseconds) }

// good is a history in which all is well: one run, one result; one killed, run again, one result.
func good(t *testing.T) *history.History {
	t.Helper()
	h := history.New()
	h.Accepted["a"], h.Accepted["b"] = true, true
	h.Results["a"], h.Results["b"] = []string{"succeeded"}, []string{"succeeded"}
	require.NoError(t, h.ReadRuns(strings.NewReader("start a 1 7 1\nend a 1 7 2\nstart b 1 7 3\nstart b 2 8 5\nend b 2 8 6\nsta")))
	h.Faults = []history.Fault{{PID: 7, From: at(4), Until: at(4)}}
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
		"ended otherwise: a failed, expected [succeeded]": func(h *history.History) { h.Results["a"] = []string{"failed"} },
		"ended otherwise: a succeeded, expected [rejected]": func(h *history.History) {
			h.Expected["a"] = []string{"rejected"}
		},
		"replies: a got 2, expected 1":                         func(h *history.History) { h.Replies["a"] = 2 },
		"replies: b got 0, expected 1":                         func(h *history.History) { h.Replies["b"] = 0 },
		"run too often: b ran 2 times, nothing explains run 2": func(h *history.History) { h.Faults = nil },
		"recovered late: b after 4ns, expected 3ns": func(h *history.History) {
			h.Deaths[7], h.Bound = at(1), 3
		},
		"left behind: claims (1)": func(h *history.History) { h.Left["claims"] = 1 },
		"grown: threads from 8 to 11, expected at most 2 more": func(h *history.History) {
			h.Growth["threads"], h.Room["threads"] = [2]int64{8, 11}, 2
		},
	} {
		h := good(t)
		spoil(h)
		report := h.Check(nil)
		require.True(t, report.Failed(), what)
		require.Contains(t, report.String(), what)
	}
}

// b's second run, in process 8, is explained by what befell process 7, which ran it first, or everybody, while it ran or until it
// ran again. Nothing else explains it.
func TestARunIsExcusedByTheFaultThatHitTheOneBefore(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault   history.Fault
		excused bool
	}{
		"its process, meanwhile":           {history.Fault{PID: 7, From: at(4), Until: at(4)}, true},
		"its process, from before":         {history.Fault{PID: 7, From: at(1), Until: at(3)}, true},
		"its process, a slack before":      {history.Fault{PID: 7, From: at(1), Until: at(2)}, true},
		"its process, long before":         {history.Fault{PID: 7, From: at(0), Until: at(1)}, false},
		"its process, after it ran again":  {history.Fault{PID: 7, From: at(6), Until: at(7)}, false},
		"another process":                  {history.Fault{PID: 9, From: at(4), Until: at(4)}, false},
		"the process that ran it again":    {history.Fault{PID: 8, From: at(4), Until: at(4)}, false},
		"everybody, meanwhile":             {history.Fault{From: at(4), Until: at(4)}, true},
		"everybody, long before":           {history.Fault{From: at(0), Until: at(1)}, false},
		"everybody, only after it had run": {history.Fault{From: at(6), Until: at(9)}, false},
	} {
		h := good(t)
		h.Slack, h.Faults = 1, []history.Fault{c.fault}
		require.Equal(t, !c.excused, h.Check(nil).Failed(), name)
	}
}

// Forty-four outages explain forty-five runs of an execution that each of them interrupted; not two runs of one that none did, nor
// three of one that was interrupted once.
func TestOutagesExcuseNobodyTheyDidNotHit(t *testing.T) {
	t.Parallel()
	var lines strings.Builder
	h := history.New()
	for i := range int64(45) {
		fmt.Fprintf(&lines, "start unlucky %d 7 %d\n", i+1, 100*i)
		if i > 0 {
			h.Faults = append(h.Faults, history.Fault{From: at(100*i - 50), Until: at(100*i - 40)})
		}
	}
	lines.WriteString("end unlucky 45 7 4450\nstart twice 1 7 4460\nstart twice 2 8 4470\nend twice 2 8 4480\n")
	lines.WriteString("start thrice 1 7 4320\nstart thrice 2 8 4370\nstart thrice 3 9 4390\nend thrice 3 9 4400\n")
	require.NoError(t, h.ReadRuns(strings.NewReader(lines.String())))
	for _, id := range []string{"unlucky", "twice", "thrice"} {
		h.Accepted[id], h.Results[id] = true, []string{"succeeded"}
	}
	require.Equal(t, []string{"thrice ran 3 times, nothing explains run 3", "twice ran 2 times, nothing explains run 2"}, h.Check(nil).Excess)
	require.Empty(t, h.Check(func(id string) int { return map[string]int{"twice": 1, "thrice": 1}[id] }).Excess, "retries explain them")
}

// A process that was stopped between the claim and the start begins its attempt when another has ended the next one: it is the stop
// that explains the other's.
func TestAnAttemptThatBeginsAfterTheNextOne(t *testing.T) {
	t.Parallel()
	h := history.New()
	require.NoError(t, h.ReadRuns(strings.NewReader("start a 2 8 50\nend a 2 8 60\nstart a 1 7 70\nstop a 1 7 71\n")))
	h.Accepted["a"], h.Results["a"], h.Slack = true, []string{"succeeded"}, 1
	h.Faults = []history.Fault{{PID: 7, From: at(10), Until: at(70)}}
	require.False(t, h.Check(nil).Failed())
	h.Faults[0].PID = 8
	require.Len(t, h.Check(nil).Excess, 1)
}

// The time in which Redis was away, and a while after it, is not the workers'.
func TestRecoveryIsMeasuredWithoutOutages(t *testing.T) {
	t.Parallel()
	h := history.New()
	require.NoError(t, h.ReadRuns(strings.NewReader("start a 1 7 1\nstart a 2 8 100\nend a 2 8 110\n")))
	h.Accepted["a"], h.Results["a"], h.Deaths[7], h.Steady = true, []string{"succeeded"}, at(10), 5
	h.Faults = []history.Fault{
		{From: at(5), Until: at(12)}, {PID: 7, From: at(9), Until: at(10)}, {From: at(15), Until: at(30)}, {From: at(20), Until: at(25)},
		{From: at(95), Until: at(120)},
	}
	require.EqualValues(t, 60, h.Check(nil).LongestRecovery, "of 90: not 10 to 17, 17 to 35, 95 to 100")
	h.Bound = 59
	require.Equal(t, []string{"a after 60ns, expected 59ns"}, h.Check(nil).Slow)
}
