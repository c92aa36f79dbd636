package redistest

import (
	"cmp"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// Persistence is how a real server keeps its data.
type Persistence int

const (
	// None keeps nothing: a server that is started again is empty. It is the default.
	None Persistence = iota
	// AOFEverySec is Redis's usual durability: what was written in the last second may be lost with the machine. It is
	// not lost with the process, which is all that Kill ends.
	AOFEverySec
	// AOFAlways has every write on the disk before it is answered.
	AOFAlways
)

// setting is one line of redis.conf.
type setting struct{ key, value string }

// An Option configures a real server.
type Option func(*[]setting)

// WithPersistence sets how the server keeps its data.
func WithPersistence(p Persistence) Option {
	return func(config *[]setting) {
		switch p {
		case AOFEverySec:
			*config = append(*config, setting{"appendonly", "yes"}, setting{"appendfsync", "everysec"})
		case AOFAlways:
			*config = append(*config, setting{"appendonly", "yes"}, setting{"appendfsync", "always"})
		}
	}
}

// WithConfig adds a line to redis.conf: WithConfig("maxmemory", "4mb"). Later lines win.
func WithConfig(key, value string) Option {
	return func(config *[]setting) { *config = append(*config, setting{key, value}) }
}

// ErrNoServer is returned by Lookup when this machine has no redis-server.
var ErrNoServer = errors.New("redistest: no redis-server: install it (apt-get install redis-server), " +
	"or set BOBBIN_TEST_REDIS_SERVER to its path")

// Lookup returns the path of the redis-server that Real and Shared start: BOBBIN_TEST_REDIS_SERVER, or the one in PATH.
func Lookup() (string, error) {
	path, err := exec.LookPath(cmp.Or(os.Getenv("BOBBIN_TEST_REDIS_SERVER"), "redis-server"))
	if err != nil {
		return "", errors.Join(ErrNoServer, err)
	}
	return path, nil
}

// RealAvailable says whether this machine has a redis-server.
func RealAvailable() bool {
	_, err := Lookup()
	return err == nil
}

// mustLookup ends the test where there is no redis-server: skipped, or failed with BOBBIN_REQUIRE_REDIS=1.
func mustLookup(tb testing.TB) string {
	tb.Helper()
	path, err := Lookup()
	switch {
	case err == nil:
	case os.Getenv("BOBBIN_REQUIRE_REDIS") == "1":
		tb.Fatalf("BOBBIN_REQUIRE_REDIS is 1, but: %v", err)
	default:
		tb.Skip(err)
	}
	return path
}

// Real starts a redis-server that belongs to this test, on a port of 127.0.0.1 and in a directory of its own. It ends with
// the test, and with the test process however that ends (on Linux).
func Real(tb testing.TB, options ...Option) *Server {
	tb.Helper()
	path := mustLookup(tb)
	process, err := openProcess(path, tb.TempDir(), configure(options))
	if err != nil {
		tb.Fatalf("redistest: %v", err)
	}
	tb.Cleanup(process.kill)
	s := newServer(tb, process.addr())
	s.Real, s.process = true, process
	return s
}

func configure(options []Option) []setting {
	config := []setting{{"save", ""}}
	for _, option := range options {
		option(&config)
	}
	return config
}

// own returns the process, or fails the test when it is not the test's to end.
func (s *Server) own(what string) *process {
	s.tb.Helper()
	if s.process == nil {
		s.tb.Fatalf("redistest: %s needs a server of the test's own: start one with Real, or put a Proxy before this one", what)
	}
	return s.process
}

// Kill ends the server with SIGKILL and returns when it is gone.
func (s *Server) Kill() {
	s.tb.Helper()
	s.own("Kill").kill()
}

// Stop ends the server with SIGTERM, which writes out what it keeps, and returns when it is gone.
func (s *Server) Stop() {
	s.tb.Helper()
	if err := s.own("Stop").stop(); err != nil {
		s.tb.Fatalf("redistest: %v", err)
	}
}

// Start starts a server again that was killed or stopped, on the same port and directory, and returns when it has loaded
// its data and answers.
func (s *Server) Start() {
	s.tb.Helper()
	process := s.own("Start")
	if process.signal(0) {
		s.tb.Fatal("redistest: Start: the server runs; Kill or Stop it first")
	}
	if err := process.reopen(); err != nil {
		s.tb.Fatalf("redistest: %v", err)
	}
}

// Pause freezes the server with SIGSTOP: its kernel still accepts connections and bytes, and nothing is answered.
func (s *Server) Pause() { s.signal("Pause", syscall.SIGSTOP) }

// Resume lets a paused server go on.
func (s *Server) Resume() { s.signal("Resume", syscall.SIGCONT) }

func (s *Server) signal(what string, signal syscall.Signal) {
	s.tb.Helper()
	if !s.own(what).signal(signal) {
		s.tb.Fatalf("redistest: %s: the server does not run", what)
	}
}

// AOF returns the path of the file to which the server appends what it writes: the last part of it, since Redis 7. Cut off its end
// between Kill and Start, and the server was killed amid a write.
func (s *Server) AOF() string {
	s.tb.Helper()
	dir := s.own("AOF").dir
	parts, _ := filepath.Glob(filepath.Join(dir, "appendonlydir", "*.incr.aof"))
	if len(parts) == 0 {
		return filepath.Join(dir, "appendonly.aof")
	}
	return slices.MaxFunc(parts, func(a, b string) int { return cmp.Or(len(a)-len(b), cmp.Compare(a, b)) }) // by their numbers
}

// Rewritten says whether the server has written its append-only file anew since it was started. While it does not answer, it has not.
func (s *Server) Rewritten() bool {
	reply, _ := s.Exec("INFO", "persistence")
	info, _ := reply.(string)
	return strings.Contains(info, "aof_rewrite_in_progress:0") && !strings.Contains(info, "aof_last_rewrite_time_sec:-1")
}
