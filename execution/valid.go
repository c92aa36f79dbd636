package execution

// maxDepth is how deep arrays and objects may be nested in a document, as in encoding/json.
const maxDepth = 10_000

// Valid says whether data is one JSON value (RFC 8259). It agrees with [encoding/json.Valid] and takes a fraction of its time, which
// on the path of every execution, for its context and its result, was the largest part that was not the workflow's.
func Valid(data []byte) bool {
	at, ok := validValue(data, skipSpace(data, 0), 0)
	return ok && skipSpace(data, at) == len(data)
}

// validValue checks the value that begins at a place and returns where it ends.
func validValue(b []byte, at, depth int) (end int, ok bool) {
	if at >= len(b) || depth > maxDepth {
		return at, false
	}
	switch c := b[at]; {
	case c == '"':
		return validString(b, at)
	case c == '{':
		return validMembers(b, at+1, depth+1, '}')
	case c == '[':
		return validMembers(b, at+1, depth+1, ']')
	case c == '-' || isDigit(c):
		return validNumber(b, at)
	case c == 't':
		return validWord(b, at, "true")
	case c == 'f':
		return validWord(b, at, "false")
	case c == 'n':
		return validWord(b, at, "null")
	}
	return at, false
}

// validMembers checks what follows the opening of an array or object, up to its close.
func validMembers(b []byte, at, depth int, closing byte) (end int, ok bool) {
	if at = skipSpace(b, at); at < len(b) && b[at] == closing {
		return at + 1, depth <= maxDepth
	}
	for {
		if closing == '}' {
			if at = skipSpace(b, at); at >= len(b) || b[at] != '"' {
				return at, false
			}
			if at, ok = validString(b, at); !ok {
				return at, false
			}
			if at = skipSpace(b, at); at >= len(b) || b[at] != ':' {
				return at, false
			}
			at++
		}
		if at, ok = validValue(b, skipSpace(b, at), depth); !ok {
			return at, false
		}
		if at = skipSpace(b, at); at >= len(b) {
			return at, false
		}
		switch b[at] {
		case closing:
			return at + 1, true
		case ',':
			at++
		default:
			return at, false
		}
	}
}

func validString(b []byte, at int) (end int, ok bool) {
	for at++; at < len(b); at++ {
		switch c := b[at]; {
		case c == '"':
			return at + 1, true
		case c < ' ':
			return at, false
		case c == '\\':
			if at, ok = validEscape(b, at+1); !ok {
				return at, false
			}
		}
	}
	return at, false
}

// validEscape checks what follows a backslash and returns where its last byte is.
func validEscape(b []byte, at int) (last int, ok bool) {
	if at >= len(b) {
		return at, false
	}
	switch b[at] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return at, true
	case 'u':
		for i := at + 1; i <= at+4; i++ {
			if i >= len(b) || !isHex(b[i]) {
				return at, false
			}
		}
		return at + 4, true
	}
	return at, false
}

func validNumber(b []byte, at int) (end int, ok bool) {
	if b[at] == '-' {
		at++
	}
	switch {
	case at >= len(b) || !isDigit(b[at]):
		return at, false
	case b[at] == '0':
		at++
	default:
		at = skipDigits(b, at)
	}
	if at < len(b) && b[at] == '.' {
		if at++; at >= len(b) || !isDigit(b[at]) {
			return at, false
		}
		at = skipDigits(b, at)
	}
	if at < len(b) && (b[at] == 'e' || b[at] == 'E') {
		if at++; at < len(b) && (b[at] == '+' || b[at] == '-') {
			at++
		}
		if at >= len(b) || !isDigit(b[at]) {
			return at, false
		}
		at = skipDigits(b, at)
	}
	return at, true
}

func validWord(b []byte, at int, word string) (end int, ok bool) {
	end = at + len(word)
	return end, end <= len(b) && string(b[at:end]) == word
}

func skipDigits(b []byte, at int) int {
	for at < len(b) && isDigit(b[at]) {
		at++
	}
	return at
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isHex(c byte) bool { return isDigit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' }
