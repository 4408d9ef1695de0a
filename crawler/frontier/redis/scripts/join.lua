#!lua flags=allow-oom
-- needs: arguments session
-- A new session of this worker; an earlier one is over at this moment, as far as commits go.
local lease = number()
generation = math.max(now, tonumber(call('HGET', S, 'generation') or 0) + 1)
call('HSET', S, 'generation', generation, 'until', now + lease, 'number', 0)
call('HDEL', S, 'fenced')
return {now, generation, now + lease, call('HGETALL', P .. 'own')}
