package heap

import (
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

// percent is the setting of the moment.
func percent() int {
	now := debug.SetGCPercent(100)
	debug.SetGCPercent(now)
	return now
}

func TestFloorHoldsForASmallHeapAndNotForALargeOne(t *testing.T) {
	t.Setenv("GOGC", "")
	defer debug.SetGCPercent(100)
	Pace(64<<20, 128<<20)
	require.Greater(t, percent(), 200, "a few live megabytes")
	large := make([]*[1 << 10]byte, 256<<10)
	for i := range large {
		large[i] = new([1 << 10]byte)
	}
	for i := 0; percent() != 100 && i < 100; i++ { // the finalizer runs soon after a collection
		runtime.GC()
		runtime.Gosched()
	}
	require.Equal(t, 100, percent(), "256 live megabytes")
	runtime.KeepAlive(large)
}

func TestPercentage(t *testing.T) {
	const mib, floor = 1 << 20, 16 << 20
	tuner := &tuner{floor: floor, plenty: 128 * mib}
	for looked, garbage := range map[uint64]uint64{
		0: floor, mib: floor, 3 * mib: floor, 4 * mib: floor, 5 * mib: 20 * mib, 8 * mib: 32 * mib,
		40 * mib: 128 * mib, 100 * mib: 128 * mib, 200 * mib: 200 * mib,
	} {
		percent := uint64(tuner.percentage(looked))
		goal := max(looked+looked*percent/100, smallest*percent/100) // https://go.dev/src/runtime/mgcpacer.go
		require.InDelta(t, looked+garbage, goal, mib+1, "%d MiB", looked/mib)
	}
}

func TestGOGCIsLeftAlone(t *testing.T) {
	t.Setenv("GOGC", "50")
	Pace(64<<20, 128<<20)
	require.Equal(t, 100, percent())
}
