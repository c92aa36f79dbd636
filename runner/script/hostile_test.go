package script_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/runner/script"
)

// A Go stack that overflows takes the process with it, and no recover helps: each of these once did.
func TestNothingAWorkflowSaysOverflowsTheStack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ source, message string }{
		"decode lists":  {`def main(): return json.decode("[" * 4000000)`, "nested deeper than"},
		"decode dicts":  {`def main(): return json.decode('{"a":' * 4000000)`, "nested deeper than"},
		"encode itself": {"def main():\n  l = []\n  l.append(l)\n  return json.encode(l)", "within itself"},
		"sum":           {"x = " + strings.Repeat("1+", 500_000) + "1\ndef main(): return 1", ""},
		"long sum":      {"x = " + strings.Repeat("1+", 5_000_000) + "1\ndef main(): return 1", "expected at most 1048576"},
		"parentheses":   {"x = " + strings.Repeat("(", 1_000_000), ""},
		"lists":         {"x = " + strings.Repeat("[", 1_000_000), ""},
		"negations":     {"x = " + strings.Repeat("-", 1_000_000) + "1", ""},
		"calls":         {"x = f" + strings.Repeat("()", 500_000), ""},
		"nots":          {"x = " + strings.Repeat("not ", 250_000) + "1\ndef main(): return 1", ""},
		"big number":    {`def main(): return json.decode("9" * 5000)`, "out of range"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := one(t, c.source)
			_, err := b.Run(context.Background(), b.call("a.star", `{}`))
			if c.message != "" {
				require.ErrorContains(t, err, c.message)
			}
		})
	}
}

// Sixty lines that double a list each are 2^60 values as JSON, and a kilobyte in memory.
const doubling = `
def main(how):
    x = [1]
    for _ in range(60):
        x = [x, x]
    return json.encode(x) if how == "text" else x
`

func TestAResultThatUnfoldsIsStoppedAtItsLimit(t *testing.T) {
	t.Parallel()
	b := one(t, doubling)
	require.Equal(t, execution.TypeResultTooLarge, b.fails("a.star", `{"how":"result"}`).Type)
	require.Contains(t, b.fails("a.star", `{"how":"text"}`).Message, "larger than")
}

func TestEncodingIsStoppedByCancel(t *testing.T) {
	t.Parallel()
	s := &shelf{sources: map[string]string{"a.star": doubling}}
	b := &bench{Runner: script.New(s, script.Options{ResultMaxBytes: 1 << 40}), t: t, shelf: s}
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
	_, err := b.Run(ctx, b.call("a.star", `{"how":"result"}`))
	require.ErrorIs(t, err, why)
}

func TestOpenQuoteInAPatternIsNoPanic(t *testing.T) {
	t.Parallel()
	b := one(t, `def main(): return [re.match("\\Qa.b", "a.bc") != None, re.fullmatch("\\Qa.b", "axb") != None]`)
	require.Equal(t, `[true,false]`, b.runs("a.star", `{}`))
}

func TestSleepRefusesWhatIsNoTime(t *testing.T) {
	t.Parallel()
	for _, seconds := range []string{`float("nan")`, `float("inf")`, `-1`, `"1"`} {
		e := one(t, "def main(): sleep("+seconds+")").fails("a.star", `{}`)
		require.Contains(t, e.Message, "expected a number from 0 to", seconds)
	}
}

func TestJSONOfAWorkflow(t *testing.T) {
	t.Parallel()
	b := one(t, `
def main():
    return [json.decode('{"a": [1, 2.5, "\\u00fc", null]}'), json.decode("{", default="none"), json.decode("x", None),
            json.encode({"a": (1, 2.0)}), json.encode_indent([1], indent=" "), json.indent("[1]", indent=" ")]`)
	require.JSONEq(t, `[{"a":[1,2.5,"ü",null]},"none",null,"{\"a\":[1,2.0]}","[\n 1\n]","[\n 1\n]"]`, b.runs("a.star", `{}`))
	for _, broken := range []string{`[1,]`, `{"a"}`, `{"a":1,}`, `01`, `1.`, `"`, `"\x"`, `[1] 2`, ``, `nul`, `-`, "\"\x01\""} {
		quoted, _ := json.Marshal(broken)
		e := b.failsWith(`def main(s): return json.decode(s)`, `{"s":`+string(quoted)+`}`)
		require.Contains(t, e.Message, "at byte", broken)
	}
}

// A module that nobody asked for under one version is still compiled under the next.
func TestUnchangedModulesOutliveVersionsInWhichNobodyAsks(t *testing.T) {
	t.Parallel()
	b := setup(t, map[string]string{"a.star": "state = time.now().unix_nano\ndef main(): return state", "b.star": "def main(): return 1"})
	first := b.runs("a.star", `{}`)
	for range 3 {
		b.shelf.push("b.star", "def main(): return 2"+strings.Repeat(" ", b.shelf.version+1))
		b.runs("b.star", `{}`)
	}
	require.Equal(t, first, b.runs("a.star", `{}`))
}

// failsWith returns the error of a source of its own.
func (b *bench) failsWith(source, params string) *execution.Error {
	b.t.Helper()
	return one(b.t, source).fails("a.star", params)
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{"a":[1,2.5e3,"x\u00fc\n",true,null]}`, `[`, `-0`, `1e400`, "\"\xff\"", `{"a":1,"a":2}`} {
		f.Add(seed)
	}
	b := one(f, "def main(s): return json.encode(json.decode(s))")
	f.Fuzz(func(t *testing.T, document string) {
		params, err := json.Marshal(map[string]string{"s": document})
		require.NoError(t, err)
		result, err := b.Run(context.Background(), b.call("a.star", string(params)))
		if err != nil {
			return
		}
		var text string
		require.NoError(t, json.Unmarshal(result, &text))
		require.True(t, json.Valid([]byte(text)), "encoded as %q", text)
		require.True(t, json.Valid([]byte(strings.ToValidUTF8(document, "\ufffd"))), "accepted %q", document)
	})
}
