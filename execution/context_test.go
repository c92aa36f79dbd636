package execution_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
)

func TestParseContextReadsEveryField(t *testing.T) {
	t.Parallel()
	x, err := execution.ParseContext([]byte(`{
		"workflow": "billing/invoice.star", "function": "run", "params": {"n": 12345678901234567890}, "timeout_seconds": 1.5,
		"retry": {"max_attempts": 3, "initial_backoff_seconds": 2, "max_backoff_seconds": 5}, "reply_ttl_seconds": 60,
		"content_sha256": "` + strings.Repeat("AB", 32) + `", "group": "tenant-7",
		"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "meta": {"a": []}}`))
	require.NoError(t, err)
	require.Equal(t, &execution.Context{
		Workflow: "billing/invoice.star", Function: "run", Params: json.RawMessage(`{"n": 12345678901234567890}`),
		Timeout: 1500 * time.Millisecond, Retry: &execution.Retry{MaxAttempts: 3, InitialBackoff: 2 * time.Second, MaxBackoff: 5 * time.Second},
		ReplyTTL: time.Minute, ContentSHA256: strings.Repeat("ab", 32), Group: "tenant-7",
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Meta: json.RawMessage(`{"a": []}`),
	}, x)
}

func TestParseContextDefaults(t *testing.T) {
	t.Parallel()
	x, err := execution.ParseContext([]byte(`{"workflow":"w"}`))
	require.NoError(t, err)
	require.Equal(t, &execution.Context{Workflow: "w", Function: "main", Params: json.RawMessage("{}"), Meta: json.RawMessage("{}")}, x)
	x, err = execution.ParseContext([]byte(`{"workflow":"w","retry":{"max_attempts":2}}`))
	require.NoError(t, err)
	require.Equal(t, &execution.Retry{MaxAttempts: 2, InitialBackoff: time.Second, MaxBackoff: time.Minute}, x.Retry)
}

// Each error names the field, what was expected, and the value.
// Whoever appends to a piece of a context gets a copy, and writes over nothing that follows it.
func TestPiecesOfAContextCanBeAppendedTo(t *testing.T) {
	t.Parallel()
	x, err := execution.ParseContext([]byte(`{"params":{"a":1},"meta":{"b":2},"workflow":"w"}`))
	require.NoError(t, err)
	_, _ = append(x.Params, "over, over, "...), append(x.Meta, "and over"...)
	require.Equal(t, []string{`{"a":1}`, `{"b":2}`}, []string{string(x.Params), string(x.Meta)})
	none, err := execution.ParseContext([]byte(`{"workflow":"w"}`))
	require.NoError(t, err)
	require.Equal(t, []int{2, 2}, []int{cap(none.Params), cap(none.Meta)}, "those of all executions")
}

func TestParseContextErrors(t *testing.T) {
	t.Parallel()
	for document, says := range map[string][]string{
		``:                                      {"not JSON"},
		`{`:                                     {"not JSON"},
		`{"workflow":"w"} x`:                    {"not JSON", "byte"},
		"{\"workflow\":\"w\x00\"}":              {"not JSON"},
		`null`:                                  {"expected a JSON object", "null"},
		`[]`:                                    {"expected a JSON object", "[]"},
		`"w"`:                                   {"expected a JSON object", `"w"`},
		`{}`:                                    {`"workflow"`, "missing"},
		`{"Workflow":"w"}`:                      {`unknown field "Workflow"`, "workflow, function"},
		`{"workflow":"w","x":1}`:                {`unknown field "x"`},
		`{"workflow":1}`:                        {`"workflow"`, "got 1"},
		`{"workflow":""}`:                       {`"workflow"`, "1 to 512 bytes"},
		`{"workflow":"a\nb"}`:                   {`"workflow"`, "control characters"},
		`{"workflow":null}`:                     {`"workflow"`, "got null"},
		`{"workflow":"w","function":""}`:        {`"function"`},
		`{"workflow":"w","params":[1]}`:         {`"params"`, "an object", "[1]"},
		`{"workflow":"w","params":null}`:        {`"params"`, "null"},
		`{"workflow":"w","timeout_seconds":0}`:  {`"timeout_seconds"`, "above 0"},
		`{"workflow":"w","timeout_seconds":-1}`: {`"timeout_seconds"`, "-1"},
		`{"workflow":"w","timeout_seconds":"30"}`:                              {`"timeout_seconds"`, "number", `"30"`},
		`{"workflow":"w","timeout_seconds":1e300}`:                             {`"timeout_seconds"`, "1e300"},
		`{"workflow":"w","retry":3}`:                                           {`"retry"`, "an object"},
		`{"workflow":"w","retry":{}}`:                                          {`"retry.max_attempts"`, "nothing"},
		`{"workflow":"w","retry":{"max_attempts":0}}`:                          {`"retry.max_attempts"`, "above 0"},
		`{"workflow":"w","retry":{"max_attempts":1.5}}`:                        {`"retry.max_attempts"`, "whole number"},
		`{"workflow":"w","retry":{"max_attempts":2,"backoff":1}}`:              {`unknown field "retry.backoff"`},
		`{"workflow":"w","retry":{"max_attempts":2,"max_backoff_seconds":-1}}`: {`"retry.max_backoff_seconds"`},
		`{"workflow":"w","reply_ttl_seconds":-1}`:                              {`"reply_ttl_seconds"`},
		`{"workflow":"w","content_sha256":"abc"}`:                              {`"content_sha256"`, "64 hexadecimal digits"},
		`{"workflow":"w","group":7}`:                                           {`"group"`},
		`{"workflow":"w","traceparent":7}`:                                     {`"traceparent"`},
		`{"workflow":"w","meta":7}`:                                            {`"meta"`, "an object"},
		`{"workflow":"w","meta":{"a":"` + strings.Repeat("x", 5000) + `"}}`:    {`"meta"`, "at most 4096 bytes", "5008 bytes"},
	} {
		_, err := execution.ParseContext([]byte(document))
		require.ErrorIs(t, err, execution.ErrInvalidContext, document)
		for _, part := range says {
			require.ErrorContains(t, err, part, document)
		}
		require.Less(t, len(err.Error()), 400, "an error quotes little of what may be large")
	}
}

