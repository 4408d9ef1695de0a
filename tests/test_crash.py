"""The named places where a test has the process die: off unless asked for."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crawler import crash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PACKAGE = Path(crash.__file__).parent


class Died(BaseException):
    pass


@pytest.fixture
def armed_with(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Load the module as a process would that has this in its environment; dying raises `Died`."""

    def load(value: str) -> None:
        monkeypatch.setenv("CRAWLER_CRASH_AT", value)
        importlib.reload(crash)

    def die(pid: int, signal: int) -> None:
        raise Died(pid, signal)

    monkeypatch.setattr("os.kill", die)
    yield load
    monkeypatch.delenv("CRAWLER_CRASH_AT", raising=False)
    importlib.reload(crash)


def test_without_the_variable_a_point_does_nothing_whatever_its_name() -> None:
    assert not crash.armed
    assert crash.point is crash._nothing
    assert crash._nothing.__code__.co_code == (lambda name: None).__code__.co_code, "no look at anything"
    crash.point("before_commit")


def test_the_process_dies_by_sigkill_at_the_point_of_that_name_and_at_no_other(
    armed_with: Callable[[str], None],
) -> None:
    armed_with("before_commit")
    assert crash.armed
    crash.point("after_commit")
    with pytest.raises(Died) as died:
        crash.point("before_commit")
    assert died.value.args[1] == 9


def test_a_number_says_at_which_passing(armed_with: Callable[[str], None]) -> None:
    armed_with("after_apply:3")
    crash.point("after_apply")
    crash.point("before_flush")
    crash.point("after_apply")
    with pytest.raises(Died):
        crash.point("after_apply")
    crash.point("after_apply")  # once


def test_some_test_dies_at_each_point_that_there_is() -> None:
    """`crash.point` as an attribute: `from crawler.crash import point` would keep what a test has replaced."""
    names = set()
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text()
        assert "from crawler.crash import" not in source, path
        names |= set(re.findall(r'crash\.point\("(\w+)"\)', source))
    tests = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py") if path != Path(__file__))
    assert [name for name in sorted(names) if f'"{name}' not in tests] == []
    assert len(names) >= 18


def test_nothing_that_is_not_loaded_anyway_is_loaded_for_it() -> None:
    imported = set(re.findall(r"^(?:import|from) (\w+)", (PACKAGE / "crash.py").read_text(), re.MULTILINE))
    assert imported - {"__future__"} <= {"itertools", "os", "signal"} <= set(sys.stdlib_module_names)
