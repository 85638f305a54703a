-- All that cfflow does in Redis. One commit is one run of this script, on keys of one slot.
--
-- KEYS, all of one partition P (its hash tag keeps them in one slot; NS is the namespace)
--
--   NS:{P}:o:<order_id>    hash   one order
--        o                        msgpack [[state, cf_payment_id, abandoned, blocks, given_up_at_ms, bars],
--                                 ...], one per payment; `bars`: the steps that the other payments may
--                                 not begin now, one bit each
--        <n>                      the record of payment n: msgpack array, [schema, version, token, ...]
--        <n>a                     its next_action, while the customer has something to do
--        <n>n                     msgpack [at_ms, cf_payment_id, reported_state]: a notification that no
--                                 inquiry has settled yet; `*`: about more than one attempt;
--                                 `reported_state`: in this state the payment needs no inquiry
--   NS:{P}:wake            zset   payment id -> when a worker must look at it, ms
--   NS:{P}:s:<state>       zset   payment id -> when it was created, ms
--   NS:{P}:review          zset   payment id -> when it was created, ms; while a review is open
--   NS:{P}:events          stream one entry per transition or notification, field e
--   NS:{P}:groups          hash   how far the feed's groups have read this partition
--        <group>                  msgpack [consumer, session, until_at_ms, id, seen]: who has the lease, and
--                                 until when; the last entry acknowledged, and its number, counted
--                                 from the first entry that this partition ever had
--        (the empty name)         how many entries were trimmed
--   NS:{P}:readers:<group> zset   consumer -> until when it counts as alive, ms; in one P per group
--   NS:{P}:seen:<content>  string for a day: a second notification with this content is a duplicate
--   NS:{P}:flows           hash   digest -> the flow's text
--   NS:{P}:run             hash   run: which history of the data is written; since: its begin, ms
--   NS:{P}:budget:<call>   string the rate budget's book of one class of calls, whatever P is: msgpack
--                                 [[block_set_at_ms, block_ms], [[second, calls], ...],
--                                 [[granted_at_ms, permits, id], ...]]
--
-- An order whose payments are all past their retention is purged. If it took money, its hash
-- stays for a year with `o` alone: a paid order must not be paid again.
--
-- Every run returns {status, now_ms, ...}; now_ms is this server's clock, the only one that
-- leases and wake times go by. A commit carries a random token, kept in the record: the same
-- token again returns "ok" and changes nothing.
--
-- Each client sends the text that it was shipped with, and the server finds it by its hash. So
-- during an upgrade the old and the new script run side by side on the same keys. The words of
-- commands and statuses may therefore change from version to version; the keys, the fields and
-- the stored bytes may not.

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

-- Stands for a record that does not exist: `head` can read it, and its token is that of no commit.
local NO_RECORD = string.char(0xdc, 0, 3, 0, 0, 0)

-- A record is an array of more than 15 fields, so its header is 3 bytes long.
local function head(blob)
  local _, schema, version, token = cmsgpack.unpack_limit(blob, 3, 3)
  return schema, version, token
end

-- Which history of the data this server continues: another one after every restart and every
-- promotion of a replica. The run_id would not do: a promoted replica keeps its own.
-- Empty where this connection has no right to ask.
local function history_id()
  local about = redis.pcall('INFO', 'replication')
  -- Found by its plain name: a pattern costs each commit some microseconds more.
  local _, at = string.find(type(about) == 'string' and about or '', 'master_replid:', 1, true)
  return at and string.sub(about, at + 1, at + 40) or ''
end

local function write_history(key, since)
  redis.call('HSET', key, 'run', history_id(), 'since', ms(since))
end

-- A new history of the data may lack the last commits of the one before. So a payment that was
-- committed before its begin, or started shortly after, needs an inquiry before its next step.
local function may_be_rolled_back(key, version, committed_at_ms, now)
  local held, run = redis.call('HMGET', key, 'run', 'since'), history_id()
  if run ~= '' and held[1] ~= run then
    write_history(key, now)
    return true, now
  end
  local since = tonumber(held[2] or 0)
  local started_anew = version == 1 and since > 0 and committed_at_ms < since + RESTART_MS
  return committed_at_ms < since or started_anew, since
end

local function attempts_of(packed)
  if not packed then
    return {}
  end
  return cmsgpack.unpack(packed)
end

local function index_wake(key, id, wake_at_ms)
  if wake_at_ms == '' then
    redis.call('ZREM', key, id)
  else
    redis.call('ZADD', key, wake_at_ms, id)
  end
end

-- Which payment paid a purged order: of a paid one, the purge leaves `o` as a marker.
local function purged_payment(order, attempts)
  for n, attempt in ipairs(redis.call('HLEN', order) == 1 and attempts or {}) do
    if attempt[1] == 'captured' then
      return n
    end
  end
