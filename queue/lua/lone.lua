-- Put in front of claim.lua: the claim of a worker that waited, which nearly always finds nothing, or the one ID that its pop has
-- just moved to hand-off. An idle queue asks Redis for as little as can be: after a rest every further kind of command costs it
-- several microseconds, and nobody has begun before the claim is answered.
-- Returns 0 where nothing is there; what is claimed: TIME's two values, modules:version, ID and context; or nil where there is more to
-- look at: then nothing was written. With a small context they are one string, since a list costs Redis memory and a second piece to
-- send: TIME's values, the lengths of version and ID, a space after each, then the rest. Safe prefixes: as in claim.lua.
local function lone()
  local call, incarnation = redis.call, ARGV[1]
  -- Is it alone, and does nobody have a past (attempts, recoveries), a future (scheduled) or a request to cancel?
  local there = call('EXISTS', KEYS[1], KEYS[2], KEYS[5], KEYS[6], KEYS[7], KEYS[8])
  local ids = there == 1 and call('LRANGE', KEYS[1], -2, -1)
  if there == 0 or (not ids or #ids == 0) and call('EXISTS', KEYS[1], KEYS[2], KEYS[8]) == 0 then
    return 0
  end
  if not ids or #ids ~= 1 then return nil end
  local score, fence = call('ZSCORE', KEYS[9], incarnation), call('HGET', KEYS[10], 'claim_fence')
  if not score or string.byte(score) <= 48 or fence then return nil end -- 48: what is above 0 begins with another digit
  if call('HSTRLEN', KEYS[4], ids[1]) > tonumber(ARGV[4]) then return nil end
  local context, version = call('HGET', KEYS[4], ids[1]), call('GET', KEYS[11]) or '0'
  if not context then return nil end
  local time = call('TIME')
  if call('HSETNX', KEYS[3], ids[1], incarnation .. ':' .. ARGV[2] .. ':1') == 0 then return nil end
  call('DEL', KEYS[1]) -- it was alone
  if #context > 1024 then return { time[1], time[2], version, ids[1], context } end -- joined, it would be there twice
  return time[1] .. ' ' .. time[2] .. ' ' .. #version .. ' ' .. #ids[1] .. ' ' .. version .. ids[1] .. context
end
