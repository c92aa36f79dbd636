-- Drop claims of IDs that were pushed again after they had ended: there is no context, and the result is written.
-- KEYS: claims executions attempts recoveries cancels pending    ARGV: pairs of ID and token    Reply: how many were dropped
-- A context that came meanwhile is a new submission, whose ID may have been dropped as claimed: that one is put back to run next.
-- Safe prefixes: the claim goes last, after what was counted when a worker that held it died. Safe to repeat.
local dropped = 0
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    if redis.call('HEXISTS', KEYS[2], ARGV[i]) == 1 then redis.call('RPUSH', KEYS[6], ARGV[i]) end
    for k = 3, 5 do redis.pcall('HDEL', KEYS[k], ARGV[i]) end
    dropped = dropped + redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return dropped
