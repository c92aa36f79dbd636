package redistest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
)

// brokenCommand is sent in place of a command that is answered with an injected error: a GET without a key. The server's
// refusal keeps the place of the answer in the pipeline, and spoils a transaction like the error would. (An unknown command
// would not do: miniredis executes the transaction without it.)
const brokenCommand = "*1\r\n$3\r\nGET\r\n"

// errAside ends the reading of commands: the connection waits for something, and the rest of what the client says is not
// for the server any more.
var errAside = errors.New("redistest: no more commands are passed")

// session is one connection of a client and the one to the server that belongs to it. One goroutine (requests) reads from
// the client and alone writes to the server; another (replies) the other way round.
type session struct {
	proxy  *Proxy
	client *net.TCPConn
	server *net.TCPConn // set by run before anything else uses it

	fromClient, fromServer *bufio.Reader
	toClient, toServer     *bufio.Writer

	queue      queue
	subscribed atomic.Bool   // a subscription was asked for: RESP2 messages may arrive
	dark       atomic.Bool   // bytes were lost: no later ones pass
	held       atomic.Bool   // it carries a held request
	serverGone chan struct{} // closed when replies returns
	done       chan struct{} // closed by close
	once       sync.Once
	running    sync.WaitGroup
}

func newSession(p *Proxy, client *net.TCPConn) *session {
	return &session{proxy: p, client: client, serverGone: make(chan struct{}), done: make(chan struct{})}
}

// run returns when both connections have ended.
func (s *session) run() {
	var dialer net.Dialer
	conn, err := dialer.DialContext(s.proxy.ctx, "tcp", s.proxy.target)
	if err != nil {
		s.untilAudible()
		return
	}
	s.server = conn.(*net.TCPConn)
	defer s.server.Close()
	s.toClient = bufio.NewWriterSize(&sink{s, s.client}, bufferSize)
	s.toServer = bufio.NewWriterSize(&sink{s, s.server}, bufferSize)
	s.fromClient = bufio.NewReaderSize(&source{s.client, s.toServer}, bufferSize)
	s.fromServer = bufio.NewReaderSize(&source{s.server, s.toClient}, bufferSize)
	s.running.Go(s.untilClosed)
	s.running.Go(func() {
		defer s.close()
		var both sync.WaitGroup
		both.Go(s.requests)
		both.Go(s.replies)
		both.Wait()
	})
	s.running.Wait()
}

// untilClosed ends the blocked reads and writes of a session that was closed.
func (s *session) untilClosed() {
	<-s.done
	s.server.Close()
}

// close ends both connections. It may be called by anyone, and more than once.
func (s *session) close() {
	s.once.Do(func() {
		close(s.done)
		s.client.Close()
	})
}

// cut is close, except that a held request stays on its way.
func (s *session) cut() {
	if s.held.Load() {
		s.client.Close()
		return
	}
	s.close()
}

// hangUp ends the connection for the client, in the way that lets it read everything sent before, and the server's.
func (s *session) hangUp() {
	s.dark.Store(true)
	s.client.CloseWrite()
	s.server.Close()
}

// requests passes commands until the client closes its end, and then tells the server so.
func (s *session) requests() {
	err := s.passRequests()
	if errors.Is(err, errProtocol) {
		s.logProtocol("a client", err)
		s.close()
		return
	}
	io.Copy(io.Discard, s.client)
	s.untilAudible()
	if !s.held.Load() {
		s.server.CloseWrite()
	}
}

func (s *session) passRequests() error {
	for {
		req, err := readRequest(s.fromClient)
		if err != nil {
			return err
		}
		if err := s.request(req); err != nil {
			return err
		}
	}
}

func (s *session) request(req *request) error {
	if req.args == 0 || s.swallows() {
		return req.forward(s.toServer, s.fromClient)
	}
	fault := s.proxy.judge(req)
	switch {
	case fault == nil || fault.kind == dropReply || fault.kind == swallowReply:
		s.expect(req, fault)
		return req.forward(s.toServer, s.fromClient)
	case fault.kind == injectError:
		s.queue.push(&owed{frames: 1, fault: fault})
		if _, err := s.toServer.WriteString(brokenCommand); err != nil {
			return err
		}
		return req.forward(io.Discard, s.fromClient)
	case fault.kind == holdRequest:
		return s.hold(req, fault)
	}
	err := s.toServer.Flush()
	s.queue.whenEmpty(func() { fault.fire(); s.hangUp() })
	return errors.Join(errAside, err)
}

// expect notes what the server will say to a command.
func (s *session) expect(req *request, fault *Fault) {
	answer := &owed{frames: 1, fault: fault}
	if word := strings.ToLower(req.verb); isConfirmation(word) {
		s.subscribed.Store(true)
		answer.word, answer.frames = word, max(req.args-1, 1)
	}
	s.queue.push(answer)
}

// hold takes a command out of the connection, lets the client go, and has it delivered when it is released.
func (s *session) hold(req *request, fault *Fault) error {
	var frame bytes.Buffer
	if err := errors.Join(s.toServer.Flush(), req.forward(&frame, s.fromClient)); err != nil {
		fault.held.finished <- err
		return err
	}
	s.held.Store(true)
	s.running.Go(func() {
		defer s.close()
		fault.held.finished <- s.deliver(fault, frame.Bytes())
	})
	s.queue.whenEmpty(func() {
		s.dark.Store(true)
		fault.fire()
		s.client.CloseWrite()
	})
	return errAside
}

// deliver waits for the release of a held command, sends it, and returns when it was answered.
func (s *session) deliver(fault *Fault, frame []byte) error {
	select {
	case <-fault.held.released:
	case <-s.done:
		return errGone
	}
	answered := make(chan struct{})
	s.queue.push(&owed{frames: 1, answered: answered})
	if _, err := s.server.Write(frame); err != nil {
		return fmt.Errorf("redistest: release: %w", err)
	}
	select {
	case <-answered:
		s.proxy.record("release " + s.proxy.titleOf(fault))
		return nil
	case <-s.serverGone:
	case <-s.done:
	}
	return errGone
}

// swallows says whether what passes now is lost. It marks the connection: after a gap nothing may arrive.
func (s *session) swallows() bool {
	if s.proxy.silent() != nil {
		s.dark.Store(true)
	}
	return s.dark.Load()
}

// untilAudible waits until the ends of the connection can hear each other again, or the session is closed.
func (s *session) untilAudible() {
	if silence := s.proxy.silent(); silence != nil {
		select {
		case <-silence:
		case <-s.done:
		}
	}
}

// sink is the way out to one side.
type sink struct {
	session *session
	conn    net.Conn
}

// Write sends b, or loses it without a word.
func (k *sink) Write(b []byte) (int, error) {
	if k.session.swallows() {
		return len(b), nil
	}
	return k.conn.Write(b)
}

// source reads from one side. Whenever that may take a while, everything that is on its way to the other side is sent
// first: that keeps pipelines together without ever holding a byte back.
type source struct {
	conn    io.Reader
	pending *bufio.Writer
}

// Read flushes, then reads.
func (c *source) Read(b []byte) (int, error) {
	if err := c.pending.Flush(); err != nil {
		return 0, err
	}
	return c.conn.Read(b)
}
