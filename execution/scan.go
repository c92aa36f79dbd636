package execution

import (
	"encoding/json"
	"iter"
	"strconv"
)

// members yields the members of an object in order, as pieces of the document, and then says whether the document was one JSON
// object (RFC 8259) to its end. One pass, which needs no memory: decoding into a map costs a dozen allocations per execution.
func members(document []byte, valid *bool) iter.Seq2[[]byte, json.RawMessage] {
	return func(yield func(key []byte, value json.RawMessage) bool) {
		*valid = false
		at := skipSpace(document, 0)
		if at == len(document) || document[at] != '{' {
			return
		}
		at = skipSpace(document, at+1)
		for more := at < len(document) && document[at] != '}'; more; {
			key, value, end, ok := member(document, at)
			if !ok || !yield(unquote(key), value) {
				return
			}
			at = skipSpace(document, end)
			if more = at < len(document) && document[at] == ','; more {
				at = skipSpace(document, at+1)
			}
		}
		*valid = at < len(document) && document[at] == '}' && skipSpace(document, at+1) == len(document)
	}
}

// member reads the member that begins at a place, and where it ends.
func member(b []byte, at int) (key []byte, value json.RawMessage, end int, ok bool) {
	if at == len(b) || b[at] != '"' {
		return nil, nil, at, false
	}
	if end, ok = validString(b, at); !ok {
		return nil, nil, end, false
	}
	key = b[at:end]
	if at = skipSpace(b, end); at == len(b) || b[at] != ':' {
		return nil, nil, at, false
	}
	at = skipSpace(b, at+1)
	if end, ok = validValue(b, at, 1); !ok { // end may be beyond what is there
		return nil, nil, end, false
	}
	return key, b[at:end:end], end, true
}

func skipSpace(b []byte, at int) int {
	for at < len(b) && (b[at] == ' ' || b[at] == '\n' || b[at] == '\t' || b[at] == '\r') {
		at++
	}
	return at
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
