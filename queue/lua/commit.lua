-- Commit a batch of results: per execution, if the claim token matches, write the one entry in results, then drop the claim,
-- the context and what was counted. A token that does not match writes nothing. No claim may be in a batch twice.
-- KEYS: results claims executions attempts recoveries cancels dead ended, then the reply lists that items name by index
-- ARGV: largest dead; n; the IDs, joined by spaces; the kind of each column; the columns (see below), each of n values; then, per item
--   with flags that need them, f: status, error_type, error, traceback; r: the index of its reply list, TTL in ms, the document
--   flags: f it did not succeed, h it has a history (attempts, recoveries, cancel), d keep context and error in dead,
--   r push it to a reply list, o its ID breaks the rule for IDs
-- Reply: n if all were committed, else per item 1 committed; 0 no claim there: committed before, or recovered and finished; -1
--   somebody else's claim. After an error on the way (wrong type), that error: what was written until then is committed.
--
-- Safe prefixes: results are written before their claims are dropped, and nothing between the two can fail or end the script:
-- an entry whose claim stays is never left behind. Redis refuses for memory only before a script's first write.
-- Safe to repeat: the first run dropped the claims that the second would need.
local call, pcall, find, results, a = redis.call, redis.pcall, string.find, KEYS[1], ARGV
local n, c, v, byte = tonumber(a[2]), 0, 4, string.byte -- c and v: the last column and the last value that were read
-- A column is, by its kind: '.' a value for each item; 'd' how many values, these, and a byte for each item that says which of them;
-- 'r' runs of one value: how many, the value. Returns values by item. Where an item has none, it has that of the item before. Those
-- of most columns are seldom new: changes has the items where one is, always says that there is one in each.
local changes, always = {}, false
local function column(each)
  c = c + 1
  local kind, values, k = byte(a[4], c), {}, 1
  if kind == 46 then
    v, always = v + n, always or not each
    return { unpack(a, v - n + 1, v) }
  elseif kind == 100 then
    local codes, first = { byte(a[v + 2 + a[v + 1]], 1, n) }, v + 1
    for i = 1, n do values[i] = a[first + codes[i]] end
    v = first + 1 + a[first]
    return values
  end
  while k <= n do
    values[k], changes[k] = a[v + 2], true
    k, v = k + a[v + 1], v + 2
  end
  return values
end
local ids, durations, values = column(true), column(true), column(true)
local tokens, flags, workflows, workers, attempts = column(), column(), column(), column(), column()
local claims, starts, finishes, metas = column(), column(), column(), column()
local holders = call('HMGET', KEYS[2], unpack(ids))
local reply, last, lost, odd, history, failure = {}, n, false, nil, {}, nil
local duration, value, token, flag, workflow, worker, attempt, claimed, started, finished, meta, failed
for k = 1, n do
  if always or changes[k] then
    token, flag, workflow, worker = tokens[k] or token, flags[k] or flag, workflows[k] or workflow, workers[k] or worker
    attempt, claimed, started = attempts[k] or attempt, claims[k] or claimed, starts[k] or started
    finished, meta, failed = finishes[k] or finished, metas[k] or meta, find(flag, 'f', 1, true)
  end
  local id, held, entry = ids[k], holders[k] == token, nil
  duration, value = durations[k] or duration, values[k] or value
  if held and not failed then
    failure = pcall('XADD', results, '*', 'execution_id', id, 'workflow', workflow, 'worker', worker, 'attempt', attempt,
      'status', 'succeeded', 'claimed_at_ms', claimed, 'started_at_ms', started, 'finished_at_ms', finished, 'duration_us', duration,
      'result', value, 'meta', meta)
  elseif held then
    entry = { 'execution_id', id, 'workflow', workflow, 'worker', worker, 'attempt', attempt, 'status', a[v + 1],
      'claimed_at_ms', claimed, 'started_at_ms', started, 'finished_at_ms', finished, 'duration_us', duration,
      'error_type', a[v + 2], 'error', a[v + 3], 'traceback', a[v + 4], 'meta', meta }
    failure = pcall('XADD', results, '*', unpack(entry))
  else
    reply[k], lost = holders[k] and -1 or 0, true
  end
  if held and failure.err then
    last = k - 1
    break
  end
  if flag ~= '' then
    if failed then v = v + 4 end
    if held and find(flag, 'h', 1, true) then history[#history + 1] = id end
    if held and find(flag, 'o', 1, true) then odd = odd or {}; odd[id] = true end
    local context = held and find(flag, 'd', 1, true) and pcall('HGET', KEYS[3], id)
    if type(context) == 'string' then pcall('XADD', KEYS[7], 'MAXLEN', '~', a[1], '*', 'context', context, unpack(entry)) end
    if find(flag, 'r', 1, true) then
      if held then
        pcall('RPUSH', KEYS[tonumber(a[v + 1])], a[v + 3])
        pcall('PEXPIRE', KEYS[tonumber(a[v + 1])], a[v + 2])
      end
      v = v + 3
    end
  end
end
local written = ids -- those before last whose claim was there
if lost or last < n then
  written = {}
  for k = 1, last do
    if not reply[k] then reply[k], written[#written + 1] = 1, ids[k] end
  end
end
local count = #written
if count > 0 then
  call('HDEL', KEYS[2], unpack(written))
  pcall('HDEL', KEYS[3], unpack(written))
  if #history > 0 then for key = 4, 6 do pcall('HDEL', KEYS[key], unpack(history)) end end
  -- So that an ID that was pushed twice gets no second result: one entry for the batch, which costs it next to nothing.
  for i = odd and count or 0, 1, -1 do
    if odd[written[i]] then table.remove(written, i) end
  end
  local text = count == n and not odd and a[3] or table.concat(written, ' ')
  if text ~= '' then pcall('XADD', KEYS[8], 'MAXLEN', '~', '2000', '*', 'ids', text) end
end
if failure and failure.err then return failure end
return count == n and n or reply
