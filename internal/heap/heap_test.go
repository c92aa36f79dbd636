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
	KeepFloor(64 << 20)
	require.Greater(t, percent(), 200, "a few live megabytes")
	large := make([]*[1 << 10]byte, 256<<10)
	for i := range large {
		large[i] = new([1 << 10]byte)
	}
	for i := 0; percent() != defaultPercent && i < 100; i++ { // the finalizer runs soon after a collection
		runtime.GC()
		runtime.Gosched()
	}
	require.Equal(t, defaultPercent, percent(), "256 live megabytes")
	runtime.KeepAlive(large)
}

func TestGOGCIsLeftAlone(t *testing.T) {
	t.Setenv("GOGC", "50")
	KeepFloor(64 << 20)
	require.Equal(t, 100, percent())
}
