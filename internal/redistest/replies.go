package redistest

import (
	"errors"
	"io"
	"sync"
)

// owed is what the server has yet to say to one command.
type owed struct {
	word     string        // "subscribe" and the like: it is answered by confirmations that start with this word
	frames   int           // confirmations that are left; 1 for all other commands. Changed by replies only
	fault    *Fault        // what happens to the answer
	answered chan struct{} // closed when it came, if not nil
}

// queue is what a server owes, in order. Commands are pushed by requests, and popped by replies as they are answered.
type queue struct {
	mu    sync.Mutex
	owed  []*owed
	empty func() // to be called once, when nothing is owed any more
}

func (q *queue) push(o *owed) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.owed = append(q.owed, o)
}

func (q *queue) head() *owed {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.owed) == 0 {
		return nil
	}
	return q.owed[0]
}

// last says whether only the head is left.
func (q *queue) last() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.owed) == 1
}

// pop drops the head, and runs what waits for the queue to be empty.
func (q *queue) pop() {
	q.mu.Lock()
	if answered := q.owed[0].answered; answered != nil {
		close(answered)
	}
	q.owed = q.owed[1:]
	var then func()
	if len(q.owed) == 0 {
		then, q.empty = q.empty, nil
	}
	q.mu.Unlock()
	if then != nil {
		then()
	}
}

// whenEmpty runs then as soon as nothing is owed: at once, or in the goroutine that pops.
func (q *queue) whenEmpty(then func()) {
	q.mu.Lock()
	now := len(q.owed) == 0
	if !now {
		q.empty = then
	}
	q.mu.Unlock()
	if now {
		then()
	}
}

// replies passes answers and messages until the server closes its end, and then tells the client so.
func (s *session) replies() {
	defer close(s.serverGone)
	for {
		fresh := s.fromServer.Buffered() == 0
		if _, err := s.fromServer.Peek(1); err != nil {
			break
		}
		if fresh {
			s.proxy.latency(s.done)
		}
		if err := s.reply(); err != nil {
			s.logProtocol("the server", err)
			break
		}
	}
	s.toClient.Flush()
	s.untilAudible()
	s.client.CloseWrite()
}

// reply passes one frame.
func (s *session) reply() error {
	word, message, err := s.message()
	if err != nil {
		return err
	}
	head := s.queue.head()
	if head == nil || message && head.word != word {
		return copyFrame(s.toClient, s.fromServer)
	}
	if err := s.answer(head); err != nil {
		return err
	}
	if head.frames--; head.frames > 0 && message {
		return nil
	}
	if err := s.complete(head); err != nil {
		return err
	}
	if s.queue.last() {
		if err := s.toClient.Flush(); err != nil { // whoever waits for an empty queue may close the connection
			return err
		}
	}
	s.queue.pop()
	return nil
}

// answer passes one frame of an answer, or loses it.
func (s *session) answer(head *owed) error {
	if head.fault == nil {
		return copyFrame(s.toClient, s.fromServer)
	}
	return copyFrame(io.Discard, s.fromServer)
}

// complete lets a fault take effect, now that the answer it is about has arrived.
func (s *session) complete(head *owed) error {
	if head.fault == nil {
		return nil
	}
	if head.fault.kind == injectError {
		head.fault.fire()
		_, err := s.toClient.WriteString("-" + head.fault.message + "\r\n")
		return err
	}
	err := s.toClient.Flush()
	s.dark.Store(true)
	head.fault.fire()
	if head.fault.kind == dropReply {
		s.hangUp()
	}
	return err
}

// message says whether the next frame is no answer but a message, or one of the confirmations that subscribing is
// answered with, and the word it starts with. Pushes are messages always. In RESP2 they look like arrays, so these are
// looked into once the client has subscribed to something.
func (s *session) message() (word string, ok bool, err error) {
	kind, err := s.fromServer.Peek(1)
	if err != nil {
		return "", false, err
	}
	switch {
	case kind[0] == '>':
		word, err = peekWord(s.fromServer)
		return word, true, err
	case kind[0] == '*' && s.subscribed.Load():
		word, err = peekWord(s.fromServer)
		return word, isConfirmation(word) || isMessage(word), err
	}
	return "", false, nil
}

func isMessage(word string) bool {
	return word == "message" || word == "pmessage" || word == "smessage"
}

func isConfirmation(word string) bool {
	switch word {
	case "subscribe", "psubscribe", "ssubscribe", "unsubscribe", "punsubscribe", "sunsubscribe":
		return true
	}
	return false
}

func (s *session) logProtocol(who string, err error) {
	if errors.Is(err, errProtocol) {
		s.proxy.tb.Logf("redistest: proxy: from %s: %v", who, err)
	}
}
