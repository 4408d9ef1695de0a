-- What the scripts of the crawl's own slot have in common. KEYS[1] is its prefix.
--
--   config     what is fixed;  state: hash of control and reason
--   sessions   zset: session -> when it lapses; it stays until it has been taken apart
--   members    how often a session came or went: whoever knows it knows the sessions
--   workers    set of all names that there ever were
--   shared     hash of values for all workers; by: who said each; versions: zset of when it changed last
--   allowance  pages that may still be begun; taken: hash of what each session has of them
local session = arg()

local function is_known()
  return call('ZSCORE', P .. 'sessions', session)
end
