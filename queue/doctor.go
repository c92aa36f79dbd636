package queue

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	whereisScript = load("whereis")
	rescueScript  = load("spend", "rescue")
)

// Ailment is one thing that is wrong with a queue or its server.
type Ailment struct {
	Subject string   `json:"subject"`           // what it is about
	Problem string   `json:"problem"`           // what is wrong
	Advice  string   `json:"advice"`            // what to do
	IDs     []string `json:"ids,omitempty"`     // the executions, where it is about some
	Mends   bool     `json:"repairable"`        // Rescue mends it
	Warning bool     `json:"warning,omitempty"` // worth knowing, and no breach of the promise
}

// Examine looks for executions that are in no place or in several, for claims that belong to nobody, and for settings of the
// server under which the promise cannot be kept. It writes nothing. Executions on their way between two places are asked
// after a second time, after settle, before they are called wrong.
//
// Cost: one pass over executions, pending, claims and scheduled, in pages; memory for the IDs of all live executions.
func (q *Queue) Examine(ctx context.Context, settle time.Duration) ([]Ailment, error) {
	suspects, err := q.suspects(ctx)
	if err != nil {
		return nil, err
	}
	if len(suspects) > 0 {
		timer := time.NewTimer(settle)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timer.C:
		}
	}
	ailments, err := q.diagnose(ctx, suspects)
	if err != nil {
		return nil, err
	}
	ended, err := q.endedAndAlive(ctx)
	if err != nil {
		return nil, err
	}
	server, err := q.examineServer(ctx)
	return append(append(ailments, ended...), server...), err
}

// places counts in how many places an ID was seen while the keys were read one after another.
type places map[string]int

// suspects reads every key once and returns the IDs that do not look as they should.
func (q *Queue) suspects(ctx context.Context) ([]string, error) {
	seen := places{}
	contexts := map[string]bool{}
	err := q.scanHash(ctx, q.Keys.Executions, func(id, _ string) { contexts[id] = true })
	if err != nil {
		return nil, err
	}
	workers, err := q.rdb.ZRange(ctx, q.Keys.Workers, 0, -1).Result()
	if err != nil {
		return nil, wrap("doctor", err)
	}
	orphans := map[string]bool{}
	err = q.scanHash(ctx, q.Keys.Claims, func(id, token string) {
		seen[id]++
		if !slices.Contains(workers, owner(token)) {
			orphans[id] = true
		}
	})
	if err != nil {
		return nil, err
	}
	for _, list := range []string{q.Keys.Pending, q.Keys.Handoff} {
		if err := q.scanList(ctx, list, func(id string) { seen[id]++ }); err != nil {
			return nil, err
		}
	}
	scheduled, err := q.rdb.ZRange(ctx, q.Keys.Scheduled, 0, -1).Result()
	if err != nil {
		return nil, wrap("doctor", err)
	}
	for _, id := range scheduled {
		seen[id]++
	}
	for id := range contexts {
		if seen[id] != 1 {
			orphans[id] = true
		}
	}
	for id, n := range seen {
		if n > 1 {
			orphans[id] = true
		}
	}
	return slices.Sorted(maps.Keys(orphans)), nil
}

// owner returns the incarnation in a claim token.
func owner(token string) string {
	for range 2 {
		at := strings.LastIndexByte(token, ':')
		if at < 0 {
			return ""
		}
		token = token[:at]
	}
	return token
}

