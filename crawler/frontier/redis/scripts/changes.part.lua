-- Values for all workers that others changed since `version`: name, whether there is one, value. And the version now.
local function changes(version)
  local changed = {}
  local found = call('ZRANGEBYSCORE', P .. 'versions', '(' .. version, '+inf', 'WITHSCORES')
  for i = 1, #found, 2 do
    version = found[i + 1]
    if call('HGET', P .. 'by', found[i]) ~= session then
      local value = call('HGET', P .. 'shared', found[i])
      changed[#changed + 1] = {found[i], value and 1 or 0, value or ''}
    end
  end
  return changed, version
end
