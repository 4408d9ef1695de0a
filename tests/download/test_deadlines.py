"""Time limits by one timer, on a loop whose time the test sets."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from crawler.download.deadlines import Deadlines, Speed, TooSlow


class Loop:
    """As much of an event loop as `Deadlines` uses."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[list[Any]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Any) -> Any:
        timer = [when, callback]
        self.timers.append(timer)
        return type("Handle", (), {"cancel": lambda _: self.timers.remove(timer)})()

    def run_until(self, end: float) -> None:
        while self.timers and (first := min(self.timers))[0] <= end:
            self.timers.remove(first)
            self.now = max(self.now, first[0])
            first[1]()
        self.now = end


class Ends:
    """A connection, or a body: keeps the error that was set on it."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.total_raw_bytes = 0
        self.is_all_there = False

    def is_eof(self) -> bool:
        return self.is_all_there

    def set_exception(self, error: BaseException) -> None:
        self.error = error


@pytest.fixture
def loop() -> Loop:
    return Loop()


def deadlines(loop: Any, *, total: float | None = 60.0, read: float | None = 30.0) -> Deadlines:
    return Deadlines(loop, total_seconds=total, read_seconds=read)


def test_after_the_total_time_the_connection_and_the_body_fail(loop: Loop) -> None:
    limits = deadlines(loop, total=60.0, read=None)
    protocol: Any = Ends()
    watch = limits.add(protocol, loop.now)
    watch.content = content = Ends()  # type: ignore[assignment]
    loop.run_until(159.0)
    assert protocol.error is None
    loop.run_until(161.5)
    assert type(protocol.error) is TimeoutError
    assert content.error is protocol.error


def test_the_total_counts_from_when_the_request_was_begun(loop: Loop) -> None:
    limits = deadlines(loop, total=60.0, read=None)
    protocol: Any = Ends()
    limits.add(protocol, loop.now - 50.0)
    loop.run_until(111.5)
    assert type(protocol.error) is TimeoutError


def test_a_body_that_grows_is_left_alone_and_one_that_does_not_fails(loop: Loop) -> None:
    limits = deadlines(loop, total=None, read=10.0)
    protocol: Any = Ends()
    watch = limits.add(protocol, loop.now)
    watch.content = content = Ends()  # type: ignore[assignment]
    for second in range(101, 161):
        loop.run_until(float(second))
        content.total_raw_bytes += 1
    assert protocol.error is None
    loop.run_until(172.0)
    assert isinstance(protocol.error, aiohttp.SocketTimeoutError)


def test_what_has_ended_is_not_watched_and_nothing_runs_while_nothing_is(loop: Loop) -> None:
    limits = deadlines(loop)
    protocol: Any = Ends()
    watch = limits.add(protocol, loop.now)
    limits.discard(watch)
    loop.run_until(1000.0)
    assert protocol.error is None
    assert loop.timers == []
    limits.add(protocol, loop.now)
    assert len(loop.timers) == 1
    limits.close()
    assert loop.timers == []


def test_the_time_for_which_the_loop_was_held_up_does_not_count(loop: Loop) -> None:
    limits = deadlines(loop, total=None, read=10.0)
    protocol: Any = Ends()
    limits.add(protocol, loop.now)
    loop.run_until(105.0)
    loop.now = 125.0  # somebody computed for twenty seconds
    loop.run_until(125.0)
    assert protocol.error is None
    loop.run_until(129.0)
    assert protocol.error is None
    loop.run_until(131.5)
    assert isinstance(protocol.error, aiohttp.SocketTimeoutError)


@pytest.mark.parametrize("seconds", [0.1, 1.0, 30.0])
def test_a_limit_is_overrun_by_a_twentieth_of_itself_at_most(loop: Loop, seconds: float) -> None:
    limits = deadlines(loop, total=seconds, read=None)
    protocol: Any = Ends()
    limits.add(protocol, loop.now)
    loop.run_until(100.0 + seconds * 0.99)
    assert protocol.error is None
    loop.run_until(100.0 + min(seconds * 1.06, seconds + 1.0))
    assert protocol.error is not None


def test_no_limits_are_none(loop: Loop) -> None:
    limits = deadlines(loop, total=None, read=0)
    protocol: Any = Ends()
    limits.add(protocol, loop.now)
    loop.run_until(10_000.0)
    assert protocol.error is None


# -- speed -------------------------------------------------------------------------------------------------------------


def speeds(loop: Any, count: int = 1) -> list[tuple[Any, Ends]]:
    """Limits of 1000 bytes/s over 10 s, and bodies that begin now."""
    limits = Deadlines(loop, total_seconds=None, read_seconds=None, least_speed=Speed(1000, 10.0))
    watches = [limits.add(Ends(), loop.now) for _ in range(count)]  # type: ignore[arg-type]
    for watch in watches:
        watch.content = Ends()  # type: ignore[assignment]
    return [(watch, watch.content) for watch in watches]  # type: ignore[misc]


@pytest.mark.hostile("S26")
def test_a_body_below_the_least_speed_is_given_up_when_its_seconds_are_over(loop: Loop) -> None:
    [(watch, content)] = speeds(loop)
    for _ in range(9):
        content.total_raw_bytes += 1000
        loop.run_until(loop.now + 1.0)
    assert content.error is None
    loop.run_until(loop.now + 2.0)
    assert isinstance(content.error, TooSlow)
    assert watch.protocol.error is content.error


@pytest.mark.hostile("S26")
def test_a_body_that_slows_down_is_given_up_within_twice_the_seconds(loop: Loop) -> None:
    [(_, content)] = speeds(loop)
    content.total_raw_bytes = 50_000
    loop.run_until(loop.now + 11.0)
    assert content.error is None
    loop.run_until(loop.now + 11.0)
    assert isinstance(content.error, TooSlow)


def test_a_body_that_is_fast_enough_or_all_there_or_not_begun_is_left_alone(loop: Loop) -> None:
    [(_, fast), (_, ended), (waiting, _)] = speeds(loop, 3)
    ended.is_all_there = True
    waiting.content = None
    for _ in range(60):
        fast.total_raw_bytes += 1100
        loop.run_until(loop.now + 1.0)
    assert (fast.error, ended.error, waiting.protocol.error) == (None, None, None)


def test_while_the_loop_is_held_up_no_body_is_slow(loop: Loop) -> None:
    [(_, content)] = speeds(loop)
    loop.run_until(loop.now + 1.0)
    loop.now += 30.0
    loop.run_until(loop.now + 1.0)
    assert content.error is None


@pytest.mark.hostile("R-39")
def test_the_time_for_which_we_do_not_read_on_does_not_count(loop: Loop) -> None:
    """A body that waits for memory is not slow, idle or late; afterwards it has what it had left."""
    limits = Deadlines(
        loop,  # type: ignore[arg-type]
        total_seconds=60.0,
        read_seconds=30.0,
        least_speed=Speed(1000, 20.0),
    )
    protocol: Any = Ends()
    watch = limits.add(protocol, loop.now)
    watch.content = Ends()  # type: ignore[assignment]
    loop.run_until(115.0)

    async def room(size: int) -> None:
        class Gate:
            def __await__(self) -> Any:
                yield

        await Gate()

    gate: Any = watch.held(room, 1)
    gate.send(None)
    loop.run_until(1115.0)
    assert protocol.error is None
    with pytest.raises(StopIteration):
        gate.send(None)
    loop.run_until(1118.0)
    assert protocol.error is None
    loop.run_until(1122.0)
    assert type(protocol.error) is TooSlow
