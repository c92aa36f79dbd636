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
	program, err := exec.Command("nice").Output()
	if err != nil {
		panic(err)
	}
	_, _ = os.Stdout.WriteString(strings.Join(append(append(before(), after()...), strings.TrimSpace(string(program))), " "))
	os.Exit(0)
}

// onThreads starts n threads, and returns a function that tells how nice each is and ends them.
func onThreads(n int) func() []string {
	var started, ended sync.WaitGroup
	tell, told := make(chan struct{}), make([]string, n)
	started.Add(n)
	for i := range n {
		ended.Go(func() {
			runtime.LockOSThread()
			started.Done()
			<-tell
			told[i] = ownNiceness()
		})
	}
	started.Wait()
	return func() []string {
		close(tell)
		ended.Wait()
		return told
	}
}

// ownNiceness is field 19 of the calling thread's stat.
func ownNiceness() string {
	stat, err := os.ReadFile("/proc/thread-self/stat")
	if err != nil {
		return err.Error()
	}
	_, fields, _ := strings.Cut(string(stat), ") ")
	return strings.Fields(fields)[16]
}

func TestEveryThreadAndWhatIsStartedIsAsNice(t *testing.T) {
	t.Parallel()
	own := ownNiceness()
	if len(own) > 1 || own > "6" {
		t.Skipf("the tests run at niceness %s already", own)
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), asChild+"=1")
	said, err := child.CombinedOutput()
	require.NoError(t, err, "%s", said)
	require.Equal(t, strings.Repeat("7 ", 8+16)+"7", string(said))
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
