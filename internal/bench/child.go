package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/bobbin-run/bobbin/internal/leash"
)

// child is a worker in a process of its own.
type child struct {
	cmd *exec.Cmd
	lab *Lab
}

// start starts a worker and waits until it is registered. Settings are variables of the environment: "BOBBIN_CONCURRENCY=16".
func (l *Lab) start(ctx context.Context, settings ...string) (*child, error) {
	before, err := l.Redis.Client.ZCard(ctx, keys.Workers).Result()
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	cmd := exec.Command(l.Worker[0], l.Worker[1:]...)
	cmd.Env = append(os.Environ(), "BOBBIN_REDIS_URL="+l.Redis.URL(), "BOBBIN_PREFIX="+prefix, "BOBBIN_LOG_LEVEL=error")
	cmd.Env = append(cmd.Env, settings...)
	cmd.Stderr = l.Log
	if err := leash.Start(cmd); err != nil {
		return nil, fmt.Errorf("bench: start a worker: %w", err)
	}
	c := &child{cmd, l}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		n, err := l.Redis.Client.ZCard(ctx, keys.Workers).Result()
		if err != nil || ctx.Err() != nil {
			c.kill()
			return nil, errors.Join(err, ctx.Err())
		}
		if n > before {
			return c, nil
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			c.kill()
			return nil, err
		}
	}
	c.kill()
	return nil, errors.New("bench: the worker did not register within 20 s")
}

// stop ends the worker in order.
func (c *child) stop() error {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("bench: worker: %w", err)
	}
	return nil
}

func (c *child) kill() {
	leash.Kill(c.cmd)
	_ = c.cmd.Wait()
}

// residentBytes is the memory of the worker's process.
func (c *child) residentBytes() (int64, error) {
	if runtime.GOOS != "linux" {
		return 0, errors.New("bench: memory of another process is read from /proc, which is Linux only")
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("bench: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("bench: /proc says nothing of VmRSS")
}

// cpu is the processor time that the worker has used.
func (c *child) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("bench: %w", err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, errors.New("bench: /proc/…/stat is too short")
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
	return time.Duration(user+system) * tick, nil
}
