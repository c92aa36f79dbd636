package consumer

import (
	"sync"

	"github.com/bobbin-run/bobbin/queue"
)

// ledger knows every claim this process holds and has not resolved: of executions that wait, run or have a result to be
// written. What is not in it and carries our incarnation in Redis is a claim whose reply was lost. All executions of one
// claim call share a token, so an entry is an ID with its token.
type ledger struct {
	mu   sync.Mutex
	jobs map[queue.Held]*job
}

func newLedger() *ledger { return &ledger{jobs: map[queue.Held]*job{}} }

func (l *ledger) add(jobs []*job) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, j := range jobs {
		l.jobs[j.held()] = j
	}
}

func (l *ledger) remove(items []item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range items {
		delete(l.jobs, items[i].job.held())
	}
}

func (l *ledger) knows(claim queue.Held) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.jobs[claim]
	return ok
}

func (l *ledger) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.jobs)
}

// holds says whether any claim of the incarnation is left.
func (l *ledger) holds(incarnation string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, j := range l.jobs {
		if j.incarnation == incarnation {
			return true
		}
	}
	return false
}
