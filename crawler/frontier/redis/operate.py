"""What an operator does with a shared crawl: begin it, look at it, pause and end it, discard it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from crawler.errors import JobError
from crawler.frontier.broker import Control
from crawler.frontier.redis.connection import Call, Engine, command, run
from crawler.frontier.redis.crawl import Crawl, pairs, worker_of
from crawler.frontier.redis.keys import Config, Keys
from crawler.frontier.redis.levels import levels_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from crawler.settings.frontier import FrontierSettings

__all__ = ["control", "create", "discard", "opened", "parts", "report"]


@contextlib.asynccontextmanager
async def connected(settings: FrontierSettings) -> AsyncIterator[Engine]:
    engine = Engine(
        settings.url or "",
        patience=settings.lease_seconds,
        allow_unprotected=settings.allow_unprotected,
        sleep=asyncio.sleep,
        rng=Random(),
    )
    async with engine:
        yield engine


@contextlib.asynccontextmanager
async def opened(settings: FrontierSettings, *, crawl: str) -> AsyncIterator[Crawl]:
    """The crawl of this name. Raises `JobError` where there is none."""
    keys = Keys(crawl)
    async with connected(settings) as engine:
        kept = await engine.one(command("GET", f"{keys.control}config"))
        if kept is None:
            raise JobError(f"there is no crawl {crawl!r} at {engine.name}")
        yield Crawl(engine, keys, Config.decode(kept, crawl), time.time)


async def create(
    settings: FrontierSettings, *, crawl: str, spider: str, order: str, group_by: str, page_limit: int = 0
) -> bool:
    """The crawl, with nothing in it. False: it is there already. Raises `JobError` where it is another one."""
    keys = Keys(crawl)
    mine = Config.new(settings, spider=spider, order=order, group_by=group_by)
    async with connected(settings) as engine:
        kept = await engine.one(run("create", keys.control, mine.encode(), page_limit))
        config = Config.decode(kept, crawl)
        config.check(crawl, mine)
        return config.key == mine.key


async def control(
    settings: FrontierSettings, *, crawl: str, to: Control | None = None, reason: str = ""
) -> tuple[Control, str]:
    """What the crawl as a whole does, and why; `to`: from now on. Its workers hear of it within about a second."""
    async with opened(settings, crawl=crawl) as found:
        if to is not None:
            await found.engine.one(found.on_control("say", "", to.value, reason))
        state, why = await found.engine.one(command("HMGET", f"{found.keys.control}state", "control", "reason"))
        return Control(state.decode()), why.decode()


async def discard(settings: FrontierSettings, *, crawl: str) -> bool:
    """Everything of the crawl; False: there is none. Raises `JobError` while workers are at it."""
    keys = Keys(crawl)
    async with connected(settings) as engine:
        now = await engine.now()
        sessions = pairs(flat(await engine.one(command("ZRANGE", f"{keys.control}sessions", 0, -1, "WITHSCORES"))))
        alive = sorted(worker_of(id.decode()) for id, ends in sessions.items() if float(ends) > now * 1000)
        if alive:
            raise JobError(
                f"crawl {crawl!r} has workers: {', '.join(alive)}. Stop them first; one that was killed counts until "
                f"its lease ends, {settings.lease_seconds:g} s after it was last heard of"
            )
        there = await engine.one(command("EXISTS", f"{keys.control}config"))
        # Last, so that what is interrupted can be done again.
        config = f"{keys.control}config".encode()
        async for names in engine.keys(keys.everything):
            await engine.all([Call("UNLINK", name) for name in names if name != config])
        await engine.one(Call("UNLINK", config))
        return bool(there)


async def parts(settings: FrontierSettings, *, crawl: str) -> dict[str, dict[str, bytes]]:
    """By worker: the values that it committed last (positions of its outputs, statistics)."""
    async with opened(settings, crawl=crawl) as found:
        names = sorted(name.decode() for name in await found.engine.one(command("SMEMBERS", _workers(found))))
        kept = await found.everywhere(command("HGETALL", f"{found.keys.worker(name)}own") for name in names)
        return {
            name: {key.decode(): value for key, value in pairs(flat(own)).items()}
            for name, own in zip(names, kept, strict=True)
        }


async def report(settings: FrontierSettings, *, crawl: str) -> dict[str, Any]:
    """How it stands, as plain values."""
    async with opened(settings, crawl=crawl) as found:
        engine, prefix = found.engine, found.keys.control
        now = await engine.now()
        levels = await levels_of(found)
        state, sessions, abouts, allowance, limit = await engine.all(
            [
                command("HMGET", f"{prefix}state", "control", "reason"),
                command("ZRANGE", f"{prefix}sessions", 0, -1, "WITHSCORES"),
                command("HGETALL", f"{prefix}about"),
                command("GET", f"{prefix}allowance"),
                command("GET", f"{prefix}limit"),
            ]
        )
        due = await found.everywhere(
            command("ZCOUNT", f"{found.keys.shard(shard)}ready", "-inf", int(now * 1000)) for shard in found.shards
        )
        described = {id.decode(): msgspec.json.decode(text) for id, text in pairs(flat(abouts)).items()}
        return {
            "crawl": crawl,
            "control": state[0].decode(),
            "reason": state[1].decode(),
            "counts": levels.counts()._asdict(),
            "events": dict(sorted(levels.counters.items())),
            "due_hosts": sum(due),
            "page_limit": int(limit),
            "pages_left": int(allowance) if int(limit) else None,
            "workers": [
                {
                    "name": worker_of(id.decode()),
                    "session": id.decode(),
                    "heard_of_seconds_ago": round(about["lease_seconds"] - float(ends) / 1000 + now, 1),
                    **about,
                }
                for id, ends in sorted(pairs(flat(sessions)).items())
                if (about := described.get(id.decode())) is not None
            ],
            "settings": {
                name: getattr(found.config, name) for name in ("shards", "buckets", "order", "group_by", "spider")
            },
            "memory_bytes": await engine.memory(),
        }


def _workers(crawl: Crawl) -> str:
    return f"{crawl.keys.control}workers"


def flat(answer: Any) -> list[Any]:
    """As RESP2 says it, where the client or RESP3 made more of it."""
    if isinstance(answer, dict):
        return [value for pair in answer.items() for value in pair]
    if answer and isinstance(answer[0], list | tuple):
        return [value for pair in answer for value in pair]
    return list(answer)
