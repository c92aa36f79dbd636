package script

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.starlark.net/starlark"
	"go.starlark.net/starlarkstruct"

	"github.com/bobbin-run/bobbin/execution"
)

var errTooLarge = errors.New("the result is too large")

// encode writes a result as JSON. Dicts keep their order, sets the order of insertion; tuples, sets and ranges become lists,
// structs objects with their fields in alphabetical order; floats always have a point or an exponent; bytes of a string that
// are not UTF-8 become U+FFFD. What JSON cannot carry is an InvalidResult that names the place.
//
// It ends soon after ctx does, and at max bytes: a list that holds itself twice, sixty deep, is small in memory only.
func encode(ctx context.Context, value starlark.Value, most int) (json.RawMessage, error) {
	e := &encoder{ctx: ctx, most: most, out: make([]byte, 0, 128)}
	err := e.value(value, 0)
	if err == nil {
		err = e.check()
	}
	switch {
	case err == nil:
		return e.out, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, errTooLarge):
		return nil, &execution.Error{Type: execution.TypeResultTooLarge, Message: fmt.Sprintf("result: larger than %d bytes", most)}
	default:
		return nil, &execution.Error{Type: execution.TypeInvalidResult, Message: fmt.Sprintf("result%s: %v", e.where(), err)}
	}
}

type encoder struct {
	ctx  context.Context
	most int
	out  []byte
	seen int      // values so far
	path []string // innermost first, filled while an error goes up
}

// where renders the path to the offending value; of a very long one, only its beginning.
func (e *encoder) where() string {
	const shown = 10
	slices.Reverse(e.path)
	if len(e.path) > shown {
		return strings.Join(e.path[:shown], "") + "…"
	}
	return strings.Join(e.path, "")
}

func (e *encoder) check() error {
	if len(e.out) > e.most {
		return errTooLarge
	}
	return e.ctx.Err()
}

func (e *encoder) value(value starlark.Value, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%w, or within itself", errTooDeep)
	}
	if e.seen++; e.seen%1024 == 0 || len(e.out) > e.most {
		if err := e.check(); err != nil {
			return err
		}
	}
	switch v := value.(type) {
	case starlark.NoneType:
		e.out = append(e.out, "null"...)
	case starlark.Bool:
		e.out = strconv.AppendBool(e.out, bool(v))
	case starlark.Int:
		e.integer(v)
	case starlark.Float:
		return e.float(float64(v))
	case starlark.String:
		e.out = appendString(e.out, string(v))
	case *starlark.Dict:
		return e.dict(v, depth)
	case *starlarkstruct.Struct:
		return e.structure(v, depth)
	case starlark.Bytes:
		return fmt.Errorf("a value of type %s is not JSON", value.Type())
	case starlark.Indexable: // lists, tuples, ranges
		return e.sequence(v, depth)
	case starlark.Iterable: // sets
		return e.iterable(v, depth)
	default:
		return fmt.Errorf("a value of type %s is not JSON", value.Type())
	}
	return nil
}

func (e *encoder) integer(i starlark.Int) {
	if small, ok := i.Int64(); ok {
		e.out = strconv.AppendInt(e.out, small, 10)
	} else {
		e.out = append(e.out, i.String()...)
	}
}

// float writes the shortest digits that read back as the same float.
func (e *encoder) float(f float64) error {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return fmt.Errorf("%v is not JSON", f)
	}
	start, format := len(e.out), byte('f')
	if size := math.Abs(f); size != 0 && (size < 1e-6 || size >= 1e21) {
		format = 'e'
	}
	e.out = strconv.AppendFloat(e.out, f, format, -1, 64)
	if format == 'f' && !slices.Contains(e.out[start:], '.') {
		e.out = append(e.out, ".0"...)
	}
	return nil
}

func (e *encoder) dict(d *starlark.Dict, depth int) error {
	e.out = append(e.out, '{')
	first := true
	for k, value := range d.Entries() {
		key, ok := k.(starlark.String)
		if !ok {
			return fmt.Errorf("the key %s is of type %s, expected a string", k, k.Type())
		}
		if err := e.member(first, string(key), value, depth); err != nil {
			return err
		}
		first = false
	}
	e.out = append(e.out, '}')
	return nil
}

func (e *encoder) structure(s *starlarkstruct.Struct, depth int) error {
	e.out = append(e.out, '{')
	for i, name := range s.AttrNames() {
		value, err := s.Attr(name)
		if err != nil {
			return err
		}
		if err := e.member(i == 0, name, value, depth); err != nil {
			return err
		}
	}
	e.out = append(e.out, '}')
	return nil
}

var identifier = regexp.MustCompile(`^[\pL_][\pL\pN_]*$`)

func (e *encoder) member(first bool, key string, value starlark.Value, depth int) error {
	if !first {
		e.out = append(e.out, ',')
	}
	e.out = append(appendString(e.out, key), ':')
	err := e.value(value, depth+1)
	if err != nil && identifier.MatchString(key) {
		e.path = append(e.path, "."+key)
	} else if err != nil {
		e.path = append(e.path, fmt.Sprintf("[%q]", key))
	}
	return err
}

func (e *encoder) sequence(list starlark.Indexable, depth int) error {
	e.out = append(e.out, '[')
	for i := range list.Len() {
		if err := e.item(i, list.Index(i), depth); err != nil {
			return err
		}
	}
	e.out = append(e.out, ']')
	return nil
}

func (e *encoder) iterable(list starlark.Iterable, depth int) error {
	e.out = append(e.out, '[')
	i := 0
	for item := range starlark.Elements(list) {
		if err := e.item(i, item, depth); err != nil {
			return err
		}
		i++
	}
	e.out = append(e.out, ']')
	return nil
}

func (e *encoder) item(i int, item starlark.Value, depth int) error {
	if i > 0 {
		e.out = append(e.out, ',')
	}
	err := e.value(item, depth+1)
	if err != nil {
		e.path = append(e.path, fmt.Sprintf("[%d]", i))
	}
	return err
}

// appendString writes a JSON string: ", \ and control characters escaped, everything else as it is.
func appendString(out []byte, s string) []byte {
	const hex = "0123456789abcdef"
	out = append(out, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				out = append(append(out, s[from:i]...), "\ufffd"...)
				from = i + 1
			}
			i += size
			continue
		}
		out = append(out, s[from:i]...)
		switch c {
		case '"', '\\':
			out = append(out, '\\', c)
		case '\n':
			out = append(out, '\\', 'n')
		case '\t':
			out = append(out, '\\', 't')
		case '\r':
			out = append(out, '\\', 'r')
		default:
			out = append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		from = i
	}
	return append(append(out, s[from:]...), '"')
}
