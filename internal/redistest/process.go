package redistest

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	startTimeout = 60 * time.Second // a busy machine, a long AOF
	stopTimeout  = 20 * time.Second
	pollInterval = 5 * time.Millisecond
	pollTimeout  = 500 * time.Millisecond // whoever has our port need not speak Redis
	portAttempts = 20

	// Ports are taken from below the range that kernels give to outgoing connections. There, a client that dials the port
	// of a killed server again and again could be given that very port, and connect to itself.
	lowestPort, highestPort = 10_000, 30_000
)

var (
	errPortTaken = errors.New("the port is taken")
	errExited    = errors.New("redis-server exited")
)

// process is a redis-server with its directory. It is not safe for use by several goroutines.
type process struct {
	binary string
	dir    string
	port   int
	config []setting

	cmd     *exec.Cmd
	exited  chan struct{} // closed when cmd has ended
	running sync.WaitGroup
}

// openProcess starts a server in dir, on a port that nobody has.
func openProcess(binary, dir string, config []setting) (*process, error) {
	p := &process{binary: binary, dir: dir, config: config}
	err := errPortTaken
	for attempt := 0; attempt < portAttempts && errors.Is(err, errPortTaken); attempt++ {
		p.port = freePort()
		err = p.start()
	}
	return p, err
}

// reopen starts the server again on its own port, which somebody may be trying out at this moment.
func (p *process) reopen() error {
	err := errPortTaken
	for attempt := 0; attempt < portAttempts && errors.Is(err, errPortTaken); attempt++ {
		err = p.start()
	}
	return err
}

// freePort returns one that is free now. Another program may be faster: then the server says so, and we try another.
func freePort() int {
	for {
		port := lowestPort + rand.IntN(highestPort-lowestPort)
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			listener.Close()
			return port
		}
	}
}

func (p *process) addr() string { return fmt.Sprintf("127.0.0.1:%d", p.port) }

// start launches the server on its port and directory, and returns when it answers and has loaded its data.
func (p *process) start() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := p.writeConfig(); err != nil {
		return err
	}
	log, err := os.OpenFile(p.logPath(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	if err := p.launch(log); err != nil {
		return err
	}
	if err := p.ready(ctx); err != nil {
		p.kill()
		return err
	}
	return nil
}

// launch runs the server in a thread that does nothing else: the kernel kills the server when the thread that started it
// ends, which must be when this process does, and not when the Go runtime is done with a thread.
func (p *process) launch(log *os.File) error {
	p.cmd = exec.Command(p.binary, p.configPath())
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = dieWithParent()
	p.exited = make(chan struct{})
	started := make(chan error, 1)
	p.running.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.exited)
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.cmd.Wait()
		}
	})
	err := <-started
	if err != nil {
		p.running.Wait()
	}
	return err
}

// ready polls until the server answers, and it is ours: another program may have been faster to take the port.
func (p *process) ready(ctx context.Context) error {
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		info, err := askInfo(ctx, p.addr())
		if err == nil && loaded(info, p.cmd.Process.Pid) {
			return nil
		}
		if !p.signal(0) {
			return p.explain(errExited)
		}
		select {
		case <-p.exited:
		case <-poll.C:
		case <-ctx.Done():
			return p.explain(cmp.Or(err, ctx.Err()))
		}
	}
}

// loaded understands INFO. With a password configured it is refused, which is as ready as it gets for us.
func loaded(info string, pid int) bool {
	return strings.HasPrefix(info, "-NOAUTH") ||
		strings.Contains(info, fmt.Sprintf("process_id:%d\r\n", pid)) && strings.Contains(info, "\r\nloading:0\r\n")
}

func askInfo(ctx context.Context, addr string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	if _, err := io.WriteString(conn, "INFO\r\n"); err != nil {
		return "", err
	}
	var reply strings.Builder
	err = copyFrame(&reply, bufio.NewReader(conn))
	return reply.String(), err
}

// explain adds what the server said last to an error.
func (p *process) explain(err error) error {
	log, _ := os.ReadFile(p.logPath())
	if bytes.Contains(log, []byte("Address already in use")) {
		return fmt.Errorf("redis-server on port %d: %w", p.port, errPortTaken)
	}
	return fmt.Errorf("redis-server on port %d: %w\n%s", p.port, err, log[max(0, len(log)-2000):])
}

// kill ends the server without notice, if it runs.
func (p *process) kill() { p.end(syscall.SIGKILL) }

// stop ends it in order.
func (p *process) stop() error {
	p.signal(syscall.SIGCONT)
	if p.end(syscall.SIGTERM) {
		return nil
	}
	p.kill()
	return p.explain(fmt.Errorf("no end %v after SIGTERM, so it was killed", stopTimeout))
}

// end sends a signal and waits for the server's end, for a while.
func (p *process) end(signal syscall.Signal) bool {
	p.signal(signal)
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-p.exited:
		p.running.Wait()
		return true
	case <-timer.C:
		return false
	}
}

// signal sends a signal to a server that runs.
func (p *process) signal(signal syscall.Signal) bool {
	select {
	case <-p.exited:
		return false
	default:
		return p.cmd.Process.Signal(signal) == nil
	}
}

func (p *process) configPath() string { return filepath.Join(p.dir, "redis.conf") }
func (p *process) logPath() string    { return filepath.Join(p.dir, "redis.log") }

func (p *process) writeConfig() error {
	var file bytes.Buffer
	fmt.Fprintf(&file, "bind 127.0.0.1\nport %d\ndir %s\n", p.port, strconv.Quote(p.dir))
	for _, s := range p.config {
		fmt.Fprintf(&file, "%s %s\n", s.key, cmp.Or(s.value, `""`))
	}
	return os.WriteFile(p.configPath(), file.Bytes(), 0o600)
}
