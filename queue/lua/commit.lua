-- Commit a batch of results: per execution, if the claim token matches, write the one entry in results, then drop the claim,
-- the context and what was counted. A token that does not match writes nothing.
-- KEYS: results claims executions attempts recoveries cancels dead ended ended:before, then the reply lists that items name
--   by index
-- ARGV: largest dead, n, n marks, n IDs, then per item: token, flags if its mark is '!' and not '.', the values of the entry
--   flags: f it did not succeed, h it has a history (attempts, recoveries, cancel), d keep context and error in dead,
--   r push it to a reply list: its index, its TTL in ms and the document follow the values
-- Reply: per item 1 committed; 0 no claim there: committed before, or recovered and finished; -1 somebody else's claim. After
--   an error on the way (out of memory, wrong type), that error: what was written until then is committed, the rest is not.
--
-- Safe prefixes: results are written before their claims are dropped, and nothing between the two can fail or end the script:
-- an entry whose claim stays is never left behind. Redis refuses for memory only before a script's first write.
-- Safe to repeat: the first run dropped the claims that the second would need.
local call, pcall, results, a = redis.call, redis.pcall, KEYS[1], ARGV
local n, marks = tonumber(a[2]), a[3]
local holders = call('HMGET', KEYS[2], unpack(a, 4, n + 3))
local reply, written, history, failure, v = {}, {}, {}, nil, n + 4 -- v: where the item's values begin
for k = 1, n do
  local id, held, flags, failed, entry = a[k + 3], false, '', nil, nil
  if holders[k] == a[v] and not written[id] then held = true else reply[k] = holders[k] and not written[id] and -1 or 0 end
  if string.byte(marks, k) == 33 then
    v = v + 1
    flags = a[v]
    failed = string.find(flags, 'f', 1, true)
  end
  if held and not failed then
    failure = pcall('XADD', results, '*', 'execution_id', id, 'workflow', a[v + 1], 'worker', a[v + 2], 'attempt', a[v + 3],
      'status', 'succeeded', 'claimed_at_ms', a[v + 4], 'started_at_ms', a[v + 5], 'finished_at_ms', a[v + 6],
      'duration_us', a[v + 7], 'result', a[v + 9], 'meta', a[v + 8])
  elseif held then
    entry = { 'execution_id', id, 'workflow', a[v + 1], 'worker', a[v + 2], 'attempt', a[v + 3],
      'status', a[v + 9], 'claimed_at_ms', a[v + 4], 'started_at_ms', a[v + 5], 'finished_at_ms', a[v + 6],
      'duration_us', a[v + 7], 'error_type', a[v + 10], 'error', a[v + 11], 'traceback', a[v + 12], 'meta', a[v + 8] }
    failure = pcall('XADD', results, '*', unpack(entry))
  end
  if held then
    if failure.err then break end
    written[id], written[#written + 1], reply[k] = true, id, 1
  end
  v = v + (failed and 13 or 10)
  if flags ~= '' then
    if held and string.find(flags, 'h', 1, true) then history[#history + 1] = id end
    if held and string.find(flags, 'd', 1, true) then
      local context = pcall('HGET', KEYS[3], id)
      if type(context) == 'string' then pcall('XADD', KEYS[7], 'MAXLEN', '~', a[1], '*', 'context', context, unpack(entry)) end
    end
    if string.find(flags, 'r', 1, true) then
      if held then
        pcall('RPUSH', KEYS[tonumber(a[v])], a[v + 2])
        pcall('PEXPIRE', KEYS[tonumber(a[v])], a[v + 1])
      end
      v = v + 3
    end
  end
end
if #written > 0 then
  call('HDEL', KEYS[2], unpack(written))
  pcall('HDEL', KEYS[3], unpack(written))
  remember(written, KEYS[8], KEYS[9])
end
for k = 4, 6 do
  if #history > 0 then pcall('HDEL', KEYS[k], unpack(history)) end
end
return failure and failure.err and failure or reply
