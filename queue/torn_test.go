package queue_test

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/queue"
)

// A crash of Redis that tears a script's writes, at any of them, loses nothing and doubles nothing: neither with the next start, nor
// with the one after that, when Redis would run the half that it had left out.
func TestWhatACrashToreStaysAway(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"commit", "commit of one", "cancel", "reap"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for cut, more := 0, true; more; cut++ {
				t.Run(strconv.Itoa(cut), func(t *testing.T) { more = verbs[name].torn(t, cut) })
			}
		})
	}
}

// torn has a verb called, as the last that Redis wrote, and the write torn in one of its commands. It says whether that has so many.
func (v verb) torn(t *testing.T, cut int) bool {
	t.Helper()
	server := redistest.Real(t, redistest.WithPersistence(redistest.AOFAlways))
	s := open(t, server)
	held := v.setup(s)
	before := len(read(t, server.AOF()))
	require.NoError(t, v.call(s, held))
	server.Kill()
	written := read(t, server.AOF())
	ends := commandEnds(t, written[before:])
	if cut == len(ends) {
		return false
	}
	why := fmt.Sprintf("cut off after %q", written[before:before+ends[cut]])
	require.NoError(t, os.Truncate(server.AOF(), int64(before+ends[cut]-1)))
	server.Start()
	s.reconnected()
	asked, err := s.ForgetTorn(s.ctx)
	require.NoError(t, err)
	require.True(t, asked)
	require.Eventually(t, server.Rewritten, patience, time.Millisecond)
	require.NoError(t, v.call(s, held), why)
	if v.after != nil {
		v.after(s, why)
	}
	server.Kill()
	server.Start()
	s.reconnected()
	s.requireEnds([]string{"a", "b"}, why)
	return true
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	all, err := os.ReadFile(path)
	require.NoError(t, err)
	return all
}

// commandEnds returns where each command in a piece of an append-only file ends.
func commandEnds(t *testing.T, file []byte) (ends []int) {
	t.Helper()
	at := 0
	number := func() int {
		line, _, found := bytes.Cut(file[at:], []byte("\r\n"))
		require.True(t, found)
		at += len(line) + 2
		n, err := strconv.Atoi(string(line[1:]))
		require.NoError(t, err)
		return n
	}
	for at < len(file) {
		for range number() {
			at += number() + 2
		}
		ends = append(ends, at)
	}
	return ends
}

// reconnected returns once the connections to a server that was killed have been found broken, and replaced.
func (s *store) reconnected() {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return s.Ping(s.ctx) == nil && s.raw.Ping(s.ctx).Err() == nil }, patience, time.Millisecond)
}

// Redis is asked once after each of its starts, and only where that is of use and wanted.
func TestForgetTornAsksOnce(t *testing.T) {
	t.Parallel()
	asked := func(s *store) bool {
		t.Helper()
		asked, err := s.ForgetTorn(s.ctx)
		require.NoError(t, err)
		return asked
	}
	server := redistest.Real(t, redistest.WithPersistence(redistest.AOFEverySec), redistest.WithConfig("auto-aof-rewrite-percentage", "0"))
	s := open(t, server)
	require.False(t, asked(s), "left to the operator")
	require.NoError(t, s.raw.ConfigSet(s.ctx, "auto-aof-rewrite-percentage", "100").Err())

	require.NoError(t, s.raw.Do(s.ctx, "ACL", "SETUSER", "worker", "on", "nopass", "~*", "&*", "+@all", "-bgrewriteaof").Err())
	refused, err := queue.Open(queue.Options{URL: strings.Replace(server.URL(), "://", "://worker:x@", 1)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, refused.Close()) })
	_, err = refused.ForgetTorn(s.ctx)
	require.ErrorIs(t, err, queue.ErrRefused)

	require.True(t, asked(s))
	require.Eventually(t, server.Rewritten, patience, time.Millisecond)
	require.False(t, asked(s))
	require.False(t, asked(open(t, redistest.Shared(t))), "it has no such file")
}
