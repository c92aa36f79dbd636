-- Commit the result of one execution that succeeded and has no past, which is what an idle queue sees: says and writes what
-- commit.lua would, with less around it. After a rest every key and argument costs Redis half a microsecond.
-- KEYS: results claims executions ended
-- ARGV: ID, token, workflow, worker, attempt, claimed_at_ms, started_at_ms, finished_at_ms, duration_us, result, meta
-- Reply: 1 committed; 0 the claim is not the caller's: nothing was written, and commit.lua says whose it is.
-- Safe prefixes, and safe to repeat: as in commit.lua.
local call, pcall, k, a = redis.call, redis.pcall, KEYS, ARGV
local id = a[1]
if call('HGET', k[2], id) ~= a[2] then return 0 end
local added = pcall('XADD', k[1], '*', 'execution_id', id, 'workflow', a[3], 'worker', a[4], 'attempt', a[5],
  'status', 'succeeded', 'claimed_at_ms', a[6], 'started_at_ms', a[7], 'finished_at_ms', a[8],
  'duration_us', a[9], 'result', a[10], 'meta', a[11])
if added.err then return added end
call('HDEL', k[2], id)
pcall('HDEL', k[3], id)
pcall('XADD', k[4], 'MAXLEN', '~', '2000', '*', 'ids', id)
return 1
