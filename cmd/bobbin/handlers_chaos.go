//go:build failpoints

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/bobbin-run/bobbin/runner"
)

// builtinHandlers are what the chaos tests run: a handler that writes into a file when it starts and when it ends, which is
// all that the history checker believes.
func builtinHandlers() *runner.Mux {
	mux := runner.NewMux()
	mux.Handle("chaos", runner.Func(func(ctx context.Context, call *runner.Call) (json.RawMessage, error) {
		var params struct {
			SleepMS int `json:"sleep_ms"`
			Fail    int `json:"fail"` // fails this often
		}
		if err := json.Unmarshal(call.Params, &params); err != nil {
			return nil, err
		}
		record("start", call)
		timer := time.NewTimer(time.Duration(params.SleepMS) * time.Millisecond)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			record("stop", call)
			return nil, context.Cause(ctx)
		}
		record("end", call)
		if call.Attempt <= params.Fail {
			return nil, fmt.Errorf("failing on purpose, attempt %d", call.Attempt)
		}
		return json.RawMessage(`"done"`), nil
	}))
	return mux
}

// record appends one line; O_APPEND makes it whole among those of other processes.
func record(what string, call *runner.Call) {
	file, err := os.OpenFile(os.Getenv("BOBBIN_CHAOS_HISTORY"), os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(file, "%s %s %d %d %d\n", what, call.ID, call.Attempt, os.Getpid(), time.Now().UnixNano())
	_ = file.Close()
}
