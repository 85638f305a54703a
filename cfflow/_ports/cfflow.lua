-- All that cfflow does in Redis. One commit is one script is one slot.
--
-- KEYS, all of one partition P (its hash tag keeps them in one slot; NS is the namespace)
--
--   NS:{P}:o:<order_id>    hash   one order
--        o                        msgpack [[state, cf_payment_id, abandoned], ...], one per payment
--        <n>                      the record of payment n: msgpack array, [schema, version, token, ...]
--        <n>a                     its next_action, while the customer has something to do
--   NS:{P}:wake            zset   payment id -> when somebody must look at it, ms
--   NS:{P}:s:<state>       zset   payment id -> when it was created, ms
--   NS:{P}:review          zset   payment id -> when it was created, ms; while a review is open
--   NS:{P}:events          stream one entry per transition, field e
--   NS:{P}:flows           hash   digest -> the flow's text
--
-- Every script answers {status, now_ms, ...}; now_ms is this server's clock, the only one
-- that leases and wake times know. A commit carries a random token, kept in the record:
-- the same token again answers "ok" and changes nothing.

local OPEN = { created = true, initiated = true, otp_pending = true, authorized = true }
local HOLDS = { authorized = true, captured = true }

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function ms(number)
  return string.format('%.0f', number)
end

-- A record is an array of more than 15 fields, so its header is 3 bytes long.
local function head(blob)
  local _, schema, version, token = cmsgpack.unpack_limit(blob, 3, 3)
  return schema, version, token
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

-- start: KEYS order wake s:created flows
--        ARGV order_id digest flow_text record wake_ms created_ms token
local function start()
  local order, wake, created, flows = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
  local order_id, digest, text, record = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
  local now = now_ms()
  local packed = redis.call('HGET', order, 'o')
  local attempts = attempts_of(packed)
  for n, attempt in ipairs(attempts) do
    local found = (OPEN[attempt[1]] and not attempt[3]) and 'open'
      or (attempt[1] == 'captured' and 'paid')
    if found then
      local held = redis.call('HMGET', order, n, n .. 'a')
      local _, _, token = head(held[1])
      return { token == ARGV[8] and 'ok' or found, now, n, held[1], held[2], packed }
    end
  end
  local n = #attempts + 1
  attempts[n] = { 'created', '', false }
  packed = cmsgpack.pack(attempts)
  local id = order_id .. '.' .. n
  redis.call('HSET', order, 'o', packed, n, record)
  redis.call('HSETNX', flows, digest, text)
  index_wake(wake, id, ARGV[6])
  redis.call('ZADD', created, ARGV[7], id)
  return { 'ok', now, n, record, false, packed }
end

-- What a commit must not do, whoever asks: nil when there is nothing.
local function forbidden(attempts, n, cf_payment_id, sole_holder)
  for other, attempt in ipairs(attempts) do
    if other ~= n and cf_payment_id ~= '' and attempt[2] == cf_payment_id then
      return 'claimed', other
    end
    if other ~= n and sole_holder == '1' and HOLDS[attempt[1]] then
      return 'holder', other
    end
  end
end

-- commit: KEYS order wake s:was s:is review events
--         ARGV id n schema version token record state cf_payment_id abandoned wake_ms
--              created_ms sole_holder review(1|0|keep) action(keep|drop|set) action_blob
--              feed_max event...
local function commit()
  local order, wake, was, is, review, events =
    KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
  local id, n, token, record = ARGV[2], tonumber(ARGV[3]), ARGV[6], ARGV[7]
  local state, cf_payment_id, created_ms = ARGV[8], ARGV[9], ARGV[12]
  local now = now_ms()
  local held = redis.call('HMGET', order, n, 'o')
  if not held[1] then
    return { 'gone', now }
  end
  local schema, version, stored_token = head(held[1])
  if stored_token == token then
    return { 'ok', now, held[2] }
  end
  if schema > tonumber(ARGV[4]) then
    return { 'schema', now }
  end
  if version ~= tonumber(ARGV[5]) then
    return { 'conflict', now, held[1], redis.call('HGET', order, n .. 'a'), held[2] }
  end
  local attempts = attempts_of(held[2])
  local why, other = forbidden(attempts, n, cf_payment_id, ARGV[13])
  if why then
    return { why, now, other }
  end
  attempts[n] = { state, cf_payment_id, ARGV[10] == '1' }
  local packed = cmsgpack.pack(attempts)
  redis.call('HSET', order, n, record, 'o', packed)
  if ARGV[15] == 'set' then
    redis.call('HSET', order, n .. 'a', ARGV[16])
  elseif ARGV[15] == 'drop' then
    redis.call('HDEL', order, n .. 'a')
  end
  index_wake(wake, id, ARGV[11])
  if was ~= is then
    redis.call('ZREM', was, id)
    redis.call('ZADD', is, created_ms, id)
  end
  if ARGV[14] == '1' then
    redis.call('ZADD', review, created_ms, id)
  elseif ARGV[14] == '0' then
    redis.call('ZREM', review, id)
  end
  for i = 18, #ARGV do
    redis.call('XADD', events, 'MAXLEN', '~', ARGV[17], '*', 'e', ARGV[i])
  end
  return { 'ok', now, packed }
end

local function read(prefix, id)
  local order_id, n = string.match(id, '^(.*)%.(%d+)$')
  local held = redis.call('HMGET', prefix .. order_id, n, n .. 'a', 'o')
  return { id, held[1], held[2], held[3] }
end

-- claim: KEYS wake                 ARGV order_prefix newest oldest lease_ms
-- Due payments, so many of the newest overdue and of the oldest; their due time moves
-- forward by the lease, so that no other worker takes them meanwhile.
local function claim()
  local wake, prefix, newest = KEYS[1], ARGV[2], tonumber(ARGV[3])
  local now = now_ms()
  local ids = redis.call('ZREVRANGEBYSCORE', wake, ms(now), '-inf', 'LIMIT', 0, newest)
  if #ids == newest then
    local seen = {}
    for _, id in ipairs(ids) do
      seen[id] = true
    end
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', wake, '-inf', ms(now), 'LIMIT', 0, ARGV[4])) do
      if not seen[id] then
        ids[#ids + 1] = id
      end
    end
  end
  local found = {}
  for i, id in ipairs(ids) do
    redis.call('ZADD', wake, ms(now + tonumber(ARGV[5])), id)
    found[i] = read(prefix, id)
  end
  return { 'ok', now, found }
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

local commands = { start = start, commit = commit, claim = claim, find = find, read = read_all }
return commands[ARGV[1]]()
