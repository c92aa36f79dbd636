package heap

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// garbage is what nothing holds any more when the next is made.
var garbage *[1 << 10]byte

// percent is the setting of the moment.
func percent() int {
	now := debug.SetGCPercent(100)
	debug.SetGCPercent(now)
	return now
}

func TestPaceKnowsSmallHeapsFromLargeOnes(t *testing.T) {
	t.Setenv("GOGC", "")
	defer debug.SetGCPercent(100)
	Pace(16<<20, 128<<20)
	for i := 0; percent() <= 200 && i < 1000; i++ { // the finalizer runs soon after a collection
		for range 1 << 10 {
			garbage = new([1 << 10]byte)
		}
	}
	require.Greater(t, percent(), 200, "a few live megabytes and much garbage")
	large := make([]*[1 << 10]byte, 256<<10)
	for i := range large {
		large[i] = new([1 << 10]byte)
	}
	const most = 130 // Go's 100, and what is not worth a change
	for i := 0; percent() > most && i < 100; i++ {
		runtime.GC()
		runtime.Gosched()
	}
	require.LessOrEqual(t, percent(), most, "256 live megabytes")
	runtime.KeepAlive(large)
}

func TestPercentage(t *testing.T) {
	const mib, few, plenty = 1 << 20, 16 << 20, 64 << 20
	for _, c := range []struct {
		about                string
		rate, looked, expect uint64 // bytes a second, bytes
	}{
		{"nothing yet", 0, 0, 4 * mib},
		{"slow: Go's default", mib, 3 * mib, 4 * mib},
		{"slow, beside a large heap: Go's default", mib, 40 * mib, 40 * mib},
		{"a tenth of a second", 80 * mib, mib, 8 * mib},
		{"a tenth of a second for every 4 MiB", 80 * mib, 6 * mib, 12 * mib},
		{"fast", 2000 * mib, mib, few},
		{"fast, beside a larger heap", 2000 * mib, 5 * mib, 20 * mib},
		{"fast, beside a large heap", 2000 * mib, 40 * mib, plenty},
		{"fast, beside a very large heap", 2000 * mib, 100 * mib, 100 * mib},
	} {
		now := time.Now()
		tuner := &tuner{few: few, plenty: plenty, at: now.Add(-3 * time.Second), allocated: 7 * mib}
		percent := uint64(tuner.percentage(now, c.looked, 7*mib+3*c.rate))
		goal := max(c.looked+c.looked*percent/100, smallest*percent/100) // https://go.dev/src/runtime/mgcpacer.go
		require.InDelta(t, c.looked+c.expect, goal, mib+1, c.about)
		require.Equal(t, uint64(tuner.percentage(now.Add(time.Second), c.looked, 7*mib+4*c.rate)), percent, "%s: the rate is that since the last look", c.about)
	}
}

func TestWhatAProcessBeginsWithIsNoRate(t *testing.T) {
	tuner := &tuner{few: 16 << 20, plenty: 64 << 20}
	require.LessOrEqual(t, tuner.percentage(time.Now(), 0, 1<<30), 125, "5 MiB, of which Go takes 4 to be there")
}

func TestGOGCIsLeftAlone(t *testing.T) {
	t.Setenv("GOGC", "50")
	Pace(64<<20, 128<<20)
	require.Equal(t, 100, percent())
}
