package execution_test

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
)

// contextFields are the fields of docs/protocol.md, each with a value that fits and the types that do not.
var contextFields = map[string]struct {
	fits  string
	wrong []string
}{
	"workflow":          {`"w"`, []string{`1`, `true`, `[]`, `{}`}},
	"function":          {`"f"`, []string{`1`, `true`, `[]`, `{}`}},
	"params":            {`{"a":1}`, []string{`1`, `"{}"`, `true`, `[]`}},
	"timeout_seconds":   {`1`, []string{`"1"`, `true`, `[1]`, `{}`}},
	"retry":             {`{"max_attempts":2}`, []string{`1`, `"2"`, `false`, `[2]`}},
	"reply_ttl_seconds": {`1`, []string{`"1"`, `true`, `[1]`, `{}`}},
	"content_sha256":    {`"` + strings.Repeat("0f", 32) + `"`, []string{`1`, `null`, `[]`, `{}`, `"` + strings.Repeat("0g", 32) + `"`}},
	"isolation":         {`"fork"`, []string{`1`, `null`, `true`, `[]`, `{}`}},
	"group":             {`"g"`, []string{`1`, `true`, `[]`, `{}`}},
	"traceparent":       {`"t"`, []string{`1`, `true`, `[]`, `{}`}},
	"meta":              {`{"a":1}`, []string{`1`, `"{}"`, `true`, `[]`}},
}

func parse(t *testing.T, fields map[string]string) (*execution.Context, error) {
	t.Helper()
	document := []string{}
	for field, value := range fields {
		document = append(document, fmt.Sprintf("%q: %s", field, value))
	}
	return execution.ParseContext([]byte("{" + strings.Join(document, ", ") + "}"))
}

// Every field alone: what fits, null, wrong types, and its name in other letters.
func TestEveryContextField(t *testing.T) {
	t.Parallel()
	for field, of := range contextFields {
		t.Run(field, func(t *testing.T) {
			t.Parallel()
			with := func(name, value string) map[string]string {
				return map[string]string{"workflow": `"w"`, name: value}
			}
			_, err := parse(t, with(field, of.fits))
			require.NoError(t, err)
			for _, value := range append(of.wrong, "null") {
				_, err := parse(t, with(field, value))
				require.ErrorIs(t, err, execution.ErrInvalidContext, value)
				require.ErrorContains(t, err, `field "`+field+`": expected `)
				require.ErrorContains(t, err, "got "+value[:min(len(value), 60)])
			}
			for _, name := range []string{strings.ToUpper(field), strings.ToUpper(field[:1]) + field[1:], field + " ", ""} {
				_, err := parse(t, with(name, of.fits))
				require.ErrorContains(t, err, fmt.Sprintf("unknown field %q", name))
			}
		})
	}
}

