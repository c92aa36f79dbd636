-- Describe executions that the caller found it holds without having been told (a claim whose reply was lost).
-- KEYS: claims executions attempts recoveries cancels modules:version    ARGV: largest context, then pairs of ID and token
-- Reply: now_ms, modules:version, then describe.lua for those whose token still matches. Writes nothing.
local keys = { executions = KEYS[2], attempts = KEYS[3], recoveries = KEYS[4], cancels = KEYS[5] }
local time = redis.call('TIME')
local reply = { time[1] * 1000 + math.floor(time[2] / 1000), redis.call('GET', KEYS[6]) or '0' }
local ids, large, limit = {}, nil, tonumber(ARGV[1])
for i = 2, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    local size = redis.call('HSTRLEN', KEYS[2], ARGV[i])
    ids[#ids + 1] = ARGV[i]
    if size > limit then large = large or {}; large[#ids] = size end
  end
end
describe(reply, ids, large, keys)
return reply
