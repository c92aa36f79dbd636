package script

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"go.starlark.net/starlark"
	"go.starlark.net/starlarkstruct"

	"github.com/bobbin-run/bobbin/execution"
)

// maxDepth bounds how deep params and results may nest.
const maxDepth = 200

// arguments turns params into keyword arguments of the function, or into the dict itself where its only parameter is called
// params. What is missing or unknown is an error that names it, before anything runs.
func arguments(f *starlark.Function, params json.RawMessage) (starlark.Tuple, []starlark.Tuple, error) {
	value, err := decodeJSON(params)
	if err != nil {
		return nil, nil, &execution.Error{Type: execution.TypeInvalidParams, Message: err.Error()}
	}
	dict, ok := value.(*starlark.Dict)
	if !ok {
		return nil, nil, &execution.Error{Type: execution.TypeInvalidParams, Message: "params: expected an object"}
	}
	if name, _ := paramName(f, 0); f.NumParams() == 1 && name == "params" && !f.HasVarargs() && !f.HasKwargs() {
		return starlark.Tuple{dict}, nil, nil
	}
	if err := checkNames(f, dict); err != nil {
		return nil, nil, err
	}
	return nil, dict.Items(), nil
}

func paramName(f *starlark.Function, i int) (string, bool) {
	if i >= f.NumParams() {
		return "", false
	}
	name, _ := f.Param(i)
	return name, true
}

func checkNames(f *starlark.Function, given *starlark.Dict) error {
	var takes, missing []string
	named := f.NumParams()
	if f.HasVarargs() {
		named--
	}
	if f.HasKwargs() {
		named--
	}
	for i := range named {
		name, _ := f.Param(i)
		takes = append(takes, name)
		if _, found, _ := given.Get(starlark.String(name)); !found && f.ParamDefault(i) == nil {
			missing = append(missing, name)
		}
	}
	for _, key := range given.Keys() {
		name := string(key.(starlark.String))
		if !f.HasKwargs() && !slices.Contains(takes, name) {
			return paramError(f, fmt.Sprintf("unknown parameter %q", name), takes)
		}
	}
	if len(missing) > 0 {
		return paramError(f, fmt.Sprintf("missing parameter %q", strings.Join(missing, `", "`)), takes)
	}
	return nil
}

func paramError(f *starlark.Function, what string, takes []string) error {
	return &execution.Error{Type: execution.TypeInvalidParams, Message: fmt.Sprintf(
		"params: %s; %s in %s takes (%s)", what, f.Name(), f.Position().Filename(), strings.Join(takes, ", "))}
}

// decodeJSON reads JSON into Starlark values. Whole numbers stay exact, however large.
func decodeJSON(document []byte) (starlark.Value, error) {
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.UseNumber()
	value, err := decodeNext(decoder, 0)
	if err != nil {
		return nil, fmt.Errorf("params: %w", err)
	}
	return value, nil
}

func decodeNext(d *json.Decoder, depth int) (starlark.Value, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	switch t := token.(type) {
	case json.Delim:
		if t == '[' {
			return decodeList(d, depth)
		}
		return decodeDict(d, depth)
	case string:
		return starlark.String(t), nil
	case bool:
		return starlark.Bool(t), nil
	case json.Number:
		return decodeNumber(t)
	default:
		return starlark.None, nil
	}
}

