package execution

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// The scanner sees in every object what encoding/json sees.
func FuzzMembers(f *testing.F) {
	for _, seed := range []string{
		`{}`, ` { "a" : 1 , "b":[1,{"c":"}"}] } `, `{"a":"\"","a":null}`, `{"é\u0041":{"x":"\\"},"":-1.5e3}`, "{\"a\":\ttrue\n,\r\"b\":false}", `{"a":{}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		var want map[string]json.RawMessage
		if json.Unmarshal(document, &want) != nil || want == nil {
			t.Skip()
		}
		got := map[string]json.RawMessage{}
		for name, value := range members(document) {
			got[string(name)] = value
		}
		require.Len(t, got, len(want))
		for name, value := range want {
			require.Equal(t, string(value), string(got[name]))
		}
	})
}
