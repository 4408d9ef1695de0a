"""What the matrix tests share: httpbin, and the two ways of asking."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from asking import WAYS
from httpbin_server import HttpBin

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def httpbin() -> Iterator[HttpBin]:
    """One for each process that runs tests, started for the first that wants it."""
    with HttpBin() as server:
        yield server


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """A test that takes this runs twice: its requests are yielded, and fetched inline."""
    return str(request.param)
