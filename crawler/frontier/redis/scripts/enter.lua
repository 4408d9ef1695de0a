#!lua
-- needs: arguments control
-- A session is among those that the crawl knows. Another limit than before changes what may still be begun.
local ends, about, limit = number(), arg(), number()
if call('ZADD', P .. 'sessions', ends, session) == 1 then call('INCR', P .. 'members') end
call('HSET', P .. 'about', session, about)
call('SADD', P .. 'workers', string.match(session, '^(.*)@'))
local before = tonumber(call('GET', P .. 'limit') or 0)
if limit ~= before then
  call('SET', P .. 'limit', limit)
  call('INCRBY', P .. 'allowance', limit - before)
end
local version = call('ZREVRANGE', P .. 'versions', 0, 0, 'WITHSCORES')[2] or '0'
return {call('HGET', P .. 'state', 'control'), version, call('HGETALL', P .. 'shared'),
  call('ZRANGE', P .. 'sessions', 0, -1, 'WITHSCORES')}
