-- Say in which places executions are, in one step, so that one on its way is not seen in two or in none.
-- KEYS: executions pending handoff claims scheduled workers    ARGV: IDs    Reply: per ID a string of letters:
--   x has a context, p pending, h in hand-off, c claimed by a registered worker, o claimed by one that is not, s scheduled
-- Writes nothing. Cost: one pass over pending per ID, so ask only for the few that look wrong.
local reply = {}
for _, id in ipairs(ARGV) do
  local at = ''
  if redis.call('HEXISTS', KEYS[1], id) == 1 then at = at .. 'x' end
  if redis.call('LPOS', KEYS[2], id) then at = at .. 'p' end
  if redis.call('LPOS', KEYS[3], id) then at = at .. 'h' end
  local token = redis.call('HGET', KEYS[4], id)
  if token then
    local worker = string.match(token, '^(.*):%d+:%d+$')
    at = at .. ((worker and redis.call('ZSCORE', KEYS[6], worker)) and 'c' or 'o')
  end
  if redis.call('ZSCORE', KEYS[5], id) then at = at .. 's' end
  reply[#reply + 1] = at
end
return reply
