package nice_test

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/internal/nice"
)

// asChild makes the test binary the process that becomes nice, because there is no way back.
const asChild = "BOBBIN_TEST_NICE"

func TestMain(m *testing.M) {
	if os.Getenv(asChild) == "" {
		os.Exit(m.Run())
	}
	before := onThreads(8)
	if err := nice.Raise(7); err != nil {
		panic(err)
	}
	if err := nice.Raise(3); err != nil { // never less nice
		panic(err)
	}
	after := onThreads(16)
	program, err := exec.Command("cat", "/proc/self/stat").Output()
	if err != nil {
		panic(err)
	}
	_, _ = os.Stdout.WriteString(strings.Join(append(append(before(), after()...), priority(string(program))), " "))
	os.Exit(0)
}

// onThreads starts n threads, and returns a function that tells the priority of each and ends them.
func onThreads(n int) func() []string {
	var started, ended sync.WaitGroup
	tell, told := make(chan struct{}), make([]string, n)
	started.Add(n)
	for i := range n {
		ended.Go(func() {
			runtime.LockOSThread()
			started.Done()
			<-tell
			told[i] = ownPriority()
		})
	}
	started.Wait()
	return func() []string {
		close(tell)
		ended.Wait()
		return told
	}
}

// ownPriority is that of the calling thread.
func ownPriority() string {
	stat, err := os.ReadFile("/proc/thread-self/stat")
	if err != nil {
		return err.Error()
	}
	return priority(string(stat))
}

// priority is the niceness and the policy, fields 19 and 41 of a stat in /proc.
func priority(stat string) string {
	_, fields, _ := strings.Cut(stat, ") ")
	f := strings.Fields(fields)
	return f[19-3] + "/" + f[41-3]
}

// 3 is SCHED_BATCH: what wakes up does not interrupt what runs.
func TestEveryThreadAndWhatIsStartedIsAsNice(t *testing.T) {
	t.Parallel()
	own, policy, _ := strings.Cut(ownPriority(), "/")
	if len(own) > 1 || own > "6" || policy != "0" {
		t.Skipf("the tests run at niceness %s with policy %s already", own, policy)
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), asChild+"=1")
	said, err := child.CombinedOutput()
	require.NoError(t, err, "%s", said)
	require.Equal(t, strings.Repeat("7/3 ", 8+16)+"7/3", string(said))
}

// Where /proc is that of another namespace, its numbers are of strangers' threads: those are left alone, and that is said.
func TestStrangersAreLeftAlone(t *testing.T) {
	t.Parallel()
	unshare := func(args ...string) *exec.Cmd {
		return exec.Command("unshare", append([]string{"--pid", "--fork"}, args...)...)
	}
	if err := unshare("true").Run(); err != nil {
		t.Skip("no privilege to make a PID namespace: ", err)
	}
	child := unshare(os.Args[0])
	child.Env = append(os.Environ(), asChild+"=1")
	said, err := child.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(said), "/proc does not tell of this process")
}
