#!lua flags=allow-oom
-- needs: arguments session
-- The session goes on. Returns also the number of its last commit.
local lease = number()
if not is_alive() then return redis.error_reply('LOST') end
call('HSET', S, 'until', now + lease)
return {now, now + lease, tonumber(call('HGET', S, 'number'))}
