// Command mutations takes out one mitigation at a time, in a copy of the tree, and shows that the suite notices. A mutation
// that survives means that a test is missing; then it exits 1. Run it from the module's root: make mutations.
package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// mutation replaces one piece of one file and names the tests that must fail for it.
type mutation struct {
	what         string
	file         string
	before, with string
	tests        string // package, then -run pattern
}

var mutations = []mutation{
	{
		"token check in commit", "queue/lua/commit.lua",
		"if holders[k] == a[v] and not written[id] then", "if holders[k] and not written[id] then", "./queue TestModel",
	},
	{
		"a commit without any claim writes nothing", "queue/lua/commit.lua",
		"if holders[k] == a[v] and not written[id] then", "if true then", "./queue TestModel",
	},
	{
		"order of writes in commit", "queue/lua/commit.lua",
		"local reply, written,", "call('HDEL', KEYS[2], unpack(a, 4, n + 3))\nlocal reply, written,",
		"./consumer TestBufferedResultsAreBoundedAndWritten",
	},
	{
		"registration check in claim", "queue/lua/claim.lua",
		"if not score or tonumber(score) <= 0 then", "if false then", "./queue TestModel",
	},
	{
		"reconciliation after a lost reply", "consumer/fetch.go",
		"f.uncertain = f.uncertain || !nothing", "_ = nothing", "./consumer LostClaimReply",
	},
	{
		"a claim is known by its ID, not by the token that its batch shares", "consumer/fetch.go",
		"f.w.ledger.knows)", "func(h queue.Held) bool { h.ID = \"\"; return f.w.ledger.knows(h) })", "./consumer TestLostClaimReplyLeavesAloneWhatRuns",
	},
	{
		"a claim that was overtaken is void", "queue/lua/claim.lua",
		"if fence and seq <= tonumber(fence) then", "if false then", "./queue TestModel",
	},
	{
		"the wait before reaping", "consumer/heartbeat.go",
		"MayReap: !h.steadySince.IsZero() && time.Since(h.steadySince) > h.w.opts.Lease,", "MayReap: true,",
		"./consumer TestNoMassReapingAfterAnOutage",
	},
	{
		"claim before the ID leaves the list", "queue/lua/claim.lua",
		"  redis.call('HSET', KEYS[3], unpack(claims))\n", "", "./queue TestModel",
	},
	{
		"token check in release", "queue/lua/release.lua",
		"if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then", "if true then", "./queue TestModel",
	},
	{
		"a fenced worker cancels what it runs", "consumer/heartbeat.go",
		"cancelled := h.w.pool.Cancel(pool.ErrLeaseLost,", "cancelled := h.w.pool.Cancel(pool.ErrLeaseLost, func(pool.Task) bool { return false }); _ = fmt.Sprint(pool.ErrLeaseLost,",
		"./consumer TestFenceCancelsWithTheCauseLeaseLost",
	},
	{
		"an answer of another execution is no result", "runner/process/interpreter.go",
		"(f.Type == \"result\" || f.Type == \"error\") && f.ExecutionID != string(call.ID)", "false", "./runner/process TestAnswerForAnotherExecution",
	},
	{
		"a forked child of a workflow does not answer", "runner/process/shim/python/execution.py",
		"    if _getpid() != state.pid:\n        _exit(0)  # a child that the workflow forked came back here\n    with", "    with", "./runner/process TestForkInsideAWorkflow",
	},
	{
		"what killed two workers runs alone", "consumer/fetch.go",
		"if j.claimed.Recoveries >= w.aloneAfter() {", "if false {", "./consumer TestRunsAloneAfterTwoDeaths",
	},
	{
		"a replacement is started before the old worker has ended", "internal/supervise/supervise.go",
		"if wanted && !s.leaving {", "if false {", "./internal/supervise TestReplacementRunsBesideTheOldOne",
	},
	{
		"full buffer stops claiming", "consumer/worker.go",
		"!w.choked.Load() && !w.committer.full()", "!w.choked.Load()", "./consumer TestBufferedResultsAreBoundedAndWritten",
	},
	{
		"a drain gives back what was claimed meanwhile", "consumer/fetch.go",
		"|| !w.accepting() ||", "||", "./consumer TestClaimOnItsWayWhenADrainBegins",
	},
	{
		"a repeated commit is not late", "consumer/commit.go",
		"(outcome == queue.CommitGone && repeated)", "false", "./consumer TestLostRepliesOfEveryVerb/commit",
	},
	{
		"go-redis does not retry", "queue/queue.go",
		"o.MaxRetries = -1 ", "o.MaxRetries = 3 ", "./consumer TestRetriesOfTheClientAreOff",
	},
	{
		"blocking pops have connections of their own", "queue/queue.go",
		"return &Queue{\n\t\tKeys: NewKeys(o.Prefix, o.Queue),\n\t\trdb:  redis.NewClient(base), blocked: redis.NewClient(clone(base)),",
		"one := redis.NewClient(base)\n\treturn &Queue{\n\t\tKeys: NewKeys(o.Prefix, o.Queue),\n\t\trdb: one, blocked: one,",
		"./queue TestBlockedPopsStarveNobody",
	},
	{
		"a silent server is given up", "queue/queue.go",
		"ioTimeout   = 5 * time.Second", "ioTimeout   = time.Hour", "./queue TestSilentServerIsGivenUp",
	},
	{
		"a deaf subscription is noticed", "control/listener.go",
		"if silent++; silent > 1 {", "if silent++; silent > 1<<30 {", "./consumer TestDeafSubscriptionIsRenewed",
	},
	{
		"intents are obeyed through the heartbeat", "consumer/heartbeat.go",
		`if pulse.Intent != "" {`, "if false {", "./consumer TestIntentsAreObeyedWithoutADoorbell",
	},
	{
		"stuck outcome only once", "pool/handle.go",
		"case was == running:\n\t\tp.opts.Done(outcome)", "case was == running || was == stuck:\n\t\tp.opts.Done(outcome)", "./pool TestStuckAfterGrace",
	},
}

