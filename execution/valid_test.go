package execution_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
)

var documents = []string{
	``, ` `, `null`, `nul`, `nullx`, `true`, `false `, `0`, `-0`, `01`, `-`, `1.`, `1.5`, `.5`, `1e5`, `1E+5`, `1e`, `1e-`, `--1`, `1 2`, `NaN`,
	`""`, `"`, `"a`, `"\n"`, "\"\n\"", `"\x"`, `"\u00e9"`, `"\u00g9"`, `"\u12"`, `"\`, `"\\"`, "\"\xff\"", "\"\x00\"", "\"\x7f\"", `"/\/"`,
	`[]`, `[ ]`, `[1]`, `[1,]`, `[,1]`, `[1 2]`, `[1,[2,{}]]`, `[`, `[1`, `]`, `[}`, "\t[\r\n1 ] ",
	`{}`, `{ }`, `{"a":1}`, `{"a":1,}`, `{"a"}`, `{"a":}`, `{a:1}`, `{"a":1 "b":2}`, `{"a":1,"a":2}`, `{"a" : {"b":[null,true,false,-1.5e-3]} }`, `{`, `{"a":1`, `{]`,
	"\ufeff{}", `{"a":1}x`, `'a'`, strings.Repeat("[", 9999) + strings.Repeat("]", 9999), strings.Repeat("[", 10000) + strings.Repeat("]", 10000),
	strings.Repeat("[", 10001) + strings.Repeat("]", 10001), strings.Repeat(`{"a":`, 10001) + "1" + strings.Repeat("}", 10001), strings.Repeat("[", 1<<20),
}

func TestValid(t *testing.T) {
	t.Parallel()
	for _, document := range documents {
		require.Equal(t, json.Valid([]byte(document)), execution.Valid([]byte(document)), "%.60q", document)
	}
}

func FuzzValid(f *testing.F) {
	for _, document := range documents[:len(documents)-5] {
		f.Add([]byte(document))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		require.Equal(t, json.Valid(document), execution.Valid(slices.Clip(document)))
	})
}

func BenchmarkValid(b *testing.B) {
	document := []byte(`{"workflow":"noop","params":{"customer":4711,"note":"nothing to do"},"meta":{"tenant":"acme"}}`)
	for name, valid := range map[string]func([]byte) bool{"this": execution.Valid, "encoding/json": json.Valid} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				valid(document)
			}
		})
	}
}
