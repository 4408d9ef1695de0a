#!lua flags=allow-oom
-- needs: arguments control
-- What a commit changes for all workers, once: pages used of the allowance, shared values.
local commit, pages = number(), number()
if not is_known() or tonumber(call('HGET', P .. 'applied', session) or 0) >= commit then return 0 end
call('HSET', P .. 'applied', session, commit)
if pages ~= 0 then call('HINCRBY', P .. 'taken', session, -pages) end
for _ = 1, number() do
  local name, there, value = arg(), arg(), arg()
  if there == '1' then call('HSET', P .. 'shared', name, value) else call('HDEL', P .. 'shared', name) end
  call('HSET', P .. 'by', name, session)
  call('ZADD', P .. 'versions', call('INCR', P .. 'version'), name)
end
return 1