func decodeList(d *json.Decoder, depth int) (starlark.Value, error) {
	var items []starlark.Value
	for d.More() {
		item, err := decodeNext(d, depth+1)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	_, err := d.Token() // the closing bracket
	return starlark.NewList(items), err
}

func decodeDict(d *json.Decoder, depth int) (starlark.Value, error) {
	dict := starlark.NewDict(8)
	for d.More() {
		key, err := decodeNext(d, depth+1)
		if err != nil {
			return nil, err
		}
		value, err := decodeNext(d, depth+1)
		if err != nil {
			return nil, err
		}
		if err := dict.SetKey(key, value); err != nil {
			return nil, err
		}
	}
	_, err := d.Token() // the closing brace
	return dict, err
}

func decodeNumber(n json.Number) (starlark.Value, error) {
	if small, err := strconv.ParseInt(string(n), 10, 64); err == nil {
		return starlark.MakeInt64(small), nil
	}
	if !strings.ContainsAny(string(n), ".eE") {
		if large, ok := new(big.Int).SetString(string(n), 10); ok {
			return starlark.MakeBigInt(large), nil
		}
	}
	float, err := n.Float64()
	if err != nil {
		return nil, fmt.Errorf("number %s is out of range", n)
	}
	return starlark.Float(float), nil
}

// encode writes a result as JSON. Dicts keep their order, tuples and sets become lists, structs objects. What JSON cannot
// carry is an InvalidResult that names the place.
func encode(value starlark.Value) (json.RawMessage, error) {
	e := &encoder{out: make([]byte, 0, 128)}
	if err := e.value(value, 0); err != nil {
		return nil, &execution.Error{Type: execution.TypeInvalidResult, Message: fmt.Sprintf("result%s: %v", e.where(), err)}
	}
	return e.out, nil
}

type encoder struct {
	out  []byte
	path []string // outermost last, filled while an error goes up
}

func (e *encoder) where() string {
	slices.Reverse(e.path)
	return strings.Join(e.path, "")
}

func (e *encoder) value(value starlark.Value, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d, or within itself", maxDepth)
	}
	switch v := value.(type) {
	case starlark.NoneType:
		e.out = append(e.out, "null"...)
	case starlark.Bool:
		e.out = strconv.AppendBool(e.out, bool(v))
	case starlark.Int:
		e.out = append(e.out, v.String()...)
	case starlark.Float:
		return e.float(float64(v))
	case starlark.String:
		return e.text(string(v))
	case *starlark.Dict:
		return e.dict(v, depth)
	case *starlarkstruct.Struct:
		return e.structure(v, depth)
	case starlark.Iterable:
		return e.list(v, depth)
	default:
		return fmt.Errorf("a %s is not JSON", value.Type())
	}
	return nil
}

func (e *encoder) float(f float64) error {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return fmt.Errorf("%v is not JSON", f)
	}
	encoded, err := json.Marshal(f)
	e.out = append(e.out, encoded...)
	return err
}

// text writes a string; bytes that are not UTF-8 become U+FFFD, as JSON has no bytes.
func (e *encoder) text(s string) error {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f || c == '<' || c == '>' || c == '&' {
			var quoted bytes.Buffer
			encoder := json.NewEncoder(&quoted)
			encoder.SetEscapeHTML(false)
			if err := encoder.Encode(s); err != nil {
				return err
			}
			e.out = append(e.out, bytes.TrimSuffix(quoted.Bytes(), []byte("\n"))...)
			return nil
		}
	}
	e.out = append(append(append(e.out, '"'), s...), '"')
	return nil
}

func (e *encoder) dict(d *starlark.Dict, depth int) error {
	e.out = append(e.out, '{')
	for i, item := range d.Items() {
		key, ok := item[0].(starlark.String)
		if !ok {
			return fmt.Errorf("the key %s is a %s, expected a string", item[0], item[0].Type())
		}
		if err := e.member(i, string(key), item[1], depth); err != nil {
			return err
		}
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
		if err := e.member(i, name, value, depth); err != nil {
			return err
		}
	}
	e.out = append(e.out, '}')
	return nil
}

func (e *encoder) member(i int, key string, value starlark.Value, depth int) error {
	if i > 0 {
		e.out = append(e.out, ',')
	}
	if err := e.text(key); err != nil {
		return err
	}
	e.out = append(e.out, ':')
	if err := e.value(value, depth+1); err != nil {
		e.path = append(e.path, "."+key)
		return err
	}
	return nil
}

func (e *encoder) list(list starlark.Iterable, depth int) error {
	e.out = append(e.out, '[')
	items := list.Iterate()
	defer items.Done()
	var item starlark.Value
	for i := 0; items.Next(&item); i++ {
		if i > 0 {
			e.out = append(e.out, ',')
		}
		if err := e.value(item, depth+1); err != nil {
			e.path = append(e.path, fmt.Sprintf("[%d]", i))
			return err
		}
	}
	e.out = append(e.out, ']')
	return nil
}
