-- Commit a batch of results: per execution, if the claim token matches, write the one entry in results, then drop the claim,
-- the context and what was counted. A token that does not match writes nothing. No claim may be in a batch twice.
-- KEYS: results claims executions attempts recoveries cancels dead ended, then the reply lists that items name by index
-- ARGV: largest dead; n; n marks, or '' for none; token, workflow, worker, attempt, claimed_at_ms and meta, each '=' and the value
--   that all items share, or '' when each brings its own; n IDs; per item: flags if its mark is '!', token, the values of the entry
--   flags: f it did not succeed, h it has a history (attempts, recoveries, cancel), d keep context and error in dead,
--   r push it to a reply list: its index, TTL in ms and the document follow the values, o its ID breaks the rule for IDs
-- Reply: n if all were committed, else per item 1 committed; 0 no claim there: committed before, or recovered and finished; -1
--   somebody else's claim. After an error on the way (wrong type), that error: what was written until then is committed.
--
-- Safe prefixes: results are written before their claims are dropped, and nothing between the two can fail or end the script:
-- an entry whose claim stays is never left behind. Redis refuses for memory only before a script's first write.
-- Safe to repeat: the first run dropped the claims that the second would need.
local call, pcall, byte, find, results, a = redis.call, redis.pcall, string.byte, string.find, KEYS[1], ARGV
local n, marks = tonumber(a[2]), a[3] ~= '' and a[3]
local function all(i) return a[i] ~= '' and string.sub(a[i], 2) end
local all_token, all_workflow, all_worker, all_attempt, all_claimed, all_meta = all(4), all(5), all(6), all(7), all(8), all(9)
local holders = call('HMGET', KEYS[2], unpack(a, 10, n + 9))
local reply, written, count, odd, history, failure, v = {}, {}, 0, nil, {}, nil, n + 9 -- v: the last value that was read
for k = 1, n do
  local id, flags, failed, entry = a[k + 9], '', nil, nil
  local token, workflow, worker, attempt, claimed, meta = all_token, all_workflow, all_worker, all_attempt, all_claimed, all_meta
  if marks and byte(marks, k) == 33 then v = v + 1; flags = a[v]; failed = find(flags, 'f', 1, true) end
  if not token then v = v + 1; token = a[v] end
  if not workflow then v = v + 1; workflow = a[v] end
  if not worker then v = v + 1; worker = a[v] end
  if not attempt then v = v + 1; attempt = a[v] end
  if not claimed then v = v + 1; claimed = a[v] end
  local started, finished, took = a[v + 1], a[v + 2], a[v + 3]
  v = v + 3
  if not meta then v = v + 1; meta = a[v] end
  local held = holders[k] == token
  if held and not failed then
    failure = pcall('XADD', results, '*', 'execution_id', id, 'workflow', workflow, 'worker', worker, 'attempt', attempt,
      'status', 'succeeded', 'claimed_at_ms', claimed, 'started_at_ms', started, 'finished_at_ms', finished,
      'duration_us', took, 'result', a[v + 1], 'meta', meta)
  elseif held then
    entry = { 'execution_id', id, 'workflow', workflow, 'worker', worker, 'attempt', attempt,
      'status', a[v + 1], 'claimed_at_ms', claimed, 'started_at_ms', started, 'finished_at_ms', finished,
      'duration_us', took, 'error_type', a[v + 2], 'error', a[v + 3], 'traceback', a[v + 4], 'meta', meta }
    failure = pcall('XADD', results, '*', unpack(entry))
  end
  if held and failure.err then break end
  if held then count = count + 1; written[count] = id end
  reply[k] = held and 1 or holders[k] and -1 or 0
  v = v + (failed and 4 or 1)
  if flags ~= '' then
    if held and find(flags, 'h', 1, true) then history[#history + 1] = id end
    if held and find(flags, 'o', 1, true) then odd = odd or {}; odd[id] = true end
    local context = held and find(flags, 'd', 1, true) and pcall('HGET', KEYS[3], id)
    if type(context) == 'string' then pcall('XADD', KEYS[7], 'MAXLEN', '~', a[1], '*', 'context', context, unpack(entry)) end
    if find(flags, 'r', 1, true) then
      if held then
        pcall('RPUSH', KEYS[tonumber(a[v + 1])], a[v + 3])
        pcall('PEXPIRE', KEYS[tonumber(a[v + 1])], a[v + 2])
      end
      v = v + 3
    end
  end
end
if count > 0 then
  call('HDEL', KEYS[2], unpack(written))
  pcall('HDEL', KEYS[3], unpack(written))
  if #history > 0 then for key = 4, 6 do pcall('HDEL', KEYS[key], unpack(history)) end end
  -- So that an ID that was pushed twice gets no second result: one entry for the batch, which costs it next to nothing.
  for i = odd and count or 0, 1, -1 do
    if odd[written[i]] then table.remove(written, i) end
  end
  if #written > 0 then pcall('XADD', KEYS[8], 'MAXLEN', '~', '2000', '*', 'ids', table.concat(written, ' ')) end
end
if failure and failure.err then return failure end
return count == n and n or reply
