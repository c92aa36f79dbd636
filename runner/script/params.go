package script

import (
	"encoding/json"
	"fmt"
	"strings"

	"go.starlark.net/starlark"

	"github.com/bobbin-run/bobbin/execution"
)

// function is a function with its signature at hand, so that checking params allocates nothing.
type function struct {
	*starlark.Function
	params []param // those that can be given by name
	whole  bool    // its only parameter is called params: it takes the dict itself
}

type param struct {
	name     string
	key      starlark.Value // name, boxed once
	required bool
}

func newFunction(f *starlark.Function) *function {
	named := f.NumParams()
	if f.HasVarargs() {
		named--
	}
	if f.HasKwargs() {
		named--
	}
	result := &function{Function: f}
	for i := range named { // *args and **kwargs come last
		name, _ := f.Param(i)
		result.params = append(result.params, param{name, starlark.String(name), f.ParamDefault(i) == nil})
	}
	result.whole = f.NumParams() == 1 && named == 1 && result.params[0].name == "params"
	return result
}

// arguments turns params into keyword arguments of the function, or into the dict itself where its only parameter is called
// params. What is missing or unknown is an error that names it, before anything runs.
func (f *function) arguments(params json.RawMessage) (starlark.Tuple, []starlark.Tuple, error) {
	dict, err := decodeObject(params)
	if err != nil {
		return nil, nil, &execution.Error{Type: execution.TypeInvalidParams, Message: fmt.Sprintf("params: %v", err)}
	}
	if f.whole {
		return starlark.Tuple{dict}, nil, nil
	}
	given, missing := 0, ""
	for _, p := range f.params {
		_, found, _ := dict.Get(p.key)
		if found {
			given++
		} else if p.required && missing == "" {
			missing = p.name
		}
	}
	if given < dict.Len() && !f.HasKwargs() {
		return nil, nil, f.mismatch("unknown", f.firstUnknown(dict)) // first: a name misspelt is unknown and missing
	}
	if missing != "" {
		return nil, nil, f.mismatch("missing", missing)
	}
	return nil, dict.Items(), nil
}

func (f *function) firstUnknown(dict *starlark.Dict) string {
	for key := range dict.Entries() {
		name := string(key.(starlark.String))
		if !f.takes(name) {
			return name
		}
	}
	return ""
}

func (f *function) takes(name string) bool {
	for _, p := range f.params {
		if p.name == name {
			return true
		}
	}
	return false
}

// mismatch says what is wrong with one parameter and what the function takes: name=… has a default.
func (f *function) mismatch(what, name string) error {
	var takes []string
	for _, p := range f.params {
		if p.required {
			takes = append(takes, p.name)
		} else {
			takes = append(takes, p.name+"=…")
		}
	}
	if f.HasKwargs() {
		takes = append(takes, "**")
	}
	return &execution.Error{Type: execution.TypeInvalidParams, Message: fmt.Sprintf(
		"params: %s parameter %q; %s in %s takes (%s)", what, name, f.Name(), f.Position().Filename(), strings.Join(takes, ", "))}
}
