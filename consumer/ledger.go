package consumer

import (
	"sync"

	"github.com/bobbin-run/bobbin/queue"
)

// ledger knows every claim this process holds and has not resolved: of executions that wait, run or have a result to be
// written. What is not in it and carries our incarnation in Redis is a claim whose reply was lost. All executions of one
// claim call share a token, so an entry is an ID with its token.
type ledger struct {
	mu     sync.Mutex
	claims map[queue.Held]string // the incarnation, which begins the token
}

func newLedger() *ledger { return &ledger{claims: map[queue.Held]string{}} }

func (l *ledger) add(jobs []*job) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, j := range jobs {
		l.claims[j.held()] = j.incarnation
	}
}

func (l *ledger) remove(items []item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range items {
		delete(l.claims, items[i].job.held())
	}
}

func (l *ledger) knows(claim queue.Held) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.claims[claim]
	return ok
}

func (l *ledger) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.claims)
}

// holds says whether any claim of the incarnation is left.
func (l *ledger) holds(incarnation string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, one := range l.claims {
		if one == incarnation {
			return true
		}
	}
	return false
}
