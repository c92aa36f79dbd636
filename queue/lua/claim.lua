-- Claim up to ARGV.want executions for one incarnation: from hand-off first, whoever moved the ID there, then from pending.
-- KEYS: handoff pending claims executions attempts recoveries cancels scheduled workers worker modules:version
-- ARGV: incarnation, seq, want, largest context, most context bytes in one reply
-- Reply: now_ms, modules:version, ms until the next scheduled execution (-1: none), duplicates dropped, then five per execution
--   (describe.lua). Errors: NOTREGISTERED; STALECLAIM when a later fence (fence_claims.lua) overtook this call.
--
-- Safe prefixes: a claim is written before its ID leaves the list. Cut off between the two, the ID is in the list and claimed,
-- and the next claim drops it from the list as a duplicate. A due ID enters pending before it leaves scheduled: likewise.
-- Not safe to repeat by itself: a claim whose reply was lost is found again by fence_claims.lua, HSCAN and adopt.lua.
local incarnation, seq, want = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local limit, budget = tonumber(ARGV[4]), tonumber(ARGV[5])
local keys = { executions = KEYS[4], attempts = present(KEYS[5]), recoveries = present(KEYS[6]), cancels = present(KEYS[7]) }

local score = redis.call('ZSCORE', KEYS[9], incarnation)
if not score or tonumber(score) <= 0 then return redis.error_reply('NOTREGISTERED ' .. incarnation) end
local fence = redis.call('HGET', KEYS[10], 'claim_fence')
if fence and seq <= tonumber(fence) then return redis.error_reply('STALECLAIM ' .. seq .. ' is not after ' .. fence) end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local next_due = -1
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[8], '-inf', now, 'LIMIT', 0, want)) do
  redis.call('LPUSH', KEYS[2], id)
  redis.call('ZREM', KEYS[8], id)
end
local soonest = redis.call('ZRANGE', KEYS[8], 0, 0, 'WITHSCORES')
if soonest[2] then next_due = math.max(0, tonumber(soonest[2]) - now) end

local reply = { now, redis.call('GET', KEYS[11]) or '0', next_due, 0 }
local function take(list)
  local ids = want > 0 and redis.call('LRANGE', list, -want, -1) or {}
  local seen = 0
  for i = #ids, 1, -1 do
    if budget <= 0 then break end
    local id = ids[i]
    local spent = keys.attempts and redis.call('HGET', keys.attempts, id) or 0
    if redis.call('HSETNX', KEYS[3], id, incarnation .. ':' .. seq .. ':' .. (spent + 1)) == 1 then
      budget = budget - describe(reply, id, keys, limit)
      want = want - 1
    else
      reply[4] = reply[4] + 1
    end
    seen = seen + 1
  end
  if seen > 0 then redis.call('LTRIM', list, 0, -(seen + 1)) end
end
take(KEYS[1])
take(KEYS[2])
return reply
