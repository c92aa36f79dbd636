package process

import (
	"log/slog"
	"sync"
	"time"
)

const (
	strayEvery = 10 * time.Second
	strayLines = 100 // in that time; more are counted only
)

// strays bounds what interpreters write to the worker's log while they run nothing: one program that was left behind can
// write more in seconds than a disk holds. The zero value is ready.
type strays struct {
	mu      sync.Mutex
	since   time.Time
	lines   int
	dropped int
}

// admit says whether a line is to be logged.
func (s *strays) admit(log *slog.Logger, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.since) >= strayEvery {
		s.report(log)
		s.since, s.lines = now, 0
	}
	s.lines++
	if s.lines > strayLines {
		s.dropped++
	}
	return s.lines <= strayLines
}

// tell says how many lines were dropped since it was said last.
func (s *strays) tell(log *slog.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report(log)
}

func (s *strays) report(log *slog.Logger) {
	if s.dropped > 0 {
		log.Warn("interpreters write too much while they run nothing", "lines_dropped", s.dropped)
		s.dropped = 0
	}
}

// stray logs what an interpreter writes while it runs nothing.
func (r *Runner) stray(line string) {
	if r.strays.admit(r.log, time.Now()) {
		r.log.Warn(line, "from", "interpreter")
	}
}
