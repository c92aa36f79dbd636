-- Put in front of commit.lua: the commit of one execution that succeeded and has no past, which is what an idle queue sees. It says
-- and writes what commit.lua would, with less around it. Returns nil where the claim is not the caller's: then nothing was written.
-- Safe prefixes: as in commit.lua.
local function one()
  local call, pcall, a, id = redis.call, redis.pcall, ARGV, ARGV[4]
  if call('HGET', KEYS[2], id) ~= a[5] then return nil end
  local added = pcall('XADD', KEYS[1], '*', 'execution_id', id, 'workflow', a[7], 'worker', a[8], 'attempt', a[9],
    'status', 'succeeded', 'claimed_at_ms', a[10], 'started_at_ms', a[11], 'finished_at_ms', a[12],
    'duration_us', a[13], 'result', a[14], 'meta', a[15])
  if added.err then return added end
  call('HDEL', KEYS[2], id)
  pcall('HDEL', KEYS[3], id)
  pcall('XADD', KEYS[8], 'MAXLEN', '~', '2000', '*', 'ids', id)
  return 1
end
