"""The shared frontier on Redis >= 7.0 or Valkey, as `crawler.frontier.broker.Broker` says it.

The engine keeps, replicates and divides; what is ours is some twenty short scripts (`scripts/`), each of which works on
one slot. A crawl is in as many parts as it has shards, a host in one of them; beside those are a slot for the crawl as
a whole and one for each worker (`keys`).

A commit has three steps, because no script can reach two slots: new entries to their shards, where one that is there
already changes nothing; one record in the worker's own slot, which is the moment at which the commit takes effect; and
what the record says, to each shard. A worker that dies between the last two is completed by whoever takes its session
apart (`reaping`).
"""

from crawler.frontier.redis.broker import RedisBroker

__all__ = ["RedisBroker"]
