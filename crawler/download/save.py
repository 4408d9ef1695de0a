"""A body on its way to disk: beside its final name until it is whole, then renamed. One that broke is continued.

`ranges` decides whether and how, `partial` keeps the file; here they meet the server, which must not be too slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

import aiofiles.os

from crawler import errors
from crawler.download.body import source
from crawler.download.partial import Part
from crawler.download.ranges import Rest, is_whole, length_of, origin_of, request_for_rest, rest_of
from crawler.download.translate import FOREIGN, translate
from crawler.errors import BodyError, FetchError, OutputError, StatusError
from crawler.response import Response, SavedFile
from crawler.url import redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.download.ranges import Origin

__all__ = ["Saver", "SpeedGuard"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_BATCH_BYTES: Final = 1 << 19
"""Written and hashed in one visit to a thread, which costs as much as hashing 64 KiB does. Measured: 256 KiB take 5 %
more CPU, 1 MiB takes 3 % less; but each of many streams holds one."""
_CONTINUATIONS: Final = 3
_BAD_NAME: Final = frozenset({errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EILSEQ})


class Saver:
    """`Response.save`.

    `max_bytes` is `http.max_file_bytes`. A server that sends fewer than `min_bytes_per_second * min_speed_seconds`
    bytes, as they come over the wire, in any window of `min_speed_seconds` is given up (`SpeedGuard`); 0 for either
    lets it be as slow as it likes. `clock` measures what was spent waiting for it, in seconds.
    """

    def __init__(
        self,
        max_bytes: int,
        min_bytes_per_second: float = 1024,
        min_speed_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_bytes = max_bytes
        self.min_bytes_per_second = min_bytes_per_second
        self.min_speed_seconds = min_speed_seconds
        self.clock = clock
        self.unsynced: set[Path] = set()
        """Files that a power failure may still take."""

    async def sync(self) -> None:
        """What was saved until now survives a power failure."""
        paths, self.unsynced = self.unsynced, set()
        if paths:
            await asyncio.to_thread(_sync_files, paths)

    async def __call__(self, response: Response, path: str | os.PathLike[str], resume: bool = False) -> SavedFile:
        """Save the body to `path`, whose folder is made where it is missing. The response is closed afterwards.

        With `resume`, an answer with status 200 to a GET that has a strong validator and no `Content-Encoding` (ask
        for it with `headers={"Accept-Encoding": "identity"}`) leaves what it has beside `path` when the save fails,
        is cancelled or killed, and the next save continues it. A connection that breaks is continued at once, up to
        3 times. Everything else is saved as without.

        Raises `FetchError` of the server's doing: `BodyError` (`body_truncated`, `body_too_large`, `body_range`),
        `TimeoutError` (`read_timeout`, `too_slow`), `StatusError` where the rest was refused. Raises `OutputError`
        when the disk is full or fails, ValueError for a path that cannot be a file's.
        """
        return await _Save(self, response, Path(path), resume).run()


class _Save:
    """One save: brings the whole body into one file, over as many responses as it takes."""

    def __init__(self, saver: Saver, response: Response, target: Path, resume: bool) -> None:
        # `_cursor` is aiohttp's only word for what the callback read before it had the rest saved.
        position: int = getattr(response.content, "_cursor", 0)
        is_all_there = is_whole(response) and response.content is not None and position == 0
        self._saver = saver
        self._target = target
        self._wants_rest = resume and is_all_there
        self._part = Part(target, is_stable=self._wants_rest)
        self._keep = True
        self._response = response
        self._request = response.request
        self._refetch = response._refetch if response.request.is_replayable else None
        self._streams = contextlib.ExitStack()
        self._streams.callback(response.close)
        length = length_of(response) if is_all_there else None
        self._rest = Rest(length, length)
        """Where this response ends, and the file, as far as they said."""

    async def run(self) -> SavedFile:
        part = self._part
        try:
            with self._streams:
                await self._on_disk(partial(part.open, anew=not self._wants_rest))
                await self._fill()
            digest = await self._on_disk(part.finish)
        except BodyError as error:
            self._keep = error.retryable
            raise
        finally:
            if not part.is_over:
                # Shielded, and no task: a second cancellation, or the end of the loop, does not stop it.
                await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, part.end, self._keep))
        self._saver.unsynced.add(self._target)
        return SavedFile(str(self._target), part.size, digest, part.resumed_from)

    async def _fill(self) -> None:
        if await self._took_up():
            if self._part.is_whole:
                return
            await self._ask_for_rest()
        for left in reversed(range(_CONTINUATIONS + 1)):
            try:
                await self._receive()
                return
            except FetchError as error:
                self._response.close()
                if not (left and error.retryable and self._refetch is not None and self._part.origin is not None):
                    raise
                logger.debug("%s; continued at byte %d", error, self._part.size)
            await self._ask_for_rest()

    async def _took_up(self) -> bool:
        """Whether an earlier run's bytes are in the file, so that this response is not needed any more."""
        part = self._part
        if not self._wants_rest:
            return False
        origin = origin_of(self._response)
        if (
            self._refetch is None
            or origin is None
            or not part.is_stable
            or not await self._on_disk(part.take_up, origin)
        ):
            await self._on_disk(part.begin, origin)
            return False
        self._response.close()
        while await self._on_disk(part.hash_more):
            pass
        return True

    # -- this response -----------------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        """Append what this response has; when it fails, what it had."""
        part, pieces, held = self._part, list[bytes](), 0
        self._refuse_too_large(self._rest.total or 0)
        inflow = _Inflow(self._response, self._saver)
        failure: FetchError | None = None
        try:
            while data := await inflow.read():
                pieces.append(data)
                held += len(data)
                self._refuse_beyond(part.size + held)
                if held >= _BATCH_BYTES:
                    await self._on_disk(part.write, pieces)
                    pieces, held = [], 0
        except FetchError as error:
            failure = error
            pieces.append(inflow.unread())
        await self._on_disk(part.write, pieces)
        if failure is not None:
            raise failure
        if self._rest.total is not None and part.size < self._rest.total:
            self._fail("body_truncated", f"ended after {part.size} of {self._rest.total} bytes", retryable=True)

    def _refuse_beyond(self, size: int) -> None:
        self._refuse_too_large(size)
        if self._rest.end is not None and size > self._rest.end:
            self._fail("body_range", f"more came than the {self._rest.end} bytes announced")

    def _refuse_too_large(self, size: int) -> None:
        if size > self._saver.max_bytes:
            self._fail("body_too_large", f"larger than http.max_file_bytes ({self._saver.max_bytes} bytes)")

    def _fail(self, reason: str, words: str, *, retryable: bool = False) -> NoReturn:
        raise BodyError(f"{words}: {redact(self._response.url)}", reason=reason, retryable=retryable)

    # -- the next response -------------------------------------------------------------------------------------------

    async def _ask_for_rest(self) -> None:
        """A response that continues the file, or a whole one, for which it is emptied."""
        start, origin = self._part.size, self._part.origin
        assert origin is not None
        answer = await self._fetch(origin, start)
        if answer.status == 206 and (rest := rest_of(answer, origin, start)) is not None:
            self._rest = rest
            return
        if start and answer.status in (206, 416):
            answer.close()
            answer = await self._fetch(origin, 0)
        if answer.status != 200:
            raise StatusError(answer.status, redact(answer.url))
        self._rest = Rest(length_of(answer), length_of(answer))
        await self._on_disk(self._part.begin, origin_of(answer))

    async def _fetch(self, origin: Origin, start: int) -> Response:
        assert self._refetch is not None
        self._response = await self._refetch(request_for_rest(self._request, origin, start))
        self._streams.callback(self._response.close)
        return self._response

    # -- the disk ----------------------------------------------------------------------------------------------------

    async def _on_disk(self, work: Callable[..., T], *args: object) -> T:
        try:
            return await aiofiles.os.wrap(work)(*args)
        except OSError as error:
            self._keep = error.errno != errno.EIO  # a full disk has what was written before; a broken one may not
            if error.errno in _BAD_NAME:
                raise ValueError(f"no file can be saved as {str(self._target)!r}: {error.strerror}") from error
            where = f"cannot save {redact(self._response.url)} to {self._target}"
            raise OutputError(f"{where}: {error.strerror or error}") from error


