-- Register an incarnation, or write its registration again. Refused with FENCED once it was declared dead.
-- KEYS: workers worker    ARGV: incarnation, ms the registration outlives its last heartbeat, then fields and values
-- Safe prefixes: the hash expires by itself; without its member in workers it claims nothing. Safe to repeat.
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if score and tonumber(score) <= 0 then return redis.error_reply('FENCED ' .. ARGV[1]) end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[2], unpack(ARGV, 3))
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('ZADD', KEYS[1], now, ARGV[1])
return now
