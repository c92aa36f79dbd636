package queue

import (
	"context"
	"embed"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// load reads the named files under lua/ as one script. A missing file is a mistake in the build, found at start.
func load(names ...string) *script {
	source := ""
	for _, name := range names {
		text, err := luaFiles.ReadFile("lua/" + name + ".lua")
		if err != nil {
			panic(err)
		}
		source += string(text) + "\n"
	}
	return &script{redis.NewScript(source), source}
}

// script is a script with its source. Not redis.Script.Load: in a pipeline it forgets the script's digest, for good and for
// everybody, and every call sends the source from then on.
type script struct {
	*redis.Script
	source string
}

var (
	claimScript       = load("describe", "lone", "claim")
	adoptScript       = load("describe", "adopt")
	fenceClaimsScript = load("fence_claims")
	commitScript      = load("commit")
	commitOneScript   = load("one")
	retryScript       = load("spend", "retry")
	releaseScript     = load("release")
	dropScript        = load("drop")
	registerScript    = load("register")
	heartbeatScript   = load("heartbeat")
	fenceScript       = load("fence")
	reapScript        = load("spend", "reap")
	unregisterScript  = load("unregister")
	submitScript      = load("submit")
	cancelScript      = load("cancel")
)

// scripts are all of them by verb.
var scripts = map[string]*script{
	"claim": claimScript, "adopt": adoptScript, "fence_claims": fenceClaimsScript, "commit": commitScript, "retry": retryScript,
	"release": releaseScript, "drop": dropScript, "register": registerScript, "heartbeat": heartbeatScript, "fence": fenceScript,
	"reap": reapScript, "unregister": unregisterScript, "submit": submitScript, "cancel": cancelScript, "trim": trimScript,
	"unread": unreadScript, "commit_one": commitOneScript,
}

// Scripts returns the SHA-1 of every script by its verb, for tests and tools that watch commands go by.
func Scripts() map[string]string {
	digests := map[string]string{}
	for verb, script := range scripts {
		digests[verb] = script.Hash()
	}
	return digests
}

// LoadScripts makes the server know every script, so that the first calls need not send them. Nothing depends on it.
func (q *Queue) LoadScripts(ctx context.Context) error {
	pipe := q.rdb.Pipeline()
	for _, script := range scripts {
		pipe.ScriptLoad(ctx, script.source)
	}
	_, err := pipe.Exec(ctx)
	return wrap("load scripts", err)
}

// run evaluates a script by its digest, and by its source when the server does not know it (after SCRIPT FLUSH or a
// failover): a NOSCRIPT reply says that nothing ran, so this repeat is safe for every verb.
func (q *Queue) run(ctx context.Context, operation string, script *script, keys []string, args ...any) (any, error) {
	reply, err := script.Run(ctx, q.rdb, keys, args...).Result()
	return reply, wrap(operation, err)
}
