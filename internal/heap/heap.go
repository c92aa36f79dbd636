// Package heap makes the garbage collector wait until there is something to collect.
//
// A worker's live heap is a few megabytes and turns over hundreds of them a second, so that Go's default, which collects when
// the heap has doubled, collects a hundred times a second: a third of the processor. Go has no setting for a smallest heap;
// this package sets the percentage after each collection so that at least a floor of garbage may gather. A large live heap is
// collected when it has tripled.
package heap

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// defaultPercent is for large heaps: memory for time, as the floor is for small ones. Marking the stacks of ten thousand waiting
// executions is what a collection costs then.
const defaultPercent = 200

// KeepFloor lets at least so many bytes of garbage gather between two collections, from now on for this whole process. Where
// the environment sets GOGC it does nothing: somebody knows better.
func KeepFloor(bytes uint64) {
	if os.Getenv("GOGC") != "" {
		return
	}
	t := &tuner{floor: bytes, percent: 100}
	t.tune()
}

// tuner belongs to the goroutine of the finalizers.
type tuner struct {
	floor   uint64
	percent int
}

// tune sets the percentage for the next collection, and has itself called after it.
func (t *tuner) tune() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	want := defaultPercent
	if bytes := live[0].Value.Uint64(); bytes < t.floor {
		want = int(max(defaultPercent, min(100*t.floor/max(bytes, 1<<20), 10_000)))
	}
	if want > t.percent*5/4 || want < t.percent*4/5 { // setting it stops the world for a moment
		debug.SetGCPercent(want)
		t.percent = want
	}
	type sentinel struct{ _ [16]byte }
	runtime.SetFinalizer(&sentinel{}, func(*sentinel) { t.tune() })
}
