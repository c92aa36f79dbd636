package config_test

import (
	"fmt"
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
		MaxRecoveries: 3, Nice: 10, ContextMaxBytes: 1 << 20, ResultMaxBytes: 1 << 20, LogLevel: "info", LogFormat: "text",
		ResultsMax: 10_000_000, ResultsRetention: 168 * time.Hour, QuarantineThreshold: 5, QuarantineWindow: time.Hour,
		Python: "python3", PythonMode: "resident", PythonMaxExecutions: 10_000, PythonMaxRSS: 512 << 20, Node: "node",
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
		"BOBBIN_PYTHON": "", "BOBBIN_PYTHON_MODE": "threads", "BOBBIN_PYTHON_WARM": "-1", "BOBBIN_PYTHON_MAX_EXECUTIONS": "many",
		"BOBBIN_PYTHON_MAX_RSS": "-1", "BOBBIN_NODE": " ", "BOBBIN_MAX_RSS": "much", "BOBBIN_MAX_EXECUTIONS": "-1", "BOBBIN_NICE": "20",
		"BOBBIN_QUARANTINE_THRESHOLD": "-1", "BOBBIN_QUARANTINE_WINDOW": "0s", "BOBBIN_HTTP_ADDR": "9090",
		"BOBBIN_CONTROL_PUBLIC_KEY": "c2hvcnQ=", "BOBBIN_RESULTS_MAX": "-1", "BOBBIN_RESULTS_RETENTION": "1d",
	}
	for name, value := range wrong {
		t.Setenv(name, value)
	}
	_, err := config.Load()
	var failure *config.Error
	require.ErrorAs(t, err, &failure)
	require.Len(t, failure.Problems, len(wrong))
	require.Len(t, config.Table(), len(wrong)+2, "every variable is wrong here but the path of a file and a list of modules")
	for name, value := range wrong {
		require.Contains(t, err.Error(), name+`="`+value+`": expected `)
	}
	require.Contains(t, err.Error(), `BOBBIN_TIMEOUT="300": expected a duration with a unit, such as 300s or 5m, from 1ms to 8760h`)
	require.Contains(t, err.Error(), `BOBBIN_CONCURRENCY="zero": expected a whole number from 1 to 100000`)
	require.Contains(t, err.Error(), `BOBBIN_LOG_LEVEL="loud": expected one of debug, info, warn, error`)
}

// What envconfig or the parsers beneath would take, and mean something else by, or that is set and empty.
func TestRefuses(t *testing.T) {
	for _, c := range []struct{ name, value string }{
		{"BOBBIN_CONCURRENCY", "010"}, {"BOBBIN_CONCURRENCY", "0x10"}, {"BOBBIN_CONCURRENCY", "4.5"}, {"BOBBIN_CONCURRENCY", ""},
		{"BOBBIN_CONCURRENCY", "0"}, {"BOBBIN_CONCURRENCY", "100001"}, {"BOBBIN_CONCURRENCY", "99999999999999999999"},
		{"BOBBIN_TIMEOUT", ""}, {"BOBBIN_TIMEOUT", "0"}, {"BOBBIN_LEASE", "299ms"}, {"BOBBIN_LEASE", "61m"},
		{"BOBBIN_CONTEXT_MAX_BYTES", "1023"}, {"BOBBIN_CONTEXT_MAX_BYTES", "1K"}, {"BOBBIN_CONTEXT_MAX_BYTES", "-1MiB"},
		{"BOBBIN_CONTEXT_MAX_BYTES", "184467440738GB"}, // times 10⁹ it wraps around to 904 MB
		{"BOBBIN_QUEUE", ""}, {"BOBBIN_QUEUE", "a:b"}, {"BOBBIN_QUEUE", "añb"}, {"BOBBIN_PREFIX", strings.Repeat("x", 101)},
		{"BOBBIN_REDIS_URL", ""}, {"BOBBIN_REDIS_URL", "127.0.0.1:6379"}, {"BOBBIN_REDIS_URL", "unix://"},
		{"BOBBIN_LOG_LEVEL", "INFO"}, {"BOBBIN_LOG_FORMAT", "text, json"},
	} {
		t.Run(c.name+"="+c.value, func(t *testing.T) {
			clean(t)
			t.Setenv(c.name, c.value)
			_, err := config.Load()
			var failure *config.Error
			require.ErrorAs(t, err, &failure)
			require.Len(t, failure.Problems, 1)
			require.Equal(t, c.name, failure.Problems[0].Variable)
			require.Equal(t, c.value, failure.Problems[0].Value)
		})
	}
}

