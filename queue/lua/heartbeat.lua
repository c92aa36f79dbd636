-- Say that an incarnation lives, and hear what it is to do.
-- KEYS: workers worker intents cancels claims executions handoff reaper results quarantine
-- ARGV: incarnation, ms the registration outlives this, lease in ms, may reap (0 or 1), ms between reaps in the fleet, 1 if all
--   fields follow, else 0: those that changed do, if any did; then fields and values
-- Reply: now_ms, intent or false, length of handoff, {ID, request, ...} cancels of this incarnation's executions,
--   {incarnation, ...} silent ones that this worker is to reap, length of results (-1: not a stream),
--   {workflow, ...} in quarantine, 1 if the registration is there, else 0: the next is to bring all fields. Error: NOTREGISTERED.
--
-- The first write is PEXPIRE on purpose: Redis refuses memory-hungry commands only before a script's first write, so that a
-- worker keeps its lease while Redis is full. Safe to repeat.
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or tonumber(score) <= 0 then return redis.error_reply('NOTREGISTERED ' .. ARGV[1]) end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('ZADD', KEYS[1], now, ARGV[1])
local there = redis.call('HEXISTS', KEYS[2], 'lease_ms') -- not the key: fence_claims.lua writes one field of it
if ARGV[7] and (there == 1 or ARGV[6] == '1') then redis.call('HSET', KEYS[2], unpack(ARGV, 7)) end
if there == 0 and ARGV[6] == '1' then there = redis.call('PEXPIRE', KEYS[2], ARGV[2]) end

local cancels = {}
if redis.call('EXISTS', KEYS[4]) == 1 then
  local asked = redis.call('HGETALL', KEYS[4])
  for i = 1, #asked, 2 do
    local token = redis.call('HGET', KEYS[5], asked[i])
    if token and string.sub(token, 1, #ARGV[1] + 1) == ARGV[1] .. ':' then
      cancels[#cancels + 1] = asked[i]
      cancels[#cancels + 1] = asked[i + 1]
    elseif not token and redis.call('HEXISTS', KEYS[6], asked[i]) == 0 then
      redis.call('HDEL', KEYS[4], asked[i]) -- it ended before it could be cancelled
    end
  end
end
local silent = {}
if ARGV[4] == '1' then
  silent = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3], 'LIMIT', 0, 100)
  if #silent > 0 and not redis.call('SET', KEYS[8], ARGV[1], 'PX', ARGV[5], 'NX') then silent = {} end
end
local length = redis.pcall('XLEN', KEYS[9])
if type(length) ~= 'number' then length = -1 end
local refused = redis.pcall('HKEYS', KEYS[10])
return { now, redis.call('HGET', KEYS[3], ARGV[1]), redis.call('LLEN', KEYS[7]), cancels, silent, length, refused.err and {} or refused, there }
