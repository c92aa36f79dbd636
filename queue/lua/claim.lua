-- Claim up to ARGV.want executions for one incarnation: from hand-off first, whoever moved the ID there, then from pending.
-- KEYS: handoff pending claims executions attempts recoveries cancels scheduled workers worker modules:version
-- ARGV: incarnation, seq, want (with a minus from a worker that waited), largest context
-- Reply: now_ms, modules:version, ms until the next scheduled execution (-1: none), duplicates dropped, 1 if there may
--   be more to claim, then describe.lua; to a worker that waited also what lone.lua says. Errors: NOTREGISTERED; STALECLAIM when
--   a later fence (fence_claims.lua) overtook this call.
--
-- Safe prefixes: everything is read before the claims are written, and they are written before their IDs leave the lists. Cut
-- off between the two, an ID is in the list and claimed, and the next claim drops it from the list as a duplicate. A due ID
-- enters pending before it leaves scheduled: likewise.
-- Not safe to repeat by itself: a claim whose reply was lost is found again by fence_claims.lua, HSCAN and adopt.lua.
local short = string.byte(ARGV[3]) == 45 and lone()
if short then return short end
local call, incarnation, seq = redis.call, ARGV[1], tonumber(ARGV[2])
local want = math.min(math.abs(tonumber(ARGV[3])), 1000) -- unpack takes no more than 8000
local limit, budget = tonumber(ARGV[4]), 8388608 -- bytes: of one context, and of all in the reply, lest it exhaust memory
local keys = { executions = KEYS[4], attempts = KEYS[5], recoveries = KEYS[6], cancels = KEYS[7] }

local score = call('ZSCORE', KEYS[9], incarnation)
if not score or tonumber(score) <= 0 then return redis.error_reply('NOTREGISTERED ' .. incarnation) end
local fence = call('HGET', KEYS[10], 'claim_fence')
if fence and seq <= (tonumber(fence) or 0) then return redis.error_reply('STALECLAIM ' .. seq .. ' is not after ' .. fence) end

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local soonest = call('ZRANGE', KEYS[8], 0, 0, 'WITHSCORES')
if soonest[2] and tonumber(soonest[2]) <= now then
  for _, id in ipairs(call('ZRANGEBYSCORE', KEYS[8], '-inf', now, 'LIMIT', 0, want)) do
    call('LPUSH', KEYS[2], id)
    call('ZREM', KEYS[8], id)
  end
  soonest = call('ZRANGE', KEYS[8], 0, 0, 'WITHSCORES')
end
local next_due = soonest[2] and math.max(0, tonumber(soonest[2]) - now) or -1

local ids, large, n, duplicates, more = {}, nil, 0, 0, 0 -- large: the sizes of contexts above the limit, by their place in ids
local function choose(list) -- from its right end; returns how many of it are to go
  local gone, call, ids, executions = 0, call, ids, KEYS[4]
  while want > 0 do
    local some = call('LRANGE', list, -(gone + math.min(want, 100)), -(gone + 1)) -- a few: nobody knows how long an ID is
    local holders = #some > 0 and call('HMGET', KEYS[3], unpack(some))
    local i, m, room = #some, n, budget
    while i > 0 and room > 0 do
      if not holders[i] then
        local id = some[i]
        local size = call('HSTRLEN', executions, id)
        m = m + 1
        ids[m] = id
        if size > limit then
          large = large or {}
          large[m] = size
          size = 0
        end
        room = room - #id - size
      end
      i = i - 1
    end
    local looked, taken, last = #some - i, m - n, #some < math.min(want, 100)
    n, budget, gone, want, duplicates = m, room, gone + looked, want - taken, duplicates + looked - taken
    if i > 0 then
      want, more = 0, 1
      return gone
    end
    if last then return gone end
  end
  more = 1
  return gone
end
local from_handoff = choose(KEYS[1])
local from_pending = choose(KEYS[2])

local reply = { now, call('GET', KEYS[11]) or '0', next_due, 0, more }
describe(reply, ids, large, keys)
local attempts, claims, token = reply[9], {}, incarnation .. ':' .. seq .. ':'
local first = token .. '1'
for i = 1, n do
  claims[2 * i - 1], claims[2 * i] = ids[i], first
end
for i = 1, attempts and n or 0 do
  if attempts[i] then claims[2 * i] = token .. (attempts[i] + 1) end
end
if n > 0 then
  -- Redis keeps a small hash as a list that every look-up walks through. One long name, here for a moment, turns claims into
  -- a hash table: the batch then costs half.
  local long = n > 16 and token .. string.rep('.', 65)
  if long then claims[2 * n + 1], claims[2 * n + 2] = long, '' end
  local added = call('HSET', KEYS[3], unpack(claims)) - (long and 1 or 0)
  if long then call('HDEL', KEYS[3], long) end
  if added < n then -- an ID was there twice: the caller is told of it once
    local once, its_large, seen, m = {}, large and {}, {}, 0
    for i = 1, n do
      if not seen[ids[i]] then
        m = m + 1
        once[m], seen[ids[i]] = ids[i], true
        if large then its_large[m] = large[i] end
      end
    end
    duplicates, reply = duplicates + n - m, { reply[1], reply[2], reply[3], 0, more }
    describe(reply, once, its_large, keys)
  end
end
reply[4] = duplicates
if from_handoff > 0 then call('LTRIM', KEYS[1], 0, -(from_handoff + 1)) end
if from_pending > 0 then call('LTRIM', KEYS[2], 0, -(from_pending + 1)) end
return reply
