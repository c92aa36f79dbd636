package consumer

import (
	"strings"
	"sync"

	"github.com/bobbin-run/bobbin/queue"
)

// ledger knows every claim this process holds and has not resolved: of executions that wait, run or have a result to be
// written. What is not in it and carries our incarnation in Redis is a claim whose reply was lost. All executions of one
// claim call share a token, so an entry is an ID with its token.
//
// Every execution is entered and struck out, and hardly ever looked up: so an entry is a place in a list, which its job
// remembers, and to look one up is to go through the list.
type ledger struct {
	mu     sync.Mutex
	claims []queue.Held // by place; zero: free
	free   []int32      // places
}

func newLedger() *ledger { return &ledger{} }

// add enters jobs, and tells each its place.
func (l *ledger) add(jobs []*job) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, j := range jobs {
		if last := len(l.free) - 1; last >= 0 {
			j.place, l.free = l.free[last], l.free[:last]
			l.claims[j.place] = j.held()
			continue
		}
		j.place = int32(len(l.claims))
		l.claims = append(l.claims, j.held())
	}
}

// remove strikes out what is there: an outcome that comes late is of a claim that was struck out before.
func (l *ledger) remove(items []item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range items {
		if j := items[i].job; l.claims[j.place] == j.held() {
			l.claims[j.place] = queue.Held{}
			l.free = append(l.free, j.place)
		}
	}
}

// known returns a look-up of what is in the ledger now.
func (l *ledger) known() func(queue.Held) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := make(map[queue.Held]bool, l.count())
	for _, claim := range l.claims {
		known[claim] = true
	}
	return func(claim queue.Held) bool { return known[claim] }
}

func (l *ledger) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count()
}

func (l *ledger) count() int { return len(l.claims) - len(l.free) }

// holds says whether any claim of the incarnation is left.
func (l *ledger) holds(incarnation string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.claims {
		if rest, ok := strings.CutPrefix(l.claims[i].Token, incarnation); ok && strings.HasPrefix(rest, ":") {
			return true
		}
	}
	return false
}
