"""Methods of a spider, as its class attributes name them: by their names, as functions of the class body, or bound."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Any

from crawler.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.spider import Spider

__all__ = ["function_of", "is_async", "method_name", "outputs"]


def method_name(spider: Spider, given: Any, where: str) -> str:
    """The name under which a request can keep it. Raises `UsageError`, which says `where`, for what the spider has not
    got."""
    name = given if isinstance(given, str) else getattr(given, "__name__", "")
    method = getattr(spider, name, None) if name else None
    if not callable(method) or not (isinstance(given, str) or _function(method) is _function(given)):
        raise UsageError(f"{where} of spider {spider.name!r}: {given!r} is no method of it, nor the name of one")
    return str(name)


def function_of(spider: Spider, given: Any, where: str) -> Callable[..., Any]:
    """What is to be called: the spider's method of that name, or any function. Raises `UsageError`."""
    found = getattr(spider, given, None) if isinstance(given, str) else given
    if not callable(found):
        raise UsageError(f"{where} of spider {spider.name!r}: {given!r} is no method of it, nor a function")
    function: Callable[..., Any] = found
    return function


def is_async(result: Any) -> bool:
    """Whether what a callback returned has to be waited for."""
    return inspect.isawaitable(result) or isinstance(result, AsyncIterator)


async def outputs(result: Any) -> AsyncGenerator[Any, None]:
    """What a callback of any shape gives, from what calling it returned."""
    if inspect.isawaitable(result):
        result = await result
    if not isinstance(result, AsyncIterator):
        yield result
        return
    async with contextlib.AsyncExitStack() as stack:
        if isinstance(result, AsyncGenerator):  # left in its middle, its `finally` is to run now
            stack.push_async_callback(result.aclose)
        async for output in result:
            yield output


def _function(method: Any) -> Any:
    return getattr(method, "__func__", method)
