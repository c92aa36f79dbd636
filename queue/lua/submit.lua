-- Submit executions: context first, then the ID. An ID that is already in use is left as it is.
-- KEYS: executions pending    ARGV: pairs of ID and context    Reply: per item 1, or 0 when the ID is in use
--
-- Safe prefixes: a context without its ID runs never; repeating the call cannot tell, so LLEN first proves that pending is a
-- list, after which LPUSH cannot fail. Safe to repeat until the execution ended: then it would run again.
redis.call('LLEN', KEYS[2])
local reply = {}
for i = 1, #ARGV, 2 do
  local new = redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1])
  if new == 1 then redis.call('LPUSH', KEYS[2], ARGV[i]) end
  reply[#reply + 1] = new
end
return reply
