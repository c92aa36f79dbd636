-- Put in front of commit.lua and cancel.lua: remembers which executions ended lately, so that an ID that was pushed twice gets
-- no second result (claim.lua). There are two sets: the newer one grows to a hundred thousand and then becomes the older one, so
-- that at least as many are remembered and at most twice as many. A set lives for a day.
-- Safe wherever it is cut off: all that is lost is memory of what ended.
local function remember(ids, ended, before)
  local added, known = redis.pcall('SADD', ended, unpack(ids)), redis.pcall('SCARD', ended)
  if added == known then redis.pcall('PEXPIRE', ended, 86400000) end -- the set is new
  if type(known) == 'number' and known >= 100000 then
    redis.call('UNLINK', before)
    redis.call('RENAME', ended, before)
  end
end
