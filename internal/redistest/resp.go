package redistest

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// bufferSize bounds what is held of a connection in one direction. Longer frames stream through it.
const bufferSize = 64 << 10

// maxScript bounds the EVAL body that is held to be hashed. Longer scripts pass under the name EVAL only.
const maxScript = 1 << 20

// errProtocol is in the chain of every error about bytes that are not RESP.
var errProtocol = errors.New("redistest: not RESP")

var errNoBulk = fmt.Errorf("%w: an argument that is no bulk string", errProtocol)

// request is one command of a client. Its beginning was read, as far as it takes to name it; the rest still waits in the
// connection.
type request struct {
	verb   string // upper case
	script string // sha1 of the script it runs, in lower case, if it runs one
	head   []byte // what was read of it
	rest   int    // arguments that were not read
	args   int    // all of them, the verb included; 0 is a frame that Redis ignores without an answer
}

// readRequest reads as much of the next command as it takes to name it.
func readRequest(r *bufio.Reader) (*request, error) {
	var head bytes.Buffer
	line, err := copyLine(&head, r)
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(line, []byte("*")) {
		return inlineRequest(line, head.Bytes()), nil
	}
	n, err := length(line)
	if err != nil {
		return nil, err
	}
	req := &request{args: max(n, 0), rest: max(n, 0)}
	err = req.name(&head, r)
	req.head = head.Bytes()
	return req, err
}

// inlineRequest is what a person types into telnet: words on a line.
func inlineRequest(line, head []byte) *request {
	req := &request{head: head}
	if words := strings.Fields(string(line)); len(words) > 0 {
		req.verb, req.args = strings.ToUpper(words[0]), len(words)
	}
	return req
}

// name reads the verb, and the script of an EVAL or the hash of an EVALSHA.
func (req *request) name(head *bytes.Buffer, r *bufio.Reader) error {
	verb, err := req.argument(head, r, bufferSize)
	if err != nil {
		return err
	}
	req.verb = strings.ToUpper(string(verb))
	switch req.verb {
	case "EVAL", "EVAL_RO":
		body, err := req.argument(head, r, maxScript)
		if body != nil {
			req.script = sha1Hex(body)
		}
		return err
	case "EVALSHA", "EVALSHA_RO":
		sum, err := req.argument(head, r, bufferSize)
		req.script = strings.ToLower(string(sum))
		return err
	}
	return nil
}

// argument moves the next argument to head and returns its payload. It returns nil and moves nothing when there is none,
// or when it is longer than limit.
func (req *request) argument(head *bytes.Buffer, r *bufio.Reader, limit int) ([]byte, error) {
	if req.rest == 0 {
		return nil, nil
	}
	if kind, err := r.Peek(1); err != nil || kind[0] != '$' {
		return nil, cmp.Or(err, errNoBulk)
	}
	n, err := peekLength(r)
	if err != nil || n > limit {
		return nil, err
	}
	start := head.Len()
	if err := copyFrame(head, r); err != nil {
		return nil, err
	}
	req.rest--
	frame := head.Bytes()[start:]
	body := frame[bytes.IndexByte(frame, '\n')+1:]
	return body[:max(len(body)-2, 0)], nil
}

// forward writes the whole command to w, streaming what was not read yet.
func (req *request) forward(w io.Writer, r *bufio.Reader) error {
	if _, err := w.Write(req.head); err != nil {
		return err
	}
	for range req.rest {
		if err := copyFrame(w, r); err != nil {
			return err
		}
	}
	return nil
}

// copyFrame copies exactly one RESP value, of version 2 or 3, from r to w. It holds no more of it than r's buffer does,
// and does not recurse, whatever the nesting.
func copyFrame(w io.Writer, r *bufio.Reader) error {
	for left := 1; left > 0; left-- {
		line, err := copyLine(w, r)
		if err != nil {
			return err
		}
		children, err := copyBody(w, r, line)
		if err != nil {
			return err
		}
		left += children
	}
	return nil
}

// copyBody copies what belongs to a header line and says how many values follow as its children.
func copyBody(w io.Writer, r *bufio.Reader, line []byte) (children int, err error) {
	switch line[0] {
	case '+', '-', ':', ',', '#', '(', '_':
		return 0, nil
	}
	n, err := length(line)
	if err != nil {
		return 0, err
	}
	switch line[0] {
	case '$', '=', '!':
		if n >= 0 {
			_, err = io.CopyN(writerOnly{w}, r, int64(n)+2)
		}
		return 0, err
	case '*', '~', '>':
		return max(n, 0), nil
	case '%':
		return 2 * max(n, 0), nil
	case '|': // attributes go before the value they describe
		return 2*max(n, 0) + 1, nil
	}
	return 0, fmt.Errorf("%w: type %q is unknown", errProtocol, line[0])
}

// writerOnly hides that a bufio.Writer can read by itself: it would read from a [source] into the middle of its buffer, which that
// source flushes meanwhile.
type writerOnly struct{ io.Writer }

// copyLine copies one line of any length and returns its first bytes, at least one: all of it when it is a header.
func copyLine(w io.Writer, r *bufio.Reader) ([]byte, error) {
	var first []byte
	for {
		part, err := r.ReadSlice('\n')
		if first == nil {
			first = bytes.Clone(part[:min(len(part), 1024)])
		}
		if _, werr := w.Write(part); werr != nil {
			return first, werr
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return first, err
		}
	}
}

// length is the number in a header line.
func length(line []byte) (int, error) {
	n, err := strconv.Atoi(strings.TrimSpace(string(line[1:])))
	if err != nil || n < -1 || n > 1<<30 {
		return 0, fmt.Errorf("%w: %q is no length", errProtocol, line)
	}
	return n, nil
}

// peekLine looks at the line that starts offset bytes ahead. It waits for no byte beyond that line.
func peekLine(r *bufio.Reader, offset int) ([]byte, error) {
	for n := offset + 1; ; n++ {
		ahead, err := r.Peek(n)
		if err != nil {
			return nil, err
		}
		if ahead[n-1] == '\n' {
			return ahead[offset:], nil
		}
	}
}

func peekLength(r *bufio.Reader) (int, error) {
	line, err := peekLine(r, 0)
	if err != nil {
		return 0, err
	}
	return length(line)
}

// peekWord looks at the first element of the array or push that comes next: the kind of a pub/sub message. It is empty
// when that is no short string.
func peekWord(r *bufio.Reader) (string, error) {
	header, err := peekLine(r, 0)
	if err != nil {
		return "", err
	}
	if n, err := length(header); err != nil || n < 1 {
		return "", err
	}
	start := len(header)
	if first, err := r.Peek(start + 1); err != nil || first[start] != '$' {
		return "", err
	}
	line, err := peekLine(r, start)
	if err != nil {
		return "", err
	}
	n, err := length(line)
	if err != nil || n < 1 || n > 32 {
		return "", err
	}
	start += len(line)
	ahead, err := r.Peek(start + n)
	if err != nil {
		return "", err
	}
	return strings.ToLower(string(ahead[start:])), nil
}

func sha1Hex(body []byte) string {
	sum := sha1.Sum(body)
	return hex.EncodeToString(sum[:])
}
