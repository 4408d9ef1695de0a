#!lua flags=no-writes
-- The shard's counters and levels, at one moment.
local P = KEYS[1]
return {
  redis.call('HGETALL', P .. 'c'), redis.call('ZCARD', P .. 'later'), redis.call('ZCARD', P .. 'ready'),
  redis.call('HLEN', P .. 'held'),
}
