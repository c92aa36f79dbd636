package redistest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

const childCase = "REDISTEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childCase) == "shared without Main" {
		os.Exit(m.Run())
	}
	os.Exit(Main(m))
}

// deadline bounds the wait for an event that does come.
const deadline = 30 * time.Second

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// setup puts a proxy before a server and a client before the proxy.
func setup(t *testing.T, s *Server) (context.Context, *Proxy, *redis.Client) {
	t.Helper()
	proxy := NewProxy(t, s.Addr)
	client := newClient(proxy.Addr)
	t.Cleanup(func() { client.Close() })
	return testContext(t), proxy, client
}

// wire is a client that says exactly what the test tells it to.
type wire struct {
	t *testing.T
	*net.TCPConn
	reader *bufio.Reader
}

func dial(t *testing.T, addr string) *wire {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(deadline)))
	return &wire{t, conn.(*net.TCPConn), bufio.NewReader(conn)}
}

// send writes commands, their words separated by spaces.
func (w *wire) send(commands ...string) {
	w.t.Helper()
	var b strings.Builder
	for _, command := range commands {
		words := strings.Fields(command)
		fmt.Fprintf(&b, "*%d\r\n", len(words))
		for _, word := range words {
			fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(word), word)
		}
	}
	_, err := io.WriteString(w, b.String())
	require.NoError(w.t, err)
}

// next reads one frame, with its lines separated by spaces.
func (w *wire) next() string {
	w.t.Helper()
	var b strings.Builder
	require.NoError(w.t, copyFrame(&b, w.reader))
	return strings.TrimSpace(strings.ReplaceAll(b.String(), "\r\n", " "))
}

func (w *wire) requireEOF() {
	w.t.Helper()
	_, err := w.reader.ReadByte()
	require.ErrorIs(w.t, err, io.EOF)
}

// requireSilent looks for a moment whether anything comes, where nothing ever will.
func (w *wire) requireSilent() {
	w.t.Helper()
	require.NoError(w.t, w.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	_, err := w.reader.ReadByte()
	require.ErrorIs(w.t, err, os.ErrDeadlineExceeded)
	require.NoError(w.t, w.SetReadDeadline(time.Now().Add(deadline)))
}

// child runs TestChild in a process of its own.
func child(t *testing.T, name string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$", "-test.v")
	cmd.Env = append(os.Environ(), childCase+"="+name, "TMPDIR="+t.TempDir())
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

// TestChild is the other process: it does nothing unless child asked for it.
func TestChild(t *testing.T) {
	t.Parallel()
	switch os.Getenv(childCase) {
	case "real":
		Real(t)
	case "shared", "shared without Main":
		s := Shared(t)
		fmt.Println("shared at", s.Addr)
	case "leak":
		started := make(chan struct{})
		go func() { close(started); select {} }()
		<-started
	case "orphan":
		fmt.Println("orphan at", Real(t).Addr)
		runtime.GC() // threads and goroutines that are not held come to their end
		select {}
	}
}

// fatal is a test that notes how it fails.
type fatal struct {
	testing.TB
	message string
}

func (f *fatal) Helper() {}

func (f *fatal) Fatal(args ...any) {
	f.message = fmt.Sprint(args...)
	runtime.Goexit()
}

func (f *fatal) Fatalf(format string, args ...any) { f.Fatal(fmt.Sprintf(format, args...)) }

// failure returns what a test says when it fails.
func failure(t *testing.T, test func(tb testing.TB)) string {
	t.Helper()
	tb := &fatal{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		test(tb)
	}()
	<-done
	return tb.message
}
