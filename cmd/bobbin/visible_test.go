package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// What others wrote cannot steer a terminal, and JSON stays the same JSON.
func TestControlCharactersAreMadeVisible(t *testing.T) {
	t.Parallel()
	for raw, shown := range map[string]string{
		"plain\ttext\n":       "plain\ttext\n",
		"Größe 数 🙂":           "Größe 数 🙂",
		"\x1b[2J\x1b]0;me\a":  `\u001b[2J\u001b]0;me\u0007`,
		"over\rwritten\b\x7f": `over\u000dwritten\u0008\u007f`,
		"\u009b31m":           `\u009b31m`,
		"txt.\u202eexe":       `txt.\u202eexe`,
		"not\xffUTF-8":        "not\uFFFDUTF-8",
	} {
		var out bytes.Buffer
		n, err := fmt.Fprint(visible{&out}, raw)
		require.NoError(t, err)
		require.Equal(t, len(raw), n)
		require.Equal(t, shown, out.String())
	}
	var out bytes.Buffer
	require.NoError(t, json.NewEncoder(visible{&out}).Encode(json.RawMessage("\"\u009b\x7f\"")))
	require.Equal(t, `"\u009b\u007f"`+"\n", out.String())
	var back string
	require.NoError(t, json.Unmarshal(out.Bytes(), &back))
	require.Equal(t, "\u009b\x7f", back)
}

func TestSqueezeKeepsBothEnds(t *testing.T) {
	t.Parallel()
	require.Equal(t, "abc", squeeze("abc", 3))
	require.Equal(t, "ab…yz", squeeze("abcdefuvwxyz", 5))
	require.Equal(t, "a…z", squeeze("abcdefuvwxyz", 0))
	require.Equal(t, []string{"one   two", "three"}, wrapped([]string{"one", "two", "three"}, 10))
	require.Equal(t, []string{"abc", "d", "", "ef"}, wrapText("abcd\n\nef", 3))
}