end

-- start: KEYS order wake s:created flows run
--        ARGV order_id digest flow_text record wake_at_ms created_at_ms token n
-- Begins the order's next payment. With n: exactly that one, in whatever states the others are.
local function start()
  local order, wake, created, flows = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
  local order_id, digest, text, record = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
  local now = now_ms()
  local packed = redis.call('HGET', order, 'o')
  local attempts = attempts_of(packed)
  local wanted, paid = tonumber(ARGV[9]), packed and purged_payment(order, attempts)
  if paid then
    return { 'purged', now, paid }
  end
  if wanted and wanted ~= #attempts + 1 then
    local held = redis.call('HMGET', order, wanted, wanted .. 'a')
    local _, _, token = head(held[1] or NO_RECORD)
    return { token == ARGV[8] and 'ok' or 'exists', now, wanted, held[1], held[2], packed }
  end
  for n, attempt in ipairs(wanted and {} or attempts) do
    local found = (OPEN[attempt[1]] and not attempt[3]) and 'open'
      or (attempt[1] == 'captured' and 'paid')
    if found then
      local held = redis.call('HMGET', order, n, n .. 'a')
      local _, _, token = head(held[1] or NO_RECORD)
      return { token == ARGV[8] and 'ok' or found, now, n, held[1], held[2], packed }
    end
  end
  local n = #attempts + 1
  attempts[n] = { 'created', '', false, false, 0, 0 }
  packed = cmsgpack.pack(attempts)
  local id = order_id .. '.' .. n
  if redis.call('EXISTS', KEYS[5]) == 0 then
    -- `create` wrote it when the store was new. If it is gone, the server lost its data.
    write_history(KEYS[5], now)
  end
  redis.call('HSET', order, 'o', packed, n, record)
  redis.call('HSETNX', flows, digest, text)
  index_wake(wake, id, ARGV[6])
  redis.call('ZADD', created, ARGV[7], id)
  return { 'ok', now, n, record, false, packed }
end

-- Why a commit is refused, and because of which other payment of the order; nil if it is not.
local function forbidden(attempts, n, cf_payment_id, opens)
  for other, attempt in ipairs(attempts) do
    if other ~= n and cf_payment_id ~= '' and attempt[2] == cf_payment_id then
      return 'owned', other
    end
    if other ~= n and opens ~= '' and HOLDS[attempt[1]] then
      return 'holder', other
    end
    -- Version 0.1 wrote no bits: there, an open review bars pay and submit_otp.
    local bars = attempt[6] or (attempt[4] and 3) or 0
    if other ~= n and opens ~= '' and bit.band(bars, tonumber(opens)) ~= 0 then
      return 'blocked', other
    end
  end
end

