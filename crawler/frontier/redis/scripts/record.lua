#!lua flags=allow-oom
-- needs: arguments session
-- A commit takes effect: from here on it will be applied to all shards, by whomever. Returns whether it was new.
local commit, list = number(), arg()
if not is_alive() then return redis.error_reply('LOST') end
local last = tonumber(call('HGET', S, 'number'))
if commit <= last then return 0 end
if commit > last + 1 then return redis.error_reply('LOST') end
call('HSET', S, 'number', commit)
call('SET', P .. 'rec:' .. string.format('%d', generation), list)
for _ = 1, number() do
  local name, there, value = arg(), arg(), arg()
  if there == '1' then call('HSET', P .. 'own', name, value) else call('HDEL', P .. 'own', name) end
end
return 1