func (q *Queue) scanHash(ctx context.Context, key string, each func(field, value string)) error {
	var cursor uint64
	for {
		// Contexts may be large: ask for few at a time.
		pairs, next, err := q.rdb.HScan(ctx, key, cursor, "", 200).Result()
		if err != nil {
			return wrap("doctor", err)
		}
		for i := 0; i+1 < len(pairs); i += 2 {
			each(pairs[i], pairs[i+1])
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

func (q *Queue) scanList(ctx context.Context, key string, each func(id string)) error {
	const page = 10_000
	for from := int64(0); ; from += page {
		ids, err := q.rdb.LRange(ctx, key, from, from+page-1).Result()
		if err != nil {
			return wrap("doctor", err)
		}
		for _, id := range ids {
			each(id)
		}
		if len(ids) < page {
			return nil
		}
	}
}

// scanResults calls each with the execution ID of every result. Results may be large: a page is of about 4 MiB, after a small one to
// see how large they are.
func (q *Queue) scanResults(ctx context.Context, each func(id string)) error {
	const pageBytes = 4 << 20
	from, size := "-", int64(16)
	for {
		page, err := q.rdb.XRangeN(ctx, q.Keys.Results, from, "+", size).Result()
		if err != nil {
			return wrap("doctor", err)
		}
		bytes := 1
		for _, entry := range page {
			each(text(entry.Values["execution_id"]))
			for _, value := range entry.Values {
				bytes += len(text(value))
			}
			from = "(" + entry.ID
		}
		if int64(len(page)) < size {
			return nil
		}
		size = min(max(size*pageBytes/int64(bytes), 4), 2*size, 2000)
	}
}

const maxSuspects = 1000 // asked after one by one, each a pass over pending

// diagnose asks after each suspect in one step, and says what is really wrong.
func (q *Queue) diagnose(ctx context.Context, suspects []string) ([]Ailment, error) {
	found := map[string][]string{}
	for _, id := range suspects[:min(len(suspects), maxSuspects)] {
		k := q.Keys
		raw, err := q.run(ctx, "doctor", whereisScript, []string{k.Executions, k.Pending, k.Handoff, k.Claims, k.Scheduled, k.Workers}, id)
		if err != nil {
			return nil, err
		}
		at := texts(raw)[0]
		switch {
		case at == "x":
			found["nowhere"] = append(found["nowhere"], id)
		case strings.Contains(at, "o"):
			found["orphan"] = append(found["orphan"], id)
		case len(strings.TrimPrefix(at, "x")) > 1:
			found["several"] = append(found["several"], id)
		}
	}
	var ailments []Ailment
	add := func(kind, problem, advice string, mends, warning bool) {
		if ids := found[kind]; len(ids) > 0 {
			ailments = append(ailments, Ailment{
				Subject: "executions", Problem: fmt.Sprintf("%d %s", len(ids), problem), Advice: advice, IDs: ids, Mends: mends, Warning: warning,
			})
		}
	}
	add("nowhere", "have a context but are neither pending nor claimed nor scheduled: they would never run",
		"bobbin doctor --repair puts them back into pending; if an orchestrator sets contexts before it pushes IDs, it may be about to push them", true, false)
	add("orphan", "are claimed by a worker that is not registered: nobody runs them", "bobbin doctor --repair puts them back into pending", true, false)
	add("several", "are in more than one place: most likely pushed more than once", "nothing: a worker drops the surplus when it comes to it", false, true)
	if len(suspects) > maxSuspects {
		ailments = append(ailments, Ailment{Subject: "executions", Problem: fmt.Sprintf("%d more look wrong and were not asked after", len(suspects)-maxSuspects), Advice: "run bobbin doctor again after a repair"})
	}
	return ailments, nil
}

// endedAndAlive finds executions that have a result and still a claim or a context: they would get a second one.
func (q *Queue) endedAndAlive(ctx context.Context) ([]Ailment, error) {
	live := map[string]bool{}
	if err := q.scanHash(ctx, q.Keys.Claims, func(id, _ string) { live[id] = true }); err != nil {
		return nil, err
	}
	if len(live) == 0 {
		return nil, nil
	}
	var twice []string
	err := q.scanResults(ctx, func(id string) {
		if !live[id] {
			return
		}
		if token, err := q.rdb.HGet(ctx, q.Keys.Claims, id).Result(); err == nil && token != "" {
			twice = append(twice, id)
		}
	})
	if err != nil || len(twice) == 0 {
		return nil, err
	}
	return []Ailment{{
		Subject: "results", Problem: fmt.Sprintf("%d executions have a result and are claimed", len(twice)), IDs: twice, Warning: true,
		Advice: "fine if they were submitted again under the same ID; otherwise something other than bobbin wrote to claims or results",
	}}, nil
}

// Rescue puts executions back into pending that Examine found nowhere or orphaned, and returns those it moved. Each is looked
// at again first. It is safe to repeat.
func (q *Queue) Rescue(ctx context.Context, ids []string) ([]string, error) {
	var moved []string
	k := q.Keys
	keys := []string{k.Executions, k.Pending, k.Handoff, k.Claims, k.Scheduled, k.Workers, k.Attempts, k.Recoveries}
	for page := range slices.Chunk(ids, 100) {
		args := make([]any, len(page))
		for i, id := range page {
			args[i] = id
		}
		raw, err := q.run(ctx, "rescue", rescueScript, keys, args...)
		if err != nil {
			return moved, err
		}
		moved = append(moved, texts(raw)...)
	}
	return moved, nil
}

// examineServer checks that the server can keep what it acknowledges.
func (q *Queue) examineServer(ctx context.Context) ([]Ailment, error) {
	var list []Ailment
	bad := func(warning bool, problem, advice string) {
		list = append(list, Ailment{Subject: "server", Problem: problem, Advice: advice, Warning: warning})
	}
	if one, err := q.rdb.Eval(ctx, "return 1", nil).Result(); err != nil || number(one) != 1 {
		bad(false, fmt.Sprintf("scripts do not run: %v", err), "allow EVAL, EVALSHA and SCRIPT to this user")
	}
	info, err := q.rdb.Info(ctx, "server", "cluster").Result()
	if err != nil {
		bad(true, fmt.Sprintf("INFO is refused: %v", err), "allow INFO to this user, so that the version can be checked")
	} else if version := infoField(info, "redis_version"); !atLeast(version, 6, 2) {
		bad(false, "Redis is version "+version, "use Redis 6.2 or newer: workers need BLMOVE and XTRIM MINID")
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
	}
	return list, nil
}

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
