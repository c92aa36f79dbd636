//go:build !failpoints

package main

import "github.com/bobbin-run/bobbin/runner"

// builtinHandlers are the Go handlers of the service: none. A program with handlers of its own uses the library.
func builtinHandlers() *runner.Mux { return runner.NewMux() }
