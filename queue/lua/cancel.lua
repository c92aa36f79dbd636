-- Cancel one execution: one that waits gets its cancelled result and is gone in this one step; one that is claimed has the
-- request left for its worker.
-- KEYS: claims executions pending handoff scheduled attempts recoveries cancels results ended, and its reply list
-- ARGV: id, request, TTL of the reply in ms or 0, the reply, then the fields of the cancelled result
-- Reply: cancelled, claimed or unknown. Safe to repeat.
--
-- Safe prefixes: what must not fail half-way is read before the first write, so that no wrong type stops it; the result is
-- written first.
local id = ARGV[1]
if redis.call('HGET', KEYS[1], id) then
  redis.call('HSET', KEYS[8], id, ARGV[2])
  return 'claimed'
end
local waits = redis.call('LPOS', KEYS[3], id) or redis.call('LPOS', KEYS[4], id) or redis.call('ZSCORE', KEYS[5], id)
if not waits or redis.call('HEXISTS', KEYS[2], id) == 0 then return 'unknown' end
redis.call('XADD', KEYS[9], '*', unpack(ARGV, 5))
redis.call('HDEL', KEYS[2], id)
redis.call('LREM', KEYS[3], 0, id)
redis.call('LREM', KEYS[4], 0, id)
redis.call('ZREM', KEYS[5], id)
for k = 6, 8 do redis.pcall('HDEL', KEYS[k], id) end
redis.pcall('XADD', KEYS[10], 'MAXLEN', '~', '2000', '*', 'ids', id)
if ARGV[3] ~= '0' then
  redis.pcall('RPUSH', KEYS[11], ARGV[4])
  redis.pcall('PEXPIRE', KEYS[11], ARGV[3])
end
return 'cancelled'
