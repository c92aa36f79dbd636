-- Drop claims of IDs that were pushed again after they had ended: there is no context, and the result is written.
-- KEYS: claims executions attempts recoveries cancels    ARGV: pairs of ID and token    Reply: how many were dropped
-- Safe prefixes: the claim goes last, after what was counted when a worker that held it died. Safe to repeat. A context that came
-- meanwhile (the ID was submitted again) keeps its claim.
local dropped = 0
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] and redis.call('HEXISTS', KEYS[2], ARGV[i]) == 0 then
    for k = 3, 5 do redis.pcall('HDEL', KEYS[k], ARGV[i]) end
    dropped = dropped + redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return dropped
