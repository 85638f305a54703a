-- What cfflow does with orders. One commit is one run, on keys of one slot. It has no rule about
-- payments: what to write, and over which token, is decided by its callers. common.lua comes first.

local HEAD_B, DIGEST_B = 17, 6
local NOT_VERIFIED = '????????'
-- An order that begins within this time of a restart may be one that was lost in it.
local BEGUN_ANEW_MS = 600000
-- So many notifications of an order are kept one by one; the next becomes one about everything.
local NOTICES_MAX = 16

local function put(key, value)
  if value == '' then
    call('DEL', key)
  else
    call('SET', key, value)
  end
end

local function index(key, score, member)
  if score == '' then
    call('ZREM', key, member)
  else
    call('ZADD', key, score, member)
  end
end

-- A partition keeps its newest feed_max entries, and older ones while a registered group has
-- not acknowledged them: ten times as many at most. Dropped entries are counted, so that a group
-- gets the exact number that it has missed. To look once in 64 entries costs a commit nothing.
local function trim(events, groups, added, feed_max)
  local length = call('XLEN', events)
  if length <= feed_max or length % 64 >= added then
    return
  end
  local rows, trimmed, lowest = call('HGETALL', groups), 0, math.huge
  for i = 1, #rows, 2 do
    if rows[i] == '' then
      trimmed = tonumber(rows[i + 1]) or 0
    else
      lowest = math.min(lowest, acknowledged(rows[i + 1]))
    end
  end
  local kept = math.min(math.max(feed_max, trimmed + length - lowest), 10 * feed_max)
  local gone = call('XTRIM', events, 'MAXLEN', ms(kept))
  if gone > 0 then
    call('HSET', groups, '', ms(trimmed + gone))
  end
end

-- The refusal of a store that is not the one with which the caller began; nil if it is.
local function replaced(run, store, now)
  local held = call('HGET', run, 'store')
  if held ~= store then
    return { 'replaced', now, held or '' }
  end
end

-- The checks for what may begin something. Returns why it may not, or the stamp to write.
local function admitted(run, stamp, opens, verified, gate, store, now)
  local held = call('HMGET', run, 'store', 'gate:' .. gate)
  if held[1] ~= store then
    return { 'replaced', now, held[1] or '' }
  elseif gate ~= '' and held[2] then
    return { 'paused', now, held[2] }
  end
  local history, since = present_history(run, now)
  if history == '' then
    return nil, stamp ~= '' and stamp or NOT_VERIFIED
  elseif stamp == '' then
    stamp = since > 0 and now < since + BEGUN_ANEW_MS and NOT_VERIFIED or history
  end
  if (verified ~= '' and verified or (opens == '1' and stamp or history)) ~= history then
    return { 'restarted', now, history, ms(since) }
  end
  return nil, verified ~= '' and history or stamp
end

-- Removes the notifications that a commit has settled; returns whether one is left.
local function left_after(notices, at, answered)
  for i = at, at + 2 * answered - 1, 2 do
    if call('HGET', notices, ARGV[i]) == ARGV[i + 1] then
      call('HDEL', notices, ARGV[i])
    end
  end
  return call('EXISTS', notices) == 1
end

-- Stores the flows of payments that begin; returns whether a text is missing.
local function lacks_flow(flows, at, texts)
  for i = at, at + 2 * texts - 1, 2 do
    if ARGV[i + 1] ~= '' then
      call('HSETNX', flows, ARGV[i], ARGV[i + 1])
    elseif call('HEXISTS', flows, ARGV[i]) == 0 then
      return true
    end
  end
end

