-- What workers do: leases of due orders, and how late all workers are. Common functions stand in
-- common.lua, before this text.

-- So many orders of a partition that became due last; nil where the key is not ours. It is asked
-- for 64 partitions in every lease, so it takes the guarded way only after an error.
local function newest_due(wake, newest, now)
  local ids = redis.pcall('ZREVRANGEBYSCORE', wake, now, '-inf', 'LIMIT', 0, newest)
  if ids.err then
    return guarded(named, 'ZREVRANGEBYSCORE', wake, now, '-inf', 'LIMIT', 0, newest)
  end
  return ids
end

-- The due orders of one partition: those that became due last, and so many of the oldest.
local function due_orders(wake, ids, newest, oldest, now)
  if #ids == newest and oldest > 0 then
    local seen = {}
    for _, id in ipairs(ids) do
      seen[id] = true
    end
    for _, id in ipairs(call('ZRANGEBYSCORE', wake, '-inf', ms(now), 'LIMIT', 0, oldest)) do
      ids[#ids + 1] = not seen[id] and id or nil
    end
  end
  return ids
end

-- Takes an order that cannot be read, or a member that is no order, out of the queue.
local function put_aside(wake, leases, unreadable, id, now)
  call('ZADD', unreadable, ms(now), id)
  call('ZREM', wake, id)
  call('HDEL', leases, id)
end

-- Leases the due orders of the partition whose keys begin at i; nothing where none is due. A member
-- that is no order is put aside here: only this partition has it, whatever its name is. No order's
-- name has other characters than these.
local function lease_in(i, due, prefix, newest, oldest, until_ms, name, now, is_known)
  local ids, rows = due_orders(KEYS[i], due, tonumber(newest), tonumber(oldest), now), {}
  if #ids == 0 then
    if not is_known then
      -- A restart counts from when it is seen, also where nothing is due.
      present_history(KEYS[i + 2], now)
    end
    return {}
  end
  local wake, leases, run, unreadable = unpack(KEYS, i, i + 3)
  local known, all_verified = is_known and server_history(), is_known
  for j, id in ipairs(ids) do
    local is_name = id ~= '' and not string.find(id, '[^ -~]')
    rows[j] = is_name and read(prefix .. id, id) or { id, false, false, {} }
    local value = rows[j][2]
    all_verified = all_verified and value and sub(value, 1, 8) == known
    if value then
      call('ZADD', wake, until_ms, id)
      call('HSET', leases, id, name)
    else
      put_aside(wake, leases, unreadable, id, now)
    end
  end
  if all_verified then
    -- No order has to be verified: since when does not matter.
    return { (i - 1) / 4, known, '0', rows }
  end
  local history, since = present_history(run, now)
  return { (i - 1) / 4, history, ms(since), rows }
end

-- lease: KEYS {wake leases run unreadable}...  ARGV lease_ms name history {order_prefix newest oldest}...
-- Any number of partitions; on a cluster one, since the keys of one script share a slot. A due
-- time moves to the end of the lease, so that no other worker takes the order meanwhile. A
-- partition whose keys are not ours has no history in the reply, and holds up no other one.
local function lease()
  local now, found = now_ms(), {}
  local now_text, until_ms = ms(now), ms(now + tonumber(ARGV[2]))
  local name = until_ms .. ':' .. ARGV[3]
  local history = server_history()
  local is_known = history ~= '' and history == ARGV[4]
  local at = 5
  for i = 1, #KEYS, 4 do
    local prefix, newest, oldest = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    local due = newest_due(KEYS[i], newest, now_text)
    -- Most partitions have nothing due: they cost one command, and no part of the reply.
    local part = due
    if due and (#due > 0 or newest == '0' or not is_known) then
      part = guarded(lease_in, i, due, prefix, newest, oldest, until_ms, name, now, is_known)
    end
    if not part or #part > 0 then
      found[#found + 1] = part or { (i - 1) / 4, false, '0', {} }
    end
    at = at + 3
  end
  return { 'ok', now, name, found, history }
end

-- defer: KEYS order wake leases put_back    ARGV order_id token lease wake_ms since_ms(''=nothing failed)
-- Ends a lease with another due time, unless a commit has changed the order meanwhile. An order that
-- failed is put back: since when it was due is kept, or it would look as if nothing were late.
local function defer()
  local order, wake, leases, put_back = unpack(KEYS)
  local order_id, token, name, wake_ms, since_ms = unpack(ARGV, 2)
  local now = now_ms()
  if call('GETRANGE', order, 8, 15) ~= token then
    return { 'conflict', now, read(order, order_id) }
  end
  local until_ms = leased_until(leases, order_id, name, now)
  call('ZADD', wake, 'XX', tonumber(wake_ms) < until_ms and ms(until_ms) or wake_ms, order_id)
  if since_ms == '' then
    guarded(named, 'ZREM', put_back, order_id)
  elseif call('ZSCORE', wake, order_id) then
    guarded(named, 'ZADD', put_back, 'LT', since_ms, order_id)
  end
  return { 'ok', now }
end

-- The token of an order; empty where it has none, as the caller finds it (replies.py).
local function token_of(order)
  local token = guarded(named, 'GETRANGE', order, 8, 15) or ''
  return #token == 8 and not string.find(token, '[^ -~]') and token or ''
end

-- set_aside: KEYS order wake leases unreadable   ARGV order_id token
-- An order that cannot be read, unless a commit or a person has changed it meanwhile.
local function set_aside()
  local now = now_ms()
  if token_of(KEYS[1]) == ARGV[3] then
    put_aside(KEYS[2], KEYS[3], KEYS[4], ARGV[2], now)
  end
  return { 'ok', now }
end

-- A read of one key, by the type that it must have.
local PROBES = {
  zset = function(key)
    return call('ZSCORE', key, '')
  end,
  hash = function(key)
    return call('HEXISTS', key, '')
  end,
  stream = function(key)
    return call('XLEN', key)
  end,
}

-- How many orders are due, and since when the oldest of them.
local function due_since(wake, now)
  local first = call('ZRANGE', wake, 0, 0, 'WITHSCORES')
  return { call('ZCOUNT', wake, '-inf', ms(now)), first[2] or '0' }
end

-- How many orders were put back, and since when the oldest of them was due. An order that is never
-- due any more was ended by a version of cfflow that does not know this index.
local function put_back_since(put_back, wake)
  local rows = call('ZRANGE', put_back, 0, 15, 'WITHSCORES')
  for i = 1, #rows, 2 do
    if call('ZSCORE', wake, rows[i]) then
      return { call('ZCOUNT', put_back, '-inf', '+inf') - (i - 1) / 2, rows[i + 1] }
    end
  end
  return { 0, '0' }
end

-- overdue: KEYS wake put_back key...        ARGV type...
-- How many orders are due, since when the oldest, which of the keys have another type than this, how
-- many orders were put back, and since when the oldest of those was due.
local function overdue()
  local now, damaged = now_ms(), {}
  for i, kind in ipairs(ARGV) do
    if i > 1 and guarded(PROBES[kind], KEYS[i - 1]) == nil then
      damaged[#damaged + 1] = KEYS[i - 1]
    end
  end
  local due = guarded(due_since, KEYS[1], now) or { 0, '0' }
  local put_back = guarded(put_back_since, KEYS[2], KEYS[1]) or { 0, '0' }
  return { 'ok', now, due[1], due[2], damaged, put_back[1], put_back[2] }
end

-- count: KEYS index...             How many members each of them has; one of another type has none.
local function count()
  local now, found = now_ms(), {}
  for i, key in ipairs(KEYS) do
    found[i] = guarded(named, 'ZCOUNT', key, '-inf', '+inf') or 0
  end
  return { 'ok', now, found }
end

local commands = {
  lease = lease,
  defer = defer,
  set_aside = set_aside,
  overdue = overdue,
  count = count,
}
return commands[ARGV[1]]()
