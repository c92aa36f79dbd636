-- Claim up to ARGV.want executions for one incarnation: from hand-off first, whoever moved the ID there, then from pending.
-- KEYS: handoff pending claims executions attempts recoveries cancels scheduled workers worker modules:version ended ended:before
-- ARGV: incarnation, seq, want, largest context, most context bytes in one reply
-- Reply: now_ms, modules:version, ms until the next scheduled execution (-1: none), duplicates dropped, 1 if there may
--   be more to claim, then describe.lua. Errors: NOTREGISTERED; STALECLAIM when a later fence (fence_claims.lua) overtook this call.
--
-- Safe prefixes: everything is read before the claims are written, and they are written before their IDs leave the lists. Cut
-- off between the two, an ID is in the list and claimed, and the next claim drops it from the list as a duplicate. A due ID
-- enters pending before it leaves scheduled: likewise. An ID without a context that ended lately was pushed twice: dropped too.
-- Not safe to repeat by itself: a claim whose reply was lost is found again by fence_claims.lua, HSCAN and adopt.lua.
local incarnation, seq, want = ARGV[1], tonumber(ARGV[2]), math.min(tonumber(ARGV[3]), 1000) -- unpack takes no more than 8000
local limit, budget = tonumber(ARGV[4]), tonumber(ARGV[5])
local keys = { executions = KEYS[4], attempts = KEYS[5], recoveries = KEYS[6], cancels = KEYS[7] }

local score = redis.call('ZSCORE', KEYS[9], incarnation)
if not score or tonumber(score) <= 0 then return redis.error_reply('NOTREGISTERED ' .. incarnation) end
local fence = redis.call('HGET', KEYS[10], 'claim_fence')
if fence and seq <= tonumber(fence) then return redis.error_reply('STALECLAIM ' .. seq .. ' is not after ' .. fence) end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local soonest = redis.call('ZRANGE', KEYS[8], 0, 0, 'WITHSCORES')
if soonest[2] and tonumber(soonest[2]) <= now then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[8], '-inf', now, 'LIMIT', 0, want)) do
    redis.call('LPUSH', KEYS[2], id)
    redis.call('ZREM', KEYS[8], id)
  end
  soonest = redis.call('ZRANGE', KEYS[8], 0, 0, 'WITHSCORES')
end
local next_due = soonest[2] and math.max(0, tonumber(soonest[2]) - now) or -1

local function ended(id) -- it has its result, and was not submitted again
  return redis.call('HEXISTS', KEYS[4], id) == 0
    and (redis.pcall('SISMEMBER', KEYS[12], id) == 1 or redis.pcall('SISMEMBER', KEYS[13], id) == 1)
end

local ids, sizes, mine, duplicates, more = {}, {}, {}, 0, 0
local function choose(list) -- from its right end; returns how many of it are to go
  local some = want > 0 and redis.call('LRANGE', list, -want, -1) or {}
  if #some == want then more = 1 end
  local holders = #some > 0 and redis.call('HMGET', KEYS[3], unpack(some))
  for i = #some, 1, -1 do
    local id = some[i]
    if budget <= 0 then
      more = 1
      return #some - i
    end
    local size = not holders[i] and not mine[id] and redis.call('HSTRLEN', KEYS[4], id)
    if not size or (size == 0 and ended(id)) then
      duplicates = duplicates + 1
    else
      ids[#ids + 1], sizes[#sizes + 1], mine[id] = id, size, true
      if size <= limit then budget = budget - size end
      want = want - 1
    end
  end
  return #some
end
local from_handoff = choose(KEYS[1])
local from_pending = choose(KEYS[2])

local reply = { now, redis.call('GET', KEYS[11]) or '0', next_due, duplicates, more }
describe(reply, ids, sizes, keys, limit)
local attempts, claims, token = reply[9], {}, incarnation .. ':' .. seq .. ':'
local first = token .. '1'
for i = 1, #ids do
  claims[2 * i - 1], claims[2 * i] = ids[i], attempts and attempts[i] and token .. (attempts[i] + 1) or first
end
if #ids > 0 then
  -- Redis keeps a small hash as a list that every look-up walks through. One long name, here for a moment, turns claims into
  -- a hash table: the batch then costs half.
  local long = #ids > 16 and token .. string.rep('.', 65)
  if long then claims[#claims + 1], claims[#claims + 2] = long, '' end
  redis.call('HSET', KEYS[3], unpack(claims))
  if long then redis.call('HDEL', KEYS[3], long) end
end
if from_handoff > 0 then redis.call('LTRIM', KEYS[1], 0, -(from_handoff + 1)) end
if from_pending > 0 then redis.call('LTRIM', KEYS[2], 0, -(from_pending + 1)) end
return reply
