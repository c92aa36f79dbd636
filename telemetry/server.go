package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// maxScrapes bounds how many scrapes are answered at the same time; others are told to come back.
const maxScrapes = 8

// Handler serves /metrics, /healthz and /readyz for a worker.
func (m *Metrics) Handler(worker Subject) http.Handler {
	m.ours.MustRegister(&gauges{worker: worker})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		if err := worker.Turns(ctx); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if why := worker.NotReady(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// newServer returns a server that no client can keep busy: a worker has better uses for memory and file descriptors.
func newServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler: handler, MaxHeaderBytes: 16 << 10,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 10 * time.Second, // what is asked of Redis ends within two
		IdleTimeout:  30 * time.Second,
	}
}

// Serve serves the handler on an address until ctx ends. That the address cannot be had is an error at once, unless the worker
// that this one replaces still has it: then it is tried again until it can.
func Serve(ctx context.Context, addr string, handler http.Handler, log *slog.Logger) (wait func(), err error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil && !errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("BOBBIN_HTTP_ADDR=%q: %w", addr, err)
	}
	if err != nil {
		log.Warn("the address for metrics is taken, by the worker that this one replaces perhaps; trying on", "address", addr)
	}
	server := newServer(handler)
	var serving sync.WaitGroup
	serving.Go(func() {
		for listener == nil && ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(500 * time.Millisecond):
				listener, _ = net.Listen("tcp", addr)
			}
		}
		if listener == nil {
			return
		}
		log.Info("metrics and health", "address", listener.Addr().String())
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("metrics are served no more", "error", err)
		}
	})
	serving.Go(func() {
		<-ctx.Done()
		_ = server.Close()
	})
	return serving.Wait, nil
}
