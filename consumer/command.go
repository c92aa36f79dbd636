package consumer

import (
	"context"

	"github.com/bobbin-run/bobbin/control"
)

// Do gives the worker a command from within the process, as an operator would from outside. Signals are told apart, because
// SIGCONT undoes only the pause that SIGTSTP began. It waits until the loop takes it or ctx is done.
func (w *Worker) Do(ctx context.Context, verb control.Verb, bySignal bool) {
	w.deliver(ctx, note{local: &control.Command{Verb: verb}, bySignal: bySignal})
}

// Hurry makes a worker that shuts down leave at once; what still runs is released first.
func (w *Worker) Hurry() { poke(w.hurry) }
