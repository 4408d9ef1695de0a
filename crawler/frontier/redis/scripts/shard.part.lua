-- What the scripts of a shard have in common. KEYS[1] is the shard's prefix; every other key begins with it, so all
-- are in one slot. Times are milliseconds.
--
--   ready      zset: host -> when its next turn is. A host whose queue is empty stays until that time, so that its
--              delay is not forgotten
--   q:HOST     list: requests of priority 0; Q:N:HOST those of another priority N, p:HOST the zset of these priorities
--   later      zset: requests that wait for a time
--   s:BUCKET   set of fingerprints, as signed integers
--   held       hash: host -> -1 (lent to one worker), or how many of its places are lent
--   st         hash: host -> quota, shared places (two bytes each), HostState; none for ordinary hosts
--   h:SESSION  hash: host -> "SEQUENCE PLACES" of a loan; "#": the sequence of the last ask, "!": of the last commit
--   i:SESSION  hash: task -> "SEQUENCE PRIORITY HOST\n" and the request
--   shut       until when nothing is lent, after a restart of the engine
--   traces     hash: session -> how often it changed something here (connection.py)
--   c          hash: counters, and the levels `queued` and `inflight`
local now = clock(arg())
local session = arg()
local depth_first = arg() == 'depth'
local POP = depth_first and 'RPOP' or 'LPOP'
local HELD, READY, INFLIGHT, LOANS = P .. 'held', P .. 'ready', P .. 'i:' .. session, P .. 'h:' .. session

local function count(name, by)
  if by ~= 0 then call('HINCRBY', P .. 'c', name, by) end
end

local function fenced()
  return call('ZSCORE', P .. 'fence', session)
end

local function queue(host, priority)
  if priority == '0' then return P .. 'q:' .. host end
  return P .. 'Q:' .. priority .. ':' .. host
end

-- Where a request goes: `h`, to the head, where it was; `t`, behind the others; `n`, new: with depth first, the last
-- that came is the next.
local HOW = {h = depth_first and 'RPUSH' or 'LPUSH', t = depth_first and 'LPUSH' or 'RPUSH', n = 'RPUSH'}

local function push(place, host, priority, ...)
  call(HOW[place], queue(host, priority), ...)
  if priority ~= '0' then call('ZADD', P .. 'p:' .. host, priority, priority) end
end

-- Something waits for the host. One that is lent to one worker comes back when that returns it.
local function waiting(host)
  if call('HGET', HELD, host) ~= '-1' and call('ZADD', READY, 'NX', now, host) == 1 then
    call('PFADD', P .. 'met', host)
  end
end

local function put_off(wait, place, id, host, priority, payload)
  call('ZADD', P .. 'later', now + wait, place .. ' ' .. id .. ' ' .. priority .. ' ' .. host .. '\n' .. payload)
end

-- host, priority and request of an entry of `i:SESSION`
local function parse(entry)
  local line = string.find(entry, '\n', 1, true)
  local _, _, sequence, priority, host = string.find(string.sub(entry, 1, line - 1), '^(%S+) (%S+) (.*)$')
  return host, priority, string.sub(entry, line + 1), sequence
end

-- Quota (nil: the usual one), shared places and HostState, of what `st` has of a host
local function read(found)
  if not found then return nil, 0, '' end
  local quota, shared = struct.unpack('>I2I2', found)
  return quota, shared, string.sub(found, 5)
end

local function record(host)
  return read(call('HGET', P .. 'st', host))
end

-- The host's places that the session had are free; its next turn is `wait` from now. The caller removes the loan.
local function give_back(host, places, wait)
  if places == 0 or call('HINCRBY', HELD, host, -places) <= 0 then call('HDEL', HELD, host) end
  if wait > 0 or call('ZSCORE', READY, host) or call('EXISTS', P .. 'q:' .. host, P .. 'p:' .. host) > 0 then
    call('ZADD', READY, 'GT', now + wait, host) -- or later, if somebody else said so
  end
end
