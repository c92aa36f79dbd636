package queue

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// examineServer checks that the server can keep what it acknowledges. Of what a crash tore it says something only where workers are,
// who should have seen to it.
func (q *Queue) examineServer(ctx context.Context, workers bool) ([]Ailment, error) {
	var list []Ailment
	bad := func(warning bool, problem, advice string) {
		list = append(list, Ailment{Subject: "server", Problem: problem, Advice: advice, Warning: warning})
	}
	if one, err := q.rdb.Eval(ctx, "return 1", nil).Result(); err != nil || number(one) != 1 {
		bad(false, fmt.Sprintf("scripts do not run: %v", err), "allow EVAL, EVALSHA and SCRIPT to this user")
	}
	info, err := q.rdb.Info(ctx).Result()
	if err != nil {
		bad(true, fmt.Sprintf("INFO is refused: %v", err), "allow INFO to this user, so that the version can be checked")
	} else if version := infoField(info, "redis_version"); !atLeast(version, 6, 2) {
		bad(false, "Redis is version "+version, "use Redis 6.2 or newer: workers need BLMOVE and XTRIM MINID")
	}
	refusal, err := q.Refusal(ctx)
	if err != nil {
		return nil, err
	}
	if refusal != "" {
		bad(false, "nothing can be submitted, claimed or finished: "+refusal, "see BobbinRedisErrors in docs/runbook.md")
	}
	if used, most := memory(info); most > 0 && used >= most/10*9 {
		what := "nearly full"
		if used >= most {
			what = "full"
		}
		bad(used < most, fmt.Sprintf("memory is %s: %.1f MiB of maxmemory %.1f", what, mebibytes(used), mebibytes(most)),
			"CONFIG SET maxmemory to more, or XTRIM results that were read")
	}
	settings, err := q.rdb.ConfigGet(ctx, "*").Result()
	if err != nil || len(settings) == 0 {
		bad(true, "CONFIG GET is refused or empty, so the settings cannot be checked", "check by hand: maxmemory-policy noeviction, appendonly yes")
		return list, nil //nolint:nilerr // a managed Redis that hides its settings is no failure of the examination
	}
	if policy := settings["maxmemory-policy"]; policy != "noeviction" {
		bad(false, "maxmemory-policy is "+policy+": a full Redis may forget contexts, claims and results", "CONFIG SET maxmemory-policy noeviction")
	}
	switch {
	case settings["appendonly"] == "yes" && settings["appendfsync"] == "no":
		bad(true, "appendfsync is no: a power cut can lose what the operating system had not written", "CONFIG SET appendfsync everysec, or always")
	case settings["appendonly"] != "yes" && settings["save"] == "":
		bad(false, "nothing is persisted: a restart of Redis loses every execution", "CONFIG SET appendonly yes")
	case settings["appendonly"] != "yes":
		bad(true, "only snapshots are persisted: a crash of Redis loses what came after the last one", "CONFIG SET appendonly yes")
	case workers && mayRemember(info):
		bad(true, "the append-only file was not written anew since Redis was started: part of what a crash tore may come back with the next start",
			"BGREWRITEAOF after each start; workers see to it if they are allowed INFO and BGREWRITEAOF and auto-aof-rewrite-percentage is not 0")
	}
	return list, nil
}

// memory is what counts against maxmemory, and maxmemory, in bytes; 0: there is no limit.
func memory(info string) (used, most int64) {
	return number(infoField(info, "used_memory")) - number(infoField(info, "mem_not_counted_for_evict")), number(infoField(info, "maxmemory"))
}

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }

func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, found := strings.CutPrefix(line, name+":"); found {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func atLeast(version string, major, minor int) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return true // miniredis and the like: nothing to say
	}
	a, errA := strconv.Atoi(parts[0])
	b, errB := strconv.Atoi(parts[1])
	return errA != nil || errB != nil || a > major || (a == major && b >= minor)
}
