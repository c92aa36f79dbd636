package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/internal/redistest"
)

func TestWorkerStepsBackBehindARedisOnItsMachine(t *testing.T) {
	t.Parallel()
	own := niceness(t, os.Getpid())[0]
	if own > 7 {
		t.Skipf("the tests run at niceness %d already", own)
	}
	redistest.Each(t, func(t *testing.T, server *redistest.Server) {
		s := setup(t, server)
		for setting, want := range map[string]int{"7": 7, "0": own} {
			w := s.worker("BOBBIN_NICE=" + setting)
			for _, got := range niceness(t, w.cmd.Process.Pid) {
				require.Equal(t, want, got, "BOBBIN_NICE=%s", setting)
			}
		}
	})
}

// niceness is that of every thread of a process: field 19 of its stat.
func niceness(t *testing.T, process int) []int {
	t.Helper()
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", process))
	require.NoError(t, err)
	var all []int
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has ended
		}
		require.NoError(t, err)
		_, fields, _ := strings.Cut(string(stat), ") ")
		one, err := strconv.Atoi(strings.Fields(fields)[16])
		require.NoError(t, err)
		all = append(all, one)
	}
	require.NotEmpty(t, all)
	return all
}
