#!lua flags=allow-oom
-- needs: arguments shard
-- What hosts that this session has on loan have said: it holds, whatever becomes of their worker.
if fenced() then return 0 end
for _ = 1, number() do
  local host, its_quota, shared, state = arg(), number(), number(), arg()
  if call('HEXISTS', LOANS, host) == 1 then
    call('HSET', P .. 'st', host, struct.pack('>I2I2', its_quota, shared) .. state)
  end
end
return 0
