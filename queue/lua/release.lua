-- Give claims back unfinished, to the right end of pending: they run next, the last of the batch first. Costs no attempt.
-- KEYS: claims pending    ARGV: pairs of ID and token    Reply: how many were released
--
-- Safe prefixes: pushed before the claim is dropped. Cut off between the two, the ID is pending and claimed, is dropped from
-- pending as a duplicate, and this call, repeated, pushes it again. Safe to repeat: the first run dropped the claims.
local released = 0
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    redis.call('RPUSH', KEYS[2], ARGV[i])
    redis.call('HDEL', KEYS[1], ARGV[i])
    released = released + 1
  end
end
return released
