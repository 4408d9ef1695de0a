#!lua flags=allow-oom
-- needs: arguments control changes
-- The session goes on until `ends`. Returns what changed since `version`, whether the counts are so old that this worker
-- is to count anew, and sessions with their ends: those that are over, or all, where they are not the same as at
-- `members`. A thousand workers that each hear of all, each second, would be most of what the engine does.
local ends, seen, now, fresh, known = number(), arg(), number(), number(), arg()
if not is_known() then return redis.error_reply('LOST') end
call('ZADD', P .. 'sessions', ends, session)
local changed, version = changes(seen)
local counted = tonumber(call('HGET', P .. 'counts', 'at') or -fresh)
local is_old = math.abs(now - counted) >= fresh
if is_old then call('HSET', P .. 'counts', 'at', now) end
local members = call('GET', P .. 'members')
local latest = '(' .. now
if members ~= known then latest = '+inf' end
local sessions = call('ZRANGEBYSCORE', P .. 'sessions', '-inf', latest, 'WITHSCORES')
return {call('HMGET', P .. 'state', 'control', 'reason'), version, changed, members, sessions, is_old and 1 or 0,
  call('HGET', P .. 'counts', 'all') or ''}
