-- All that cfflow does in Redis. One commit is one script is one slot.
--
-- KEYS, all of one partition P (its hash tag keeps them in one slot; NS is the namespace)
--
--   NS:{P}:o:<order_id>    hash   one order
--        o                        msgpack [[state, cf_payment_id, abandoned, blocks, given_up_ms, bars],
--                                 ...], one per payment; `bars`: the steps that the other payments may
--                                 not begin now, one bit each
--        <n>                      the record of payment n: msgpack array, [schema, version, token, ...]
--        <n>a                     its next_action, while the customer has something to do
--        <n>n                     msgpack [at_ms, cf_payment_id, said]: a notification that no inquiry
--                                 has answered yet; `*`: about more than one attempt; `said`: the state
--                                 in which it is no news
--   NS:{P}:wake            zset   payment id -> when somebody must look at it, ms
--   NS:{P}:s:<state>       zset   payment id -> when it was created, ms
--   NS:{P}:review          zset   payment id -> when it was created, ms; while a review is open
--   NS:{P}:events          stream one entry per transition or notification, field e
--   NS:{P}:groups          hash   what the feed's readers know of this partition
--        <group>                  msgpack [consumer, session, until_ms, id, seen]: who reads, until when;
--                                 the last entry acknowledged, and which one that was from the first on
--        (the empty name)         how many entries were trimmed
--   NS:{P}:readers:<group> zset   consumer -> until when it counts as alive, ms; in one P per group
--   NS:{P}:seen:<mark>     string for a day: a notification that would be a duplicate
--   NS:{P}:flows           hash   digest -> the flow's text
--   NS:{P}:run             hash   run: which history of the data is written; since: its begin, ms
--   NS:{P}:budget:<call>   string the rate budget's book of one class of calls, whatever P is
--
-- An order whose payments are all past their retention is purged. If it took money, its hash
-- stays for a year with `o` alone, so that nobody pays it again.
--
-- Every script answers {status, now_ms, ...}; now_ms is this server's clock, the only one
-- that leases and wake times know. A commit carries a random token, kept in the record:
-- the same token again answers "ok" and changes nothing.

local OPEN = { created = true, initiated = true, otp_pending = true, authorized = true }
local HOLDS = { authorized = true, captured = true }
-- A payment that is started within this time of a restart may be one that was lost in it.
local RESTART_MS = 600000

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function ms(number)
  return string.format('%.0f', number)
end

-- What stands for a record that is not there.
local EMPTY = string.char(0xdc, 0, 3, 0, 0, 0)

-- A record is an array of more than 15 fields, so its header is 3 bytes long.
local function head(blob)
  local _, schema, version, token = cmsgpack.unpack_limit(blob, 3, 3)
  return schema, version, token
end

-- Which history of the data this server goes on with: another one after every restart and
-- every promotion, also of a server that never went down. The run_id would miss that one.
-- Empty where the rights of this connection forbid to ask.
local function history_id()
  local about = redis.pcall('INFO', 'replication')
  -- Found by its plain name: a pattern costs each commit some microseconds more.
  local _, at = string.find(type(about) == 'string' and about or '', 'master_replid:', 1, true)
  return at and string.sub(about, at + 1, at + 40) or ''
end

local function note_run(key, since)
  redis.call('HSET', key, 'run', history_id(), 'since', ms(since))
end

-- Another history than the last may have begun without the last commits. A payment that
-- was committed before it, or only started shortly after, is asked about before its next step.
local function may_be_rolled_back(key, version, committed_ms, now)
  local held, run = redis.call('HMGET', key, 'run', 'since'), history_id()
  if run ~= '' and held[1] ~= run then
    note_run(key, now)
    return true, now
  end
  local since = tonumber(held[2] or 0)
  local started_anew = version == 1 and since > 0 and committed_ms < since + RESTART_MS
  return committed_ms < since or started_anew, since
end

local function attempts_of(packed)
  if not packed then
    return {}
  end
  return cmsgpack.unpack(packed)
end

local function index_wake(key, id, wake_ms)
  if wake_ms == '' then
    redis.call('ZREM', key, id)
  else
    redis.call('ZADD', key, wake_ms, id)
  end
end

