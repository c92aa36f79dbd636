package main

// mutation replaces one piece of one file and names the tests that must fail for it.
type mutation struct {
	what         string
	file         string
	before, with string
	tests        string // package, then -run pattern
}

// mutations are the mitigations: of what Redis and its client do to work, of workers that die, and of what comes too late.
var mutations = []mutation{
	{
		"token check in commit", "queue/lua/commit.lua",
		"local id, held, entry = ids[k], holders[k] == token,", "local id, held, entry = ids[k], holders[k] ~= false,", "./queue TestModel",
	},
	{
		"a commit without any claim writes nothing", "queue/lua/commit.lua",
		"local id, held, entry = ids[k], holders[k] == token,", "local id, held, entry = ids[k], true,", "./queue TestModel",
	},
	{
		"token check in the commit of one", "queue/lua/one.lua",
		"if call('HGET', k[2], id) ~= a[2] then", "if not call('HGET', k[2], id) then", "./queue TestCommitOfOne",
	},
	{
		"order of writes in the commit of one", "queue/lua/one.lua",
		"local added = pcall('XADD'", "call('HDEL', k[2], id)\nlocal added = pcall('XADD'", "./queue TestEveryPrefixIsSafe/commit_of_one",
	},
	{
		"what ended alone is remembered", "queue/lua/one.lua",
		"pcall('XADD', k[4], 'MAXLEN'", "local _ = type('XADD', k[4], 'MAXLEN'", "./queue TestCommitOfOne",
	},
	{
		"an entry is that of its item", "queue/columns.go",
		"return a.Result.Worker == b.Result.Worker", "return true", "./queue TestEveryEntryIsThatOfItsItem",
	},
	{
		"an entry is that of its item where values repeat", "queue/columns.go",
		"codes[k] = byte(code + 1)", "codes[k] = 1", "./queue TestEveryEntryIsThatOfItsItem",
	},
	{
		"an entry is that of its item where values change", "queue/lua/commit.lua",
		"always or not each", "always", "./queue TestEveryEntryIsThatOfItsItem",
	},
	{
		"order of writes in commit", "queue/lua/commit.lua",
		"local reply, last,", "call('HDEL', KEYS[2], unpack(ids))\nlocal reply, last,",
		"./queue TestCommitThatFailsDropsNothing",
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
		"a heartbeat that failed is sent again at once", "consumer/heartbeat.go",
		"pause = min(h.w.opts.Lease/3, time.Second, backoffPause(failures))", "pause, _ = min(h.w.opts.Lease/3, time.Second), backoffPause(failures)",
		"./consumer TestHeartbeatsWhoseRepliesAreLostCostNoLease",
	},
	{
		"a claim is known by its ID, not by the token that its batch shares", "consumer/fetch.go",
		"f.w.ledger.known())", "func(h queue.Held) bool { h.ID = \"\"; return f.w.ledger.known()(h) })", "./consumer TestLostClaimReplyLeavesAloneWhatRuns",
	},
	{
		"what HSCAN reports twice is adopted once", "queue/claim.go",
		"!seen[held] && !known(held)", "!known(held)", "./queue TestReconcileAdoptsNothingTwice",
	},
	{
		"what comes late strikes out no other claim", "consumer/ledger.go",
		"l.claims[j.place] == j.held()", "l.claims[j.place].Token != \"\"", "./consumer TestLedger",
	},
	{
		"a timeout is waited for though another passes later", "pool/deadline.go",
		"!p.alarm.at.IsZero() && !at.Before(p.alarm.at)", "!p.alarm.at.IsZero()", "./pool TestEveryTimeoutPassesOnTime",
	},
	{
		"a claim that was overtaken is void", "queue/lua/claim.lua",
		"if fence and seq <= (tonumber(fence) or 0) then", "if false then", "./queue TestModel",
	},
	{
		"the wait before reaping", "consumer/heartbeat.go",
		"MayReap: !h.steadySince.IsZero() && time.Since(h.steadySince) > h.w.opts.Lease,", "MayReap: true,",
		"./consumer TestNoMassReapingAfterAnOutage",
	},
	{
		"claim before the ID leaves the list", "queue/lua/claim.lua",
		"call('HSET', KEYS[3], unpack(claims))", "n + (long and 1 or 0)", "./queue TestModel",
	},
	{
		"registration check in the claim of one that waited", "queue/lua/lone.lua",
		"if not score or string.byte(score) <= 48 or fence then", "if fence then", "./queue TestClaimOfOneThatWaited",
	},
	{
		"one that waited claims before the ID leaves the list", "queue/lua/lone.lua",
		"if call('HSETNX', k[3], id, incarnation .. ':' .. ARGV[2] .. ':1') == 0 then return nil end", "", "./queue TestClaimOfOneThatWaited",
	},
	{
		"an execution waits for modules that cannot be read", "consumer/worker.go",
		"build(modules{w})", "build(q)", "./consumer TestModulesAreAwaited",
	},
	{
		"token check in release", "queue/lua/release.lua",
		"if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then", "if true then", "./queue TestModel",
	},
	{
		"a fenced worker cancels what it runs", "consumer/heartbeat.go",
		"return t.Job.(*job).incarnation == old", "return t.ID == \"\" && t.Job.(*job).incarnation == old",
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
		"if c.Recoveries >= w.aloneAfter() {", "if false {", "./consumer TestRunsAloneAfterTwoDeaths",
	},
	{
		"a replacement is started before the old worker has ended", "internal/supervise/supervise.go",
		"if wanted && !s.leaving {", "if false && wanted {", "./internal/supervise TestReplacementRunsBesideTheOldOne",
	},
	{
		"results do not wait for what does not come", "consumer/commit.go",
		"c.behind.Reset(backstop)", "", "./consumer TestResultsDoNotWaitForWhatDoesNotCome",
	},
	{
		"what is given back ends the waiting of results", "consumer/commit.go",
		"	c.patient = false\n", "", "./consumer TestResultsWaitUntilSomethingElseIsSaid",
	},
	{
		"what is tried again ends the waiting of results", "consumer/commit.go",
		"w.committer.add() // an end is an end", "", "./consumer TestResultsWaitUntilSomethingElseIsSaid",
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
		"q.rdb = redis.NewClient(base)", "q.rdb = redis.NewClient(base)\n\tq.blocked = q.rdb",
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
		"a context that is looked at late is cancelled all the same", "pool/context.go",
		"cancel(c.cause)", "_ = c.cause", "./pool TestTaskContext",
	},
	{
		"stuck outcome only once", "pool/handle.go",
		"case was == running:\n\t\tp.opts.Done(outcome)", "case was == running || was == stuck:\n\t\tp.opts.Done(outcome)", "./pool TestStuckAfterGrace",
	},
	{
		"release pushes before it drops the claim", "queue/lua/release.lua",
		"    redis.call('RPUSH', KEYS[2], ARGV[i])", `    redis.call('HDEL', KEYS[1], ARGV[i])
    redis.call('RPUSH', KEYS[2], ARGV[i])`,
		"./queue TestEveryPrefixIsSafe",
	},
	{
		"retry schedules before it drops the claim", "queue/lua/retry.lua",
		"    redis.call('ZADD', KEYS[2]", `    redis.call('HDEL', KEYS[1], ARGV[i])
    redis.call('ZADD', KEYS[2]`,
		"./queue TestEveryPrefixIsSafe",
	},
	{
		"reap pushes before it drops the claim", "queue/lua/reap.lua",
		"    redis.call('RPUSH', KEYS[3], ARGV[i])", `    redis.call('HDEL', KEYS[2], ARGV[i])
    redis.call('RPUSH', KEYS[3], ARGV[i])`,
		"./queue TestEveryPrefixIsSafe",
	},
	{
		"rescue pushes before it drops the claim", "queue/lua/rescue.lua",
		"    redis.call('RPUSH', KEYS[2], id)", `    redis.call('HDEL', KEYS[4], id)
    redis.call('RPUSH', KEYS[2], id)`,
		"./queue TestEveryPrefixIsSafe",
	},
	{
		"cancel writes the result first", "queue/lua/cancel.lua",
		"redis.call('XADD', KEYS[9]", `redis.call('HDEL', KEYS[2], id)
redis.call('XADD', KEYS[9]`,
		"./queue TestEveryPrefixIsSafe",
	},
	{
		"submit looks whether it can push", "queue/lua/submit.lua",
		"redis.call('LLEN', KEYS[2])", "",
		"./queue TestEveryPrefixIsSafe",
	},
	{
		"what is due enters pending before it leaves scheduled", "queue/lua/claim.lua",
		`    call('LPUSH', KEYS[2], id)
    call('ZREM', KEYS[8], id)`, `    call('ZREM', KEYS[8], id)
    call('LPUSH', KEYS[2], id)`,
		"./queue TestEveryPrefixIsSafe",
	},
	{
		"a second push is forgotten with all that was counted", "queue/lua/drop.lua",
		`    for k = 3, 5 do redis.pcall('HDEL', KEYS[k], ARGV[i]) end
`, "",
		"./queue TestEveryPrefixIsSafe",
	},
	{
		"registered last", "queue/lua/register.lua",
		"redis.call('HSET', KEYS[2], unpack(ARGV, 3))", `redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('HSET', KEYS[2], unpack(ARGV, 3))`,
		"./queue TestRegistrationIsWrittenLast",
	},
	{
		"unregistered last", "queue/lua/unregister.lua",
		"redis.call('HDEL', KEYS[3], ARGV[1])", `redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])`,
		"./queue TestRegistrationIsWrittenLast",
	},
	{
		"the heartbeat renews the lease before anything can fail", "queue/lua/heartbeat.lua",
		`redis.call('ZADD', KEYS[1], now, ARGV[1])
`, `redis.call('LLEN', KEYS[7])
redis.call('ZADD', KEYS[1], now, ARGV[1])
`,
		"./queue TestHeartbeatAndIncidentCutShort",
	},
	{
		"the heartbeat's first write is one that a full Redis takes", "queue/lua/heartbeat.lua",
		`redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('ZADD', KEYS[1], now, ARGV[1])`, `redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[2])`,
		"./queue TestFullMemory",
	},
	{
		"the fence's first write is one that a full Redis takes", "queue/lua/fence.lua",
		`redis.call('PEXPIRE', KEYS[2], 60000)
`, "",
		"./queue TestFenceWhileMemoryIsFull",
	},
	{
		"a dial that hangs is given up", "queue/queue.go",
		"dialTimeout = 3 * time.Second", "dialTimeout = time.Hour",
		"./queue TestUnreachableServerIsGivenUp",
	},
	{
		"a dial is not repeated", "queue/queue.go",
		"o.DialerRetries = 1 ", "o.DialerRetries = 5 ",
		"./queue TestUnreachableServerIsGivenUp",
	},
	{
		"a script that the server forgot is sent again", "queue/scripts.go",
		"script.Run(ctx, q.rdb", "script.EvalSha(ctx, q.rdb",
		"./queue TestScriptFlush",
	},
	{
		"a script that the server forgot is sent again by the waker", "queue/waker.go",
		`if redis.HasErrorPrefix(err, "NOSCRIPT") {`, "if false {",
		"./queue TestWakerAfterScriptFlush",
	},
	{
		"the waker blocks for fractions of a second", "queue/waker.go",
		`fmt.Sprintf("%.3f", timeout.Seconds())`, `fmt.Sprintf("%d", 1+int(timeout.Seconds()))`,
		"./queue TestWakerBlocksForFractionsOfASecond",
	},
	{
		"what the server is in no state for passes", "queue/errors.go",
		`"LOADING", "READONLY", `, "",
		"./queue TestServersRefusalsAreTold",
	},
	{
		"the start waits for what passes", "consumer/worker.go",
		"if errors.Is(err, queue.ErrRefused) && !queue.IsPassing(err) {", "if errors.Is(err, queue.ErrRefused) {",
		"./consumer TestStartWaitsForWhatPasses",
	},
	{
		"an ID that ended is not answered again", "consumer/fetch.go",
		"if c.Missing && ended[j.id] {", "if false && ended[j.id] {",
		"./consumer TestDuplicatePushesGetOneResult",
	},
	{
		"what ended is remembered", "queue/lua/commit.lua",
		"if text ~= '' then pcall('XADD', KEYS[8]", "if false then pcall('XADD', KEYS[8]",
		"./queue TestEndedLately",
	},
	{
		"all that ended still holds is remembered", "queue/ended.go",
		"const maxEnded = 3_100", "const maxEnded = 1_000",
		"./queue TestEndedLatelyOnABusyQueue",
	},
	{
		"an ID that may have ended is asked after again", "consumer/fetch.go",
		"unsure = !errors.Is(err, queue.ErrRefused) || queue.IsPassing(err)", "unsure = false",
		"./consumer TestSecondPushGetsNoResult",
	},
	{
		"a fence gives back what waits", "consumer/heartbeat.go",
		"	h.w.giveBack() // first", "	// first",
		"./consumer TestFenceGivesBackWhatWaits",
	},
	{
		"what is given back keeps its order over batches", "consumer/fetch.go",
		"items[len(jobs)-1-i] = item", "items[i] = item",
		"./consumer TestWhatIsGivenBackKeepsItsOrder",
	},
	{
		"a handler's call is not what its result says", "consumer/job.go",
		"Workflow: j.workflow, Meta: j.meta,", "Workflow: j.call.Workflow, Meta: j.meta,",
		"./consumer TestWhatAHandlerWritesToItsCallIsNotInTheResult",
	},
	{
		"what was thrown and cannot be printed has an outcome too", "pool/handle.go",
		"defer func() { *owned = h.end(value, err) }()", "func() { *owned = h.end(value, err) }()", "./pool TestErrorsPanicsAndGoexit",
	},
	{
		"garbage is a percentage of what Go takes it of", "internal/heap/heap.go",
		"min(100*garbage/looked, 100*(looked+garbage)/smallest)", "100 * garbage / looked", "./internal/heap TestPercentage",
	},
	{
		"what is allocated slowly gets no new memory", "internal/heap/heap.go",
		"min(due, max(t.few,", "max(min(due, 1), max(t.few,", "./internal/heap TestPercentage",
	},
	{
		"garbage is allocated at the rate since the last look", "internal/heap/heap.go",
		"t.at, t.allocated = now, allocated", "t.at = now", "./internal/heap TestPercentage",
	},
	{
		"idle connections are closed", "consumer/heartbeat.go",
		"h.w.queue.CloseIdle(h.w.opts.Lease * 3 / 5)", "", "./consumer TestIdleWorkerKeepsThreeConnections",
	},
	{
		"a connection that awaits an answer is not idle", "queue/idle.go",
		" && !c.asked.Load()", "", "./queue TestIdleConnectionsAreClosed",
	},
	{
		"no pool uses a connection that was closed for being idle", "queue/idle.go",
		"return nil, net.ErrClosed", "return opaque{}, nil", "./queue TestIdleConnectionsAreClosed",
	},
	{
		"an idle worker's heartbeats go along with its pops", "consumer/piggyback.go",
		"c.Along = &p.Along", "", "./consumer TestIdleWorkersHeartbeatsGoAlong",
	},
	{
		"no clock that was set says that the lease was renewed later than it was", "consumer/piggyback.go",
		"case at.After(back):", "case false:", "./consumer TestWhenHeartbeatsHappened",
	},
	{
		"a heartbeat counts for its incarnation", "consumer/heartbeat.go",
		"arrived.Beat.Incarnation != h.w.Incarnation()", "false", "./consumer TestHeartbeatsOfAnotherIncarnationDoNotCount",
	},
	{
		"a worker that holds something sends its heartbeats", "consumer/fetch.go",
		"poke(f.w.woken)", "", "./consumer TestClaimsEndTheOffer",
	},
	{
		"a slow heartbeat makes none after it count earlier", "consumer/heartbeat.go",
		"back = time.Now()", "back = sent",
		"./consumer TestASlowHeartbeatMakesNoOtherCountEarlier",
	},
	{
		"a heartbeat that may not have happened is sent", "consumer/piggyback.go",
		"p.Pulse == nil || ", "", "./consumer TestTheHeartRests",
	},
	{
		"an answer that lay about says nothing of Redis's clock", "consumer/piggyback.go",
		" || time.Since(p.due) > patience", "", "./consumer TestTheHeartRests",
	},
	{
		"what wakes up does not interrupt Redis", "internal/nice/nice_linux.go",
		"errno != 0 || policy != usual", "errno != 0 || policy == usual",
		"./internal/nice TestEveryThreadAndWhatIsStartedIsAsNice",
	},
	{
		"modules can be read while Redis is full", "queue/modules.go",
		"pipe := q.rdb.Pipeline()", "pipe := q.rdb.TxPipeline()",
		"./queue TestFullMemory",
	},
	{
		"an execution can be found while Redis is full", "queue/inspect.go",
		"return q.locateIn(ctx, q.rdb.Pipeline(), id)", "return q.locateIn(ctx, q.rdb.TxPipeline(), id)",
		"./cmd/bobbin TestFullRedis",
	},
	{
		"a full Redis passes commands on", "cmd/bobbin/control.go",
		"return errors.Is(err, queue.ErrRefused) && queue.IsPassing(err) }", "return false }",
		"./cmd/bobbin TestFullRedis",
	},
	{
		"a transaction's error says why", "queue/errors.go",
		"if err == nil || !strings.HasPrefix(err.Error(), \"EXECABORT\") {", "if err == nil || true {",
		"./queue TestFullMemory",
	},
	{
		"what waits behind a long execution is given back", "consumer/fetch.go",
		"			if f.w.pool.Stalled() {\n", "			if false {\n", "./consumer TestWhatWaitsBehindALongOneRunsElsewhere",
	},
	{
		"what a crash of Redis tore is forgotten", "queue/torn.go",
		"\"aof_last_rewrite_time_sec\") == \"-1\"", "\"aof_last_rewrite_time_sec\") == \"-2\"",
		"./queue TestWhatACrashToreStaysAway",
	},
	{
		"a Redis that loads is asked again later", "queue/torn.go",
		"if err == nil && infoField(info, \"loading\") == \"1\" {", "if false {",
		"./consumer TestRedisForgetsWhatItsCrashTore",
	},
	{
		"a Redis that was started again is noticed", "consumer/worker.go",
		"Subscribed: func() { poke(w.anew) },", "",
		"./consumer TestRedisForgetsWhatItsCrashTore",
	},
	{
		"of several suspects one is held", "consumer/quarantine.go",
		"	f.w.release(others...)\n", "	defer f.w.release(others...)\n",
		"./consumer TestOfSeveralSuspectsOneIsHeld",
	},
}
