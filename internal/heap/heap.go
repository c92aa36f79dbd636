// Package heap makes the garbage collector wait until there is something to collect.
//
// A worker's live heap is a few megabytes and turns over hundreds of them a second, so that Go's default, which collects when
// the heap has doubled, collects a hundred times a second: a third of the processor. Go has no setting for a smallest heap;
// this package sets the percentage after each collection so that at least a floor of garbage may gather, and several times what a
// collection looks at, up to a limit: with ten thousand waiting executions that is their stacks above all. From there on, Go's default.
package heap

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// times is how many times what a collection looks at may gather as garbage before the next.
const times = 4

// smallest is the least that Go takes a percentage of, https://go.dev/src/runtime/mgcpacer.go (heapMinimum): the one that is right for
// a heap of 1 MiB otherwise would let four times the floor gather. Memory that is new to the process comes from the kernel page by
// page, and on a virtual machine a page may cost more than it costs to collect what would fill it again.
const smallest = 4 << 20

// Pace lets at least floor bytes of garbage gather between two collections, and several times what the last one looked at up to
// plenty bytes, from now on for this whole process. Where the environment sets GOGC it does nothing: somebody knows better.
func Pace(floor, plenty uint64) {
	if os.Getenv("GOGC") != "" {
		return
	}
	t := &tuner{floor: floor, plenty: plenty, percent: 100}
	t.tune()
}

// tuner belongs to the goroutine of the finalizers.
type tuner struct {
	floor, plenty uint64
	percent       int
}

// tune sets the percentage for the next collection, and has itself called after it.
func (t *tuner) tune() {
	looked := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}}
	metrics.Read(looked)
	want := t.percentage(looked[0].Value.Uint64() + looked[1].Value.Uint64())
	if want > t.percent*5/4 || want < t.percent*4/5 { // setting it stops the world for a moment
		debug.SetGCPercent(want)
		t.percent = want
	}
	type sentinel struct{ _ [16]byte }
	runtime.SetFinalizer(&sentinel{}, func(*sentinel) { t.tune() })
}

// percentage is that of Go: how much garbage may gather, of what the last collection looked at.
func (t *tuner) percentage(looked uint64) int {
	looked = max(looked, 1<<20)
	garbage := max(looked, t.floor, min(times*looked, t.plenty))
	return int(min(100*garbage/looked, 100*(looked+garbage)/smallest))
}
