package script

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	starjson "go.starlark.net/lib/json"
	"go.starlark.net/starlark"
	"go.starlark.net/starlarkstruct"

	"github.com/bobbin-run/bobbin/execution"
)

// maxEncoded bounds what json.encode and json.indent return. It is generous: a result has a bound of its own.
const maxEncoded = 64 << 20

// jsonModule is Starlark's json with the same four functions, each of which ends: nesting, size and cancellation are bounded.
var jsonModule = &starlarkstruct.Module{Name: "json", Members: starlark.StringDict{
	"decode":        starlark.NewBuiltin("json.decode", jsonDecode),
	"encode":        starlark.NewBuiltin("json.encode", jsonEncode),
	"encode_indent": starlark.NewBuiltin("json.encode_indent", jsonEncodeIndent),
	"indent":        starjson.Module.Members["indent"],
}}

// jsonDecode is json.decode(x, default=…): with a default, a document that is no JSON is that.
func jsonDecode(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var document string
	var otherwise starlark.Value
	if err := starlark.UnpackArgs(b.Name(), args, kwargs, "x", &document, "default?", &otherwise); err != nil {
		return nil, err
	}
	value, err := decodeJSON(document)
	switch {
	case err == nil:
		return value, nil
	case otherwise != nil:
		return otherwise, nil
	default:
		return nil, fmt.Errorf("json.decode: %w", err)
	}
}

func jsonEncode(thread *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var value starlark.Value
	if err := starlark.UnpackArgs(b.Name(), args, kwargs, "x", &value); err != nil {
		return nil, err
	}
	text, err := encodeText(thread, value)
	return starlark.String(text), err
}

func jsonEncodeIndent(thread *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var value starlark.Value
	prefix, indent := "", "\t"
	if err := starlark.UnpackArgs(b.Name(), args, kwargs, "x", &value, "prefix?", &prefix, "indent?", &indent); err != nil {
		return nil, err
	}
	text, err := encodeText(thread, value)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, text, prefix, indent); err != nil {
		return nil, err
	}
	return starlark.String(out.String()), nil
}

func encodeText(thread *starlark.Thread, value starlark.Value) ([]byte, error) {
	text, err := encode(contextOf(thread), value, maxEncoded)
	var known *execution.Error
	if errors.As(err, &known) {
		err = errors.New("json.encode: " + strings.TrimPrefix(known.Message, "result"))
	}
	return text, err
}
