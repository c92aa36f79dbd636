package consumer

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/pprof"
	"sync"
	"syscall"

	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/execution"
)

// Main is a whole program: it runs a worker with the given options until it leaves, obeying the signals of the process, and
// exits with its exit code. It does not return.
func Main(o Options) {
	w, err := New(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(execution.ExitUsage)
	}
	code, err := w.RunWithSignals(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// RunWithSignals is [Worker.Run] with the process's signals: SIGTERM, SIGINT, SIGHUP (unless it is ignored, as under nohup) and
// SIGQUIT shut down, a second one leaves at once; SIGQUIT writes the stack of every goroutine to stderr first. SIGTSTP pauses,
// SIGCONT undoes that; SIGUSR1 logs what is running.
func (w *Worker) RunWithSignals(ctx context.Context) (int, error) {
	ctx, shutdown := context.WithCancel(ctx)
	defer shutdown()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, append(EndingSignals(), syscall.SIGTSTP, syscall.SIGCONT, syscall.SIGUSR1)...)
	ended := make(chan struct{})
	var listening sync.WaitGroup
	listening.Go(func() { w.obeySignals(signals, ended, shutdown) })
	code, err := w.Run(ctx)
	signal.Stop(signals)
	close(ended)
	listening.Wait()
	return code, err
}

// EndingSignals are those that shut a worker down. SIGHUP is not one of them where the process was started to survive it.
func EndingSignals() []os.Signal {
	signals := []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}

// obeySignals turns signals into what they mean until ended. The second request to end hurries the first.
func (w *Worker) obeySignals(signals <-chan os.Signal, ended <-chan struct{}, shutdown func()) {
	ending := false
	for {
		select {
		case <-ended:
			return
		case s := <-signals:
			switch s {
			case syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT:
				if s == syscall.SIGQUIT {
					_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
				}
				if ending {
					w.Hurry()
				}
				ending = true
				shutdown()
			case syscall.SIGTSTP:
				w.bySignal(ended, control.Pause)
			case syscall.SIGCONT:
				w.bySignal(ended, control.Resume)
			case syscall.SIGUSR1:
				w.bySignal(ended, control.Stacks)
			}
		}
	}
}

// bySignal hands the loop a command that came as a signal. The loop tells it apart, because SIGCONT undoes only the pause that
// SIGTSTP began.
func (w *Worker) bySignal(ended <-chan struct{}, verb control.Verb) {
	select {
	case w.inbox <- note{local: &control.Command{Verb: verb}, bySignal: true}:
	case <-ended:
	}
}

// Hurry makes a worker that shuts down leave at once; what still runs is released first.
func (w *Worker) Hurry() { poke(w.hurry) }
