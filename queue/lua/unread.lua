-- How many results somebody still has to read: for the consumer group that is furthest behind, what was not delivered to it and
-- what it has not acknowledged; all there are where there are no groups.
-- KEYS: results    ARGV: enough; while there are at most so many altogether, their number is the answer
-- Reply: the number, never below the true one. Reads only.
--
-- Redis 7 knows how far a group is behind, but not of a group that was created in the middle and never caught up, nor where
-- entries were deleted ahead of it; Redis 6 never does. Nothing in a stream tells how many entries follow an ID, short of reading
-- them. So a few are read, one by one and up to a megabyte, which stays inside Redis: when that reaches the end, it is exact.
-- Beyond it the whole length is the answer, which no group can be behind.
local length = redis.call('XLEN', KEYS[1])
if length <= tonumber(ARGV[1]) then return length end
local function after(id)
  local bytes = 0
  for n = 0, 1000 do
    local entry = redis.call('XRANGE', KEYS[1], '(' .. id, '+', 'COUNT', 1)[1]
    if not entry then return n end
    id = entry[1]
    for _, text in ipairs(entry[2]) do bytes = bytes + #text end
    if bytes > 1048576 then return length end
  end
  return length
end
local groups = redis.call('XINFO', 'GROUPS', KEYS[1])
if #groups == 0 then return length end
local most = 0
for _, group in ipairs(groups) do
  local field = {}
  for i = 1, #group, 2 do field[group[i]] = group[i + 1] end
  local behind = field['lag']
  if not behind or behind < 0 then behind = after(field['last-delivered-id']) end
  most = math.max(most, behind + field['pending'])
end
return math.min(most, length)
