#!lua
-- needs: arguments shard
-- A page that was reached by a redirect is known from now on. Whether this task was the first to come, now or before.
local bucket, fingerprint, owner = arg(), arg(), arg()
if call('SADD', P .. 's:' .. bucket, fingerprint) == 1 then
  call('HSET', P .. 'reached', fingerprint, owner)
  return 1
end
return call('HGET', P .. 'reached', fingerprint) == owner and 1 or 0