func TestNeverPrintsThePassword(t *testing.T) {
	clean(t)
	for _, url := range []string{
		"redis://:hunter2@ho st:1/0", "rediss://:hunter2@host/notanumber",
		"redis://user:hunter2@%zz", "http://u:hunter2@host", "redis://host?password=hunter2&x=1", "redis://u:hunter2@h:1/0?bogus=1",
		"redis://user:12/hunter2@host", "redis://:12#x/hunter2@host/y", "redis://:hunter2", "redis://ho%zzst?password=hunter2",
		"redis://u:hunter2@h%zz?password=hunter2", "redis:u:hunter2@host", "u:hunter2@host", "redis:hunter2",
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
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		require.NotContains(t, fmt.Sprintf(verb+verb, c, *c), "hunter2", verb)
	}
}

func TestRedactURLKeepsWhatHelps(t *testing.T) {
	t.Parallel()
	for url, shown := range map[string]string{
		"redis://127.0.0.1:6379/0":             "redis://127.0.0.1:6379/0",
		"rediss://u:hunter2@[::1]:1/2?db=3":    "rediss://***@[::1]:1/2",
		"redis://hunter2@host:1":               "redis://***@host:1", // a password where the user belongs
		"unix:///run/redis.sock?db=2":          "unix:///run/redis.sock",
		"unix://u:hunter2@/run/redis.sock":     "unix://***@/run/redis.sock",
		"redis://u:hunter2@redis.internal:x/0": "redis://***@redis.internal:x/0",
		"redis://redis.internal:port/0":        "redis://redis.internal***",
		"redis://user:12/hunter2@host/0":       "redis://***@host/0",
		"http://127.0.0.1":                     "http://127.0.0.1",
		"localhost":                            "localhost",
		"":                                     "",
	} {
		require.Equal(t, shown, config.RedactURL(url), url)
	}
}

func TestRedisIsLocal(t *testing.T) {
	t.Parallel()
	for url, local := range map[string]bool{
		"redis://127.0.0.1:6379/0": true, "rediss://u:p@[::1]:1/2": true, "redis://localhost": true, "redis://": true,
		"unix:///run/redis.sock": true, "redis://127.9.9.9": true, "redis://0.0.0.0": true, "redis://[::]:1": true,
		"redis://LocalHost.:1": true, "redis://[::ffff:127.0.0.1]": true, "redis://[::1%25lo]": true,
		"redis://redis:6379/0": false, "redis://10.0.0.1:6379": false, "redis://[fe80::1]:6379": false, "redis://localhost.example": false,
		"http://127.0.0.1": false, "": false,
	} {
		require.Equal(t, local, (&config.Config{RedisURL: url}).RedisIsLocal(), url)
	}
}

// Whatever stands before the last @ of a URL with a user may be a password.
func FuzzRedactURL(f *testing.F) {
	for _, password := range []string{"hunter2", "a/b", "a#b", "a?b", "a%zzb", "a@b", "a://b", "://", " ", "["} {
		f.Add(password)
	}
	f.Fuzz(func(t *testing.T, password string) {
		const mark = "HUNTER2"
		for _, before := range []string{"redis://:", "redis://u:", "rediss://u:", "redis:u:", "u:", ""} {
			for _, secret := range []string{password + mark, mark + password, password + mark + password} {
				require.NotContains(t, config.RedactURL(before+secret+"@host:6379/0"), mark)
			}
		}
	})
}

func TestReportsMisspeltVariables(t *testing.T) {
	clean(t)
	t.Setenv("BOBBIN_CONCURENCY", "8")
	t.Setenv("BOBBIN_TEST_REDIS_SERVER", "/bin/redis-server")
	c, err := config.Load()
	require.NoError(t, err)
	require.Equal(t, []string{"BOBBIN_CONCURENCY"}, c.Unknown)
}

func TestClosest(t *testing.T) {
	t.Parallel()
	for name, closest := range map[string]string{
		"BOBBIN_CONCURENCY": "BOBBIN_CONCURRENCY", "BOBBIN_REDISURL": "BOBBIN_REDIS_URL", "BOBBIN_LEASES": "BOBBIN_LEASE",
		"BOBBIN_LOGLEVEL": "BOBBIN_LOG_LEVEL", "BOBBIN_SOMETHING_ELSE": "", "BOBBIN_": "",
	} {
		require.Equal(t, closest, config.Closest(name), name)
	}
}

func TestTextAndMarkdownShowEveryVariable(t *testing.T) {
	t.Parallel()
	for _, v := range config.Table() {
		require.NotEmpty(t, v.Description, v.Name)
		for _, shown := range []string{config.Text(), config.Markdown()} {
			require.Contains(t, shown, v.Name)
			require.Contains(t, shown, v.Accepted)
		}
	}
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
