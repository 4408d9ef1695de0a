"""The way to the engine: what it has to be, how long it is waited for, and what its errors mean here.

Every call may be repeated, so a connection that breaks while a script runs is no question: it is made anew and the
script is run again. But an engine that was started anew may have lost its last words. So each connection is asked first
whether there is still the same engine at its other end, and if not, nothing is said before it is known what it lost.

That is told from *traces*: after its calls a session counts one up in the slot that they were about. What an engine
keeps of its words, on disk or in a replica, is all up to some moment and nothing after it. So where the last count that
was answered is there, everything that was answered before is there, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ipaddress
import logging
import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from crawler.errors import EngineUnavailable, SessionLost, UsageError
from crawler.frontier.redis.keys import slot_of
from crawler.frontier.redis.scripts import Script, script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from random import Random

__all__ = ["Call", "Engine", "command", "run"]

logger = logging.getLogger(__name__)

OLDEST = (7, 0)
_SLOWEST_RETRY_SECONDS = 2.0
_RETRIES = 10
"""At least so many: a session lives on if the engine is back in time, and is found."""
_FIRST_SECONDS = 10.0
"""For an engine that was never reached: it may be starting beside us, or not be there at all."""
_TOLD_AT = 5
"""The attempt after which somebody may wonder: half a second."""
_TIMEOUT_SECONDS = 10.0
_CONNECTIONS = 8
_KEYS_AT_ONCE = 1000
_RUN_ID = re.compile(rb"^run_id:(\w+)", re.MULTILINE)
_IS_LOOKING = contextvars.ContextVar("is_looking", default=False)
"""Whether what is said is to find out whether the engine is the same."""
_PASSING = ("LOADING", "BUSY", "READONLY", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "UNBLOCKED", "NOREPLICAS")
"""How answers begin that another time may be better."""


class Call(NamedTuple):
    """One command, or one script on the slot whose prefix is `key`."""

    what: Script | str
    key: str | bytes
    args: Sequence[Any] = ()


def run(name: str, key: str, *args: Any) -> Call:
    return Call(script(name), key, args)


def command(name: str, key: str | bytes, *args: Any) -> Call:
    return Call(name, key, args)


class _Passing(Exception):
    """It may be better in a moment."""


class Engine:
    """`async with` connects, and refuses an engine that cannot be relied on. `patience` is for how many seconds it may
    be away. Raises `EngineUnavailable`, `SessionLost` and `UsageError`."""

    def __init__(
        self,
        url: str,
        *,
        patience: float,
        allow_unprotected: bool,
        sleep: Callable[[float], Awaitable[None]],
        rng: Random,
    ) -> None:
        self._url = url
        self._patience = patience
        self._allow_unprotected = allow_unprotected
        self._sleep = sleep
        self._rng = rng
        self._client: Any = None
        self._is_cluster = "+cluster" in urlsplit(url).scheme
        self.on_restart: Callable[[str], Awaitable[None]] = self._refuse
        """It was started anew and has lost nothing of this session: called with its new `run` before anything else is
        said to it. What is to be said goes through `once`."""
        self._ids: dict[str, str] = {}
        """Run ids, by node."""
        self._looking = asyncio.Lock()
        """Held while it is not known whether it is the same engine."""
        self._lost: SessionLost | None = None
        self._session = ""
        self._traces: dict[str, float] = {}
        """The last counts that were answered, by slot; infinite where one was refused. Without a Cluster one slot is
        enough: all are kept together."""

    @property
    def name(self) -> str:
        """The URL without what is secret in it."""
        parts = urlsplit(self._url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    @property
    def run(self) -> str:
        """Another one whenever the engine, or a primary of a Cluster, was started again."""
        return _run(self._ids)

    async def __aenter__(self) -> Engine:
        if not (self._allow_unprotected or has_password(self._url) or is_loopback(self._url)):
            raise UsageError(
                f"{self.name} asks for no password, and is on another machine: whoever reaches it can read and change "
                "the crawl. Give it one (in frontier.url), or set frontier.allow_unprotected = true"
            )
        self._connect()
        try:
            await self.look()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    def _connect(self) -> None:
        try:
            from redis.asyncio import Redis, RedisCluster
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError:
            raise UsageError(f'{self.name} needs the package redis: pip install "crawler[redis]"') from None
        options: dict[str, Any] = {
            "socket_timeout": _TIMEOUT_SECONDS,
            "socket_connect_timeout": _TIMEOUT_SECONDS,
            "max_connections": _CONNECTIONS if not self._is_cluster else 4 * _CONNECTIONS,
            "retry": Retry(NoBackoff(), 0),
        }
        url = self._url.replace("+cluster", "", 1)
        try:
            self._client = (RedisCluster if self._is_cluster else Redis).from_url(url, **options)
            if self._is_cluster:
                self._client.get_connection_kwargs()["redis_connect_func"] = self._greet
            else:
                self._client.connection_pool.connection_kwargs["redis_connect_func"] = self._greet
                self._client.connection_pool.make_connection()  # only this looks at all options
        except (ValueError, TypeError):  # the message would hold the whole URL
            raise UsageError(
                f"frontier.url: {self.name} is no URL of an engine, or has options that there are not"
            ) from None

    # -- what it is --------------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """From here on it is this engine, and no other."""
        self._ids = {}
        self._session = ""
        self._traces = {}
        self._lost = None
        nodes = await self._patiently(lambda: self._infos("everything"), min(self._patience, _FIRST_SECONDS))
        for node, info in nodes.items():
            self._check(node, info)
        self._ids = _ids(nodes)

    def follow(self, session: str) -> None:
        """From here on the calls are this session's, and leave traces; empty: nobody's."""
        self._session = session
        self._traces = {}

    async def _infos(self, section: str) -> dict[str, dict[str, Any]]:
        """INFO of each primary."""
        if not self._is_cluster:
            return {self.name: await self._client.info(section)}
        await self._client.initialize()
        primaries = self._client.get_primaries()
        infos = await asyncio.gather(*(self._info_of(node, section) for node in primaries))
        return {node.name: info for node, info in zip(primaries, infos, strict=True)}

    async def _info_of(self, node: Any, section: str) -> dict[str, Any]:
        found = await self._client.execute_command("INFO", section, target_nodes=node)
        return found if not isinstance(next(iter(found.values())), dict) else next(iter(found.values()))

    def _check(self, node: str, info: dict[str, Any]) -> None:
        version = str(info.get("valkey_version") or info.get("redis_version"))
        if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST:
            raise UsageError(f"{node} is version {version}; the shared frontier needs Redis 7.0 or newer, or Valkey")
        policy = str(info.get("maxmemory_policy", "noeviction"))
        if policy != "noeviction":
            raise UsageError(
                f"{node} would throw away what waits when its memory is full: set its maxmemory-policy to noeviction "
                f"(it is {policy})"
            )

    async def warn_of_loss(self) -> None:
        """Where nothing is kept on disk. Not every engine says so: some are looked after by somebody else."""
        from redis.exceptions import RedisError

        try:
            found = await self._client.config_get("save", "appendonly")
        except RedisError:
            return
        kept = {_text(name): _text(value) for name, value in found.items()}
        if kept.get("appendonly") == "no" and not kept.get("save"):
            logger.warning(
                "%s keeps nothing on disk: when it ends, the crawl is lost (set appendonly to yes)", self.name
            )

    async def check_same(self) -> None:
        """Raises `SessionLost` where it is not the engine that was looked at, and knows less."""
        await self._patiently(self._same)

    async def _same(self) -> None:
        async with self._looking:
            is_looking = _IS_LOOKING.set(True)
            try:
                ids = _ids(await self._infos("server"))
                if ids != self._ids:
                    if not (self._traces and await self._knows_all()):
                        await self._refuse(_run(ids))
                    await self.on_restart(_run(ids))
                    logger.warning("%s was started anew; nothing is lost of what this worker said", self.name)
                    self._ids = ids
            finally:
                _IS_LOOKING.reset(is_looking)

    async def _refuse(self, run: str) -> None:
        self._lost = SessionLost(
            f"{self.name} was started anew, or another took its place: what it knew last may be lost"
        )
        raise self._lost

    async def _knows_all(self) -> bool:
        """Whether what was answered to this session is there."""
        counts = await self.once([command("HGET", f"{slot}traces", self._session) for slot in self._traces])
        return all(int(count or 0) >= answered for count, answered in zip(counts, self._traces.values(), strict=True))

    async def _greet(self, connection: Any) -> None:
        """Of each connection, before anything is said."""
        from redis.exceptions import ConnectionError as NoConnection

        await connection.on_connect()
        if not self._ids or _IS_LOOKING.get():
            return
        await connection.send_command("INFO", "server", "replication")
        told = _bytes(await connection.read_response())
        run = _RUN_ID.search(told)
        is_known = run is not None and run[1].decode() in self._ids.values()
        if not is_known and b"\nrole:slave" not in told:  # a replica is asked about its Cluster, and nothing else
            raise NoConnection("it was started anew")

    async def memory(self) -> int:
        """Bytes that all primaries use, for this crawl and whatever else they keep."""
        nodes = await self._patiently(lambda: self._infos("memory"))
        return sum(int(info.get("used_memory", 0)) for info in nodes.values())

    async def now(self) -> float:
        seconds, microseconds = await self._patiently(self._client.time)
        return float(seconds) + float(microseconds) / 1e6

    async def keys(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """Names of keys, some at a time. What is removed meanwhile may be missing, or not."""
        names: list[bytes] = []
        async for name in self._client.scan_iter(match=pattern, count=_KEYS_AT_ONCE):
            names.append(name)
            if len(names) >= _KEYS_AT_ONCE:
                yield names
                names = []
        yield names

    # -- calls -------------------------------------------------------------------------------------------------------

    async def one(self, call: Call) -> Any:
        return (await self.all([call]))[0]

    async def all(self, calls: Sequence[Call]) -> list[Any]:
        """The answers, in order. What goes to one server goes out together."""
        if not calls:
            return []
        answers: list[Any] = await self._patiently(lambda: self.once(calls))
        return answers

    async def once(self, calls: Sequence[Call]) -> list[Any]:
        """As `all`, but it raises at once what `all` would try again."""
        if not calls:
            return []
        from redis.exceptions import NoScriptError

        answers = await self._exchange(calls, whole=False)
        missing = [n for n, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if missing:
            again = await self._exchange([calls[n] for n in missing], whole=True)
            for n, answer in zip(missing, again, strict=True):
                answers[n] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                self._raise(answer)
        return answers

    async def _exchange(self, calls: Sequence[Call], *, whole: bool) -> list[Any]:
        slots = self._traced(calls)
        words = [_words(call, whole=whole) for call in calls]
        answers = await self._say([*words, *(["HINCRBY", f"{slot}traces", self._session, 1] for slot in slots)])
        for slot, count in zip(slots, answers[len(calls) :], strict=True):
            self._traces[slot] = max(self._counted(count), self._traces.get(slot, 0))
        return answers[: len(calls)]

    async def _say(self, words: list[list[Any]]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for each in words:
            pipeline.execute_command(*each)
        return list(await pipeline.execute(raise_on_error=False))

    def _counted(self, answer: int | Exception) -> float:
        if isinstance(answer, Exception):
            if "command not allowed when used memory" not in f"{answer}":
                self._raise(answer)
            return float("inf")
        return answer

    def _traced(self, calls: Sequence[Call]) -> list[str]:
        """The slots in which these calls change something, those of one engine by its last one."""
        if not self._session:
            return []
        changed = (_text(call.key) for call in calls if isinstance(call.what, Script) and call.what.changes)
        slots = list(dict.fromkeys(map(slot_of, changed)))
        return slots if self._is_cluster else slots[-1:]

    def _raise(self, answer: Exception) -> None:
        from redis.exceptions import ConnectionError as NoConnection
        from redis.exceptions import RedisError
        from redis.exceptions import TimeoutError as NoAnswer

        text = f"{answer}"
        if text.startswith("LOST"):
            raise SessionLost(
                "the session of this worker is over: it was not heard of for too long, or another took its name"
            )
        if isinstance(answer, NoConnection | NoAnswer | OSError) or text.startswith(_PASSING):
            raise _Passing(text) from answer
        if text.startswith("OOM") or "command not allowed when used memory" in text:
            raise EngineUnavailable(f"{self.name} is full: give it more memory (maxmemory)") from None
        if isinstance(answer, RedisError):
            raise EngineUnavailable(f"{self.name}: {text}") from answer
        raise answer

    async def _patiently(self, attempt: Callable[[], Awaitable[Any]], seconds: float | None = None) -> Any:
        from tenacity import AsyncRetrying, RetryCallState, RetryError, retry_if_exception_type, stop_after_delay

        patience = self._patience if seconds is None else seconds
        slowest = min(_SLOWEST_RETRY_SECONDS, patience / _RETRIES)

        def wait(state: RetryCallState) -> float:
            return self._rng.uniform(0, min(slowest, 0.02 * 2 ** min(state.attempt_number, 10)))

        def tell(state: RetryCallState) -> None:
            if state.attempt_number == _TOLD_AT and state.outcome is not None:
                error = _without_secrets(f"{state.outcome.exception()}")
                logger.warning("%s cannot be reached (%s); trying for %g s", self.name, error, patience)

        try:
            async for trial in AsyncRetrying(
                sleep=self._sleep,
                stop=stop_after_delay(patience),
                wait=wait,
                before_sleep=tell,
                retry=retry_if_exception_type(_Passing),
            ):
                with trial:
                    return await self._try(attempt, is_first=trial.retry_state.attempt_number == 1)
        except RetryError as error:
            last = error.last_attempt.exception()
            raise EngineUnavailable(f"{self.name} cannot be reached: {_without_secrets(f'{last}')}") from None

    async def _try(self, attempt: Callable[[], Awaitable[Any]], *, is_first: bool) -> Any:
        from redis.exceptions import RedisError

        task = asyncio.current_task()
        assert task is not None
        cancelled = task.cancelling()
        try:
            if self._ids and not is_first:
                await self._same()
            elif self._looking.locked():  # its connections are not for everybody yet
                async with self._looking:
                    pass
            if self._lost is not None:
                raise self._lost
            return await attempt()
        except (RedisError, OSError) as error:
            if task.cancelling() <= cancelled:
                self._raise(error)
        finally:
            # The client may have an answer for whoever is cancelled, or an error: nobody would cancel again.
            if task.cancelling() > cancelled:
                raise asyncio.CancelledError


def _words(call: Call, *, whole: bool) -> list[Any]:
    if isinstance(call.what, str):
        return [call.what, call.key, *call.args]
    if whole:
        return ["EVAL", call.what.source, 1, call.key, *call.args]
    return ["EVALSHA", call.what.sha, 1, call.key, *call.args]


def _ids(nodes: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {node: str(info.get("run_id")) for node, info in nodes.items()}


def _run(ids: dict[str, str]) -> str:
    return " ".join(sorted(ids.values()))


def _without_secrets(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _bytes(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def has_password(url: str) -> bool:
    parts = urlsplit(url)
    return bool(parts.password) or "password=" in parts.query or "ssl_certfile=" in parts.query


def is_loopback(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme.startswith("unix") or parts.hostname in (None, "localhost"):
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(f"{parts.hostname}").is_loopback
    return False
