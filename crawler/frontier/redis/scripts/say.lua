#!lua flags=allow-oom
-- needs: arguments control
-- What the crawl as a whole is to do. `session` is empty: an operator says it. A worker that finishes does not take back
-- what an operator ended.
local control, reason = arg(), arg()
local before = call('HGET', P .. 'state', 'control')
if session ~= '' and (before == 'stopped' or before == 'finished') then return before end
call('HSET', P .. 'state', 'control', control, 'reason', reason)
return control