func TestBackoffDoublesUpToItsLimit(t *testing.T) {
	t.Parallel()
	r := &execution.Retry{MaxAttempts: 9, InitialBackoff: time.Second, MaxBackoff: 5 * time.Second}
	for spent, pause := range map[int]time.Duration{0: 1, 1: 1, 2: 2, 3: 4, 4: 5, 5: 5, 2000: 5} {
		require.Equal(t, pause*time.Second, r.Backoff(spent), spent)
	}
}

// Wherever a document is cut off, it is refused, and nothing is read beyond it.
func TestParseContextOfWhatIsCutOff(t *testing.T) {
	t.Parallel()
	whole := []byte(` {"workflow":"a\u0041\n.star", "params":{"a":[true,false,null,-1.5e+3,"\\"],"b":{}}, "timeout_seconds":0.25,` +
		`"retry":{"max_attempts":3} , "meta":{"t":true,"f":false,"n":null}}`)
	_, err := execution.ParseContext(slices.Clip(whole))
	require.ErrorContains(t, err, "control characters", "it is JSON")
	for end := range whole {
		for _, tail := range []string{"", "t", "f", "n", "nul", "\\", "-", "1.", "\""} {
			document := append(slices.Clone(whole[:end]), tail...)
			_, err := execution.ParseContext(slices.Clip(document))
			require.ErrorIs(t, err, execution.ErrInvalidContext, "%s", document)
			require.NotContains(t, err.Error(), "control characters", "%s", document)
		}
	}
}

func FuzzParseContext(f *testing.F) {
	for _, seed := range []string{
		`{"workflow":"w"}`, `{"workflow":"a.star","params":{"a":[1,2,{"b":null}]},"timeout_seconds":0.25}`, `{"workflow":"w","retry":{"max_attempts":3}}`,
		`{"workflow":"w","meta":{"k":"\u0000"},"reply_ttl_seconds":1e3,"group":"g"}`, `{"workflow":"w","workflow":"v"}`, `{`, `null`, "\xff", `{"workflow":"w","params":`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		x, err := execution.ParseContext(slices.Clip(document))
		if err != nil {
			require.ErrorIs(t, err, execution.ErrInvalidContext)
			return
		}
		again, err := json.Marshal(x)
		require.NoError(t, err)
		y, err := execution.ParseContext(again)
		require.NoError(t, err, "%s", again)
		require.Equal(t, x.Workflow, y.Workflow)
		require.Equal(t, x.Function, y.Function)
		require.Equal(t, x.Retry != nil, y.Retry != nil)
		require.JSONEq(t, string(x.Params), string(y.Params))
	})
}

func BenchmarkParseContext(b *testing.B) {
	document := []byte(`{"workflow":"hello.star","params":{"name":"Ada"}}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := execution.ParseContext(document); err != nil {
			b.Fatal(err)
		}
	}
}
