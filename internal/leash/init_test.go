package leash_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/internal/leash"
)

const asFirst = "LEASH_TEST_FIRST"

// TestMain is the program too, that a test runs as the first process of a namespace.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv(asFirst) == "":
		os.Exit(m.Run())
	case leash.First():
		code, err := leash.Bury(os.Environ())
		if err != nil {
			fmt.Println(err)
			code = 99
		}
		os.Exit(code)
	default:
		orphans()
	}
}

// orphans leaves processes behind that end after their parents, says so when all of them were buried, and exits as it is told.
func orphans() {
	for range 5 {
		_ = exec.Command("sh", "-c", "sleep 0.01 &").Run()
	}
	for left := 1; left > 0; <-time.After(5 * time.Millisecond) {
		left = 0
		entries, _ := os.ReadDir("/proc")
		for _, e := range entries {
			stat, _ := os.ReadFile("/proc/" + e.Name() + "/stat")
			if strings.Contains(string(stat), "(sleep)") {
				left++
			}
		}
	}
	fmt.Println("all are buried")
	how := os.Args[len(os.Args)-1]
	if how == "killed" {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	_, _ = os.Stdin.Read(make([]byte, 1)) // a signal ends it, by default
	os.Exit(7)
}

// The first process of a container buries what others leave behind, passes on signals, and ends as its child does.
func TestBury(t *testing.T) {
	t.Parallel()
	first := func(how string) (*exec.Cmd, *strings.Builder) {
		self, err := os.Executable()
		require.NoError(t, err)
		cmd := exec.CommandContext(t.Context(), "unshare", "--pid", "--fork", "--mount-proc", "--kill-child", self, how)
		out := &strings.Builder{}
		cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), asFirst+"=1"), out, out
		return cmd, out
	}
	if err := exec.Command("unshare", "--pid", "--fork", "--mount-proc", "true").Run(); err != nil {
		t.Skip("no namespaces: ", err)
	}
	cmd, out := first("exits")
	err := cmd.Run() // its stdin ends at once
	require.ErrorContains(t, err, "exit status 7", out.String())
	require.Contains(t, out.String(), "all are buried")

	cmd, out = first("killed")
	require.ErrorContains(t, cmd.Run(), fmt.Sprintf("exit status %d", 128+syscall.SIGKILL), out.String())

	cmd, out = first("waits")
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer func() { _ = stdin.Close() }()
	says, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	defer func() { _ = says.Close() }()
	cmd.Stdout = says
	require.NoError(t, cmd.Start())
	var pid int // of the first process: what unshare forked
	require.Eventually(t, func() bool {
		said, _ := os.ReadFile(says.Name())
		number := fmt.Sprint(cmd.Process.Pid)
		children, _ := os.ReadFile("/proc/" + number + "/task/" + number + "/children")
		_, err := fmt.Sscan(string(children), &pid)
		return err == nil && strings.Contains(string(said), "all are buried")
	}, 30*time.Second, 5*time.Millisecond)
	require.NoError(t, syscall.Kill(pid, syscall.SIGTERM))
	require.ErrorContains(t, cmd.Wait(), fmt.Sprintf("exit status %d", 128+syscall.SIGTERM), out.String())
}