-- The siblings that hold or took money, if this payment does so too.
local function siblings_with_money(attempts, n, state)
  local siblings = {}
  for other, attempt in ipairs(HOLDS[state] and attempts or {}) do
    if other ~= n and HOLDS[attempt[1]] then
      siblings[#siblings + 1] = other
    end
  end
  return siblings
end

-- A partition keeps its newest feed_max entries, and older ones while a registered group has
-- not acknowledged them: ten times as many at most. Dropped entries are counted, so that a group
-- gets the exact number that it has missed. To look once in 64 entries costs a commit nothing.
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

-- Whether this commit settles a notification: its inquiry was made after the notification came, or
-- it writes the state that the notification reports.
local function settles(packed, settles_until_at_ms, cf_payment_id, state)
  local notice = cmsgpack.unpack(packed)
  return notice[1] <= settles_until_at_ms or (notice[2] == cf_payment_id and notice[3] == state)
end

-- commit: KEYS order wake s:was s:is review events run groups
--         ARGV id n schema version token record state cf_payment_id feed_max wake_at_ms
--              created_at_ms opens(''|bit of the step) review(1|0|keep) action(keep|drop|set) action_blob
--              version_token attempt siblings committed_at_ms(''|ms) settles_until_at_ms event...
-- `siblings`: how many siblings with money the caller decided on. If there are more, the commit is
-- a conflict, so that the caller decides again with all of them in view. A commit by which this
-- payment gets money makes those siblings due.
-- `settles_until_at_ms`: notifications up to then are settled; after a later one the payment is due now.
local function commit()
  local order, wake, was, is, review, events =
    KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
  local id, n, token, record = ARGV[2], tonumber(ARGV[3]), ARGV[6], ARGV[7]
  local state, cf_payment_id, created_at_ms = ARGV[8], ARGV[9], ARGV[12]
  local now = now_ms()
  local held = redis.call('HMGET', order, n, 'o', n .. 'n')
  if not held[1] then
    return { 'gone', now }
  end
  local schema, version, stored_token = head(held[1])
  if stored_token == token then
    -- Write it once more: a WAIT after this script waits for the connection's last write.
    redis.call('HSET', order, n, record)
    return { 'ok', now, held[2] }
  end
  if schema > tonumber(ARGV[4]) then
    return { 'schema', now }
  end
  local attempts = attempts_of(held[2])
  local siblings = siblings_with_money(attempts, n, state)
  local unseen = ARGV[13] == '' and #siblings > tonumber(ARGV[19])
  -- The same version under another token: after a rollback another caller wrote this version.
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
  for _, sibling in ipairs(HOLDS[attempts[n][1]] and {} or siblings) do
    redis.call('ZADD', wake, ms(now), string.match(id, '^(.*%.)%d+$') .. sibling)
  end
  attempts[n] = cmsgpack.unpack(ARGV[18])
  local packed = cmsgpack.pack(attempts)
  redis.call('HSET', order, n, record, 'o', packed)
  if ARGV[15] == 'set' then
    redis.call('HSET', order, n .. 'a', ARGV[16])
  elseif ARGV[15] == 'drop' then
    redis.call('HDEL', order, n .. 'a')
  end
  if held[3] and not settles(held[3], tonumber(ARGV[21]), cf_payment_id, state) then
    index_wake(wake, id, ms(now))
  else
    index_wake(wake, id, ARGV[11])
    if held[3] then
      redis.call('HDEL', order, n .. 'n')
    end
  end
  if was ~= is then
    redis.call('ZREM', was, id)
    redis.call('ZADD', is, created_at_ms, id)
  end
  if ARGV[14] == '1' then
    redis.call('ZADD', review, created_at_ms, id)
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

-- Every run creates the functions above again. The most frequent command returns here, so that it
-- does not pay for those below.
if ARGV[1] == 'commit' then
  return commit()
end

-- create: KEYS run                 A partition of a new store: it cannot have lost anything yet.
local function create()
  if redis.call('EXISTS', KEYS[1]) == 0 then
    write_history(KEYS[1], 0)
  end
  return { 'ok', now_ms() }
end

local function read(prefix, id)
  local order_id, n = string.match(id, '^(.*)%.(%d+)$')
  local held = redis.call('HMGET', prefix .. order_id, n, n .. 'a', 'o', n .. 'n')
  return { id, held[1], held[2], held[3], held[4] }
end

-- Leases due payments of one partition: so many that became due last, and so many of the oldest.
-- Their wake time moves to the end of the lease, so that no other worker takes them meanwhile.
local function lease_partition(wake, prefix, newest, oldest, now, lease_ms, found)
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

-- lease: KEYS wake...              ARGV lease_ms order_prefix newest oldest ...
-- Any number of partitions; on a cluster one, since the keys of one script share a slot.
local function lease()
  local now, found = now_ms(), {}
  for i, wake in ipairs(KEYS) do
    local at = 3 * i
    lease_partition(wake, ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], now, tonumber(ARGV[2]), found)
  end
  return { 'ok', now, found }
end

-- Which payments a notification concerns: the one that owns its attempt. If none does: those without
-- an attempt yet, whose lost pay may have made it, and those that hold or took money, since the
-- customer may have paid twice. If there are none of these: the newest. None, if it names no attempt.
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

-- notify: KEYS order wake events groups seen
--         ARGV order_id cf_payment_id reported_state feed_max duplicate_window_ms entry
-- A duplicate gets no second entry in the feed. It makes its payments due all the same, since the
-- worker of the first one may have died; but not a payment that is in the reported state.
local function notify()
  local order, order_id, cf_payment_id, reported = KEYS[1], ARGV[2], ARGV[3], ARGV[4]
  local now, woken = now_ms(), {}
  local attempts = attempts_of(redis.call('HGET', order, 'o'))
  for _, n in ipairs(concerned(attempts, cf_payment_id)) do
    local adds_nothing = attempts[n][2] == cf_payment_id and attempts[n][1] == reported
    if not adds_nothing and redis.call('HEXISTS', order, n) == 1 then
      local held, notice = redis.call('HGET', order, n .. 'n'), { now, cf_payment_id, reported }
      if held then
        local before = cmsgpack.unpack(held)
        local same = before[2] == cf_payment_id
        -- Two of one millisecond need different times: an inquiry that saw the first must not
        -- settle the second. If they report different states, only an inquiry settles them.
        notice = { math.max(now, before[1] + 1), same and cf_payment_id or '*', '' }
        notice[3] = same and before[3] == reported and reported or ''
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

