#!lua
-- needs: arguments shard entries
-- Queue entries that were not seen before, note hosts that `start()` named, and values of hosts. Returns how many were
-- known. Safe to repeat: what is there is known.
for _ = 1, number() do -- key of the loan, "name:port"
  call('HSET', P .. 'n:' .. arg(), arg(), '')
end
for _ = 1, number() do -- host, name, whether there is a value, value
  local key, name, there, value = P .. 'v:' .. arg(), arg(), arg(), arg()
  if there == '1' then call('HSET', key, name, value) else call('HDEL', key, name) end
end
return add_entries(true)
