package consumer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// identity is what tells this process from every other, and finds out whether another one still lives.
type identity struct {
	host, bootID, pidNS, pidStart string
	pid                           int
}

var unsafeInHost = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

func thisProcess() identity {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "unknown"
	}
	pid := os.Getpid()
	started, _ := startTime(pid)
	return identity{
		host: unsafeInHost.ReplaceAllString(host, "-"), pid: pid,
		bootID: readTrimmed("/proc/sys/kernel/random/boot_id"), pidNS: readLink("/proc/self/ns/pid"), pidStart: started,
	}
}

// newIncarnation names one run of this process: "<host>-<pid>-<random>", never used twice.
func (id identity) newIncarnation() string {
	return fmt.Sprintf("%s-%d-%s", id.host, id.pid, strings.ToLower(rand.Text()[:10]))
}

func (id identity) fields() map[string]string {
	return map[string]string{
		"host": id.host, "pid": strconv.Itoa(id.pid), "boot_id": id.bootID, "pid_ns": id.pidNS, "pid_start": id.pidStart,
	}
}

// provablyGone says that the process a registration names ran on this machine, in this PID namespace, and is no more.
// Where anything is unknown the answer is no: then its lease decides. /proc may hide the processes of other users (proc(5),
// hidepid), so that one which cannot be seen there is asked after once more.
func (id identity) provablyGone(fields map[string]string) bool {
	pid, err := strconv.Atoi(fields["pid"])
	sameMachine := id.bootID != "" && fields["boot_id"] == id.bootID && id.pidNS != "" && fields["pid_ns"] == id.pidNS
	if err != nil || !sameMachine || fields["pid_start"] == "" || pid == id.pid && fields["pid_start"] == id.pidStart {
		return false
	}
	started, seen := startTime(pid)
	if !seen {
		return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
	}
	return started != fields["pid_start"]
}

// startTime returns when a process started, in clock ticks since boot: "" for one that has died and waits for its parent to
// notice. seen says that /proc shows the process. proc(5), /proc/pid/stat, fields 3 and 22; the name in field 2 may hold
// anything.
func startTime(pid int) (started string, seen bool) {
	stat := readTrimmed(fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	switch {
	case len(fields) < 20:
		return "", false
	case fields[0] == "Z" || fields[0] == "X":
		return "", true
	}
	return fields[19], true
}

func readTrimmed(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func readLink(path string) string {
	target, err := os.Readlink(path)
	if err != nil {
		return ""
	}
	return target
}

// residentBytes returns the memory this process holds, or 0 where that cannot be told. proc(5), /proc/pid/statm, field 2.
func residentBytes() int64 {
	fields := strings.Fields(readTrimmed("/proc/self/statm"))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// stamped is a log handler that adds the incarnation of the moment to every line: a fenced worker goes on under a new name.
type stamped struct {
	slog.Handler
	incarnation *atomic.Pointer[string]
}

// Handle adds the incarnation and passes the line on.
func (h stamped) Handle(ctx context.Context, line slog.Record) error {
	line.AddAttrs(slog.String("worker", *h.incarnation.Load()))
	return h.Handler.Handle(ctx, line)
}

// WithAttrs keeps the stamp.
func (h stamped) WithAttrs(attrs []slog.Attr) slog.Handler {
	return stamped{h.Handler.WithAttrs(attrs), h.incarnation}
}

// WithGroup keeps the stamp.
func (h stamped) WithGroup(name string) slog.Handler {
	return stamped{h.Handler.WithGroup(name), h.incarnation}
}
