-- What both scripts begin with: the keys, this server's clock and the history of its data.
--
-- KEYS, all of one partition P (its hash tag keeps them in one slot; NS is the namespace)
--
--   NS:{P}:o:<order_id>    string stamp (8 bytes), token (8), n (1), n digests (6 each), record.
--                                 stamp: the history of the data in which the order was verified;
--                                 digests: of notifications that would report nothing new
--   NS:{P}:o:<order_id>:a  string the customers' next actions, while there are any
--   NS:{P}:o:<order_id>:n  hash   attempt -> number:state of a notification that no commit has
--                                 removed yet; `*`: about every attempt
--   NS:{P}:o:<order_id>:m  string what a purged order has left: for a year
--   NS:{P}:wake            zset   order id -> when a worker must look at it, ms
--   NS:{P}:leases          hash   order id -> until_ms:lease, while a worker has it
--   NS:{P}:i:<index>       zset   payment id -> a score; `unreadable` has what was set aside,
--                                 `put_back` the orders that failed, with since when they are due, ms
--   NS:{P}:events          stream one entry per transition or notification, field e
--   NS:{P}:groups          hash   how far the feed's groups have read this partition
--        <group>                  msgpack [consumer, session, until_at_ms, id, seen]: who has the lease, and
--                                 until when; the last entry acknowledged, and its number, counted
--                                 from the first entry that this partition ever had
--        (the empty name)         how many entries were trimmed
--   NS:{P}:readers:<group> zset   consumer -> until when it counts as alive, ms; in one P per group
--   NS:{P}:seen:<content>  string for a day: a second notification with this content is a duplicate
--   NS:{P}:flows           hash   digest -> the flow's text
--   NS:{P}:run             hash   store: whose data this is; history, since: which history of the data
--                                 this is, and when that was first seen (0: from the beginning);
--                                 notices: the number of the last notification; gate:<name>: who
--                                 closed it; keeps_every_commit: a restart loses nothing here
--   NS:{P}:budget:<call>   string the rate budget's book of one class of calls, whatever P is: msgpack
--                                 [[block_set_at_ms, block_ms], [[second, calls], ...],
--                                 [[granted_at_ms, permits, id], ...]]
--
--   NS:meta                hash   whose store this is, and how many partitions it has
--   NS:audit               list   what people decided about the store, newest first
--   NS:workers             hash   worker -> at_ms:JSON, its last sign of life; 64 of the last day
--
-- Every run returns {status, now_ms, ...}; now_ms is this server's clock, the only one that
-- leases and wake times go by. The token makes a commit repeatable: the same token again returns
-- "applied" and changes nothing.
--
-- Each client sends the text that it was shipped with, and the server finds it by its hash. So
-- during an upgrade the old and the new script run side by side on the same keys. The words of
-- commands and statuses may therefore change from version to version; the keys, the fields and
-- the stored bytes may not.

local call, sub = redis.call, string.sub

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function ms(number)
  return string.format('%.0f', number)
end

-- Runs a command as `call` does. Its error names the command, since it loses its line below.
local function named(name, ...)
  local reply = redis.pcall(name, ...)
  local failed = type(reply) == 'table' and reply.err
  if failed then
    error(name .. ': ' .. failed, 0)
  end
  return reply
end

-- Runs some work. Returns its result, nil where a key has another type than ours: another program
-- wrote it, and it must not fail the run for all other keys. All other errors are raised again.
local function guarded(work, ...)
  local before = call
  call = named
  local done, result = pcall(work, ...)
  call = before
  if done then
    return result
  elseif not string.find(tostring(result), 'WRONGTYPE', 1, true) then
    error(result, 0)
  end
end

-- Which history of the data this server continues: another one after every restart and every
-- promotion of a replica. The run_id would not do: a promoted replica keeps its own.
-- Empty where this connection has no right to ask. Asked once in a run, however many partitions.
local history_of_run
local function server_history()
  if history_of_run then
    return history_of_run
  end
  local about = redis.pcall('INFO', 'replication')
  -- Found by its plain name: a pattern costs each commit some microseconds more.
  local _, at = string.find(type(about) == 'string' and about or '', 'master_replid:', 1, true)
  history_of_run = at and sub(about, at + 1, at + 8) or ''
  return history_of_run
end

-- The present history, and when this partition has first seen it.
local function present_history(run, now)
  local held = call('HMGET', run, 'history', 'since', 'keeps_every_commit')
  if held[3] then
    return held[1], 0
  end
  local current, since = server_history(), tonumber(held[2] or 0)
  if current == '' or (current == held[1] and since) then
    return current, since or now
  end
  call('HSET', run, 'history', current, 'since', ms(now))
  return current, now
end

-- No lease is longer: one that is was not written by a worker, and must not keep its order waiting.
local LEASE_MAX_MS = 86400000

-- Until when another worker has leased this order, 0 if none has. The holder's own commit ends it.
local function leased_until(leases, order_id, lease, now)
  local held = call('HGET', leases, order_id)
  local until_ms = held and held ~= lease and tonumber(string.match(held, '^%d+')) or 0
  if held and (until_ms <= now or until_ms > now + LEASE_MAX_MS) then
    call('HDEL', leases, order_id)
    return 0
  end
  return until_ms
end

-- An order's value, actions and notifications; no value if there is none. Where a key has another
-- type than ours, the value is cut off behind its token: it cannot be read, and must not fail the
-- other orders' run.
local function read(order, id)
  local found = call('MGET', order, order .. ':a')
  if not found[1] then
    return { id, call('EXISTS', order) == 1 and '', false, {} }
  end
  if call('EXISTS', order .. ':a', order .. ':n') == (found[2] and 1 or 0) then
    -- Nearly always: no notification, and what MGET has not found is not there.
    return { id, found[1], found[2], {} }
  end
  local notices = guarded(named, 'HGETALL', order .. ':n')
  if not notices or (not found[2] and call('EXISTS', order .. ':a') == 1) then
    return { id, sub(found[1], 1, 16), false, {} }
  end
  return { id, found[1], found[2], notices }
end

-- How many entries a group has acknowledged; none where its state cannot be read: the commit that
-- trims must be written all the same, and nothing is dropped that the group may still want.
local function acknowledged(state)
  local done, fields = pcall(cmsgpack.unpack, state)
  return done and type(fields) == 'table' and tonumber(fields[5]) or 0
end