func main() {
	only := regexp.MustCompile(strings.Join(os.Args[1:], " "))
	survived := 0
	for _, m := range mutations {
		if !only.MatchString(m.what) {
			continue
		}
		caught, said := m.try()
		if !caught {
			survived++
			fmt.Printf("SURVIVED  %-50s %s\n%s\n", m.what, m.tests, said)
			continue
		}
		fmt.Printf("caught    %-50s by %s\n", m.what, said)
	}
	if survived > 0 {
		fmt.Printf("%d mutations survived\n", survived)
		os.Exit(1)
	}
}

// try applies the mutation to a copy of the tree and runs its tests. It returns the tests that failed.
func (m mutation) try() (caught bool, said string) {
	dir, err := os.MkdirTemp("", "bobbin-mutation-")
	if err != nil {
		return false, err.Error()
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := copyTree(dir); err != nil {
		return false, err.Error()
	}
	path := filepath.Join(dir, m.file)
	source, err := os.ReadFile(path)
	if err != nil {
		return false, err.Error()
	}
	if n := bytes.Count(source, []byte(m.before)); n != 1 {
		return false, fmt.Sprintf("the piece to take out is %d times in %s, expected once", n, m.file)
	}
	if err := os.WriteFile(path, bytes.Replace(source, []byte(m.before), []byte(m.with), 1), 0o600); err != nil {
		return false, err.Error()
	}
	pkg, run, _ := strings.Cut(m.tests, " ")
	if out, err := command(dir, "build", "./..."); err != nil {
		return false, "does not build: " + out
	}
	out, err := command(dir, "test", "-count=1", "-timeout", "3m", "-run", run, pkg)
	if err == nil {
		return false, "the tests pass without it"
	}
	return true, failedTests(out)
}

func command(dir string, args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

var failure = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)

func failedTests(out string) string {
	seen, names := map[string]bool{}, []string{}
	for _, match := range failure.FindAllStringSubmatch(out, -1) {
		if name := match[1]; !seen[name] && !strings.Contains(name, "/") {
			seen[name], names = true, append(names, name)
		}
	}
	if len(names) == 0 {
		return "a crash or time-out"
	}
	return strings.Join(names, ", ")
}

// copyTree copies the working tree, without what is hidden or built.
func copyTree(to string) error {
	return filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		if entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "bin") {
			return fs.SkipDir
		}
		target := filepath.Join(to, path)
		if entry.IsDir() {
			return os.MkdirAll(target, 0o750)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, data, 0o600)
	})
}
