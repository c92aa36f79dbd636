package redistest

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Proxy stands between clients and one Redis server, counts what passes, and loses it where a test says so. All its
// methods may be called at any time from any goroutine. With no fault set it changes nothing.
//
// Commands are told apart by name: the upper-case verb ("BLMOVE"); for scripts also the verb with the SHA-1
// ("EVALSHA:6b1b…"), and once the script was given to [Proxy.Label], with the label ("EVALSHA:claim") or by the label
// alone ("claim"), which covers both EVAL and EVALSHA; and "*" is any command, those of a client's handshake included.
//
// It speaks RESP2 and RESP3, and follows pipelines, transactions and subscriptions. It does not follow MONITOR and
// CLIENT REPLY, which break the pairing of questions and answers.
type Proxy struct {
	Addr string // host:port, for clients

	tb       testing.TB
	target   string
	listener net.Listener
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu       sync.Mutex // guards what follows; never held while reading or writing
	sessions map[*session]struct{}
	labels   map[string]string
	counts   map[string]int
	armed    []*Fault
	loss     loss
	delay    time.Duration
	refusing bool
	silence  chan struct{} // while bytes are swallowed; closed when that ends
	fired    []string
	changed  chan struct{} // closed and replaced when fired grows
}

// NewProxy starts a proxy in front of target ("host:port"). It ends with the test.
func NewProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("redistest: proxy: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Proxy{
		Addr: listener.Addr().String(), tb: tb, target: target, listener: listener, ctx: ctx, cancel: cancel,
		sessions: map[*session]struct{}{}, labels: map[string]string{}, counts: map[string]int{},
		changed: make(chan struct{}),
	}
	p.running.Go(p.accept)
	tb.Cleanup(p.close)
	return p
}

// URL is the proxy's address as clients want it in their configuration.
func (p *Proxy) URL() string { return "redis://" + p.Addr + "/0" }

func (p *Proxy) close() {
	p.cancel()
	p.listener.Close()
	for _, s := range p.open() {
		s.close()
	}
	p.running.Wait()
}

func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.serve(conn.(*net.TCPConn)) })
	}
}

func (p *Proxy) serve(client *net.TCPConn) {
	s := newSession(p, client)
	defer s.close()
	if !p.admitSession(s) {
		client.SetLinger(0) // a reset, which is what a dead server's kernel answers
		return
	}
	defer p.forget(s)
	s.run()
}

func (p *Proxy) admitSession(s *session) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refusing {
		p.recordLocked("refuse")
		return false
	}
	if p.ctx.Err() != nil {
		return false
	}
	p.sessions[s] = struct{}{}
	return true
}

func (p *Proxy) forget(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.sessions, s)
}

func (p *Proxy) open() []*session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.sessions))
}

// Label gives the script with this SHA-1 a name to aim at. An EVAL is known by the SHA-1 of its body.
func (p *Proxy) Label(sha1, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.labels[strings.ToLower(sha1)] = name
}

// Count is how many commands of the name clients have sent, whatever became of them. Commands sent while the proxy
// swallows bytes are not seen.
func (p *Proxy) Count(name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts[name]
}

// Connections is how many connections of clients are open.
func (p *Proxy) Connections() int { return len(p.open()) }

// Fired lists the faults that took effect, oldest first: "drop-reply EVALSHA:claim", "cut", "refuse".
func (p *Proxy) Fired() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.fired)
}

// WaitFired returns when n faults have taken effect since the proxy started.
func (p *Proxy) WaitFired(ctx context.Context, n int) error {
	for {
		p.mu.Lock()
		fired, changed := len(p.fired), p.changed
		p.mu.Unlock()
		if fired >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("redistest: waiting for %d faults, %d took effect: %w", n, fired, context.Cause(ctx))
		}
	}
}

