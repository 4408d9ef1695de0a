-- Entries, as groups of one host and priority: host, priority, how many, then for each bucket, fingerprint, wait, request.
local function add_entries(filtered)
  local new, known, deferred = 0, 0, 0
  for _ = 1, number() do
    local host, priority = arg(), arg()
    local batch = {}
    for _ = 1, number() do
      local bucket, fingerprint, wait, payload = arg(), arg(), number(), arg()
      if call('SADD', P .. 's:' .. bucket, fingerprint) == 1 or not filtered then
        new = new + 1
        if wait > 0 then
          deferred = deferred + 1
          put_off(wait, 'n', 'd' .. call('HINCRBY', P .. 'c', 'deferred', 1), host, priority, payload)
        else
          batch[#batch + 1] = payload
        end
      else
        known = known + 1
      end
    end
    if #batch > 0 then
      push('n', host, priority, unpack(batch))
      waiting(host)
    end
  end
  count('added', new)
  count('known', known)
  count('queued', new - deferred)
  return known
end
