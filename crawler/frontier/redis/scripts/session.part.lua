-- What the scripts of a worker's own slot have in common. KEYS[1] is its prefix.
--
--   s      hash: generation (of the session), until (when it lapses), number (of the last commit), fenced
--   own    hash: values for whoever continues this worker
--   rec:N  what generation N committed last, until it has been applied everywhere
local S = P .. 's'
local now = clock(arg())
local generation = number()

local function is_current()
  local found = call('HMGET', S, 'generation', 'until', 'fenced')
  return tonumber(found[1]) == generation and not found[3], tonumber(found[2] or 0)
end

local function is_alive()
  local current, ends = is_current()
  return current and ends >= now
end
