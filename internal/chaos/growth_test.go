package chaos

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
)

// What a worker may grow by, between a tenth of a storm and its end: connections and goroutines that come and go with the faults, the
// collector's pace, and what is remembered of the executions that ended.
var room = map[string]int64{
	"goroutines": 16, "file descriptors": 12, "threads": 8, "resident bytes": 48 << 20,
}

// spare adds a worker that suffers every fault but its end, so that what grows in it can be seen: the others never live long.
func (s *storm) spare() {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	require.NoError(s.t, err)
	s.metrics = listener.Addr().String()
	require.NoError(s.t, listener.Close())
	s.add(s.proxy.URL(), "BOBBIN_HTTP_ADDR="+s.metrics).spared = true
}

// measure takes the figures of the spared worker, after the same work each time: at the beginning (0) or the end (1).
func (s *storm) measure(when int) {
	s.t.Helper()
	if s.metrics == "" {
		return
	}
	s.submit(100, s.inPython(100)) // every interpreter that it may have is there, and every connection
	s.settle()
	least := map[string]int64{}
	for range 20 { // what is not a leak goes down again
		for figure, n := range s.figures() {
			if before, ok := least[figure]; !ok || n < before {
				least[figure] = n
			}
		}
		pause(context.Background(), lease/10)
	}
	for figure, n := range least {
		both := s.seen.Growth[figure]
		both[when] = n
		s.seen.Growth[figure], s.seen.Room[figure] = both, room[figure]
	}
}

// figures asks the spared worker itself.
func (s *storm) figures() map[string]int64 {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "http://"+s.metrics+"/metrics", http.NoBody)
	require.NoError(s.t, err)
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	require.NoError(s.t, err, "the spared worker is there to the end")
	defer func() { _ = response.Body.Close() }()
	figures := map[string]int64{}
	names := map[string]string{
		"go_goroutines": "goroutines", "process_open_fds": "file descriptors", "go_threads": "threads",
		"process_resident_memory_bytes": "resident bytes",
	}
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		var n float64
		if _, err := fmt.Sscan(value, &n); err == nil && names[name] != "" {
			figures[names[name]] = int64(n)
		}
	}
	require.Len(s.t, figures, len(names))
	return figures
}