def _sync_files(paths: set[Path]) -> None:
    """With their folders, which hold the names. Who moved or removed one meanwhile has taken it over."""
    for path in (*paths, *{path.parent for path in paths}):
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise OutputError(f"cannot save {path}: {error.strerror or error}") from error


# -- what comes in -----------------------------------------------------------------------------------------------------


class _Inflow:
    """The decoded body, as it comes, from a server that must not be too slow."""

    def __init__(self, response: Response, saver: Saver) -> None:
        self._response = response
        self._content = None if response.content is None else source(response.content)
        self._saver = saver
        self._guard = SpeedGuard(saver.min_bytes_per_second, saver.min_speed_seconds)
        self._arrived = 0
        self._is_given = False

    async def read(self) -> bytes:
        """Empty at the end. Raises `FetchError`."""
        content, clock = self._content, self._saver.clock
        if content is None:
            body = b"" if self._is_given else self._response.body
            self._is_given = True
            return body
        began = clock()
        limit = asyncio.timeout(self._guard.patience)
        try:
            data = content.read_nowait()
            if not (data or content.at_eof()):  # a limit for each piece would cost as much as the piece
                async with limit:
                    data = await content.readany()
        except FetchError:
            raise
        except FOREIGN as error:  # asyncio's TimeoutError among them
            if limit.expired():
                raise self._too_slow() from None
            raise translate(error, self._response.url) from error
        if not data:  # the empty stream of a body that there is not counts nothing
            return data
        arrived = content.total_raw_bytes  # not decoded: of a coded body, a few bytes can give very many
        self._guard.arrived(arrived - self._arrived, clock() - began)
        self._arrived = arrived
        return data

    def unread(self) -> bytes:
        """What had come before an error: aiohttp's reader raises at once, and gives no more of what it holds."""
        content = self._content
        if content is None:
            return b""
        return b"".join([content._read_nowait_chunk(-1) for _ in range(len(content._buffer))])

    def _too_slow(self) -> errors.TimeoutError:
        speed = f"{self._saver.min_bytes_per_second:g} bytes/s over {self._saver.min_speed_seconds:g} s"
        return errors.TimeoutError(f"slower than {speed}: {redact(self._response.url)}", reason="too_slow")


