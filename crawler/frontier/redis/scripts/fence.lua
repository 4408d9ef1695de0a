#!lua flags=allow-oom
-- needs: arguments session
-- No commit of this session is taken from now on, if its time is over or it says so itself. Returns when it ends if it
-- is not over, and what it committed last.
local forced = arg() == '1'
local current, ends = is_current()
if current then
  if not forced and ends >= now then return {ends, ''} end
  call('HSET', S, 'fenced', 1)
end
return {0, call('GET', P .. 'rec:' .. string.format('%d', generation)) or ''}
