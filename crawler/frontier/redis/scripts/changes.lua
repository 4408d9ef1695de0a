#!lua flags=no-writes
-- needs: arguments control changes
local changed, version = changes(arg())
return {changed, version}