class SpeedGuard:
    """Whether a server is too slow: fewer than `bytes_per_second * seconds` bytes in any window of `seconds`, as curl's
    `--speed-limit` and `--speed-time`. 0 for either switches it off.

    Time is what was spent waiting for the server, as the caller measured it: a slow disk, during which nobody waits
    for bytes, is not the server's fault. The window slides in 64 steps, and is up to one step more patient.
    """

    def __init__(self, bytes_per_second: float, seconds: float) -> None:
        self._needed = bytes_per_second * seconds
        self._seconds = seconds
        self._step = seconds / 64
        self._waited = 0.0
        # (step, bytes), oldest first, as few as together are enough. So the oldest one leaving the window is the moment
        # from which it is too slow. The first window is judged when it is over: as if all had come just before it.
        self._marks: deque[tuple[int, float]] = deque([(0, self._needed)])
        self._sum = self._needed

    @property
    def patience(self) -> float | None:
        """Seconds that may pass until the next bytes: 0 when it is too slow by now, None for any time."""
        if not self._needed:
            return None
        return max(0.0, self._marks[0][0] * self._step + self._seconds - self._waited)

    def arrived(self, size: int, waited: float) -> None:
        """That many bytes came, after so many seconds of waiting since the last ones."""
        if not self._needed:
            return
        self._waited += waited
        step = int(self._waited / self._step) + 1
        self._sum += size
        in_step = self._marks.pop()[1] if self._marks[-1][0] == step else 0
        self._marks.append((step, in_step + size))
        while self._sum - self._marks[0][1] >= self._needed:
            self._sum -= self._marks.popleft()[1]
