#!lua flags=allow-oom
-- needs: arguments control changes
-- The session goes on until `ends`. Returns what changed since `version`, all sessions, and whether the counts are so
-- old that this worker is to count anew.
local ends, seen, now, fresh = number(), arg(), number(), number()
if not is_known() then return redis.error_reply('LOST') end
call('ZADD', P .. 'sessions', ends, session)
local changed, version = changes(seen)
local counted = tonumber(call('HGET', P .. 'counts', 'at') or -fresh)
local is_old = math.abs(now - counted) >= fresh
if is_old then call('HSET', P .. 'counts', 'at', now) end
return {call('HMGET', P .. 'state', 'control', 'reason'), version, changed,
  call('ZRANGE', P .. 'sessions', 0, -1, 'WITHSCORES'), is_old and 1 or 0, call('HGET', P .. 'counts', 'all') or ''}
