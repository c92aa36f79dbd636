package config_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/config"
)

// clean removes our variables from the environment for one test.
func clean(t *testing.T) {
	t.Helper()
	for _, entry := range os.Environ() {
		if name, value, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "BOBBIN_") {
			t.Setenv(name, value) // restored afterwards
			require.NoError(t, os.Unsetenv(name))
		}
	}
}

func TestDefaults(t *testing.T) {
	clean(t)
	c, err := config.Load()
	require.NoError(t, err)
	require.Equal(t, &config.Config{
		RedisURL: "redis://127.0.0.1:6379/0", Prefix: "bobbin", Queue: "default", Concurrency: 4, Timeout: 300 * time.Second,
		CancelGrace: 10 * time.Second, ShutdownTimeout: 25 * time.Second, StuckLimit: 1, Lease: 10 * time.Second,
		MaxRecoveries: 3, ContextMaxBytes: 1 << 20, ResultMaxBytes: 1 << 20, LogLevel: "info", LogFormat: "text",
	}, c)
}

func TestReadsEveryForm(t *testing.T) {
	clean(t)
	t.Setenv("BOBBIN_REDIS_URL", "unix:///run/redis.sock?db=2")
	t.Setenv("BOBBIN_TIMEOUT", "1m30s")
	t.Setenv("BOBBIN_RESULT_MAX_BYTES", "64KiB")
	t.Setenv("BOBBIN_CONTEXT_MAX_BYTES", "2000")
	t.Setenv("REDIS_URL", "redis://wrong:1") // not ours
	c, err := config.Load()
	require.NoError(t, err)
	require.Equal(t, "unix:///run/redis.sock?db=2", c.RedisURL)
	require.Equal(t, 90*time.Second, c.Timeout)
	require.EqualValues(t, 65536, c.ResultMaxBytes)
	require.EqualValues(t, 2000, c.ContextMaxBytes)
}

func TestNamesEveryWrongVariableAtOnce(t *testing.T) {
	clean(t)
	wrong := map[string]string{
		"BOBBIN_REDIS_URL": "http://127.0.0.1", "BOBBIN_PREFIX": "a b", "BOBBIN_QUEUE": "{x}", "BOBBIN_CONCURRENCY": "zero",
		"BOBBIN_TIMEOUT": "300", "BOBBIN_CANCEL_GRACE": "-1s", "BOBBIN_SHUTDOWN_TIMEOUT": "soon", "BOBBIN_STUCK_LIMIT": "0",
		"BOBBIN_LEASE": "1ms", "BOBBIN_MAX_RECOVERIES": "-1", "BOBBIN_CONTEXT_MAX_BYTES": "1 potato",
		"BOBBIN_RESULT_MAX_BYTES": "9999GiB", "BOBBIN_LOG_LEVEL": "loud", "BOBBIN_LOG_FORMAT": "xml",
	}
	for name, value := range wrong {
		t.Setenv(name, value)
	}
	_, err := config.Load()
	var failure *config.Error
	require.ErrorAs(t, err, &failure)
	require.Len(t, failure.Problems, len(wrong))
	require.Len(t, config.Table(), len(wrong), "every variable is wrong here")
	for name, value := range wrong {
		require.Contains(t, err.Error(), name+`="`+value+`": expected `)
	}
	require.Contains(t, err.Error(), `BOBBIN_TIMEOUT="300": expected duration with a unit, such as 300s or 5m, from 1ms to 8760h`)
}

func TestNeverPrintsThePassword(t *testing.T) {
	clean(t)
	for _, url := range []string{
		"redis://:hunter2@ho st:1/0", "rediss://:hunter2@host/notanumber",
		"redis://user:hunter2@%zz", "http://u:hunter2@host", "redis://host?password=hunter2&x=1", "redis://u:hunter2@h:1/0?bogus=1",
	} {
		t.Setenv("BOBBIN_REDIS_URL", url)
		_, err := config.Load()
		require.Error(t, err, url)
		require.NotContains(t, err.Error(), "hunter2", url)
	}
	t.Setenv("BOBBIN_REDIS_URL", "redis://user:hunter2@host:6379/1")
	c, err := config.Load()
	require.NoError(t, err)
	require.NotContains(t, c.String(), "hunter2")
	require.NotContains(t, c.LogValue().String(), "hunter2")
	require.Contains(t, c.String(), "BOBBIN_REDIS_URL=redis://***@host:6379/1")
}

func TestReportsMisspeltVariables(t *testing.T) {
	clean(t)
	t.Setenv("BOBBIN_CONCURENCY", "8")
	t.Setenv("BOBBIN_TEST_REDIS_SERVER", "/bin/redis-server")
	c, err := config.Load()
	require.NoError(t, err)
	require.Equal(t, []string{"BOBBIN_CONCURENCY"}, c.Unknown)
}

func TestSizesRoundTrip(t *testing.T) {
	t.Parallel()
	for text, bytes := range map[string]config.Bytes{"0": 0, "1KiB": 1024, "3MiB": 3 << 20, "1000": 1000, "1GiB": 1 << 30} {
		parsed, err := config.ParseBytes(text)
		require.NoError(t, err)
		require.Equal(t, bytes, parsed)
		require.Equal(t, text, parsed.String())
	}
}

// The README shows exactly the variables there are. To refresh it: go run ./config/internal/readme
func TestReadmeShowsTheTable(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	require.Contains(t, string(readme), "<!-- config -->\n"+config.Markdown()+"<!-- /config -->")
}
