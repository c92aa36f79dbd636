-- Make every claim call of this incarnation up to ARGV.seq void that has not run yet, so that what HSCAN of claims then finds
-- is all there will be. Called after a claim whose reply was lost. Safe to repeat.
-- KEYS: workers worker    ARGV: incarnation, seq    Error: NOTREGISTERED
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or tonumber(score) <= 0 then return redis.error_reply('NOTREGISTERED ' .. ARGV[1]) end
return redis.call('HSET', KEYS[2], 'claim_fence', ARGV[2])
