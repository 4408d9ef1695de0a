#!lua flags=no-writes
-- needs: control changes
local changed, version = changes(arg())
return {changed, version}
