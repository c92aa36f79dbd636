-- Declare an incarnation dead: score 0 in workers, or -1 when it leaves in order. From here on it can neither claim nor heartbeat,
-- and learns so.
-- KEYS: workers worker    ARGV: incarnation, lease in ms or 0 when it is known to be gone, the score
-- Reply: 1 when it is fenced (now or before) or not registered at all, 0 when it was heard of within its lease.
-- The lease that counts is the longer of the caller's and its own. Safe to repeat. First write: see heartbeat.lua.
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or tonumber(score) <= 0 then return 1 end
local lease = tonumber(ARGV[2])
if lease > 0 then
  lease = math.max(lease, tonumber(redis.call('HGET', KEYS[2], 'lease_ms') or 0))
  local time = redis.call('TIME')
  if tonumber(score) > time[1] * 1000 + math.floor(time[2] / 1000) - lease then return 0 end
end
redis.call('PEXPIRE', KEYS[2], 60000)
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return 1
