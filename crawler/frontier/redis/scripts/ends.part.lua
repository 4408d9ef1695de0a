local MOST_LAPSES = 30
local MOST_DEAD = 1000

-- The request with one attempt more, and with another record if one is given: see payload.py.
local function tried(payload, fresh)
  local flags = string.byte(payload)
  local attempt = string.char(math.min(string.byte(payload, 2) + 1, 255))
  if fresh == '' then return string.sub(payload, 1, 1) .. attempt .. string.sub(payload, 3) end
  local size = 10
  if flags >= 240 then size = size + 2 end
  if flags % 2 == 1 then size = size + 8 end
  if flags % 4 >= 2 then size = size + 1 + string.byte(payload, size + 1) end
  if flags % 8 >= 4 then flags = flags - 4 end
  if flags % 16 >= 8 then flags = flags - 8 end
  return string.char(flags) .. attempt .. string.sub(payload, 3, size) .. fresh
end

local function bury(host, payload, reason)
  call('RPUSH', P .. 'dead', cmsgpack.pack({host, reason, payload}))
  call('LTRIM', P .. 'dead', -MOST_DEAD, -1)
end

-- How tasks of the session ended: id, verdict, wait, record or reason for each. One that it does not have is passed over.
local function apply_ends()
  local done, again = {}, 0
  local forget = call('EXISTS', P .. 'lapses') == 1
  for _ = 1, number() do
    local id, verdict, wait, text = arg(), arg(), number(), arg()
    local entry = (verdict ~= 'done' or forget) and call('HGET', INFLIGHT, id)
    if verdict == 'done' then
      done[#done + 1] = id
      if entry then
        local _, _, payload = parse(entry)
        call('HDEL', P .. 'lapses', string.sub(payload, 3, 10))
      end
    elseif entry then
      local host, priority, payload = parse(entry)
      done[#done + 1] = id
      if verdict == 'dead' then
        bury(host, payload, text)
      else
        again = again + 1
        local place = verdict == 'retry' and 't' or 'h'
        if verdict == 'retry' then payload = tried(payload, text) end
        if wait > 0 then
          put_off(wait, place, id, host, priority, payload)
        else
          push(place, host, priority, payload)
          waiting(host)
          count('queued', 1)
        end
        count(verdict, 1)
      end
    end
  end
  local ended = 0
  for first = 1, #done, 1000 do
    ended = ended + call('HDEL', INFLIGHT, unpack(done, first, math.min(first + 999, #done)))
  end
  count('inflight', -ended)
  count('ended', ended - again)
end

-- What a commit changes besides what it added: once, and not after the session has been taken apart here.
local function redo(commit)
  apply_ends() -- whoever has ended is not there any more
  if ARGV[at + 1] == '0' or tonumber(call('HGET', LOANS, '!') or 0) >= commit then return end
  call('HSET', LOANS, '!', commit)
  add_entries(false)
end
