-- Commit a batch of results: per execution, if the claim token matches, write the one entry in results, then drop the claim,
-- the context and what was counted. A token that does not match writes nothing.
-- KEYS: results claims executions attempts recoveries cancels dead, then the reply lists that items name by index
-- ARGV: largest dead, then per item: id, token, flags, index of the reply key (0: none), reply TTL ms, reply, n, n fields
--   flags: h it has a history (attempts, recoveries, cancel), d keep context and error in dead
-- Reply: per item 1 committed; 0 no claim there: committed before, or recovered and finished; -1 somebody else's claim.
--
-- Safe prefixes: item by item, the result is written before the claim is dropped, so an error on the way (out of memory,
-- wrong type) leaves the rest claimed and to be committed again. Once XADD passed nothing after it can fail: Redis refuses
-- for memory only before a script's first write, and what may be of a wrong type is called protected.
-- Safe to repeat: the first run dropped the claims that the second would need.
local reply, i = {}, 2
while i <= #ARGV do
  local id, flags = ARGV[i], ARGV[i + 2]
  local first, count = i + 7, tonumber(ARGV[i + 6])
  local holder = redis.call('HGET', KEYS[2], id)
  if holder == ARGV[i + 1] then
    redis.call('XADD', KEYS[1], '*', unpack(ARGV, first, first + count - 1))
    redis.call('HDEL', KEYS[2], id)
    if string.find(flags, 'd', 1, true) then
      local context = redis.pcall('HGET', KEYS[3], id)
      if type(context) == 'string' then
        redis.pcall('XADD', KEYS[7], 'MAXLEN', '~', ARGV[1], '*', 'context', context, unpack(ARGV, first, first + count - 1))
      end
    end
    redis.pcall('HDEL', KEYS[3], id)
    if string.find(flags, 'h', 1, true) then
      for k = 4, 6 do redis.pcall('HDEL', KEYS[k], id) end
    end
    local target = tonumber(ARGV[i + 3])
    if target > 0 then
      redis.pcall('RPUSH', KEYS[target], ARGV[i + 5])
      redis.pcall('PEXPIRE', KEYS[target], ARGV[i + 4])
    end
    reply[#reply + 1] = 1
  else
    reply[#reply + 1] = holder and -1 or 0
  end
  i = first + count
end
return reply
