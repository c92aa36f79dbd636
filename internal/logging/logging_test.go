package logging_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/internal/logging"
)

const escape = "\x1b["

// logs returns what a logger made so writes of one line at each level.
func logs(format, level string, colour bool) string {
	var b strings.Builder
	log := logging.New(&b, format, level, colour)
	log.Debug("spun")
	log.Info("wound", "bobbin", 7)
	log.Warn("frayed")
	log.Error("snapped")
	return b.String()
}

func TestLevels(t *testing.T) {
	t.Parallel()
	for level, lines := range map[string]int{"debug": 4, "info": 3, "warn": 2, "error": 1, "loud": 3, "": 3} {
		for _, format := range []string{"text", "json"} {
			require.Equal(t, lines, strings.Count(logs(format, level, false), "\n"), "%s %s", format, level)
		}
	}
}

func TestJSONIsOneObjectPerLineAndNeverColoured(t *testing.T) {
	t.Parallel()
	var line struct {
		Level, Msg string
		Bobbin     int
	}
	out := logs("json", "info", true)
	require.NotContains(t, out, escape)
	first, _, _ := strings.Cut(out, "\n")
	require.NoError(t, json.Unmarshal([]byte(first), &line))
	require.Equal(t, "INFO", line.Level)
	require.Equal(t, "wound", line.Msg)
	require.Equal(t, 7, line.Bobbin)
}

// Not parallel: it sets NO_COLOR.
func TestColour(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	require.Contains(t, logs("text", "info", true), escape)
	require.NotContains(t, logs("text", "info", false), escape)
	require.Contains(t, logs("text", "info", false), "INF wound bobbin=7")
	t.Setenv("NO_COLOR", "1")
	require.NotContains(t, logs("text", "info", true), escape)
}
