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
	maxTail    = 4 << 10   // of what was written, kept for a crash
	maxLine    = 64 << 10  // of one line
	pipeHolds  = 64 << 10  // what may have been written before and not read: one pipe full
	maxUnasked = 256 << 10 // written while nothing runs; then nobody reads, and who writes must wait
)

// output reads what a process writes to its descriptors 1 and 2, past whatever its shim catches: C libraries, programs it
// starts, its last words. Each line goes to the execution that attends, and where none does, to stray.
//
// What an execution started may write on for ever. So no read is awaited with the mutex held, nobody drains more than a pipe
// holds, and what writes without end while nothing runs is left to wait: see flooded.
type output struct {
	pipe  *os.File
	stray func(line string)
	done  chan struct{} // closed when run has returned
	heed  chan struct{} // an execution attends
	shut  chan struct{} // closed by close
	once  sync.Once

	total   atomic.Int64 // bytes that were read
	flooded atomic.Bool  // too much came while nothing ran: the process is not worth keeping

	mu      sync.Mutex // held while one piece is read and its lines are handed out, which keeps them in order
	listen  func(line string)
	unasked int // bytes since an execution attended; -1 while one does, and before the first
	rest    []byte
	tail    []byte
	piece   [8 << 10]byte
}

// newOutput returns an output, and the end of the pipe that the process gets. stray hears what belongs to no execution.
func newOutput(stray func(string)) (*output, *os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	return &output{
		pipe: r, stray: stray, listen: stray, unasked: -1,
		done: make(chan struct{}), heed: make(chan struct{}, 1), shut: make(chan struct{}),
	}, w, nil
}

// run reads until every holder of the other end has closed it, or close is called.
func (o *output) run() {
	defer close(o.done)
	raw, err := o.pipe.SyscallConn()
	for over := false; err == nil && !over; {
		err = raw.Read(func(fd uintptr) bool {
			var n int
			n, over = o.take(int(fd))
			return over || n > 0
		})
		if o.flooded.Load() {
			select {
			case <-o.heed:
			case <-o.shut:
			}
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flush()
}

// take reads a piece of what is there and hands out its lines. It returns its size, and whether it was the end.
func (o *output) take(fd int) (n int, over bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := syscall.Read(fd, o.piece[:])
	for err == syscall.EINTR {
		n, err = syscall.Read(fd, o.piece[:])
	}
	switch {
	case err == syscall.EAGAIN:
		return 0, false
	case err != nil || n == 0:
		return 0, true
	}
	o.add(o.piece[:n])
	return n, false
}

func (o *output) add(piece []byte) {
	o.total.Add(int64(len(piece)))
	if o.unasked >= 0 {
		o.unasked += len(piece)
		o.flooded.Store(o.unasked > maxUnasked)
	}
	o.keep(piece)
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

// keep remembers what was written last. mu is held.
func (o *output) keep(piece []byte) {
	o.tail = append(o.tail, piece...)
	if extra := len(o.tail) - maxTail; extra > 0 {
		o.tail = append(o.tail[:0], o.tail[extra:]...)
	}
}

// note adds a line to the last ones that came another way: what a shim catches of descriptor 2 is in its log frames.
func (o *output) note(line string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.keep([]byte(line + "\n"))
}

func (o *output) flush() {
	if len(o.rest) > 0 {
		o.listen(string(o.rest))
		o.rest = o.rest[:0]
	}
}

// drain reads what was written before, and no more than that can be.
func (o *output) drain() {
	raw, err := o.pipe.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		for held := 0; held < pipeHolds; {
			n, _ := o.take(int(fd))
			if n == 0 {
				return
			}
			held += n
		}
	})
}

// attend hands the lines to listen from now on; to stray when it is nil. What was written before still goes to the listener
// before: an execution that ends has its last lines.
func (o *output) attend(listen func(string)) {
	o.drain()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flush()
	o.listen, o.unasked, o.tail = listen, -1, o.tail[:0]
	if listen == nil {
		o.listen, o.unasked = o.stray, 0
		return
	}
	o.flooded.Store(false)
	select {
	case o.heed <- struct{}{}:
	default:
	}
}

// last returns the last lines, as text that a result can carry: all of them, of a process that has ended.
func (o *output) last() string {
	o.drain()
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.TrimSpace(strings.ToValidUTF8(string(o.tail), "\uFFFD"))
}

func (o *output) close() {
	o.once.Do(func() { close(o.shut) })
	_ = o.pipe.Close()
}
