-- Describe executions that the caller found it holds without having been told (a claim whose reply was lost).
-- KEYS: claims executions attempts recoveries cancels modules:version    ARGV: largest context, then pairs of ID and token
-- Reply: now_ms, modules:version, then five per execution whose token still matches (describe.lua). Writes nothing.
local keys = { executions = KEYS[2], attempts = present(KEYS[3]), recoveries = present(KEYS[4]), cancels = present(KEYS[5]) }
local time = redis.call('TIME')
local reply = { time[1] * 1000 + math.floor(time[2] / 1000), redis.call('GET', KEYS[6]) or '0' }
for i = 2, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then describe(reply, ARGV[i], keys, tonumber(ARGV[1])) end
end
return reply
