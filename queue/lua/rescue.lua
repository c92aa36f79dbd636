-- Put executions back that are nowhere, or claimed by a worker that is not registered: to the right end of pending.
-- KEYS: executions pending handoff claims scheduled workers attempts recoveries    ARGV: IDs    Reply: the IDs that were moved
-- Each is looked at again here, so one that has moved on meanwhile is left alone. An orphaned claim counts as a recovery.
--
-- Safe prefixes: pushed before the claim is dropped; cut off between the two, the ID is pending and claimed, is dropped from
-- pending as a duplicate, and the next call pushes it again. Safe to repeat.
local moved = {}
for _, id in ipairs(ARGV) do
  local token = redis.call('HGET', KEYS[4], id)
  local worker = token and string.match(token, '^(.*):%d+:%d+$')
  local orphan = token and not (worker and redis.call('ZSCORE', KEYS[6], worker))
  local nowhere = not token and redis.call('HEXISTS', KEYS[1], id) == 1 and not redis.call('LPOS', KEYS[2], id)
    and not redis.call('LPOS', KEYS[3], id) and not redis.call('ZSCORE', KEYS[5], id)
  if orphan or nowhere then
    redis.call('RPUSH', KEYS[2], id)
    if orphan then
      spend(KEYS[7], id)
      spend(KEYS[8], id)
      redis.call('HDEL', KEYS[4], id)
    end
    moved[#moved + 1] = id
  end
end
return moved
