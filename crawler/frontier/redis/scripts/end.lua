#!lua flags=allow-oom
-- needs: arguments shard entries ends
-- Apply a commit's redo list to this shard.
local commit = number()
if not fenced() then redo(commit) end
return now
