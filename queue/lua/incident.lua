-- Count an execution that was stuck or lost against its workflow, and quarantine the workflow when there were enough lately.
-- KEYS: the workflow's incidents (a sorted set), quarantine    ARGV: ID, window in ms, threshold, workflow, what happened
-- Reply: incidents within the window, 1 if the workflow is in quarantine from now on.
--
-- Safe prefixes: an incident that was counted and did not lead to quarantine does so with the next one. Safe to repeat: an
-- execution counts once.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local n = redis.call('ZCARD', KEYS[1])
if n < tonumber(ARGV[3]) then return { n, 0 } end
local why = cjson.encode({ since_ms = now, why = n .. ' executions ' .. ARGV[5] .. ' within ' .. ARGV[2] / 1000 .. ' s, the last one ' .. ARGV[1] })
return { n, redis.call('HSETNX', KEYS[2], ARGV[4], why) }
