-- Commit a batch of results: per execution, if the claim token matches, write the one entry in results, then drop the claim,
-- the context and what was counted. A token that does not match writes nothing. No claim may be in a batch twice.
-- KEYS: results claims executions attempts recoveries cancels dead ended, then the reply lists that items name by index
-- ARGV: largest dead; n; the kind of each column; the columns (see below), each of n values; then, per item with flags that need
--   them, f: status, error_type, error, traceback; r: the index of its reply list, TTL in ms, the document
--   flags: f it did not succeed, h it has a history (attempts, recoveries, cancel), d keep context and error in dead,
--   r push it to a reply list, o its ID breaks the rule for IDs
-- Reply: n if all were committed, else per item 1 committed; 0 no claim there: committed before, or recovered and finished; -1
--   somebody else's claim. After an error on the way (wrong type), that error: what was written until then is committed.
--
-- Safe prefixes: results are written before their claims are dropped, and nothing between the two can fail or end the script:
-- an entry whose claim stays is never left behind. Redis refuses for memory only before a script's first write.
-- Safe to repeat: the first run dropped the claims that the second would need.
local call, pcall, find, results, a = redis.call, redis.pcall, string.find, KEYS[1], ARGV
local n, kinds, c, v = tonumber(a[2]), a[3], 0, 3 -- c and v: the last column and the last value that were read
-- Of kind '.' a column is n values, otherwise runs of one value: how many, the value. Returns its values and their step: value k
-- is values[k * step]. Where all items have one value, it is there once, and step is 0.
local function column()
  c = c + 1
  if string.byte(kinds, c) == 46 then
    v = v + n
    return { unpack(a, v - n + 1, v) }, 1
  elseif a[v + 1] == a[2] then
    v = v + 2
    return { [0] = a[v] }, 0
  end
  local values, k = {}, 0
  while k < n do
    local value, last = a[v + 2], k + a[v + 1]
    for i = k + 1, last do values[i] = value end
    k, v = last, v + 2
  end
  return values, 1
end
local ids = column()
local tokens, tokens_ = column()
local flags, flags_ = column()
local workflow, workflow_ = column()
local worker, worker_ = column()
local attempt, attempt_ = column()
local claimed, claimed_ = column()
local started, started_ = column()
local finished, finished_ = column()
local took, took_ = column()
local value, value_ = column()
local meta, meta_ = column()
local holders = call('HMGET', KEYS[2], unpack(ids))
local reply, last, lost, odd, history, failure = {}, n, false, nil, {}, nil
for k = 1, n do
  local id, flag, entry = ids[k], flags[k * flags_], nil
  local held, failed = holders[k] == tokens[k * tokens_], flag ~= '' and find(flag, 'f', 1, true)
  if held and not failed then
    failure = pcall('XADD', results, '*', 'execution_id', id, 'workflow', workflow[k * workflow_], 'worker', worker[k * worker_],
      'attempt', attempt[k * attempt_], 'status', 'succeeded', 'claimed_at_ms', claimed[k * claimed_],
      'started_at_ms', started[k * started_], 'finished_at_ms', finished[k * finished_], 'duration_us', took[k * took_],
      'result', value[k * value_], 'meta', meta[k * meta_])
  elseif held then
    entry = { 'execution_id', id, 'workflow', workflow[k * workflow_], 'worker', worker[k * worker_],
      'attempt', attempt[k * attempt_], 'status', a[v + 1], 'claimed_at_ms', claimed[k * claimed_],
      'started_at_ms', started[k * started_], 'finished_at_ms', finished[k * finished_], 'duration_us', took[k * took_],
      'error_type', a[v + 2], 'error', a[v + 3], 'traceback', a[v + 4], 'meta', meta[k * meta_] }
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
  if #written > 0 then pcall('XADD', KEYS[8], 'MAXLEN', '~', '2000', '*', 'ids', table.concat(written, ' ')) end
end
if failure and failure.err then return failure end
return count == n and n or reply
