package redistest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

func TestCopyFrame(t *testing.T) {
	t.Parallel()
	frames := map[string]string{
		"simple string":    "+OK\r\n",
		"error":            "-ERR " + strings.Repeat("long ", 50_000) + "\r\n",
		"integer":          ":-42\r\n",
		"bulk":             "$5\r\na\r\nbc\r\n",
		"empty bulk":       "$0\r\n\r\n",
		"null bulk":        "$-1\r\n",
		"array":            "*2\r\n$1\r\na\r\n:1\r\n",
		"empty array":      "*0\r\n",
		"null array":       "*-1\r\n",
		"nested":           "*2\r\n*2\r\n*0\r\n*1\r\n$1\r\na\r\n*1\r\n:1\r\n",
		"null":             "_\r\n",
		"boolean":          "#t\r\n",
		"double":           ",1.5\r\n",
		"big number":       "(3492890328409238509324850943850943825024385\r\n",
		"blob error":       "!9\r\nERR\r\nlong\r\n",
		"verbatim":         "=7\r\ntxt:a\r\n\r\n",
		"map":              "%2\r\n$1\r\na\r\n*1\r\n:1\r\n+b\r\n_\r\n",
		"set":              "~2\r\n:1\r\n:2\r\n",
		"push":             ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n",
		"attribute, value": "|1\r\n+ttl\r\n:3600\r\n$1\r\na\r\n",
		"attribute inside": "*2\r\n|1\r\n+ttl\r\n:1\r\n:1\r\n:2\r\n",
	}
	for name, frame := range frames {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, in := range []io.Reader{strings.NewReader(frame + "+next\r\n"),
				iotest.OneByteReader(strings.NewReader(frame + "+next\r\n"))} {
				r, out := bufio.NewReader(in), new(strings.Builder)
				require.NoError(t, copyFrame(out, r))
				require.Equal(t, frame, out.String())
				rest, err := io.ReadAll(r)
				require.NoError(t, err)
				require.Equal(t, "+next\r\n", string(rest))
			}
		})
	}
}

// TestCopyFrameFlushesInTheMiddle: a frame that comes in two parts is whole, although its source sends the first while it waits for the
// second.
func TestCopyFrameFlushesInTheMiddle(t *testing.T) {
	t.Parallel()
	frame := "*2\r\n$4\r\nECHO\r\n$26\r\nabcdefghijklmnopqrstuvwxyz\r\n"
	for first := range len(frame) {
		var out strings.Builder
		w := bufio.NewWriterSize(&out, bufferSize)
		parts := io.MultiReader(strings.NewReader(frame[:first]), strings.NewReader(frame[first:]))
		r := bufio.NewReaderSize(&source{parts, w}, bufferSize)
		require.NoError(t, copyFrame(w, r))
		require.NoError(t, w.Flush())
		require.Equal(t, frame, out.String(), "the first %d bytes came alone", first)
	}
}

func TestCopyFrameRefusesWhatIsNotRESP(t *testing.T) {
	t.Parallel()
	for _, frame := range []string{"HTTP/1.1 200 OK\r\n", "\r\n", "$x\r\n", "$-2\r\n", "*99999999999999999999\r\n", "$?\r\n"} {
		require.ErrorIs(t, copyFrame(io.Discard, bufio.NewReader(strings.NewReader(frame))), errProtocol, "%q", frame)
	}
	for _, frame := range []string{"", "+OK", "$5\r\nab", "*2\r\n:1\r\n"} {
		require.ErrorIs(t, copyFrame(io.Discard, bufio.NewReader(strings.NewReader(frame))), io.EOF, "%q", frame)
	}
}

// zeros is a bulk string of any size that is nowhere in memory.
func zeros(size int64) io.Reader {
	return io.MultiReader(strings.NewReader(fmt.Sprintf("$%d\r\n", size)),
		io.LimitReader(zeroReader{}, size), strings.NewReader("\r\n"))
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestCopyFrameStreams(t *testing.T) {
	t.Parallel()
	const size = 100 << 20
	widest := &widestWrite{}
	require.NoError(t, copyFrame(widest, bufio.NewReaderSize(zeros(size), bufferSize)))
	require.Equal(t, len("$104857600\r\n")+size+2, widest.total)
	require.LessOrEqual(t, widest.most, bufferSize)
}

type widestWrite struct{ most, total int }

func (w *widestWrite) Write(b []byte) (int, error) {
	w.most, w.total = max(w.most, len(b)), w.total+len(b)
	return len(b), nil
}

func TestReadRequest(t *testing.T) {
	t.Parallel()
	script := "return 1"
	for name, c := range map[string]struct {
		in           string
		verb, script string
		args         int
	}{
		"command":       {"*2\r\n$3\r\nget\r\n$1\r\nk\r\n", "GET", "", 2},
		"inline":        {"ping hello\r\n", "PING", "", 2},
		"empty line":    {"\r\n", "", "", 0},
		"empty array":   {"*0\r\n", "", "", 0},
		"null array":    {"*-1\r\n", "", "", 0},
		"eval":          {"*3\r\n$4\r\neval\r\n$8\r\nreturn 1\r\n$1\r\n0\r\n", "EVAL", sha1Hex([]byte(script)), 3},
		"evalsha":       {"*3\r\n$7\r\nEVALSHA\r\n$4\r\nABCD\r\n$1\r\n0\r\n", "EVALSHA", "abcd", 3},
		"eval, no body": {"*1\r\n$4\r\nEVAL\r\n", "EVAL", "", 1},
		"long script": {fmt.Sprintf("*2\r\n$4\r\nEVAL\r\n$%d\r\n%s\r\n", maxScript+1, strings.Repeat(" ", maxScript+1)),
			"EVAL", "", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := bufio.NewReaderSize(strings.NewReader(c.in+"+next\r\n"), bufferSize)
			req, err := readRequest(r)
			require.NoError(t, err)
			require.Equal(t, []any{c.verb, c.script, c.args}, []any{req.verb, req.script, req.args})
			var out bytes.Buffer
			require.NoError(t, req.forward(&out, r))
			require.Equal(t, c.in, out.String())
			rest, err := io.ReadAll(r)
			require.NoError(t, err)
			require.Equal(t, "+next\r\n", string(rest))
		})
	}
	_, err := readRequest(bufio.NewReader(strings.NewReader("*1\r\n:1\r\n")))
	require.ErrorIs(t, err, errProtocol)
}

func TestPeekWord(t *testing.T) {
	t.Parallel()
	for frame, word := range map[string]string{
		">3\r\n$7\r\nmessage\r\n": "message",
		"*3\r\n$9\r\nSubscribe":   "subscribe",
		"*0\r\n":                  "",
		"*-1\r\n":                 "",
		"*1\r\n:1\r\n":            "",
		"*1\r\n$-1\r\n":           "",
		"*1\r\n$99\r\n":           "",
	} {
		// No byte behind the frame's beginning may be waited for: it would never come.
		r := bufio.NewReader(iotest.OneByteReader(strings.NewReader(frame)))
		got, err := peekWord(r)
		require.NoError(t, err, "%q", frame)
		require.Equal(t, word, got)
		rest, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, frame, string(rest))
	}
}