-- Why a commit is refused, nil if it is not; and the stamp to write.
local function refused(order, order_id, head, now)
  local expected, value, opens, gate, verified, store, notices, marker, run =
    ARGV[3], ARGV[4], ARGV[7], ARGV[8], ARGV[9], ARGV[11], KEYS[3], KEYS[4], KEYS[7]
  local stamp, token = sub(head, 1, 8), sub(head, 9, 16)
  if head == '' and (expected ~= '' or value == '' or call('EXISTS', marker) == 1) then
    -- Perhaps it is gone because the server lost all of its data, and not because it was purged.
    return replaced(run, store, now) or { 'gone', now, call('GET', marker) or '' }
  elseif token ~= expected or (head ~= '' and expected == '') then
    local foreign = (opens == '1' or expected == '') and replaced(run, store, now)
    if opens == '1' and not foreign then
      -- It may be applied, with a later commit over it: then its caller finds its token in the
      -- payment, and sends the step if the replicas have it. A WAIT behind this needs a write too.
      call('SETRANGE', order, 0, stamp)
    end
    return foreign or { 'conflict', now, read(order, order_id) }
  end
  local refusal
  if head == '' or opens == '1' or verified ~= '' or gate ~= '' then
    refusal, stamp = admitted(run, stamp, opens, verified, gate, store, now)
  end
  if not refusal and value == '' and call('EXISTS', notices) == 1 then
    return { 'conflict', now, read(order, order_id) }
  end
  return refusal, stamp
end

-- Writes the order, or removes it.
local function write(order, actions, leases, marker, order_id, stamp)
  local value, action, left_behind, left_ms = ARGV[4], ARGV[6], ARGV[13], ARGV[14]
  if value == '' then
    call('DEL', order, actions)
    call('HDEL', leases, order_id)
  else
    call('SET', order, stamp .. value)
    if action ~= '' then
      put(actions, sub(action, 2))
    end
  end
  if left_behind ~= '' then
    call('SET', marker, left_behind, 'PX', left_ms)
  end
end

