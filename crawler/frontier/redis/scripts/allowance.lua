#!lua flags=allow-oom
-- needs: arguments control
-- So many pages more, at most what is left; said again with the same sequence, what was given then.
local sequence, pages = arg(), number()
if not is_known() then return redis.error_reply('LOST') end
local before = call('HGET', P .. 'takes', session)
if before then
  local said, given = string.match(before, '^(%S+) (%S+)$')
  if said == sequence then return tonumber(given) end
end
local given = math.max(math.min(pages, tonumber(call('GET', P .. 'allowance') or 0)), math.min(pages, 0))
call('DECRBY', P .. 'allowance', given)
call('HINCRBY', P .. 'taken', session, given)
call('HSET', P .. 'takes', session, sequence .. ' ' .. given)
return given
