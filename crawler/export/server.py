"""A PostgreSQL server as outputs meet it: connecting, asking again, and what its errors mean.

asyncpg is an extra, and loaded when somebody names a database.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from crawler.errors import OutputError, UsageError
from crawler.redaction import redact_text

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    import asyncpg

    from crawler.export.address import Address

__all__ = ["connect", "driver", "errors", "not_now", "persistently"]

logger = logging.getLogger("crawler.postgresql")

T = TypeVar("T")

_CONNECT_SECONDS = 10.0
_COMMAND_SECONDS = 600.0
"""Other workers wait as long while a column becomes wider and the table is written anew."""
_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 5.0
_AGAIN = "When the cause is gone, the same command continues."


def driver() -> Any:
    """asyncpg. Raises `UsageError` where it is not installed."""
    try:
        import asyncpg
    except ImportError as error:
        raise UsageError(
            "a PostgreSQL output needs asyncpg, which is an extra: pip install crawler[postgres]"
        ) from error
    return asyncpg


async def connect(address: Address) -> asyncpg.Connection[Any]:
    """Raises what the driver does, and `UsageError` where the server has no TLS and nobody said that it may lack it."""
    # No statement is kept prepared: behind a pooler the next transaction may be on another connection.
    try:
        connection: asyncpg.Connection[Any] = await driver().connect(
            address.dsn, timeout=_CONNECT_SECONDS, command_timeout=_COMMAND_SECONDS, statement_cache_size=0
        )
    except ConnectionError as error:
        if address.needs_tls and "rejected SSL" in str(error):
            raise UsageError(
                f"output {address.shown!r}: the server has no TLS, and password and items would go there in clear. "
                "Where that is as it should be, add sslmode=disable to the address"
            ) from error
        raise
    return connection


async def persistently(work: Callable[[], Coroutine[Any, Any, T]], seconds: float, address: Address) -> T:
    """What `work` gives. It is asked again for so long where the server or the way to it is the trouble."""
    from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_delay, wait_random_exponential

    def tell(state: RetryCallState) -> None:
        error = None if state.outcome is None else state.outcome.exception()
        if state.attempt_number == 1 and isinstance(error, Exception):
            said = _said(address, error) or type(error).__name__
            logger.warning("%s: %s; trying again for %.0f s", address.shown, said, seconds)

    retrying = AsyncRetrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_delay(seconds),
        wait=wait_random_exponential(multiplier=_FIRST_WAIT_SECONDS, max=_LONGEST_WAIT_SECONDS),
        before_sleep=tell,
        reraise=True,
    )
    return await retrying(work)


def _may_pass(error: BaseException) -> bool:
    postgres = driver()
    return isinstance(
        error,
        (
            OSError,  # `TimeoutError` among them
            postgres.PostgresConnectionError,
            postgres.AdminShutdownError,
            postgres.CrashShutdownError,
            postgres.CannotConnectNowError,
            postgres.TooManyConnectionsError,
            postgres.SerializationError,
            postgres.DeadlockDetectedError,
            postgres.ReadOnlySQLTransactionError,  # of a server that is being replaced by another
        ),
    )


def not_now() -> tuple[type[Exception], ...]:
    """Why columns cannot be changed: somebody reads them, the table is another's, a view is made of them."""
    postgres = driver()
    return (
        postgres.LockNotAvailableError,
        postgres.InsufficientPrivilegeError,
        postgres.FeatureNotSupportedError,
        postgres.DependentObjectsStillExistError,
    )


@contextlib.contextmanager
def errors(address: Address, what: str) -> Iterator[None]:
    """The driver's errors and the system's as `OutputError`, without a password."""
    postgres = driver()
    try:
        yield
    except postgres.PostgresError as error:
        name = f"{type(error).__name__}, {error.sqlstate}"
        raise OutputError(f"{address.shown} {what}: {_said(address, error)} ({name}). {_AGAIN}") from error
    except postgres.ClientConfigurationError as error:
        raise UsageError(f"output {address.shown!r}: {_said(address, error)}") from None
    except (postgres.InterfaceError, OSError, ValueError) as error:  # ValueError: of a parameter in the address
        said = _said(address, error) or type(error).__name__
        raise OutputError(f"{address.shown} {what}: {said}. {_AGAIN}") from None  # its text may quote the address


def _said(address: Address, error: Exception) -> str:
    said = " ".join(str(error).split()).rstrip(".")
    for secret in filter(None, [address.dsn, address.password]):
        said = said.replace(secret, "***")
    return redact_text(said)
