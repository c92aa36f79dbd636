-- Trim results that are old and that nobody still has to read: older than ARGV.before, and acknowledged by every consumer group.
-- KEYS: results    ARGV: before, a stream ID    Reply: how many entries were removed
-- Safe to repeat, and to break off: what it removes was read. A stream without groups is trimmed by age alone.
local function earlier(a, b) -- of two stream IDs
  local a1, a2 = string.match(a, '^(%d+)-?(%d*)$')
  local b1, b2 = string.match(b, '^(%d+)-?(%d*)$')
  a1, b1, a2, b2 = tonumber(a1), tonumber(b1), tonumber(a2) or 0, tonumber(b2) or 0
  if a1 < b1 or (a1 == b1 and a2 < b2) then return a end
  return b
end
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local before = ARGV[1]
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local field = {}
  for i = 1, #group, 2 do field[group[i]] = group[i + 1] end
  -- What was delivered last may still be unacknowledged; the oldest unacknowledged one bounds it then.
  before = earlier(before, field['last-delivered-id'])
  if field['pending'] > 0 then
    local summary = redis.call('XPENDING', KEYS[1], field['name'])
    if summary[2] then before = earlier(before, summary[2]) end
  end
end
return redis.call('XTRIM', KEYS[1], 'MINID', before)
