#!lua flags=allow-oom
-- needs: arguments shard
-- Take hosts back, and lend others with their next requests. Said again with the same sequence, it changes nothing, and
-- gives what it gave then.
local until_, sequence, want, quota, workers = number(), arg(), number(), number(), number()
local WISH_MS = 5000

-- A command with many values: Lua hands over no more than some thousand at once.
local function write(name, key, values)
  for first = 1, #values, 2000 do call(name, key, unpack(values, first, math.min(first + 1999, #values))) end
end
if until_ < now or fenced() then return redis.error_reply('LOST') end
local loans = {}
local PAYLOAD_FP = 3

local function loan(host, places, state, tasks)
  local named, names = {}, {}
  if call('EXISTS', P .. 'n:' .. host, P .. 'v:' .. host) > 0 then
    named, names = call('HKEYS', P .. 'n:' .. host), call('HKEYS', P .. 'v:' .. host)
  end
  local more = call('EXISTS', P .. 'q:' .. host, P .. 'p:' .. host)
  loans[#loans + 1] = {host, places, state, named, names, tasks, more}
end

local function lapses(payload)
  return tonumber(call('HGET', P .. 'lapses', string.sub(payload, PAYLOAD_FP, PAYLOAD_FP + 7)) or 0)
end

if call('HGET', LOANS, '#') == sequence then
  local tasks = {}
  local all = call('HGETALL', INFLIGHT)
  for i = 1, #all, 2 do
    local host, priority, payload, given = parse(all[i + 1])
    if given == sequence then
      tasks[host] = tasks[host] or {}
      table.insert(tasks[host], {tonumber(all[i]), priority, lapses(payload), payload})
    end
  end
  all = call('HGETALL', LOANS)
  for i = 1, #all, 2 do
    local given, places = string.match(all[i + 1], '^(%S+) (%d+)$')
    if given == sequence then
      local _, _, state = record(all[i])
      local own = tasks[all[i]] or {}
      table.sort(own, function(a, b) return a[1] < b[1] end)
      loan(all[i], tonumber(places), state, own)
    end
  end
  return {now, 1, '', loans}
end
local shut = tonumber(call('GET', P .. 'shut') or 0)
if shut > now then want = 0 end
-- What changes in a hash or in `ready` is collected, and written at the end in one go.
local loan_marks, held_marks, gone, behind = {'#', sequence}, {}, {}, {}

-- Hosts that come back.
local released = 0
for _ = 1, number() do
  local host, wait, its_quota, shared, state = arg(), number(), number(), number(), arg()
  local unused = {}
  for i = 1, number() do unused[i] = arg() end
  for i = #unused, 1, -1 do
    local entry = call('HGET', INFLIGHT, unused[i])
    if entry then
      local its_host, priority, payload = parse(entry)
      call('HDEL', INFLIGHT, unused[i])
      push('h', its_host, priority, payload)
      released = released + 1
    end
  end
  local loaned = call('HGET', LOANS, host)
  if loaned then
    call('HDEL', LOANS, host)
    if its_quota == quota and shared == 0 and state == '' then
      call('HDEL', P .. 'st', host)
    else
      call('HSET', P .. 'st', host, struct.pack('>I2I2', its_quota, shared) .. state)
    end
    give_back(host, tonumber(string.match(loaned, ' (%d+)$')), wait)
  end
end
count('release', released)

-- Requests whose time has come.
local due = {}
if want > 0 then due = call('ZRANGEBYSCORE', P .. 'later', '-inf', now, 'LIMIT', 0, 100) end
for _, entry in ipairs(due) do
  local line = string.find(entry, '\n', 1, true)
  local place, _, priority, host = string.match(string.sub(entry, 1, line - 1), '^(%S) (%S+) (%S+) (.*)$')
  push(place, host, priority, string.sub(entry, line + 1))
  waiting(host)
  call('ZREM', P .. 'later', entry)
end

local taken = {}
local lent = 0

local function pop_from(host, priority, most, into)
  if most <= 0 then return end
  for _, payload in ipairs(call(POP, queue(host, priority), most) or {}) do
    into[#into + 1] = {0, priority, 0, payload}
  end
end

local function pop(host, most)
  local tasks = {}
  if most <= 0 then return tasks end
  local plain = false
  local priorities = call('ZREVRANGE', P .. 'p:' .. host, 0, -1)
  for _, priority in ipairs(priorities) do
    if tonumber(priority) < 0 and not plain then
      plain = true
      pop_from(host, '0', most - #tasks, tasks)
    end
    pop_from(host, priority, most - #tasks, tasks)
    if #tasks >= most then break end
  end
  for _, priority in ipairs(priorities) do
    if call('EXISTS', queue(host, priority)) == 0 then call('ZREM', P .. 'p:' .. host, priority) end
  end
  if not plain then pop_from(host, '0', most - #tasks, tasks) end
  return tasks
end

local mine = {} -- lent in this call

local function take(host, places, state, tasks)
  mine[host] = true
  loan_marks[#loan_marks + 1] = host
  loan_marks[#loan_marks + 1] = sequence .. ' ' .. places
  taken[#taken + 1] = {host, places, state, tasks}
  lent = lent + #tasks
end

-- Lend the host, if it may be, and there is something to lend it for.
local function lend(host, held, found, most, claimed)
  local its_quota, shared, state = read(found)
  held = tonumber(held or 0)
  if held ~= 0 and (shared == 0 or held < 0 or held >= shared) then
    gone[#gone + 1] = host
    return
  end
  if mine[host] or (held ~= 0 and call('HEXISTS', LOANS, host) == 1) then return end
  local tasks = pop(host, math.min(its_quota or quota, most))
  if #tasks == 0 and not claimed then
    gone[#gone + 1] = host
    return
  end
  local places = 0
  if shared > 0 then places = math.min(shared - held, math.ceil(shared / workers)) end
  held_marks[#held_marks + 1] = host
  held_marks[#held_marks + 1] = shared > 0 and held + places or -1
  if shared == 0 or held + places >= shared then
    gone[#gone + 1] = host
  else -- others may have it, after those that are due
    behind[#behind + 1] = now
    behind[#behind + 1] = host
  end
  take(host, places, state, tasks)
end

local wished = call('EXISTS', P .. 'wants') == 1

local function wanted_by_another(host)
  local wish = wished and call('HGET', P .. 'wants', host)
  if not wish then return false end
  local who, ends = string.match(wish, '^(.*) (%d+)$')
  if tonumber(ends) < now then
    call('HDEL', P .. 'wants', host)
    return false
  end
  return who ~= session
end

-- More requests of a host that the session has.
local function lend_more(host, places)
  local its_quota, _, state = record(host)
  take(host, tonumber(places), state, pop(host, its_quota or quota))
end

for _ = 1, number() do -- claims
  local host = arg()
  local turn = call('ZSCORE', READY, host)
  local loaned = call('HGET', LOANS, host)
  if loaned then
    lend_more(host, string.match(loaned, ' (%d+)$'))
  elseif shut <= now and not wanted_by_another(host) then
    local before = #taken
    if not turn or tonumber(turn) <= now then
      lend(host, call('HGET', HELD, host), call('HGET', P .. 'st', host), math.max(want - lent, 0), true)
    end
    if #taken > before then
      call('HDEL', P .. 'wants', host)
    else
      call('HSET', P .. 'wants', host, session .. ' ' .. math.min(until_, now + WISH_MS))
      wished = true
    end
  end
end

local offset = 0
while lent < want and offset < 2000 do
  local hosts = call('ZRANGEBYSCORE', READY, '-inf', now, 'LIMIT', offset, math.min(want - lent, 100))
  if #hosts == 0 then break end
  offset = offset + #hosts
  local helds, states = call('HMGET', HELD, unpack(hosts)), call('HMGET', P .. 'st', unpack(hosts))
  for i, host in ipairs(hosts) do
    if lent >= want then break end
    if not wanted_by_another(host) then lend(host, helds[i], states[i], want - lent, false) end
  end
end

-- What was taken is noted in one go.
if lent > 0 then
  local id = call('HINCRBY', P .. 'c', 'lent', lent) - lent
  local with_lapses = call('EXISTS', P .. 'lapses') == 1
  local fields = {}
  for _, each in ipairs(taken) do
    local head = sequence .. ' '
    for _, task in ipairs(each[4]) do
      id = id + 1
      task[1] = id
      if with_lapses then task[3] = lapses(task[4]) end
      fields[#fields + 1] = id
      fields[#fields + 1] = head .. task[2] .. ' ' .. each[1] .. '\n' .. task[4]
    end
  end
  write('HSET', INFLIGHT, fields)
end
write('HSET', LOANS, loan_marks)
write('HSET', HELD, held_marks)
write('ZREM', READY, gone)
write('ZADD', READY, behind)
count('queued', #due + released - lent)
count('inflight', lent - released)
for _, each in ipairs(taken) do loan(each[1], each[2], each[3], each[4]) end

local more = 0
if lent >= want and #call('ZRANGEBYSCORE', READY, '-inf', now, 'LIMIT', 0, 1) > 0 then more = 1 end
local next_ = call('ZRANGEBYSCORE', READY, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
local later = call('ZRANGE', P .. 'later', 0, 0, 'WITHSCORES')[2]
if later and (not next_ or tonumber(later) < tonumber(next_)) then next_ = later end
if shut > now then more, next_ = 0, shut end
return {now, more, next_ or '', loans}
