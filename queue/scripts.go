package queue

import (
	"context"
	"embed"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// load reads the named files under lua/ as one script. A missing file is a mistake in the build, found at start.
func load(names ...string) *redis.Script {
	source := ""
	for _, name := range names {
		text, err := luaFiles.ReadFile("lua/" + name + ".lua")
		if err != nil {
			panic(err)
		}
		source += string(text) + "\n"
	}
	return redis.NewScript(source)
}

var (
	claimScript       = load("describe", "claim")
	adoptScript       = load("describe", "adopt")
	fenceClaimsScript = load("fence_claims")
	commitScript      = load("commit")
	retryScript       = load("retry")
	releaseScript     = load("release")
	dropScript        = load("drop")
	registerScript    = load("register")
	heartbeatScript   = load("heartbeat")
	fenceScript       = load("fence")
	reapScript        = load("reap")
	unregisterScript  = load("unregister")
	submitScript      = load("submit")
	cancelScript      = load("cancel")
)

// Scripts returns the SHA-1 of every script by its verb, for tests and tools that watch commands go by.
func Scripts() map[string]string {
	return map[string]string{
		"claim": claimScript.Hash(), "adopt": adoptScript.Hash(), "fence_claims": fenceClaimsScript.Hash(),
		"commit": commitScript.Hash(), "retry": retryScript.Hash(), "release": releaseScript.Hash(),
		"register": registerScript.Hash(), "heartbeat": heartbeatScript.Hash(), "fence": fenceScript.Hash(),
		"reap": reapScript.Hash(), "unregister": unregisterScript.Hash(), "submit": submitScript.Hash(),
		"cancel": cancelScript.Hash(),
	}
}

// run evaluates a script by its digest, and by its source when the server does not know it (after SCRIPT FLUSH or a
// failover): a NOSCRIPT reply says that nothing ran, so this repeat is safe for every verb.
func (q *Queue) run(ctx context.Context, operation string, script *redis.Script, keys []string, args ...any) (any, error) {
	reply, err := script.Run(ctx, q.rdb, keys, args...).Result()
	return reply, wrap(operation, err)
}
