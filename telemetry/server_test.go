package telemetry

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/queue"
)

// A client that does not read, does not write or does nothing is let go in the end.
func TestServerLetsGoOfEveryClient(t *testing.T) {
	t.Parallel()
	s := newServer(http.NotFoundHandler())
	require.Positive(t, s.ReadHeaderTimeout)
	require.Positive(t, s.ReadTimeout)
	require.Positive(t, s.WriteTimeout)
	require.Positive(t, s.IdleTimeout)
}

// idle is a worker of which nothing is known.
type idle struct{}

func (idle) Condition() consumer.Condition                        { return consumer.Condition{} }
func (idle) Depths(context.Context) (*queue.Depths, int64, error) { return nil, 0, context.Canceled }
func (idle) Turns(context.Context) error                          { return nil }
func (idle) NotReady() string                                     { return "" }

func TestServerRefusesLargeHeaders(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	ctx, stop := context.WithCancel(t.Context())
	wait, err := Serve(ctx, address, New("1", "bobbin", "q").Handler(idle{}), false, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer wait()
	defer stop()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = fmt.Fprintf(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", strings.Repeat("x", 64<<10))
	require.NoError(t, err)
	status, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, status, "431")
}

// hanging is a collector that takes until it is let go.
type hanging struct{ begun, release chan struct{} }

func (hanging) Describe(chan<- *prometheus.Desc) {}
func (h hanging) Collect(chan<- prometheus.Metric) {
	h.begun <- struct{}{}
	<-h.release
}

func TestScrapesAreBounded(t *testing.T) {
	t.Parallel()
	m := New("1", "bobbin", "q")
	h := hanging{make(chan struct{}), make(chan struct{})}
	m.registry.MustRegister(h)
	handler := m.Handler(idle{})
	scrape := func() int {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		return w.Code
	}
	codes := make(chan int, maxScrapes)
	for range maxScrapes {
		go func() { codes <- scrape() }()
		<-h.begun
	}
	require.Equal(t, http.StatusServiceUnavailable, scrape())
	close(h.release)
	for range maxScrapes {
		require.Equal(t, http.StatusOK, <-codes)
	}
}
