-- Put in front of claim.lua and adopt.lua: what a worker is told about an execution that it holds.
-- Appends five values to reply: id, context, attempts spent, recoveries, cancel request. The context is a string, false
-- when there is none, or its size as a number when it is above the limit: it is then never read. Returns the bytes added.
-- What few executions have (attempts, recoveries, a cancel request) is looked up only where the key exists: see present.
local function describe(reply, id, keys, limit)
  local size = redis.call('HSTRLEN', keys.executions, id)
  local context = size
  if size == 0 and redis.call('HEXISTS', keys.executions, id) == 0 then
    context = false
  elseif size <= limit then
    context = redis.call('HGET', keys.executions, id)
  end
  local n = #reply
  reply[n + 1], reply[n + 2] = id, context
  reply[n + 3] = keys.attempts and redis.call('HGET', keys.attempts, id)
  reply[n + 4] = keys.recoveries and redis.call('HGET', keys.recoveries, id)
  reply[n + 5] = keys.cancels and redis.call('HGET', keys.cancels, id)
  return size <= limit and size or 0
end
local function present(key)
  return redis.call('EXISTS', key) == 1 and key
end
