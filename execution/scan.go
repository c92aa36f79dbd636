package execution

import (
	"encoding/json"
	"iter"
	"strconv"
)

// members yields the members of an object in order, as pieces of the document. The document must be valid JSON and an object:
// a pass over it that knows this needs no memory, where decoding into a map costs a dozen allocations per execution.
func members(document []byte) iter.Seq2[[]byte, json.RawMessage] {
	return func(yield func(key []byte, value json.RawMessage) bool) {
		at := skipSpace(document, 0) + 1 // the brace
		for {
			at = skipSpace(document, at)
			if document[at] == '}' {
				return
			}
			if document[at] == ',' {
				at = skipSpace(document, at+1)
			}
			key := document[at:skipValue(document, at)]
			at = skipSpace(document, at+len(key)) + 1 // the colon
			at = skipSpace(document, at)
			value := document[at:skipValue(document, at)]
			if !yield(unquote(key), json.RawMessage(value)) {
				return
			}
			at += len(value)
		}
	}
}

func skipSpace(b []byte, at int) int {
	for at < len(b) && (b[at] == ' ' || b[at] == '\n' || b[at] == '\t' || b[at] == '\r') {
		at++
	}
	return at
}

// skipValue returns where the value that begins at a place ends.
func skipValue(b []byte, at int) int {
	depth := 0
	for ; at < len(b); at++ {
		switch b[at] {
		case '"':
			at = skipString(b, at) - 1
			if depth == 0 {
				return at + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth < 0 { // the end of what holds a number, true, false or null
				return at
			}
			if depth == 0 {
				return at + 1
			}
		case ',', ' ', '\n', '\t', '\r':
			if depth == 0 {
				return at
			}
		}
	}
	return at
}

func skipString(b []byte, at int) int {
	for at++; b[at] != '"'; at++ {
		if b[at] == '\\' {
			at++
		}
	}
	return at + 1
}

// plain reports whether a JSON string says what it says: nothing escaped, nothing but ASCII.
func plain(quoted []byte) bool {
	if len(quoted) < 2 || quoted[0] != '"' {
		return false
	}
	for _, c := range quoted[1 : len(quoted)-1] {
		if c == '\\' || c < ' ' || c >= 0x80 {
			return false
		}
	}
	return true
}

func unquote(quoted []byte) []byte {
	if plain(quoted) {
		return quoted[1 : len(quoted)-1]
	}
	var text string
	_ = json.Unmarshal(quoted, &text) // a string of a valid document
	return []byte(text)
}

// decodeValue is json.Unmarshal, with short ways for what nearly every context has.
func decodeValue(target any, raw json.RawMessage) error {
	switch t := target.(type) {
	case *string:
		if plain(raw) {
			*t = string(raw[1 : len(raw)-1])
			return nil
		}
	case *float64:
		if len(raw) > 0 && (raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9') {
			value, err := strconv.ParseFloat(string(raw), 64)
			*t = value
			return err
		}
	}
	return json.Unmarshal(raw, target)
}
