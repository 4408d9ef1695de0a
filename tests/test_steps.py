"""`Steps`: awaiting through it is awaiting, and somebody is told whose step it is."""

from __future__ import annotations

import asyncio
import contextvars
import types
from typing import Any

import pytest

from crawler.contracts import Lease
from crawler.steps import Steps

LEASE = Lease(1, "a.test:80", b"", 0, 0, fingerprint=7)


class Told:
    """The `at_work` of a frontier."""

    def __init__(self) -> None:
        self.notes: list[Lease | None] = []

    def at_work(self, lease: Lease | None) -> None:
        self.notes.append(lease)

    @property
    def now(self) -> Lease | None:
        return self.notes[-1] if self.notes else None


@pytest.fixture
def told() -> Told:
    return Told()


def steps(coroutine: Any, told: Told) -> Any:
    return Steps(coroutine, told, LEASE)  # type: ignore[arg-type]


# -- as with plain await ---------------------------------------------------------------------------------------------


async def test_its_value_is_the_coroutines(told: Told) -> None:
    async def value() -> int:
        await asyncio.sleep(0)
        return 42

    assert await steps(value(), told) == 42


async def test_an_exception_comes_out_as_it_was_raised_with_its_traceback(told: Told) -> None:
    error = ValueError("mine")

    async def fails() -> None:
        await asyncio.sleep(0)
        raise error

    with pytest.raises(ValueError, match="mine") as raised:
        await steps(fails(), told)
    assert raised.value is error
    assert "fails" in [entry.name for entry in raised.traceback]
    assert told.now is None


async def test_what_it_awaits_may_raise_into_it_and_it_goes_on(told: Told) -> None:
    async def waits_for(future: asyncio.Future[None]) -> str:
        try:
            await future
        except KeyError as error:
            await asyncio.sleep(0)
            return f"caught {error.args[0]}"
        return "no error"

    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(_awaited(steps(waits_for(future), told)))
    await asyncio.sleep(0)
    future.set_exception(KeyError("it"))
    assert await task == "caught it"


async def test_a_coroutine_may_raise_stop_iterations_kind_of_error(told: Told) -> None:
    async def fails() -> None:
        raise StopIteration(1)

    with pytest.raises(RuntimeError, match="StopIteration"):
        await steps(fails(), told)


async def test_cancellation_reaches_it_at_its_wait_and_its_finally_may_wait(told: Told) -> None:
    story: list[str] = []

    async def waits() -> None:
        try:
            story.append("waits")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            story.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0)
            story.append("cleaned up")

    task = asyncio.ensure_future(_awaited(steps(waits(), told)))
    await asyncio.sleep(0)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert story == ["waits", "cancelled", "cleaned up"]
    assert told.now is None


async def test_a_cancellation_that_it_swallows_is_swallowed(told: Told) -> None:
    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "still here"
        return "never"

    task = asyncio.ensure_future(_awaited(steps(stubborn(), told)))
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "still here"


async def test_a_timeout_inside_and_one_outside_work(told: Told) -> None:
    async def slow() -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            return "timed out inside"
        return "never"

    assert await steps(slow(), told) == "timed out inside"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await steps(asyncio.Event().wait(), told)


async def test_values_that_are_sent_in_arrive(told: Told) -> None:
    @types.coroutine
    def ask() -> Any:
        answer = yield "question"
        return answer

    async def asks() -> list[Any]:
        return [await ask(), await ask()]

    awaiting = steps(asks(), told).__await__()
    assert awaiting.send(None) == "question"
    assert awaiting.send("one") == "question"
    with pytest.raises(StopIteration) as end:
        awaiting.send("two")
    assert end.value.value == ["one", "two"]


def test_closing_it_closes_the_coroutine_whose_finally_runs(told: Told) -> None:
    story: list[str] = []

    @types.coroutine
    def wait() -> Any:
        yield "waiting"

    async def waits() -> None:
        try:
            await wait()
        except GeneratorExit:
            story.append("exit")
            raise
        finally:
            story.append("finally")

    awaiting = steps(waits(), told).__await__()
    assert next(awaiting) == "waiting"
    awaiting.close()
    assert story == ["exit", "finally"]
    assert told.now is None


def test_a_coroutine_that_does_not_want_to_close_is_told_off(told: Told) -> None:
    @types.coroutine
    def wait() -> Any:
        yield "waiting"

    async def waits() -> None:
        try:
            await wait()
        except GeneratorExit:
            await wait()

    awaiting = steps(waits(), told).__await__()
    next(awaiting)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        awaiting.close()


async def test_context_variables_are_those_of_the_task(told: Told) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    async def sets() -> None:
        await asyncio.sleep(0)
        variable.set("set inside")

    await steps(sets(), told)
    assert variable.get() == "set inside"


# -- whose step it is ------------------------------------------------------------------------------------------------


async def test_who_is_at_work_is_told_before_each_step_and_nobody_after_it(told: Told) -> None:
    seen: list[Lease | None] = []

    async def works() -> None:
        seen.append(told.now)
        await asyncio.sleep(0)
        seen.append(told.now)
        await asyncio.sleep(0)
        seen.append(told.now)

    await steps(works(), told)
    assert seen == [LEASE] * 3
    assert told.notes == [LEASE, None] * 3


async def test_while_it_waits_nobody_is_at_work(told: Told) -> None:
    gate = asyncio.Event()
    task = asyncio.ensure_future(_awaited(steps(gate.wait(), told)))
    await asyncio.sleep(0)
    assert told.notes == [LEASE, None]
    gate.set()
    await task
    assert told.notes == [LEASE, None, LEASE, None]


async def test_of_two_that_take_turns_each_is_told_for_its_own_steps() -> None:
    told = Told()
    other = LEASE._replace(id=2, fingerprint=8)
    seen: list[tuple[int, int]] = []

    async def works(own: Lease) -> None:
        for _ in range(3):
            assert told.now is not None
            seen.append((own.fingerprint, told.now.fingerprint))
            await asyncio.sleep(0)

    await asyncio.gather(*(_awaited(Steps(works(lease), told, lease)) for lease in (LEASE, other)))  # type: ignore[arg-type]
    assert seen == [(7, 7), (8, 8)] * 3


async def test_while_an_error_passes_through_it_is_at_work_and_then_nobody(told: Told) -> None:
    seen: list[Lease | None] = []

    async def fails() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(told.now)

    task = asyncio.ensure_future(_awaited(steps(fails(), told)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == [LEASE]
    assert told.now is None


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
