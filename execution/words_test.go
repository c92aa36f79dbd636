package execution_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
)

func TestParseID(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"a", "7f3a", "018f-UUID_x.y:z/~!", strings.Repeat("x", 200)} {
		id, err := execution.ParseID(good)
		require.NoError(t, err)
		require.Equal(t, execution.ID(good), id)
	}
	for _, bad := range []string{"", strings.Repeat("x", 201), "a b", "a{", "}", "tab\t", "é", "nul\x00", "\r\n", "\x7f"} {
		_, err := execution.ParseID(bad)
		require.ErrorIs(t, err, execution.ErrInvalidID, "%q", bad)
		require.Less(t, len(err.Error()), 200)
	}
}

func FuzzParseID(f *testing.F) {
	for _, seed := range []string{"7f3a", "", " ", "{x}", "é", "a\x00b", strings.Repeat("x", 200), strings.Repeat("x", 201)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		_, err := execution.ParseID(raw)
		bad := func(r rune) bool { return r < 33 || r > 126 || strings.ContainsRune("{}", r) }
		require.Equal(t, raw != "" && len(raw) <= 200 && strings.IndexFunc(raw, bad) < 0, err == nil)
	})
}

// Every state with every event, written out: forward only, and an illegal move changes nothing.
func TestStateTransitions(t *testing.T) {
	t.Parallel()
	const active, draining, pendingKill, exiting = execution.Active, execution.Draining, execution.PendingKill, execution.Exiting
	table := map[execution.State]map[execution.Event]execution.State{
		active:      {"drain": draining, "recycle": pendingKill, "shutdown": exiting, "stuck-limit": draining, "idle": ""},
		draining:    {"drain": "", "recycle": "", "shutdown": exiting, "stuck-limit": "", "idle": exiting},
		pendingKill: {"drain": "", "recycle": "", "shutdown": exiting, "stuck-limit": "", "idle": exiting},
		exiting:     {"drain": "", "recycle": "", "shutdown": "", "stuck-limit": "", "idle": ""},
	}
	require.Len(t, execution.States, len(table))
	order := map[execution.State]int{active: 0, draining: 1, pendingKill: 1, exiting: 2}
	for _, from := range execution.States {
		require.Len(t, execution.Events, len(table[from]))
		for _, event := range execution.Events {
			to, err := from.Next(event)
			if want := table[from][event]; want != "" {
				require.NoError(t, err)
				require.Equal(t, want, to, "%s + %s", from, event)
				require.Greater(t, order[to], order[from], "states only move forward")
				continue
			}
			require.ErrorIs(t, err, execution.ErrIllegalTransition)
			require.Equal(t, from, to, "%s + %s", from, event)
		}
	}
}

func TestExitCode(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cause, last execution.Event
		code        int
	}{
		{"drain", "idle", 0}, {"recycle", "idle", 75}, {"stuck-limit", "idle", 75}, {"shutdown", "shutdown", 0},
		{"recycle", "shutdown", 0}, {"stuck-limit", "shutdown", 0}, {"drain", "shutdown", 0},
	} {
		require.Equal(t, c.code, execution.ExitCode(c.cause, c.last), "%s then %s", c.cause, c.last)
	}
}

func TestResultRoundTrip(t *testing.T) {
	t.Parallel()
	for _, r := range []*execution.Result{
		{
			ID: "7f3a", Workflow: "w", Worker: "h-1-x", Attempt: 2, Status: execution.Succeeded, ClaimedMS: 1, StartedMS: 2, FinishedMS: 3,
			Duration: 1500 * time.Microsecond, Value: json.RawMessage(`[1]`), Meta: json.RawMessage(`{"k":[]}`),
		},
		{
			ID: "raw \x00", Worker: "h", Status: execution.Failed, Meta: json.RawMessage(`{}`),
			Err: &execution.Error{Type: "T", Message: "m", Traceback: "t"},
		},
	} {
		flat, fields := r.Fields(), map[string]string{}
		for i := 0; i < len(flat); i += 2 {
			fields[flat[i]] = flat[i+1]
		}
		require.Equal(t, r, execution.ParseResult(fields))
		document, err := json.Marshal(r)
		require.NoError(t, err)
		require.Contains(t, string(document), `"status":"`+string(r.Status)+`"`)
	}
}

func TestMarshalledResultSurvivesAMalformedValue(t *testing.T) {
	t.Parallel()
	document, err := json.Marshal(&execution.Result{ID: "x", Status: execution.Succeeded, Value: json.RawMessage(`{`)})
	require.NoError(t, err)
	require.NotContains(t, string(document), `"result"`)
}

func TestAsError(t *testing.T) {
	t.Parallel()
	require.Nil(t, execution.AsError(nil))
	known := &execution.Error{Type: "Odd", Message: "m"}
	require.Same(t, known, execution.AsError(fmt.Errorf("wrapped: %w", known)))
	require.Equal(t, &execution.Error{Type: "HandlerError", Message: "plain"}, execution.AsError(errors.New("plain")))
}
