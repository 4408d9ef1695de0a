-- What all scripts have in common. KEYS[1] is the prefix of their slot. ARGV is read in order, from the front.
local P = KEYS[1]
local call = redis.call
local at = 0

local function arg()
  at = at + 1
  return ARGV[at]
end

local function number()
  at = at + 1
  return tonumber(ARGV[at])
end

-- Milliseconds, as given; empty: as the engine has them.
local function clock(given)
  if given ~= '' then return math.floor(tonumber(given)) end
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
