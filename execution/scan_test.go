package execution

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// The scanner sees in every object what encoding/json sees, and takes nothing else for one.
func FuzzMembers(f *testing.F) {
	for _, seed := range []string{
		`{}`, ` { "a" : 1 , "b":[1,{"c":"}"}] } `, `{"a":"\"","a":null}`, `{"é\u0041":{"x":"\\"},"":-1.5e3}`, "{\"a\":\ttrue\n,\r\"b\":false}", `{"a":{}}`,
		`{"a":1,}`, `{,}`, `{"a" 1}`, `{"a":1`, `{"a":1}}`, `null`, `[{}]`, `{"a":[1,]}`, `{a:1}`, ` `, `{"a":1 "b":2}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		document = slices.Clip(document) // nothing may be read beyond it
		var want map[string]json.RawMessage
		err := json.Unmarshal(document, &want)
		got, isObject := map[string]json.RawMessage{}, false
		for name, value := range members(document, &isObject) {
			got[string(name)] = value
		}
		require.Equal(t, err == nil && want != nil, isObject)
		if !isObject {
			return
		}
		require.Len(t, got, len(want))
		for name, value := range want {
			require.Equal(t, string(value), string(got[name]))
		}
	})
}