func TestContextFieldBounds(t *testing.T) {
	t.Parallel()
	text := func(n int) string { return `"` + strings.Repeat("x", n) + `"` }
	object := func(n int) string { return `{"a":` + text(n-8) + `}` } // n bytes in all
	retry := func(fields string) string { return `{"max_attempts":2,` + fields + `}` }
	require.Len(t, object(4096), 4096)
	for field, cases := range map[string]struct{ good, bad []string }{
		"workflow":          {[]string{text(1), text(512), `"é/ü.star"`}, []string{text(0), text(513), `"\u0000"`, `"\u007f"`, `"a\tb"`}},
		"function":          {[]string{text(1), text(512)}, []string{text(0), text(513), `"\n"`}},
		"isolation":         {[]string{`"resident"`, `"fork"`}, []string{`""`, `"Fork"`, `"process"`}},
		"group":             {[]string{text(1), text(512)}, []string{text(0), text(513), `"\n"`}},
		"params":            {[]string{`{}`, object(1 << 20), `{"n":1e400}`}, []string{`0`}},
		"meta":              {[]string{`{}`, object(4096)}, []string{object(4097)}},
		"timeout_seconds":   {[]string{"1e-9", "0.25", "315360000"}, []string{"0", "-0.0", "1e-10", "-1e-9", "315360001", "1e999"}},
		"reply_ttl_seconds": {[]string{"0", "315360000"}, []string{"-1", "315360001"}},
		"content_sha256":    {[]string{text(64)[:1] + strings.Repeat("F", 64) + `"`}, []string{`"` + strings.Repeat("f", 63) + `"`, `"` + strings.Repeat("f", 65) + `"`, `""`}},
		"retry": {
			[]string{`{"max_attempts":1}`, retry(`"initial_backoff_seconds":0`), retry(`"max_backoff_seconds":0`)},
			[]string{
				`{"max_attempts":-1}`, `{"max_attempts":"2"}`, `{"max_attempts":null}`, `{"max_attempts":99999999999999999999}`, `{"Max_attempts":2}`,
				retry(`"initial_backoff_seconds":-1`), retry(`"initial_backoff_seconds":"1"`), retry(`"max_backoff_seconds":1e300`), retry(`"max_backoff_seconds":null`),
			},
		},
	} {
		for _, value := range cases.good {
			_, err := parse(t, map[string]string{"workflow": `"w"`, field: value})
			require.NoError(t, err)
		}
		for _, value := range cases.bad {
			_, err := parse(t, map[string]string{"workflow": `"w"`, field: value})
			require.ErrorIs(t, err, execution.ErrInvalidContext, "%s: %s", field, value)
			require.ErrorContains(t, err, field)
		}
	}
}

// Seconds are decimal numbers that most binary ones miss by a little: the nearest nanosecond is meant, not the one before.
func TestSecondsAreRoundedToTheNearest(t *testing.T) {
	t.Parallel()
	for hundredths := 1; hundredths < 5000; hundredths++ {
		x, err := parse(t, map[string]string{"workflow": `"w"`, "timeout_seconds": fmt.Sprintf("%d.%02d", hundredths/100, hundredths%100)})
		require.NoError(t, err)
		require.Equal(t, time.Duration(hundredths)*10*time.Millisecond, x.Timeout)
	}
}

// An error goes into a result, and a client that decodes results as text must be able to read it.
func TestErrorsAreText(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"\"\xff\"", `"` + strings.Repeat("é", 100) + `"`, `"x` + strings.Repeat("é", 100) + `"`, "\"\xe2\x82\""} {
		for _, document := range []string{`{"workflow":"w","params":` + value + `}`, value} {
			_, err := execution.ParseContext([]byte(document))
			require.Error(t, err)
			require.True(t, utf8.ValidString(err.Error()), "%q", err)
		}
	}
}

func TestBackoffNeverTurnsNegative(t *testing.T) {
	t.Parallel()
	none := &execution.Retry{MaxAttempts: math.MaxInt, MaxBackoff: time.Minute}
	long := &execution.Retry{MaxAttempts: math.MaxInt, InitialBackoff: time.Second, MaxBackoff: 87600 * time.Hour}
	for _, spent := range []int{-1, 0, 1, 63, 64, 1024, 1025, 1026, math.MaxInt} {
		require.Zero(t, none.Backoff(spent), spent)
		require.Positive(t, long.Backoff(spent), spent)
	}
	require.Equal(t, 87600*time.Hour, long.Backoff(1025))
}

// A first pause above the limit's default raises the limit.
func TestInitialBackoffAboveTheLimit(t *testing.T) {
	t.Parallel()
	x, err := parse(t, map[string]string{"workflow": `"w"`, "retry": `{"max_attempts":3,"initial_backoff_seconds":120}`})
	require.NoError(t, err)
	require.Equal(t, 2*time.Minute, x.Retry.Backoff(1))
	require.Equal(t, 2*time.Minute, x.Retry.Backoff(2))
}

func TestMarshalledContextLeavesOutWhatWasNotGiven(t *testing.T) {
	t.Parallel()
	x, err := parse(t, map[string]string{"workflow": `"w"`})
	require.NoError(t, err)
	document, err := json.Marshal(x)
	require.NoError(t, err)
	require.JSONEq(t, `{"workflow":"w","params":{},"meta":{}}`, string(document))
}
