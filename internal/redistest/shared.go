package redistest

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// shared is the one real server of a test process. Main makes room for it, and the first test that wants it starts it.
var shared struct {
	mu      sync.Mutex
	allowed bool
	process *process
	dir     string
	err     error
}

var errNoMain = errors.New("Shared and Each need: func TestMain(m *testing.M) { os.Exit(redistest.Main(m)) }")

// Shared returns a real server that all tests of the package use at the same time: with keys and channels under the
// test's own Prefix, and without ending, pausing, flushing or configuring it. It keeps nothing on disk. It needs Main.
func Shared(tb testing.TB) *Server {
	tb.Helper()
	path := mustLookup(tb)
	addr, err := openShared(path)
	if err != nil {
		tb.Fatalf("redistest: %v", err)
	}
	s := newServer(tb, addr)
	s.Real = true
	return s
}

func openShared(path string) (addr string, err error) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if !shared.allowed {
		return "", errNoMain
	}
	if shared.process == nil && shared.err == nil {
		shared.err = startShared(path)
	}
	if shared.err != nil {
		return "", shared.err
	}
	return shared.process.addr(), nil
}

func startShared(path string) error {
	dir, err := os.MkdirTemp("", "bobbin-redistest-")
	if err != nil {
		return err
	}
	shared.dir = dir
	process, err := openProcess(path, dir, configure(nil))
	if err != nil {
		return err
	}
	shared.process = process
	return nil
}

// Main runs the tests of a package, stops the shared server, and fails the package for goroutines that are left. Its
// result is for os.Exit.
func Main(m interface{ Run() int }, options ...goleak.Option) int {
	allowShared(true)
	code := m.Run()
	closeShared()
	if err := goleak.Find(options...); err != nil {
		fmt.Fprintf(os.Stderr, "redistest: goroutines are left after the tests: %v\n", err)
		return max(code, 1)
	}
	return code
}

func allowShared(allowed bool) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.allowed = allowed
}

func closeShared() {
	allowShared(false)
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.process != nil {
		shared.process.kill()
	}
	if shared.dir != "" {
		os.RemoveAll(shared.dir)
	}
}
