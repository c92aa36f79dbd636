package control_test

import (
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/control"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for message, want := range map[string]control.Command{
		"drain":         {Verb: control.Drain, Worker: "*"},
		"  pause\r\n":   {Verb: control.Pause, Worker: "*"},
		"recycle web-*": {Verb: control.Recycle, Worker: "web-*"},
		"cancel 7f3a":   {Verb: control.Cancel, Worker: "*", ExecutionID: "7f3a"},
		`{"v":1,"command":"recycle","worker":"*","request_id":"c1f0"}`:            {Verb: control.Recycle, Worker: "*", RequestID: "c1f0"},
		`{"v":1,"command":"cancel","execution_id":"7f3a","request_id":"c1f1"}`:    {Verb: control.Cancel, Worker: "*", ExecutionID: "7f3a", RequestID: "c1f1"},
		` {"v":1,"command":"ping","issued_at_ms":5,"signature":"x","worker":"a"}`: {Verb: control.Ping, Worker: "a", IssuedMS: 5, Signature: "x"},
	} {
		got, err := control.Parse([]byte(message))
		require.NoError(t, err, message)
		require.Equal(t, want, got, message)
		again, err := control.Parse(got.Encode())
		require.NoError(t, err)
		require.Equal(t, got, again)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for message, want := range map[string]struct {
		kind    error
		says    string
		request string
	}{
		"":                        {control.ErrMalformed, "0 words", ""},
		"drain a b":               {control.ErrMalformed, "3 words", ""},
		"explode":                 {control.ErrUnknownCommand, `"explode"`, ""},
		"drain [":                 {control.ErrMalformed, "pattern", ""},
		"cancel":                  {control.ErrMalformed, "cancel", ""},
		"{":                       {control.ErrMalformed, "", ""},
		strings.Repeat("x", 4097): {control.ErrTooLarge, "4097 bytes", ""},
		`{"v":2,"command":"drain","request_id":"r"}`:                                {control.ErrMalformed, `"v" is 2, expected 1`, "r"},
		`{"command":"drain","request_id":"r"}`:                                      {control.ErrMalformed, `"v" is 0`, "r"},
		`{"v":1,"command":"explode","request_id":"r"}`:                              {control.ErrUnknownCommand, "explode", "r"},
		`{"v":1,"command":"drain","request_id":"r","extra":1}`:                      {control.ErrMalformed, `"extra"`, "r"},
		`{"v":1,"command":"drain","request_id":"r"} x`:                              {control.ErrMalformed, "", "r"},
		`{"v":1,"command":"drain","request_id":"a b"}`:                              {control.ErrMalformed, `"request_id"`, ""},
		`{"v":1,"command":"drain","request_id":"` + strings.Repeat("r", 129) + `"}`: {control.ErrMalformed, `"request_id"`, ""},
		`{"v":1,"command":"cancel","execution_id":"a b","request_id":"r"}`:          {control.ErrMalformed, "invalid execution ID", "r"},
	} {
		got, err := control.Parse([]byte(message))
		require.ErrorIs(t, err, want.kind, message)
		require.ErrorContains(t, err, want.says, message)
		require.Equal(t, want.request, got.RequestID, "so that the refusal can be answered: %s", message)
		require.Less(t, len(err.Error()), 400)
	}
}

func TestTargets(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string]bool{
		"*": true, "web-1-77-x": true, "web-*": true, "web-?-77-x": true, "db-*": false, "web-1": false, "[": false,
	} {
		require.Equal(t, want, control.Command{Worker: pattern}.Targets("web-1-77-x"), pattern)
	}
}

func TestKeysAndSignatures(t *testing.T) {
	t.Parallel()
	file, public, err := control.GenerateKey()
	require.NoError(t, err)
	private, err := control.ParsePrivateKey(file)
	require.NoError(t, err)
	key, err := control.ParsePublicKey(public + "\n")
	require.NoError(t, err)
	require.Equal(t, key, private.Public())
	c := control.Command{Verb: control.Drain, RequestID: "r"}.Sign(private, "channel", 1000)
	require.NoError(t, c.Verify(key, "channel", 1000))
	parsed, err := control.Parse(c.Encode())
	require.NoError(t, err)
	require.NoError(t, parsed.Verify(key, "channel", 1000+control.Freshness.Milliseconds()), "the wire keeps it, as long as it is fresh")
	require.ErrorIs(t, c.Verify(key, "channel", 1001+control.Freshness.Milliseconds()), control.ErrSignature)
	require.ErrorIs(t, c.Verify(key, "other", 1000), control.ErrSignature)
	other, _, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	require.ErrorIs(t, c.Verify(other, "channel", 1000), control.ErrSignature)
	for _, change := range []func(*control.Command){
		func(c *control.Command) { c.Verb = control.Pause }, func(c *control.Command) { c.Worker = "x" },
		func(c *control.Command) { c.RequestID = "x" }, func(c *control.Command) { c.ExecutionID = "x" },
		func(c *control.Command) { c.IssuedMS++ }, func(c *control.Command) { c.Signature = "" },
		func(c *control.Command) { c.Signature = "?" }, func(c *control.Command) { c.RequestID = "" },
	} {
		tampered := c
		change(&tampered)
		require.ErrorIs(t, tampered.Verify(key, "channel", 1000), control.ErrSignature)
	}
	for _, bad := range []string{"", "x", "AAAA"} {
		_, err := control.ParsePublicKey(bad)
		require.ErrorIs(t, err, control.ErrKey)
		_, err = control.ParsePrivateKey([]byte(bad))
		require.ErrorIs(t, err, control.ErrKey)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"drain", "drain web-*", "cancel 7f3a", `{"v":1,"command":"recycle","worker":"*","request_id":"c1f0"}`, `{"v":1`, "\x00\xff", "", "drain [",
		`{"v":1,"command":"cancel","execution_id":"7f3a"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		c, err := control.Parse(message)
		if err != nil {
			return
		}
		require.LessOrEqual(t, len(message), control.MaxMessageBytes)
		require.True(t, json.Valid(c.Encode()))
		if again, err := control.Parse(c.Encode()); err == nil { // what JSON escapes may grow above the limit
			require.Equal(t, c.Verb, again.Verb)
			require.Equal(t, c.RequestID, again.RequestID)
		}
	})
}
