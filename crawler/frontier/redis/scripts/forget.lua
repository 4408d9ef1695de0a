#!lua flags=allow-oom
-- needs: arguments control
-- A session has been taken apart. What it had of the allowance, and did not use, is there for others.
if call('ZREM', P .. 'sessions', session) == 0 then return 0 end
call('INCR', P .. 'members')
call('INCRBY', P .. 'allowance', math.max(tonumber(call('HGET', P .. 'taken', session) or 0), 0))
for _, name in ipairs({'taken', 'takes', 'applied', 'about', 'traces'}) do call('HDEL', P .. name, session) end
if call('GET', P .. 'start') == session then call('DEL', P .. 'start') end
return 1
