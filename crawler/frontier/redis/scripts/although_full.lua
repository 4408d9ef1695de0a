#!lua flags=allow-oom
-- One command on one key that has to be done when the engine is full, too.
return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))
