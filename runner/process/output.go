package process

import (
	"bytes"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

const (
	maxTail = 4 << 10  // of what was written, kept for a crash
	maxLine = 64 << 10 // of one line
)

// output reads what a process writes to its descriptors 1 and 2, past whatever its shim catches: C libraries, programs it
// starts, its last words. Each line goes to whoever is listening at that moment.
type output struct {
	pipe *os.File
	done chan struct{}

	total atomic.Int64 // bytes that were read

	mu     sync.Mutex // held while reading and while lines are handed out
	listen func(line string)
	rest   []byte
	tail   []byte
	piece  [8 << 10]byte
}

// newOutput returns an output, and the end of the pipe that the process gets. listen hears what belongs to no execution.
func newOutput(listen func(string)) (*output, *os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	return &output{pipe: r, listen: listen, done: make(chan struct{})}, w, nil
}

// run reads until every holder of the other end has closed it, or close is called.
func (o *output) run() {
	defer close(o.done)
	raw, err := o.pipe.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool { return o.take(int(fd)) })
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flush()
}

// take reads what is there. It returns true at the end.
func (o *output) take(fd int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		n, err := syscall.Read(fd, o.piece[:])
		switch {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return false
		case err != nil || n == 0:
			return true
		default:
			o.add(o.piece[:n])
		}
	}
}

func (o *output) add(piece []byte) {
	o.total.Add(int64(len(piece)))
	o.tail = append(o.tail, piece...)
	if extra := len(o.tail) - maxTail; extra > 0 {
		o.tail = append(o.tail[:0], o.tail[extra:]...)
	}
	o.rest = append(o.rest, piece...)
	for {
		at := bytes.IndexByte(o.rest, '\n')
		if at < 0 && len(o.rest) < maxLine {
			return
		}
		if at < 0 {
			o.flush()
			return
		}
		o.listen(string(o.rest[:min(at, maxLine)]))
		o.rest = append(o.rest[:0], o.rest[at+1:]...)
	}
}

func (o *output) flush() {
	if len(o.rest) > 0 {
		o.listen(string(o.rest))
		o.rest = o.rest[:0]
	}
}

// attend hands the lines to listen from now on. What was written before still goes to the listener before: an execution
// that ends has its last lines.
func (o *output) attend(listen func(string)) {
	if raw, err := o.pipe.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { o.take(int(fd)) })
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flush()
	o.listen, o.tail = listen, o.tail[:0]
}

// last returns the last lines, as text that a result can carry.
func (o *output) last() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.TrimSpace(strings.ToValidUTF8(string(o.tail), "\uFFFD"))
}

func (o *output) close() { _ = o.pipe.Close() }
