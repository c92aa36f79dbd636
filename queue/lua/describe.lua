-- Put in front of claim.lua and adopt.lua: what a worker is told about the executions that it holds, or is about to hold.
-- large has the sizes of contexts above the limit by their place in ids, and is nil where none is: they are never read.
-- Appends six values to reply: ids, contexts, sizes, attempts spent, recoveries, cancel requests. A context is a string, or
-- false when there is none or when it is large: then sizes is a list that says so. Where nobody has attempts, recoveries or a
-- cancel request, which is nearly always, false stands for the whole list.
local function describe(reply, ids, large, keys)
  local fit, sizes = ids, false
  if large then
    fit = {}
    for i = 1, #ids do
      if not large[i] then fit[#fit + 1] = ids[i] end
    end
  end
  local contexts = #fit > 0 and redis.call('HMGET', keys.executions, unpack(fit)) or {}
  if large then
    sizes = {}
    for i = 1, #ids do
      sizes[i] = large[i] or 0
      if large[i] then table.insert(contexts, i, false) end
    end
  end
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3] = ids, contexts, sizes
  local any = #ids > 0 and redis.call('EXISTS', keys.attempts, keys.recoveries, keys.cancels) > 0
  for k, key in ipairs({ keys.attempts, keys.recoveries, keys.cancels }) do
    local values = any and redis.call('HMGET', key, unpack(ids))
    for i = 1, k < 3 and values and #ids or 0 do
      local count = tonumber(values[i]) -- somebody else may have written what is no count: then it is 0
      values[i] = count and count > 0 and count < 1000000 and math.floor(count) or false
    end
    reply[n + 3 + k] = values
  end
end
