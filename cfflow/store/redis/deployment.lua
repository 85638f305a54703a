-- What cfflow does with a deployment: whose store it is, gates, the feed's groups, and the books of
-- the rate budget. It has no rule: the callers decide, and a value is replaced only if it is still
-- the one that they decided on. common.lua comes first.

-- All commands that cfflow needs on its keys: docs/guides/redis-user.md has the line that permits
-- them. Without one of them a commit would be written in part, so `open` refuses such a user.
local NEEDED = {
  'DEL', 'EXISTS', 'GET', 'GETRANGE', 'HDEL', 'HEXISTS', 'HGET', 'HGETALL', 'HINCRBY', 'HLEN',
  'HMGET', 'HSET', 'HSETNX', 'LPUSH', 'LRANGE', 'LTRIM', 'MGET', 'SET', 'SETRANGE', 'TIME', 'XADD',
  'XLEN', 'XRANGE', 'XREVRANGE', 'XTRIM', 'ZADD', 'ZCOUNT', 'ZRANGE', 'ZRANGEBYSCORE', 'ZREM',
  'ZREVRANGEBYSCORE', 'ZSCORE',
}

-- Those that this connection's user may not run on a key. A server before Redis 7 cannot tell.
local function not_permitted(key)
  local found = {}
  for _, name in ipairs(redis.acl_check_cmd and NEEDED or {}) do
    if not redis.acl_check_cmd(name, key) then
      found[#found + 1] = name
    end
  end
  return found
end

-- rights: KEYS run                 The commands that the user may not run in this partition.
local function rights()
  return { 'ok', now_ms(), not_permitted(KEYS[1]) }
end

-- run: KEYS run                    ARGV {field value(''=remove)}...
-- Writes fields of a partition's `run`, and returns all that it has then. Without fields it reads.
local function write_run()
  for i = 2, #ARGV, 2 do
    if ARGV[i + 1] == '' then
      call('HDEL', KEYS[1], ARGV[i])
    else
      call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    end
  end
  return { 'ok', now_ms(), guarded(named, 'HGETALL', KEYS[1]) or {} }
end

-- meta: KEYS meta                  ARGV {field value}...
-- Writes what is fixed for the store's life, where it is missing; returns all that it has, and the
-- commands that the user may not run.
local function write_meta()
  for i = 2, #ARGV, 2 do
    call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1])
  end
  return { 'ok', now_ms(), call('HGETALL', KEYS[1]), not_permitted(KEYS[1]) }
end

-- create: KEYS run                 ARGV store keeps_every_commit(1|'')
-- A partition of a new store: nothing is lost yet.
local function create()
  if call('HSETNX', KEYS[1], 'store', ARGV[2]) == 1 then
    call('HSET', KEYS[1], 'history', server_history(), 'since', '0')
    if ARGV[3] == '1' then
      call('HSET', KEYS[1], 'keeps_every_commit', '1')
    end
  end
  return { 'ok', now_ms() }
end

-- accept: KEYS run                 ARGV store lost(1|'')
-- A person has made this the store to use. `lost`: its data was lost, whatever name it has now.
local function accept()
  local run, now = KEYS[1], now_ms()
  if ARGV[3] == '1' or call('HGET', run, 'store') ~= ARGV[2] then
    call('HSET', run, 'store', ARGV[2], 'history', server_history(), 'since', ms(now))
  end
  return { 'ok', now }
end

-- swap: KEYS key                   ARGV old new ttl_ms
-- Writes `new` if the value is `old` ('': there is none); otherwise a conflict, with what is stored.
-- A repeat whose first reply was lost finds its own `new`. Another process cannot have written the
-- same bytes: each book ends with the id of its entry.
local function swap()
  local now, held = now_ms(), call('GET', KEYS[1]) or ''
  if held ~= ARGV[2] and held ~= ARGV[3] then
    return { 'conflict', now, held }
  end
  call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
  return { 'ok', now }
end

-- sign: KEYS workers               ARGV worker JSON kept_ms most
-- Keeps a worker's sign of life, with this server's time. Older ones than kept_ms go, and beyond `most`
-- those that reported longest ago.
local function sign()
  local now, rows = now_ms(), {}
  call('HSET', KEYS[1], ARGV[2], ms(now) .. ':' .. ARGV[3])
  local held = call('HGETALL', KEYS[1])
  for i = 1, #held, 2 do
    rows[#rows + 1] = { tonumber(string.match(held[i + 1], '^%d+')) or 0, held[i] }
  end
  table.sort(rows, function(a, b)
    return a[1] > b[1]
  end)
  for i, row in ipairs(rows) do
    if i > tonumber(ARGV[5]) or row[1] <= now - tonumber(ARGV[4]) then
      call('HDEL', KEYS[1], row[2])
    end
  end
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
  local state, found, alive = call('HGET', groups, group) or '', {}, {}
  if state == ARGV[3] and state ~= new then
    if new == '' then
      call('HDEL', groups, group)
    else
      call('HSET', groups, group, new)
    end
    state = new
  end
  for i = 7, #ARGV, 2 do
    if ARGV[i + 1] == '' then
      call('ZREM', readers, ARGV[i])
    else
      call('ZADD', readers, ARGV[i + 1], ARGV[i])
    end
  end
  if readers and state == '' then
    call('DEL', readers)
  elseif readers then
    alive = call('ZRANGE', readers, 0, -1, 'WITHSCORES')
  end
  if ARGV[6] ~= '0' then
    found = call('XRANGE', events, '(' .. ARGV[5], '+', 'COUNT', ARGV[6])
  end
  local trimmed, length = call('HGET', groups, '') or '0', call('XLEN', events)
  local newest = call('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
  return { 'ok', now_ms(), state, trimmed, length, newest and newest[1] or '0-0', found, alive }
end

local commands = {
  create = create,
  accept = accept,
  run = write_run,
  meta = write_meta,
  rights = rights,
  swap = swap,
  sign = sign,
  feed = feed,
}
return commands[ARGV[1]]()
