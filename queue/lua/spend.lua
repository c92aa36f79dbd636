-- Put in front of retry.lua, reap.lua and rescue.lua: counts one more for an ID in a hash of counts. What is no count there, which
-- somebody else wrote, counts as none: it must not stop the script, for the others' sake. Safe wherever it is cut off.
local function spend(key, id)
  if type(redis.pcall('HINCRBY', key, id, 1)) ~= 'number' then redis.pcall('HSET', key, id, 1) end
end