-- clear_notifications: KEYS wake order    ARGV id n token settles_until_at_ms wake_at_ms
-- An inquiry has settled the notifications up to then and found nothing new, so there is no commit.
local function clear_notifications()
  local held = redis.call('HMGET', KEYS[2], ARGV[3], ARGV[3] .. 'n')
  local _, _, token = head(held[1] or NO_RECORD)
  if token == ARGV[4] and held[2] and cmsgpack.unpack(held[2])[1] <= tonumber(ARGV[5]) then
    redis.call('HDEL', KEYS[2], ARGV[3] .. 'n')
    index_wake(KEYS[1], ARGV[2], ARGV[6])
  end
  return { 'ok', now_ms() }
end

-- defer: KEYS wake order           ARGV id n token wake_at_ms
-- A leased payment is due at that time, unless a commit has changed it since it was leased.
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

-- overdue: KEYS wake               How many payments are due, and since when the oldest of them.
local function overdue()
  local now = now_ms()
  local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  return { 'ok', now, redis.call('ZCOUNT', KEYS[1], '-inf', ms(now)), first[2] or '0' }
end

-- purge: KEYS order wake review s:<state>...   ARGV order_id marker_ms token...
-- Removes an order if its payments are exactly those of these tokens, and no notification is open.
local function purge()
  local order, order_id, now = KEYS[1], ARGV[2], now_ms()
  local attempts = attempts_of(redis.call('HGET', order, 'o'))
  if #attempts ~= #ARGV - 3 then
    return { 'conflict', now }
  end
  local paid = false
  for n, attempt in ipairs(attempts) do
    local _, _, token = head(redis.call('HGET', order, n) or NO_RECORD)
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

-- The first rows of one index; of those only that are also in one of KEYS from `others` on.
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

-- find: KEYS index...              ARGV from_at_ms to_at_ms limit narrowed(1|0)
-- The first ids of each index with their times. Narrowed: only of the first index, and only those
-- that are in one of the other indexes too.
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
-- Reads payments of one partition. On a cluster, the key names its slot.
local function read_all()
  local found = {}
  for i = 3, #ARGV do
    found[#found + 1] = read(ARGV[2], ARGV[i])
  end
  return { 'ok', now_ms(), found }
end

-- swap: KEYS key                   ARGV old new ttl_ms
-- Writes `new` if the value is `old` ('': there is none); otherwise a conflict, with what is stored.
-- A repeat whose first reply was lost finds its own `new`. Another process cannot have written the
-- same bytes: each book ends with the id of its entry.
local function swap()
  local now, held = now_ms(), redis.call('GET', KEYS[1]) or ''
  if held ~= ARGV[2] and held ~= ARGV[3] then
    return { 'conflict', now, held }
  end
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
  return { 'ok', now }
end

-- feed: KEYS groups events [readers]
--       ARGV group old new after count [consumer until_at_ms(''|ms)]...
-- What cfflow/feed/protocol.py calls a request: writes the group's state `new` if it is `old` ('': there
-- is none), and reads up to `count` entries after an id. With `readers`, it also writes until when
-- consumers count as alive ('': no longer), and reads them. Only while the group has a state: a
-- consumer that is late must leave nothing in a forgotten group.
local function feed()
  local groups, events, readers, group, new = KEYS[1], KEYS[2], KEYS[3], ARGV[2], ARGV[4]
  local state, found, alive = redis.call('HGET', groups, group) or '', {}, {}
  if state == ARGV[3] and state ~= new then
    if new == '' then
      redis.call('HDEL', groups, group)
    else
      redis.call('HSET', groups, group, new)
    end
    state = new
  end
  for i = 7, #ARGV, 2 do
    if ARGV[i + 1] == '' then
      redis.call('ZREM', readers, ARGV[i])
    else
      redis.call('ZADD', readers, ARGV[i + 1], ARGV[i])
    end
  end
  if readers and state == '' then
    redis.call('DEL', readers)
  elseif readers then
    alive = redis.call('ZRANGE', readers, 0, -1, 'WITHSCORES')
  end
  if ARGV[6] ~= '0' then
    found = redis.call('XRANGE', events, '(' .. ARGV[5], '+', 'COUNT', ARGV[6])
  end
  local trimmed, length = redis.call('HGET', groups, '') or '0', redis.call('XLEN', events)
  local newest = redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
  return { 'ok', now_ms(), state, trimmed, length, newest and newest[1] or '0-0', found, alive }
end

local commands = {
  create = create,
  start = start,
  lease = lease,
  find = find,
  read = read_all,
  defer = defer,
  notify = notify,
  clear_notifications = clear_notifications,
  overdue = overdue,
  purge = purge,
  swap = swap,
  feed = feed,
}
return commands[ARGV[1]]()
