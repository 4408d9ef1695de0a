#!lua flags=allow-oom
-- needs: arguments shard entries ends
-- A session is over: what it committed is applied, what it had goes back, and nothing more is taken from it here.
local commit, left, default_wait = number(), arg() == '1', number()
if fenced() then return 0 end
if commit > 0 then redo(commit) end
call('ZADD', P .. 'fence', now, session)
call('ZREMRANGEBYSCORE', P .. 'fence', '-inf', now - 86400000)

-- Delay (1; as usual: 15) and end of the pause (3) of `HostState`.
local function wait_of(state)
  if state == '' then return default_wait end
  local good, found = pcall(cmsgpack.unpack, state)
  if not good or type(found) ~= 'table' then return default_wait end
  local wait = (tonumber(found[1]) or tonumber(found[15]) or default_wait / 1000) * 1000
  return math.ceil(math.max(wait, (tonumber(found[3]) or 0) * 1000 - now))
end

local tasks = call('HGETALL', INFLIGHT)
local order = {}
for i = 1, #tasks, 2 do order[#order + 1] = {tonumber(tasks[i]), tasks[i + 1]} end
table.sort(order, function(a, b) return a[1] > b[1] end) -- the first that was lent is the first again
local dead = 0
for _, each in ipairs(order) do
  local host, priority, payload = parse(each[2])
  if not left and call('HINCRBY', P .. 'lapses', string.sub(payload, 3, 10), 1) > MOST_LAPSES then
    dead = dead + 1
    call('HDEL', P .. 'lapses', string.sub(payload, 3, 10))
    bury(host, payload, 'worker_lost')
  else
    push('h', host, priority, payload)
    waiting(host)
  end
end
call('DEL', INFLIGHT)
count('inflight', -#order)
count('queued', #order - dead)
count('ended', dead)
count(left and 'release' or 'lapsed', #order - dead)

local loans = call('HGETALL', LOANS)
for i = 1, #loans, 2 do
  local host, places = loans[i], string.match(loans[i + 1], ' (%d+)$')
  if places then -- else it is one of the two marks
    local _, _, state = record(host)
    give_back(host, tonumber(places), wait_of(state))
  end
end
call('DEL', LOANS)
call('HDEL', P .. 'traces', session)
local wants = call('HGETALL', P .. 'wants')
for i = 1, #wants, 2 do
  if string.sub(wants[i + 1], 1, #session + 1) == session .. ' ' then call('HDEL', P .. 'wants', wants[i]) end
end
return #order
