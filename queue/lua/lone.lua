-- Put in front of claim.lua: the claim of a worker that waited, which nearly always finds nothing, or the one ID that its pop has
-- just moved to hand-off. An idle queue asks Redis for as little as can be: after a rest every further kind of command costs it
-- several microseconds, and nobody has begun before the claim is answered.
-- Returns 0 where nothing is there; what is claimed: TIME's two values, modules:version, ID and context; or nil where there is more to
-- look at: then nothing was written. With a small context they are one string, since a list costs Redis memory and a second piece to
-- send: a byte each for the lengths of version and ID, TIME's values, each with a space after it, then the rest. Safe prefixes: as in
-- claim.lua.
local function lone()
  local call, k, incarnation = redis.call, KEYS, ARGV[1]
  local handoff, pending, executions, scheduled = k[1], k[2], k[4], k[8]
  -- Is it alone, and does nobody have a past (attempts, recoveries), a future (scheduled) or a request to cancel?
  local there = call('EXISTS', handoff, pending, k[5], k[6], k[7], scheduled)
  local ids = there == 1 and call('LRANGE', handoff, -2, -1)
  if there == 0 or (not ids or #ids == 0) and call('EXISTS', handoff, pending, scheduled) == 0 then
    return 0
  end
  if not ids or #ids ~= 1 then return nil end
  local id, score, fence = ids[1], call('ZSCORE', k[9], incarnation), call('HGET', k[10], 'claim_fence')
  if not score or string.byte(score) <= 48 or fence then return nil end -- 48: what is above 0 begins with another digit
  if call('HSTRLEN', executions, id) > tonumber(ARGV[4]) then return nil end
  local context, version = call('HGET', executions, id), call('GET', k[11]) or '0'
  if not context then return nil end
  local time = call('TIME')
  if call('HSETNX', k[3], id, incarnation .. ':' .. ARGV[2] .. ':1') == 0 then return nil end
  call('DEL', handoff) -- it was alone
  if #context > 1024 or #id > 255 or #version > 255 then -- joined, the context would be there twice
    return { time[1], time[2], version, id, context }
  end
  return string.char(#version, #id) .. time[1] .. ' ' .. time[2] .. ' ' .. version .. id .. context
end
