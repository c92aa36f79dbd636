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

// Serve serves the handler on an address until ctx ends. That the address cannot be had is an error at once, unless it is taken
// and patient is set, because the worker that this one replaces may have it still: then it is tried again until it can, and
// the log says so now and then.
func Serve(ctx context.Context, addr string, handler http.Handler, patient bool, log *slog.Logger) (wait func(), err error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil && (!patient || !errors.Is(err, syscall.EADDRINUSE)) {
		return nil, fmt.Errorf("BOBBIN_HTTP_ADDR=%q: %w", addr, err)
	}
	server := newServer(handler)
	var serving sync.WaitGroup
	serving.Go(func() {
		if listener == nil {
			log.Info("the address for metrics is taken, by the worker that this one replaces perhaps; trying on", "address", addr)
			listener = listen(ctx, addr, log)
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
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second) // an answer on its way may arrive
		defer cancel()
		_ = server.Shutdown(ending)
		_ = server.Close()
	})
	return serving.Wait, nil
}

// listen tries until the address is to be had, or ctx ends; then it returns nil.
func listen(ctx context.Context, addr string, log *slog.Logger) net.Listener {
	for said := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
		listener, err := net.Listen("tcp", addr)
		if err == nil {
			return listener
		}
		if time.Since(said) >= time.Minute {
			said = time.Now()
			log.Error("the address for metrics is still taken; nobody can look at this worker", "address", addr, "error", err)
		}
	}
}
