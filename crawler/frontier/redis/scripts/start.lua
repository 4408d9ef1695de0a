#!lua
-- needs: arguments control
-- Whether this session is to run `start()`: nobody else is at it, and nobody has ended it.
if not is_known() then return redis.error_reply('LOST') end
if call('HEXISTS', P .. 'shared', 'started') == 1 then return 0 end
local who = call('GET', P .. 'start')
if who and who ~= session and call('ZSCORE', P .. 'sessions', who) then return 0 end
call('SET', P .. 'start', session)
return 1