-- commit: KEYS order actions notices marker wake leases run flows events groups put_back index...
--         ARGV order_id expected value(token..., ''=remove) wake_ms actions(''=keep|=blob) opens(1|'') gate
--              verified lease store feed_max left_behind left_ms answered texts changes
--              {attempt number:state}... {digest text}... {key_number score(''=leaves) member}... event...
local function commit()
  local order, actions, notices, marker, wake, leases, _, flows, events, groups, put_back = unpack(KEYS, 1, 11)
  local order_id, value, wake_ms, lease, feed_max = ARGV[2], ARGV[4], ARGV[5], ARGV[10], tonumber(ARGV[12])
  local answered, texts, changes, at = tonumber(ARGV[15]), tonumber(ARGV[16]), tonumber(ARGV[17]), 18
  local now, head = now_ms(), call('GETRANGE', order, 0, 15)
  if value ~= '' and sub(head, 9, 16) == sub(value, 1, 8) then
    -- A write, so that a WAIT behind a repeated commit waits for something.
    call('SETRANGE', order, 0, sub(head, 1, 8))
    return { 'applied', now }
  end
  local refusal, stamp = refused(order, order_id, head, now)
  if refusal then
    return refusal
  elseif lacks_flow(flows, at + 2 * answered, texts) then
    return { 'flow', now }
  end
  -- First, so that a server without memory refuses the whole commit.
  write(order, actions, leases, marker, order_id, stamp)
  local due = left_after(notices, at, answered) and ms(now) or wake_ms
  local until_ms = leased_until(leases, order_id, lease, now)
  index(wake, due ~= '' and tonumber(due) < until_ms and ms(until_ms) or due, order_id)
  -- Whatever it replies: a key of another type must not leave this commit half written.
  redis.pcall('ZREM', put_back, order_id)
  at = at + 2 * (answered + texts)
  for i = at, at + 3 * changes - 1, 3 do
    index(KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2])
  end
  at = at + 3 * changes
  for i = at, #ARGV do
    call('XADD', events, '*', 'e', ARGV[i])
  end
  if #ARGV >= at then
    trim(events, groups, #ARGV - at + 1, feed_max)
  end
  return { 'applied', now }
end

-- Every run creates the functions above again. The most frequent command returns here, so that it
-- does not pay for those below.
if ARGV[1] == 'commit' then
  return commit()
end

-- Whether a notification with this digest would report nothing new of an order with this head.
local function adds_nothing(head, digest)
  for at = HEAD_B + 1, HEAD_B + (string.byte(head, HEAD_B) or 0) * DIGEST_B, DIGEST_B do
    if sub(head, at, at + DIGEST_B - 1) == digest then
      return true
    end
  end
end

-- Adds a notification about an attempt to those of its order.
local function add_notice(notices, number, attempt, state)
  local held = call('HGET', notices, attempt)
  if not held and call('HLEN', notices) >= NOTICES_MAX then
    attempt, held = '*', '0:'
  end
  -- If two report different states, only an inquiry finds out which is right.
  local same = not held or string.match(held, ':(.*)$') == state
  call('HSET', notices, attempt, number .. ':' .. (same and state or ''))
end

-- notify: KEYS order notices wake leases run events groups seen
--         ARGV order_id attempt state digest feed_max duplicate_window_ms entry
-- A duplicate gets no second entry in the feed. It makes its order due all the same, since the
-- worker of the first one may have died.
local function notify()
  local order, notices, wake, leases, run, events, groups, seen = unpack(KEYS)
  local order_id, attempt, state, digest, feed_max, window_ms, entry = unpack(ARGV, 2, 8)
  local now, last = now_ms(), HEAD_B + NOTICES_MAX * DIGEST_B - 1
  local head = guarded(named, 'GETRANGE', order, 0, last) or ''
  local news = head ~= '' and attempt ~= '' and not adds_nothing(head, digest)
  if news then
    -- Where it cannot be added, the order cannot be read: it is due, so that a worker sees that.
    guarded(add_notice, notices, call('HINCRBY', run, 'notices', 1), attempt, state)
    call('ZADD', wake, ms(math.max(now, leased_until(leases, order_id, '', now))), order_id)
  end
  local new = call('SET', seen, '1', 'NX', 'PX', window_ms)
  if new then
    call('XADD', events, '*', 'e', entry)
    trim(events, groups, 1, tonumber(feed_max))
  end
  return { 'ok', now, new and 0 or 1, news and 1 or 0, read(order, order_id) }
end

-- Whether a name comes before another one, byte by byte: `<` would go by the server's locale.
local function is_before(name, other)
  for i = 1, math.min(#name, #other) do
    local a, b = string.byte(name, i), string.byte(other, i)
    if a ~= b then
      return a < b
    end
  end
  return #name < #other
end

-- How many members of an index come before this place, or are it (included). Found by halving: any
-- number of members can have one score.
local function rank_of(key, score, member, included)
  local low, high = call('ZCOUNT', key, '-inf', '(' .. score), call('ZCOUNT', key, '-inf', score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local name = call('ZRANGE', key, middle, middle)[1]
    if is_before(name, member) or (included and name == member) then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

-- The first rows of one index behind a place, or all first rows if there is none.
local function rows_of(key, from, to, limit, highest_first, score, member)
  local first, last = call('ZCOUNT', key, '-inf', '(' .. from), call('ZCOUNT', key, '-inf', to) - 1
  if highest_first then
    last = score and math.min(last, rank_of(key, score, member, false) - 1) or last
    first = math.max(first, last - limit + 1)
  else
    first = score and math.max(first, rank_of(key, score, member, true)) or first
    last = math.min(last, first + limit - 1)
  end
  return first <= last and call('ZRANGE', key, first, last, 'WITHSCORES') or {}
end

-- find: KEYS index...              ARGV from_at_ms to_at_ms limit highest_first(1|0) [score member]
-- The first members of each index with their scores, the lowest always first in the reply. An index
-- of another type has none.
local function find()
  local from, to, limit, highest_first, score, member = unpack(ARGV, 2, 7)
  local now, found = now_ms(), {}
  for i, key in ipairs(KEYS) do
    local rows = guarded(rows_of, key, from, to, tonumber(limit), highest_first == '1', score, member)
    found[i] = rows or {}
  end
  return { 'ok', now, found }
end

-- read: KEYS order... run          ARGV store order_id...      Orders of one partition.
-- Where one is missing, the partition must still be the store's own.
local function read_all()
  local found, complete = {}, true
  for i = 1, #KEYS - 1 do
    found[i] = read(KEYS[i], ARGV[i + 2])
    complete = complete and found[i][2]
  end
  local now = now_ms()
  return not complete and replaced(KEYS[#KEYS], ARGV[2], now) or { 'ok', now, found }
end

local commands = {
  find = find,
  read = read_all,
  notify = notify,
}
return commands[ARGV[1]]()
