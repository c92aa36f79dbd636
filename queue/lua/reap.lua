-- Take claims from an incarnation that is fenced (fence.lua) or was never registered, and put them back to run next.
-- KEYS: workers claims pending attempts recoveries    ARGV: incarnation, count the recovery (0 or 1), then IDs
-- Reply: the IDs that were moved. Error: ALIVE when the incarnation is registered and not fenced.
--
-- Safe prefixes: pushed before the claim is dropped. Cut off between the two, the ID is pending and claimed by the dead, is
-- dropped from pending as a duplicate, and the next reap pushes it again; a recovery may then be counted twice.
-- Safe to repeat: the first run dropped the claims.
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if score and tonumber(score) > 0 then return redis.error_reply('ALIVE ' .. ARGV[1]) end
local counts = ARGV[2] == '1' and tonumber(score or 0) ~= -1 -- -1: it left in order (fence.lua), and had no time to give back
local prefix, moved = ARGV[1] .. ':', {}
for i = 3, #ARGV do
  local token = redis.call('HGET', KEYS[2], ARGV[i])
  if token and string.sub(token, 1, #prefix) == prefix then
    redis.call('RPUSH', KEYS[3], ARGV[i])
    if counts then
      spend(KEYS[4], ARGV[i])
      spend(KEYS[5], ARGV[i])
    end
    redis.call('HDEL', KEYS[2], ARGV[i])
    moved[#moved + 1] = ARGV[i]
  end
end
return moved