// DropReply lets the server run the nth command of the name from now on (1 is the next), swallows the answer, and closes
// the connection: the client reads EOF and cannot know whether the command ran. Answers that were due before it arrive.
func (p *Proxy) DropReply(name string, nth int) *Fault {
	p.tb.Helper()
	return p.arm(&Fault{kind: dropReply, name: name, left: nth})
}

// SwallowReply is DropReply with a connection that stays open and silent, so that the client has to time out.
func (p *Proxy) SwallowReply(name string, nth int) *Fault {
	p.tb.Helper()
	return p.arm(&Fault{kind: swallowReply, name: name, left: nth})
}

// DropRequest closes the connection in place of the nth command of the name from now on: to the client it looks like
// DropReply, but the server never ran it. Answers that were due before it arrive.
func (p *Proxy) DropRequest(name string, nth int) *Fault {
	p.tb.Helper()
	return p.arm(&Fault{kind: dropRequest, name: name, left: nth})
}

// InjectError answers the nth command of the name from now on with an error ("READONLY You can't write against a read
// only replica."), and does not run it. Inside MULTI it spoils the transaction, as such errors do.
func (p *Proxy) InjectError(name string, nth int, message string) *Fault {
	p.tb.Helper()
	if message == "" || strings.ContainsAny(message, "\r\n") {
		p.tb.Fatalf("redistest: InjectError: the message is one line that is not empty, not %q", message)
	}
	return p.arm(&Fault{kind: injectError, name: name, left: nth, message: message})
}

// HoldRequest keeps the nth command of the name from now on in the network and closes the client's connection, like
// DropRequest; but the command is still on its way, on the connection it was sent on. Release delivers it and returns when
// the server has answered (nobody reads the answer): the stale command of a client that has long moved on. It returns an
// error if the server cannot be reached any more, and if nothing was held, in which case nothing will be.
func (p *Proxy) HoldRequest(name string, nth int) (f *Fault, release func() error) {
	p.tb.Helper()
	f = p.arm(&Fault{kind: holdRequest, name: name, left: nth, held: newHeld()})
	return f, f.release
}

// RandomLoss drops each command from now on with this probability, half of them before they run and half of them after,
// as DropRequest and DropReply do. Probability 0 ends it. The seed makes the decisions repeatable, as far as the order in
// which commands arrive is.
func (p *Proxy) RandomLoss(seed uint64, probability float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loss = loss{random: rand.New(rand.NewPCG(seed, seed)), probability: probability}
}

// Delay holds every answer and every message back for d. Answers that arrive together are delayed together.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Cut closes all connections now. Held requests stay on their way.
func (p *Proxy) Cut() {
	p.record("cut")
	for _, s := range p.open() {
		s.cut()
	}
}

// Refuse sets whether new connections are reset as soon as they are made. Open ones live on.
func (p *Proxy) Refuse(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusing = refuse
}

// BlackHole sets whether bytes vanish in both directions while all connections stay open, and new ones can be made. One
// side closing its end is not seen by the other until it is over. A connection that lost bytes stays silent for good, and
// one that lost none, because nothing was said, works again afterwards.
func (p *Proxy) BlackHole(swallow bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case swallow && p.silence == nil:
		p.silence = make(chan struct{})
		p.recordLocked("black-hole")
	case !swallow && p.silence != nil:
		close(p.silence)
		p.silence = nil
	}
}

func (p *Proxy) arm(f *Fault) *Fault {
	p.tb.Helper()
	if f.left < 1 {
		p.tb.Fatalf("redistest: %s %s: nth is 1 for the next command, not %d", f.kind, f.name, f.left)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	f.proxy, f.fired = p, make(chan struct{})
	p.armed = append(p.armed, f)
	return f
}

func (p *Proxy) disarm(f *Fault) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.armed, f)
	if i < 0 {
		return false
	}
	p.armed = slices.Delete(p.armed, i, i+1)
	if f.held != nil {
		f.held.once.Do(func() {}) // there is nothing to release any more
	}
	return true
}
