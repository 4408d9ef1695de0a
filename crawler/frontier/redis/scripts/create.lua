#!lua
-- The crawl, if it is not there yet. Returns its configuration, as whoever was first said it.
local P = KEYS[1]
if redis.call('SETNX', P .. 'config', ARGV[1]) == 1 then
  redis.call('SET', P .. 'allowance', ARGV[2])
  redis.call('SET', P .. 'limit', ARGV[2])
  redis.call('HSET', P .. 'state', 'control', 'running', 'reason', '')
end
return redis.call('GET', P .. 'config')