-- Which payment paid an order of which a purge has left nothing but the mark.
local function purged_by(order, attempts)
  for n, attempt in ipairs(redis.call('HLEN', order) == 1 and attempts or {}) do
    if attempt[1] == 'captured' then
      return n
    end
  end
end

-- start: KEYS order wake s:created flows run
--        ARGV order_id digest flow_text record wake_ms created_ms token n
-- The order's next payment. With n: exactly that one, whatever became of those before it.
local function start()
  local order, wake, created, flows = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
  local order_id, digest, text, record = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
  local now = now_ms()
  local packed = redis.call('HGET', order, 'o')
  local attempts = attempts_of(packed)
  local wanted, paid = tonumber(ARGV[9]), packed and purged_by(order, attempts)
  if paid then
    return { 'purged', now, paid }
  end
  if wanted and wanted ~= #attempts + 1 then
    local held = redis.call('HMGET', order, wanted, wanted .. 'a')
    local _, _, token = head(held[1] or EMPTY)
    return { token == ARGV[8] and 'ok' or 'there', now, wanted, held[1], held[2], packed }
  end
  for n, attempt in ipairs(wanted and {} or attempts) do
    local found = (OPEN[attempt[1]] and not attempt[3]) and 'open'
      or (attempt[1] == 'captured' and 'paid')
    if found then
      local held = redis.call('HMGET', order, n, n .. 'a')
      local _, _, token = head(held[1] or EMPTY)
      return { token == ARGV[8] and 'ok' or found, now, n, held[1], held[2], packed }
    end
  end
  local n = #attempts + 1
  attempts[n] = { 'created', '', false, false, 0, 0 }
  packed = cmsgpack.pack(attempts)
  local id = order_id .. '.' .. n
  if redis.call('EXISTS', KEYS[5]) == 0 then
    -- Written down when the store was new: what is not there any more was lost.
    note_run(KEYS[5], now)
  end
  redis.call('HSET', order, 'o', packed, n, record)
  redis.call('HSETNX', flows, digest, text)
  index_wake(wake, id, ARGV[6])
  redis.call('ZADD', created, ARGV[7], id)
  return { 'ok', now, n, record, false, packed }
end

-- What a commit must not do, whoever asks: nil when there is nothing.
local function forbidden(attempts, n, cf_payment_id, opens)
  for other, attempt in ipairs(attempts) do
    if other ~= n and cf_payment_id ~= '' and attempt[2] == cf_payment_id then
      return 'claimed', other
    end
    if other ~= n and opens ~= '' and HOLDS[attempt[1]] then
      return 'holder', other
    end
    -- Written by a cfflow that knew no bits yet: its open review bars pay and submit_otp.
    local bars = attempt[6] or (attempt[4] and 3) or 0
    if other ~= n and opens ~= '' and bit.band(bars, tonumber(opens)) ~= 0 then
      return 'blocked', other
    end
  end
end

