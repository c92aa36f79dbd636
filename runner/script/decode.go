package script

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.starlark.net/starlark"
)

const (
	maxDepth  = 200  // how deep JSON may nest, in either direction
	maxDigits = 4300 // of a whole number, as in Python: reading more takes time that grows with their square
)

var (
	errTooDeep    = fmt.Errorf("nested deeper than %d", maxDepth)
	errOutOfRange = errors.New("out of range")
)

// decodeObject reads a JSON object; nothing at all is an empty one.
func decodeObject(document []byte) (*starlark.Dict, error) {
	if len(document) == 0 {
		return new(starlark.Dict), nil
	}
	value, err := decodeJSON(string(document))
	if err != nil {
		return nil, err
	}
	dict, ok := value.(*starlark.Dict)
	if !ok {
		return nil, fmt.Errorf("expected an object, got a %s", value.Type())
	}
	return dict, nil
}

// decodeJSON reads JSON into Starlark values: whole numbers are ints, exact however large; numbers with a point or an
// exponent are floats; of a key that comes twice the last value counts. Strings keep pieces of the document.
//
// It is written by hand because the decoder of go.starlark.net recurses without a bound: sixty bytes of a workflow,
// json.decode("[" * 4000000), would overflow the Go stack, and nothing recovers from that.
func decodeJSON(document string) (starlark.Value, error) {
	d := &decoder{text: document}
	value, err := d.value(0)
	if err == nil && d.next() != 0 {
		err = d.expected("the end")
	}
	if err != nil {
		return nil, fmt.Errorf("at byte %d: %w", d.at, err)
	}
	return value, nil
}

type decoder struct {
	text string
	at   int
}

// next skips white space and returns the byte that follows, or 0 at the end.
func (d *decoder) next() byte {
	for ; d.at < len(d.text); d.at++ {
		if c := d.text[d.at]; c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return c | (1 - min(c, 1)) // a NUL in the text is not the end
		}
	}
	return 0
}

func (d *decoder) expected(what string) error {
	if d.at >= len(d.text) {
		return fmt.Errorf("expected %s, got the end", what)
	}
	return fmt.Errorf("expected %s, got %q", what, d.text[d.at])
}

func (d *decoder) value(depth int) (starlark.Value, error) {
	if depth > maxDepth {
		return nil, errTooDeep
	}
	switch c := d.next(); c {
	case '{':
		return d.dict(depth)
	case '[':
		return d.list(depth)
	case '"':
		text, err := d.string()
		return starlark.String(text), err
	case 't':
		return d.word("true", starlark.True)
	case 'f':
		return d.word("false", starlark.False)
	case 'n':
		return d.word("null", starlark.None)
	default:
		if c == '-' || isDigit(c) {
			return d.number()
		}
		return nil, d.expected("a value")
	}
}

func (d *decoder) word(word string, value starlark.Value) (starlark.Value, error) {
	if !strings.HasPrefix(d.text[d.at:], word) {
		return nil, d.expected(word)
	}
	d.at += len(word)
	return value, nil
}

// more steps over a comma, or over the closing bracket and reports false.
func (d *decoder) more(closing byte, first bool) (bool, error) {
	switch c := d.next(); {
	case c == closing:
		d.at++
		return false, nil
	case first:
		return true, nil
	case c == ',':
		d.at++
		return true, nil
	default:
		return false, d.expected(fmt.Sprintf("',' or '%c'", closing))
	}
}

func (d *decoder) list(depth int) (starlark.Value, error) {
	d.at++
	var items []starlark.Value
	for {
		more, err := d.more(']', items == nil)
		if err != nil || !more {
			return starlark.NewList(items), err
		}
		item, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
}

func (d *decoder) dict(depth int) (starlark.Value, error) {
	d.at++
	dict := new(starlark.Dict)
	for first := true; ; first = false {
		more, err := d.more('}', first)
		if err != nil || !more {
			return dict, err
		}
		if d.next() != '"' {
			return nil, d.expected("a key")
		}
		key, err := d.string()
		if err != nil {
			return nil, err
		}
		if d.next() != ':' {
			return nil, d.expected("':'")
		}
		d.at++
		value, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if err := dict.SetKey(starlark.String(key), value); err != nil {
			return nil, err
		}
	}
}

// string reads a string. Most need no unquoting and are a piece of the text; encoding/json does the rest.
func (d *decoder) string() (string, error) {
	start, plain, ascii := d.at, true, true
	for i := start + 1; i < len(d.text); i++ {
		switch c := d.text[i]; {
		case c == '"':
			quoted := d.text[start : i+1]
			d.at = i + 1
			if inner := quoted[1 : len(quoted)-1]; plain && (ascii || utf8.ValidString(inner)) {
				return inner, nil
			}
			var text string
			if err := json.Unmarshal([]byte(quoted), &text); err != nil {
				d.at = start
				return "", errors.New("expected a string, got one with a malformed escape or a control character")
			}
			return text, nil
		case c == '\\':
			plain = false
			i++
		case c < ' ':
			plain = false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	d.at = len(d.text)
	return "", d.expected(`'"'`)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// digits steps over digits and reports whether there were any.
func (d *decoder) digits() bool {
	start := d.at
	for d.at < len(d.text) && isDigit(d.text[d.at]) {
		d.at++
	}
	return d.at > start
}

// accept steps over one byte if it is among those wanted.
func (d *decoder) accept(wanted string) bool {
	if d.at < len(d.text) && strings.IndexByte(wanted, d.text[d.at]) >= 0 {
		d.at++
		return true
	}
	return false
}

func (d *decoder) number() (starlark.Value, error) {
	start, whole := d.at, true
	d.accept("-")
	if !d.accept("0") && !d.digits() {
		return nil, d.expected("a digit")
	}
	if d.accept(".") {
		whole = false
		if !d.digits() {
			return nil, d.expected("a digit")
		}
	}
	if d.accept("eE") {
		whole = false
		d.accept("+-")
		if !d.digits() {
			return nil, d.expected("a digit")
		}
	}
	return convertNumber(d.text[start:d.at], whole)
}

func convertNumber(text string, whole bool) (starlark.Value, error) {
	if !whole {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("the number %s is %w", text, errOutOfRange)
		}
		return starlark.Float(f), nil
	}
	if small, err := strconv.ParseInt(text, 10, 64); err == nil {
		return starlark.MakeInt64(small), nil
	}
	if len(text) > maxDigits {
		return nil, fmt.Errorf("a number of %d digits is %w: at most %d", len(text), errOutOfRange, maxDigits)
	}
	large, _ := new(big.Int).SetString(text, 10) // digits only, so it cannot fail
	return starlark.MakeBigInt(large), nil
}
