"""Sessions that are over: what they committed is finished, and what they had is there for others.

Anybody may do it, two at a time, and die in between; each step can be repeated, and the last one forgets the session,
so that until then somebody else comes back to it.

    1. in its own slot: nothing that it commits is taken from now on. What it committed last is read
    2. in each shard: that is applied, then nothing more of this session is taken, then its hosts and tasks go back
    3. in the crawl's slot: shared values, and what it did not use of the page limit; then it is forgotten
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crawler.frontier.redis.commits import decode
from crawler.frontier.redis.connection import command
from crawler.frontier.redis.crawl import milliseconds

if TYPE_CHECKING:
    from crawler.frontier.redis.crawl import Crawl, Session

__all__ = ["take_apart"]


async def take_apart(crawl: Crawl, session: Session, *, delay: float, has_left: bool = False) -> int | None:
    """How many of its tasks went back; None: its time is not over. `delay` is that of a host of which nothing is
    known; `has_left`: it says itself that it is over."""
    ends, record = await crawl.engine.one(crawl.on_worker("fence", session, int(has_left)))
    if ends:
        return None
    redo = decode(record)
    number = redo.number if redo else 0
    of_shards = redo.shards if redo else {}
    nothing = [0, 0]
    returned = await crawl.everywhere(
        crawl.on_shard(
            "reap", shard, session.id, number, int(has_left), milliseconds(delay), *of_shards.get(shard, nothing)
        )
        for shard in crawl.shards
    )
    if redo:
        await crawl.engine.one(crawl.on_control("applied", session.id, number, *redo.control))
        await crawl.engine.one(command("DEL", f"{crawl.keys.worker(session.worker)}rec:{session.generation}"))
    await crawl.engine.one(command("HDEL", f"{crawl.keys.worker(session.worker)}traces", session.id))
    await crawl.engine.one(crawl.on_control("forget", session.id))
    return int(sum(returned))
