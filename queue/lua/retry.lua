-- Give claims back to run again later: a failure or timeout that its context's retry covers. Spends an attempt.
-- KEYS: claims scheduled attempts    ARGV: triples of ID, token, pause in ms    Reply: per item 1, or 0 when the token differs
--
-- Safe prefixes: scheduled before the claim is dropped. Cut off between the two, the ID comes due while it is claimed, is
-- dropped as a duplicate, and this call, repeated, schedules it again. The attempt is counted last but for the claim: at worst
-- one is counted twice, never a claim lost. Safe to repeat: the first run dropped the claims.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local reply = {}
for i = 1, #ARGV, 3 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    redis.call('ZADD', KEYS[2], now + ARGV[i + 2], ARGV[i])
    spend(KEYS[3], ARGV[i])
    redis.call('HDEL', KEYS[1], ARGV[i])
    reply[#reply + 1] = 1
  else
    reply[#reply + 1] = 0
  end
end
return reply
