package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/bobbin-run/bobbin/internal/leash"
)

// Server is a redis-server that belongs to the bench.
type Server struct {
	Addr        string
	Client      *redis.Client
	persistence string
	process     *exec.Cmd
	dir         string
	exited      chan struct{}
}

// StartServer starts the redis-server at path on a free port, with nothing in it. fsync is "no" for no persistence, or a value
// of appendfsync: always, everysec.
func StartServer(ctx context.Context, path, fsync string) (*Server, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("bench: no free port: %w", err)
	}
	addr := listener.Addr().String()
	_ = listener.Close()
	dir, err := os.MkdirTemp("", "bobbin-bench-")
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	args := []string{"--port", port, "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--maxmemory-policy", "noeviction", "--daemonize", "no"}
	persistence := "no persistence"
	if fsync != "no" {
		args = append(args, "--appendonly", "yes", "--appendfsync", fsync)
		persistence = "appendfsync " + fsync
	}
	s := &Server{Addr: addr, dir: dir, persistence: persistence, process: exec.Command(path, args...), exited: make(chan struct{})}
	if err := leash.Start(s.process); err != nil {
		_ = os.RemoveAll(dir)
		return nil, fmt.Errorf("bench: start %s: %w", path, err)
	}
	go func() { // awaited by Close through exited
		_ = s.process.Wait()
		close(s.exited)
	}()
	s.Client = redis.NewClient(&redis.Options{
		Addr: addr, MaxRetries: -1, PoolSize: 32, ReadTimeout: time.Minute, WriteTimeout: time.Minute,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	if err := s.await(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Server) await(ctx context.Context) error {
	for range 200 {
		if s.Client.Ping(ctx).Err() == nil {
			return nil
		}
		select {
		case <-s.exited:
			return errors.New("bench: redis-server ended at once")
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(25 * time.Millisecond):
		}
	}
	return fmt.Errorf("bench: redis-server at %s does not answer", s.Addr)
}

// URL is the server's address as workers want it.
func (s *Server) URL() string { return "redis://" + s.Addr + "/0" }

// Close ends the server and removes its files.
func (s *Server) Close() {
	_ = s.Client.Close()
	_ = s.process.Process.Kill()
	<-s.exited
	_ = os.RemoveAll(s.dir)
}

// meter is what Redis has spent so far.
type meter struct {
	cpu      time.Duration // of its process
	commands int64
	scripts  int64 // calls of EVALSHA and EVAL
}

func (s *Server) meter(ctx context.Context) (m meter, err error) {
	info, err := s.Client.InfoMap(ctx, "cpu", "stats", "commandstats").Result()
	if err != nil {
		return m, fmt.Errorf("bench: %w", err)
	}
	for _, name := range []string{"used_cpu_sys", "used_cpu_user"} {
		seconds, _ := strconv.ParseFloat(info["CPU"][name], 64)
		m.cpu += time.Duration(seconds * float64(time.Second))
	}
	m.commands, _ = strconv.ParseInt(info["Stats"]["total_commands_processed"], 10, 64)
	for _, name := range []string{"cmdstat_evalsha", "cmdstat_eval"} {
		calls, _, _ := strings.Cut(strings.TrimPrefix(info["Commandstats"][name], "calls="), ",")
		n, _ := strconv.ParseInt(calls, 10, 64)
		m.scripts += n
	}
	return m, nil
}

// sent is how many commands clients have sent that workers send: those inside of scripts are not counted. Commands that a
// worker sends only once are left out.
func (s *Server) sent(ctx context.Context) (int64, error) {
	info, err := s.Client.InfoMap(ctx, "commandstats").Result()
	if err != nil {
		return 0, fmt.Errorf("bench: %w", err)
	}
	total := int64(0)
	for _, name := range []string{"evalsha", "eval", "blmove", "ping", "xlen", "xinfo|groups", "publish"} {
		calls, _, _ := strings.Cut(strings.TrimPrefix(info["Commandstats"]["cmdstat_"+name], "calls="), ",")
		n, _ := strconv.ParseInt(calls, 10, 64)
		total += n
	}
	return total, nil
}

func (m meter) since(before meter) meter {
	return meter{m.cpu - before.cpu, m.commands - before.commands, m.scripts - before.scripts}
}

// flush empties the server and waits until it is empty.
func (s *Server) flush(ctx context.Context) error { return s.Client.Do(ctx, "flushall", "sync").Err() }
