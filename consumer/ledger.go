package consumer

import "sync"

// ledger knows every claim this process holds and has not resolved: tokens of executions that wait, run or have a result to
// be written. What is not in it and carries our incarnation in Redis is a claim whose reply was lost.
type ledger struct {
	mu   sync.Mutex
	jobs map[string]*job // by token
}

func newLedger() *ledger { return &ledger{jobs: map[string]*job{}} }

func (l *ledger) add(jobs []*job) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, j := range jobs {
		l.jobs[j.claimed.Token] = j
	}
}

func (l *ledger) remove(items []item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range items {
		delete(l.jobs, items[i].job.claimed.Token)
	}
}

func (l *ledger) knows(token string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.jobs[token]
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
