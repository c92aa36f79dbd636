package consumer

import (
	"maps"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Only a process of this machine that is no more is provably gone: everything else is left to its lease.
func TestProvablyGone(t *testing.T) {
	t.Parallel()
	me := thisProcess()
	if me.bootID == "" || me.pidNS == "" || me.pidStart == "" {
		t.Skip("this system does not say which process is which")
	}
	other := exec.Command("sleep", "60")
	require.NoError(t, other.Start())
	started, seen := startTime(other.Process.Pid)
	require.True(t, seen)
	fields := me.fields()
	fields["pid"], fields["pid_start"] = strconv.Itoa(other.Process.Pid), started
	but := func(name, value string) map[string]string {
		changed := maps.Clone(fields)
		changed[name] = value
		return changed
	}
	require.False(t, me.provablyGone(fields), "it lives")
	require.False(t, me.provablyGone(me.fields()), "this very process")
	require.True(t, me.provablyGone(but("pid_start", "1")), "its PID is another's now")
	for name, value := range map[string]string{"boot_id": "another", "pid_ns": "another", "pid": "?"} {
		require.False(t, me.provablyGone(but(name, value)), "%s tells it is not of this machine", name)
	}
	require.False(t, me.provablyGone(but("pid_start", "")), "it did not say when it began")

	require.NoError(t, other.Process.Kill())
	require.Eventually(t, func() bool { return me.provablyGone(fields) }, 20*time.Second, time.Millisecond, "it is dead and its parent has not noticed")
	require.Error(t, other.Wait())
	require.True(t, me.provablyGone(fields))
}

// A fleet that was given one limit does not reach it as one.
func TestLimitsDiffer(t *testing.T) {
	t.Parallel()
	seen := map[int64]bool{}
	for range 100 {
		limit := upToATenthLess(1 << 30)
		require.LessOrEqual(t, limit, int64(1<<30))
		require.GreaterOrEqual(t, limit, int64(1<<30-1<<30/10))
		seen[limit] = true
	}
	require.Greater(t, len(seen), 50)
	require.Zero(t, upToATenthLess(0), "never")
}
