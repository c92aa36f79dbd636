// Package heap makes the garbage collector wait until there is something to collect.
//
// A busy worker's live heap is a few megabytes and turns over hundreds of them a second, so that Go's default, which collects when
// the heap has doubled, collects a hundred times a second: a third of the processor. Go has no setting for how often; this package
// sets the percentage after each collection so that the next comes about a tenth of a second later, or as much later as there is more
// to look at: with ten thousand waiting executions that is their stacks above all. What is allocated slowly gets no more than Go's
// default: memory that is new to a process comes from the kernel page by page, and on a virtual machine a page may cost more
// than it costs to collect what would fill it again. And there is a limit to what may gather, however fast.
package heap

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// pause is how long garbage may gather before a collection that has no more than [smallest] to look at.
const pause = 100 * time.Millisecond

// times is how many times what a collection looks at may gather as garbage before the next.
const times = 4

// smallest is the least that Go takes a percentage of, https://go.dev/src/runtime/mgcpacer.go (heapMinimum): the one that is right for
// a heap of 1 MiB otherwise would let four times as much gather. It is also the least garbage that Go collects.
const smallest = 4 << 20

// Pace has a collection follow the last one, from now on and in this whole process, after 100 ms for every 4 MiB that the last one
// looked at (100 ms at least): sooner where few bytes of garbage have gathered and four times what was looked at, or where plenty
// have; and never before Go's default would have it. Where the environment sets GOGC it does nothing: somebody knows better.
func Pace(few, plenty uint64) {
	if os.Getenv("GOGC") != "" {
		return
	}
	t := &tuner{few: few, plenty: plenty, percent: 100}
	t.tune()
}

// tuner belongs to the goroutine of the finalizers.
type tuner struct {
	few, plenty uint64
	percent     int
	at          time.Time // when it looked last; at first long ago, so that what a process allocates to begin with is no rate
	allocated   uint64    // until then
}

// tune sets the percentage for the next collection, and has itself called after it.
func (t *tuner) tune() {
	heap := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(heap)
	want := t.percentage(time.Now(), heap[0].Value.Uint64()+heap[1].Value.Uint64(), heap[2].Value.Uint64())
	if want > t.percent*5/4 || want < t.percent*4/5 { // setting it stops the world for a moment
		debug.SetGCPercent(want)
		t.percent = want
	}
	type sentinel struct{ _ [16]byte }
	runtime.SetFinalizer(&sentinel{}, func(*sentinel) { t.tune() })
}

// percentage is that of Go: how much garbage may gather, of what the last collection looked at. Allocated is since the process began.
func (t *tuner) percentage(now time.Time, looked, allocated uint64) int {
	rate := float64(allocated-t.allocated) / max(now.Sub(t.at).Seconds(), 0.001)
	t.at, t.allocated = now, allocated
	due := uint64(rate * pause.Seconds() * max(1, float64(looked)/smallest))
	looked = max(looked, 1<<20)
	garbage := max(looked, smallest, min(due, max(t.few, min(times*looked, t.plenty))))
	return int(min(100*garbage/looked, 100*(looked+garbage)/smallest))
}
