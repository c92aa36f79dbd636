package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/bobbin-run/bobbin/execution"
)

// Mux runs Go handlers, each registered under the workflow name that picks it. Register all of them before the worker
// starts: registering while it runs is a data race. The zero value is empty and ready.
type Mux struct {
	handlers map[string]Runner
}

// NewMux returns an empty Mux.
func NewMux() *Mux { return &Mux{handlers: map[string]Runner{}} }

// Handle registers a runner for the workflow name. It panics when the name is empty or already taken, as
// [net/http.ServeMux] does: both are mistakes in the program that no caller could mend at run time.
func (m *Mux) Handle(workflow string, r Runner) {
	if workflow == "" || r == nil {
		panic("runner: Handle needs a workflow name and a runner")
	}
	if m.Has(workflow) {
		panic(fmt.Sprintf("runner: workflow %q is registered twice", workflow))
	}
	if m.handlers == nil {
		m.handlers = map[string]Runner{}
	}
	m.handlers[workflow] = r
}

// Names returns the registered workflow names in order.
func (m *Mux) Names() []string { return slices.Sorted(maps.Keys(m.handlers)) }

// Has says whether a handler is registered for the workflow name.
func (m *Mux) Has(workflow string) bool {
	_, ok := m.handlers[workflow]
	return ok
}

// Run runs the handler that is registered for the call's workflow, or returns a rejected WorkflowNotFound that lists the
// names there are.
func (m *Mux) Run(ctx context.Context, call *Call) (json.RawMessage, error) {
	handler, ok := m.handlers[call.Workflow]
	if !ok {
		return nil, NotFound(call.Workflow, "no handler has that name; there are: "+strings.Join(m.Names(), ", "))
	}
	if f, ok := handler.(Func); ok {
		return f(ctx, call) // most are: a frame less on each of the stacks that a collection walks through
	}
	return handler.Run(ctx, call)
}

// Handle registers fn for the workflow name with typed parameters and a typed result. The context's params are decoded
// into a P, strictly: a parameter that P does not have is an InvalidParams error, so that a misspelt name is not lost.
// The R that fn returns is marshalled as the result. [CallFrom] gives fn the rest of the call.
func Handle[P, R any](m *Mux, workflow string, fn func(ctx context.Context, params P) (R, error)) {
	m.Handle(workflow, Func(func(ctx context.Context, call *Call) (json.RawMessage, error) {
		var params P
		decoder := json.NewDecoder(bytes.NewReader(call.Params))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&params); err != nil {
			return nil, &execution.Error{Type: execution.TypeInvalidParams, Message: fmt.Sprintf("params of %q: %v", workflow, err)}
		}
		value, err := fn(context.WithValue(ctx, callKey{}, call), params)
		if err != nil {
			return nil, err
		}
		result, err := json.Marshal(value)
		if err != nil {
			return nil, &execution.Error{
				Type: execution.TypeInvalidResult, Message: fmt.Sprintf("result of %q does not marshal: %v", workflow, err),
			}
		}
		return result, nil
	}))
}

type callKey struct{}

// CallFrom returns the call that a handler registered with [Handle] is running, or nil outside one.
func CallFrom(ctx context.Context) *Call {
	call, _ := ctx.Value(callKey{}).(*Call)
	return call
}