-- The other payments of the order that hold or took money, where this one does so too.
local function twins_of(attempts, n, state)
  local twins = {}
  for other, attempt in ipairs(HOLDS[state] and attempts or {}) do
    if other ~= n and HOLDS[attempt[1]] then
      twins[#twins + 1] = other
    end
  end
  return twins
end

-- A partition keeps its newest feed_max entries, and older ones while a registered group has
-- not acknowledged them: ten times as many at most. What goes is counted, so that a group
-- learns exactly how many it has missed. Looking once in 64 entries costs a commit nothing.
local function trim(events, groups, added, feed_max)
  local length = redis.call('XLEN', events)
  if length <= feed_max or length % 64 >= added then
    return
  end
  local rows, trimmed, lowest = redis.call('HGETALL', groups), 0, math.huge
  for i = 1, #rows, 2 do
    if rows[i] == '' then
      trimmed = tonumber(rows[i + 1])
    else
      lowest = math.min(lowest, cmsgpack.unpack(rows[i + 1])[5])
    end
  end
  local kept = math.min(math.max(feed_max, trimmed + length - lowest), 10 * feed_max)
  local gone = redis.call('XTRIM', events, 'MAXLEN', ms(kept))
  if gone > 0 then
    redis.call('HINCRBY', groups, '', gone)
  end
end

-- Whether a notification is answered by an inquiry that had seen it, or by what is written now.
local function answered(packed, answers_ms, cf_payment_id, state)
  local notice = cmsgpack.unpack(packed)
  return notice[1] <= answers_ms or (notice[2] == cf_payment_id and notice[3] == state)
end

-- commit: KEYS order wake s:was s:is review events run groups
--         ARGV id n schema version token record state cf_payment_id feed_max wake_ms
--              created_ms opens(''|bit of the step) review(1|0|keep) action(keep|drop|set) action_blob
--              version_token attempt twins committed_ms(''|ms) answers_ms event...
-- `twins`: how many other payments the caller knew to hold money. One more makes the commit a
-- conflict, so that it is decided again with both in view; and the other one is woken up.
-- `answers_ms`: the notifications up to then are answered; after a later one the payment is due now.
local function commit()
  local order, wake, was, is, review, events =
    KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
  local id, n, token, record = ARGV[2], tonumber(ARGV[3]), ARGV[6], ARGV[7]
  local state, cf_payment_id, created_ms = ARGV[8], ARGV[9], ARGV[12]
  local now = now_ms()
  local held = redis.call('HMGET', order, n, 'o', n .. 'n')
  if not held[1] then
    return { 'gone', now }
  end
  local schema, version, stored_token = head(held[1])
  if stored_token == token then
    -- Written once more, so that a WAIT behind this script has something to wait for.
    redis.call('HSET', order, n, record)
    return { 'ok', now, held[2] }
  end
  if schema > tonumber(ARGV[4]) then
    return { 'schema', now }
  end
  local attempts = attempts_of(held[2])
  local twins = twins_of(attempts, n, state)
  local unseen = ARGV[13] == '' and #twins > tonumber(ARGV[19])
  -- The same version under another token: a server that was rolled back went another way.
  if version ~= tonumber(ARGV[5]) or stored_token ~= ARGV[17] or unseen then
    return { 'conflict', now, held[1], redis.call('HGET', order, n .. 'a'), held[2], held[3] }
  end
  if ARGV[20] ~= '' then
    local lost, since = may_be_rolled_back(KEYS[7], version, tonumber(ARGV[20]), now)
    if lost then
      return { 'restarted', now, since }
    end
  end
  local why, other = forbidden(attempts, n, cf_payment_id, ARGV[13])
  if why then
    return { why, now, other }
  end
  for _, twin in ipairs(HOLDS[attempts[n][1]] and {} or twins) do
    redis.call('ZADD', wake, ms(now), string.match(id, '^(.*%.)%d+$') .. twin)
  end
  attempts[n] = cmsgpack.unpack(ARGV[18])
  local packed = cmsgpack.pack(attempts)
  redis.call('HSET', order, n, record, 'o', packed)
  if ARGV[15] == 'set' then
    redis.call('HSET', order, n .. 'a', ARGV[16])
  elseif ARGV[15] == 'drop' then
    redis.call('HDEL', order, n .. 'a')
  end
  if held[3] and not answered(held[3], tonumber(ARGV[21]), cf_payment_id, state) then
    index_wake(wake, id, ms(now))
  else
    index_wake(wake, id, ARGV[11])
    if held[3] then
      redis.call('HDEL', order, n .. 'n')
    end
  end
  if was ~= is then
    redis.call('ZREM', was, id)
    redis.call('ZADD', is, created_ms, id)
  end
  if ARGV[14] == '1' then
    redis.call('ZADD', review, created_ms, id)
  elseif ARGV[14] == '0' then
    redis.call('ZREM', review, id)
  end
  for i = 22, #ARGV do
    redis.call('XADD', events, '*', 'e', ARGV[i])
  end
  if #ARGV > 21 then
    trim(events, KEYS[8], #ARGV - 21, tonumber(ARGV[10]))
  end
  return { 'ok', now, packed }
end

-- Each run makes anew all the functions that it comes by; the commonest need not make the rest.
if ARGV[1] == 'commit' then
  return commit()
end

-- create: KEYS run                 A partition of a new store: nothing of it can be lost yet.
local function create()
  if redis.call('EXISTS', KEYS[1]) == 0 then
    note_run(KEYS[1], 0)
  end
  return { 'ok', now_ms() }
end

local function read(prefix, id)
  local order_id, n = string.match(id, '^(.*)%.(%d+)$')
  local held = redis.call('HMGET', prefix .. order_id, n, n .. 'a', 'o', n .. 'n')
  return { id, held[1], held[2], held[3], held[4] }
end

-- Due payments of one partition, so many of the newest overdue and of the oldest; their due
-- time moves forward by the lease, so that no other worker takes them meanwhile.
local function claim_of(wake, prefix, newest, oldest, now, lease_ms, found)
  local ids = redis.call('ZREVRANGEBYSCORE', wake, ms(now), '-inf', 'LIMIT', 0, newest)
  if #ids == newest then
    local seen = {}
    for _, id in ipairs(ids) do
      seen[id] = true
    end
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', wake, '-inf', ms(now), 'LIMIT', 0, oldest)) do
      if not seen[id] then
        ids[#ids + 1] = id
      end
    end
  end
  for _, id in ipairs(ids) do
    redis.call('ZADD', wake, ms(now + lease_ms), id)
    found[#found + 1] = read(prefix, id)
  end
end

-- claim: KEYS wake...              ARGV lease_ms order_prefix newest oldest ...
-- As many partitions as the caller names; on a cluster that is one.
local function claim()
  local now, found = now_ms(), {}
  for i, wake in ipairs(KEYS) do
    local at = 3 * i
    claim_of(wake, ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], now, tonumber(ARGV[2]), found)
  end
  return { 'ok', now, found }
end

-- Which payments a notification is about: the one that has its attempt; else those that wait
-- for one, or that hold or took money beside it; else the newest, which then learns of an
-- attempt that is nobody's. None, where it names no attempt.
local function concerned(attempts, cf_payment_id)
  local waiting = {}
  for n, attempt in ipairs(cf_payment_id == '' and {} or attempts) do
    if attempt[2] == cf_payment_id then
      return { n }
    end
    if HOLDS[attempt[1]] or (attempt[2] == '' and attempt[1] == 'created') then
      waiting[#waiting + 1] = n
    end
  end
  local newest = cf_payment_id ~= '' and #attempts > 0 and #attempts or nil
  return #waiting > 0 and waiting or { newest }
end

-- notify: KEYS order wake events groups mark
--         ARGV order_id cf_payment_id said feed_max mark_ms entry
-- A duplicate is not told again, but whoever it is about is always asked about again, unless
-- the payment has come to where the notification says it is.
local function notify()
  local order, order_id, cf_payment_id, said = KEYS[1], ARGV[2], ARGV[3], ARGV[4]
  local now, woken = now_ms(), {}
  local attempts = attempts_of(redis.call('HGET', order, 'o'))
  for _, n in ipairs(concerned(attempts, cf_payment_id)) do
    local told = attempts[n][2] == cf_payment_id and attempts[n][1] == said
    if not told and redis.call('HEXISTS', order, n) == 1 then
      local held, notice = redis.call('HGET', order, n .. 'n'), { now, cf_payment_id, said }
      if held then
        local before = cmsgpack.unpack(held)
        local same = before[2] == cf_payment_id
        -- Two in one millisecond are two. What they say differently, only an inquiry answers.
        notice = { math.max(now, before[1] + 1), same and cf_payment_id or '*', '' }
        notice[3] = same and before[3] == said and said or ''
      end
      redis.call('HSET', order, n .. 'n', cmsgpack.pack(notice))
      redis.call('ZADD', KEYS[2], ms(now), order_id .. '.' .. n)
      woken[#woken + 1] = n
    end
  end
  local new = redis.call('SET', KEYS[5], '1', 'NX', 'PX', ARGV[6])
  if new then
    redis.call('XADD', KEYS[3], '*', 'e', ARGV[7])
    trim(KEYS[3], KEYS[4], 1, tonumber(ARGV[5]))
  end
  return { 'ok', now, new and 0 or 1, woken }
end

-- answer: KEYS wake order          ARGV id n token answers_ms wake_ms
-- An inquiry has answered the notifications up to then, and there is nothing new to write down.
local function answer()
  local held = redis.call('HMGET', KEYS[2], ARGV[3], ARGV[3] .. 'n')
  local _, _, token = head(held[1] or EMPTY)
  if token == ARGV[4] and held[2] and cmsgpack.unpack(held[2])[1] <= tonumber(ARGV[5]) then
    redis.call('HDEL', KEYS[2], ARGV[3] .. 'n')
    index_wake(KEYS[1], ARGV[2], ARGV[6])
  end
  return { 'ok', now_ms() }
end

-- defer: KEYS wake order           ARGV id n token wake_ms
-- A claimed payment is looked at then, unless somebody has committed since it was read.
local function defer()
  local held = redis.call('HGET', KEYS[2], ARGV[3])
  local now = now_ms()
  if held then
    local _, _, token = head(held)
    if token == ARGV[4] then
      redis.call('ZADD', KEYS[1], 'XX', ARGV[5], ARGV[2])
      return { 'ok', now }
    end
  end
  return { 'conflict', now }
end

-- overdue: KEYS wake               How many are due, and since when at the longest.
local function overdue()
  local now = now_ms()
  local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  return { 'ok', now, redis.call('ZCOUNT', KEYS[1], '-inf', ms(now)), first[2] or '0' }
end

-- purge: KEYS order wake review s:<state>...   ARGV order_id mark_ms token...
-- The whole order, if its payments are exactly those of these tokens, with no news of any.
local function purge()
  local order, order_id, now = KEYS[1], ARGV[2], now_ms()
  local attempts = attempts_of(redis.call('HGET', order, 'o'))
  if #attempts ~= #ARGV - 3 then
    return { 'conflict', now }
  end
  local paid = false
  for n, attempt in ipairs(attempts) do
    local _, _, token = head(redis.call('HGET', order, n) or EMPTY)
    if token ~= ARGV[n + 3] or redis.call('HEXISTS', order, n .. 'n') == 1 then
      return { 'conflict', now }
    end
    paid = paid or attempt[1] == 'captured'
  end
  local packed = redis.call('HGET', order, 'o')
  redis.call('DEL', order)
  for n = 1, #attempts do
    for k = 2, #KEYS do
      redis.call('ZREM', KEYS[k], order_id .. '.' .. n)
    end
  end
  if paid then
    redis.call('HSET', order, 'o', packed)
    redis.call('PEXPIRE', order, ARGV[3])
  end
  return { 'ok', now }
end

-- The first rows of one index, of those that one of KEYS from `others` on knows too.
local function rows_of(index, others, found)
  local limit, seen, most = tonumber(ARGV[4]), 0, #found + tonumber(ARGV[4])
  local rows
  repeat
    rows = redis.call('ZRANGEBYSCORE', index, ARGV[2], ARGV[3], 'WITHSCORES', 'LIMIT', seen, limit)
    for i = 1, #rows, 2 do
      local wanted = others > #KEYS
      for k = others, #KEYS do
        wanted = wanted or redis.call('ZSCORE', KEYS[k], rows[i])
      end
      if wanted and #found < most then
        found[#found + 1] = { rows[i], rows[i + 1] }
      end
    end
    seen = seen + limit
  until #rows < 2 * limit or #found == most
end

-- find: KEYS index...              ARGV from_ms to_ms limit narrowed(1|0)
-- The first ids of each index with their times; narrowed: those of the first index that
-- are in one of the others too.
local function find()
  local now, found = now_ms(), {}
  if ARGV[5] == '1' then
    rows_of(KEYS[1], 2, found)
    return { 'ok', now, found }
  end
  for _, index in ipairs(KEYS) do
    rows_of(index, #KEYS + 1, found)
  end
  return { 'ok', now, found }
end

-- read: KEYS wake                  ARGV order_prefix id...
-- The payments of one partition, whose tag the key names.
local function read_all()
  local found = {}
  for i = 3, #ARGV do
    found[#found + 1] = read(ARGV[2], ARGV[i])
  end
  return { 'ok', now_ms(), found }
end

-- The permits granted within a time, and when so many of them will count no more: as soon
-- as their slices leave that time, oldest first.
local function granted_since(slices, since)
  local granted = 0
  for _, slice in ipairs(slices) do
    granted = granted + (slice[1] > since and slice[2] or 0)
  end
  return granted
end

local function freed_in(slices, missing, span, now)
  for _, slice in ipairs(missing > 0 and slices or {}) do
    if slice[1] > now - span then
      missing = missing - slice[2]
      if missing <= 0 then
        return slice[1] + span - now
      end
    end
  end
  return missing > 0 and 1000 or 0
end

-- budget: KEYS book                ARGV entry: a msgpack map, see budget_ledger.py
-- The book is msgpack [[told_ms, block_ms], [[second, calls], ...], [[granted_ms, permits, id], ...]].
-- What `settle` in budget_ledger.py does; a clock set back finds its writing in the future: it is now.
local function budget()
  local entry, now = cmsgpack.unpack(ARGV[2]), now_ms()
  local held = redis.call('GET', KEYS[1])
  local book = held and cmsgpack.unpack(held) or { { 0, 0 }, {}, {} }
  local calls, slices, known, made, again = {}, {}, entry.made, 0, 0
  for _, slice in ipairs(book[3]) do
    local permits = math.min(slice[2], entry.used[slice[3]] or slice[2])
    if slice[3] == entry.id then
      again = slice[2]
    end
    if slice[1] > now - entry.keep_ms and permits > 0 then
      slices[#slices + 1] = { math.min(slice[1], now), permits, slice[3] }
      known = known + permits
    end
  end
  local second = math.floor(now / 1000)
  for _, row in ipairs(book[2]) do
    if (row[1] + 1) * 1000 > now - entry.keep_ms then
      calls[#calls + 1] = { math.min(row[1], second), row[2] }
      known = known + row[2]
    end
  end
  -- What the gateway has counted beyond all that is known was called by strangers.
  local new = entry.made + math.max(0, entry.seen - known)
  if new > 0 then
    local last = calls[#calls]
    if last and last[1] == second then
      last[2] = last[2] + new
    else
      calls[#calls + 1] = { second, new }
    end
  end
  for _, row in ipairs(calls) do
    made = made + ((row[1] + 1) * 1000 > now - entry.window_ms and row[2] or 0)
  end
  local free = math.max(entry.reserve, made + math.floor(entry.reserve / 2))
  local left = entry.limit - free - granted_since(slices, now - entry.window_ms)
  local paced = entry.pace - granted_since(slices, now - entry.pace_ms)
  local block = { math.min(book[1][1], now), book[1][2] }
  if now + entry.block_ms > block[1] + block[2] then
    block = { now, entry.block_ms }
  end
  local blocked, granted, wait = math.max(0, block[1] + block[2] - now), again, 0
  if again == 0 and blocked == 0 then
    granted = math.max(0, math.min(entry.wanted, left, paced))
    slices[#slices + 1] = granted > 0 and { now, granted, entry.id } or nil
  end
  if granted == 0 then
    wait = math.max(
      blocked,
      freed_in(slices, 1 - left, entry.window_ms, now),
      freed_in(slices, 1 - paced, entry.pace_ms, now)
    )
  end
  book = cmsgpack.pack({ block, calls, slices })
  redis.call('SET', KEYS[1], book, 'PX', ms(math.max(entry.keep_ms, blocked) + 1000))
  return { 'ok', now, granted, wait, blocked }
end

-- What a group knows of a partition: nil where it is not registered. The empty name counts
-- what was trimmed and is no group.
local function held_by(group)
  local packed = redis.call('HGET', KEYS[1], group)
  return packed and cmsgpack.unpack(packed)
end

local function keep_held(group, held)
  redis.call('HSET', KEYS[1], group, cmsgpack.pack(held))
end

local function trimmed_of()
  return tonumber(redis.call('HGET', KEYS[1], '') or 0)
end

-- A lease is written anew when a fifth of it is over, not each time somebody looks.
local function fading(until_ms, now, lease)
  return until_ms - now < lease * 0.8
end

-- feed_register: KEYS groups events    ARGV group start(oldest|now)
-- A group that is not known yet begins at the oldest entry that is kept, or behind the newest.
local function feed_register()
  if redis.call('HEXISTS', KEYS[1], ARGV[2]) == 0 then
    local id, seen = '0-0', trimmed_of()
    if ARGV[3] == 'now' then
      local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
      id = newest and newest[1] or id
      seen = seen + redis.call('XLEN', KEYS[2])
    end
    keep_held(ARGV[2], { '', 0, 0, id, seen })
  end
  return { 'ok', now_ms() }
end

-- feed_join: KEYS groups readers   ARGV group consumer lease_ms
-- Who of a group is alive, this one included; nobody, once it was forgotten.
local function feed_join()
  local readers, now, lease = KEYS[2], now_ms(), tonumber(ARGV[4])
  if redis.call('HEXISTS', KEYS[1], ARGV[2]) == 0 then
    return { 'gone', now, {} }
  end
  redis.call('ZREMRANGEBYSCORE', readers, '-inf', ms(now))
  if fading(tonumber(redis.call('ZSCORE', readers, ARGV[3]) or 0), now, lease) then
    redis.call('ZADD', readers, ms(now + lease), ARGV[3])
  end
  return { 'ok', now, redis.call('ZRANGE', readers, 0, -1) }
end

-- feed_read: KEYS groups events    ARGV group consumer session lease_ms count id seen
-- ok: still ours, the entries behind that id; taken: ours from now on, those behind the last
-- one acknowledged; held: somebody else's; gone: the group was forgotten. A consumer that
-- came again takes its partition back at once: the newer session of a name wins.
local function feed_read()
  local group, consumer, session = ARGV[2], ARGV[3], tonumber(ARGV[4])
  local lease, count, id, seen = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8])
  local held, now = held_by(group), now_ms()
  if not held then
    return { 'gone', now }
  end
  local again = held[1] == consumer and held[2] <= session
  if not again and held[3] > now then
    return { 'held', now }
  end
  local status = again and held[2] == session and 'ok' or 'taken'
  if status == 'taken' or fading(held[3], now, lease) then
    keep_held(group, { consumer, session, now + lease, held[4], held[5] })
  end
  if status == 'taken' or id == '' then
    id, seen = held[4], held[5]
  end
  local found = count > 0 and redis.call('XRANGE', KEYS[2], '(' .. id, '+', 'COUNT', count) or {}
  local before = math.max(seen, trimmed_of())
  if #found < count then
    -- Counted from the end, which is right even after a server lost its last moments.
    before = trimmed_of() + redis.call('XLEN', KEYS[2]) - #found
  end
  return { status, now, id, ms(seen), ms(before), found }
end

local function is_behind(id, other)
  local at, n = string.match(id, '^(%d+)-(%d+)$')
  local other_at, other_n = string.match(other, '^(%d+)-(%d+)$')
  at, other_at = tonumber(at), tonumber(other_at)
  return at > other_at or (at == other_at and tonumber(n) > tonumber(other_n))
end

-- feed_ack: KEYS groups            ARGV group consumer session lease_ms id seen
-- Everything up to that id is done with, if nobody else has taken the partition.
local function feed_ack()
  local held, now = held_by(ARGV[2]), now_ms()
  if not held or held[1] ~= ARGV[3] or held[2] ~= tonumber(ARGV[4]) then
    return { 'held', now }
  end
  local id, seen = ARGV[6], tonumber(ARGV[7])
  -- A gap has the id of what was read before it.
  if is_behind(id, held[4]) or (id == held[4] and seen > held[5]) then
    keep_held(ARGV[2], { held[1], held[2], now + tonumber(ARGV[5]), id, seen })
  end
  return { 'ok', now }
end

-- feed_leave: KEYS groups [readers]    ARGV group consumer session
-- Gives the partition back; with `readers`, the consumer leaves its group too.
local function feed_leave()
  local held = held_by(ARGV[2])
  if held and held[1] == ARGV[3] and held[2] == tonumber(ARGV[4]) then
    keep_held(ARGV[2], { '', 0, 0, held[4], held[5] })
  end
  if KEYS[2] then
    redis.call('ZREM', KEYS[2], ARGV[3])
  end
  return { 'ok', now_ms() }
end

-- feed_forget: KEYS groups [readers]   ARGV group
local function feed_forget()
  redis.call('HDEL', KEYS[1], ARGV[2])
  if KEYS[2] then
    redis.call('DEL', KEYS[2])
  end
  return { 'ok', now_ms() }
end

local commands = {
  create = create,
  start = start,
  claim = claim,
  find = find,
  read = read_all,
  defer = defer,
  notify = notify,
  answer = answer,
  overdue = overdue,
  purge = purge,
  budget = budget,
  feed_register = feed_register,
  feed_join = feed_join,
  feed_read = feed_read,
  feed_ack = feed_ack,
  feed_leave = feed_leave,
  feed_forget = feed_forget,
}
return commands[ARGV[1]]()
