"""The benchmarks run, and notice when somebody brings home less than he should or costs more than he may."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.docs_site import missing

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a module of `benchmarks/`, which are scripts and no package."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(BENCHMARKS / "instructions"))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(BENCHMARKS):
            del sys.modules[name]


@pytest.fixture
def record(scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`record.py`, with a file of its own."""
    module = scripts("record")
    monkeypatch.setattr(module, "FILE", tmp_path / "record.json")
    return module


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
@pytest.mark.parametrize("letter", "abcdef")
def test_each_workload_is_brought_home_by_us_and_by_the_hand_written_loops(letter: str) -> None:
    command = [sys.executable, str(BENCHMARKS / "bench.py"), "--quick", "--only", letter, "--no-results"]
    command += ["--contestants", "ours,plain,tuned"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "ours" in done.stdout
    assert "tuned" in done.stdout


BROUGHT = {
    "all": ([1, 2, 3], []),
    "too few": ([1, 2], ["lacks 1"]),
    "too many": ([1, 2, 3, 4], ["has besides 1"]),
    "one twice": ([1, 2, 3, 3], ["repeats 1"]),
    "another": ([1, 2, 5], ["lacks 1", "has besides 1"]),
    "nothing": ([], ["lacks 3"]),
}


@pytest.mark.parametrize("brought", BROUGHT)
def test_what_is_missing_too_much_or_repeated_is_found(scripts: Any, tmp_path: Path, brought: str) -> None:
    sites, workloads = scripts("sites"), scripts("workloads")
    numbers, wanted = BROUGHT[brought]
    site = sites.Site("", "", expected=frozenset(sites.line({"url": number}) for number in (1, 2, 3)))
    (tmp_path / "out.jsonl").write_text("".join(json.dumps({"url": number}) + "\n" for number in numbers))
    found = workloads.check_items(None, "ours", site, tmp_path)
    assert [problem.partition(":")[0] for problem in found] == wanted


@pytest.mark.parametrize(
    ("found", "failed", "word"),
    [(1000, False, "ok"), (1099, False, "ok"), (1101, True, "TOO MANY"), (899, False, "renewed"), (901, False, "ok")],
)
def test_a_page_that_costs_a_tenth_more_than_recorded_is_a_failure(
    record: Any, found: int, failed: bool, word: str
) -> None:
    record.write({"links": 1000})
    verdict = record.check({"links": found}, "count.py")
    assert verdict.failed is failed
    assert word in verdict.lines[0]
    assert ("count.py --workload links --why" in verdict.lines[0]) is failed


def test_where_nothing_is_recorded_it_is_said_and_no_failure(record: Any) -> None:
    verdict = record.check({"links": 1}, "count.py")
    assert not verdict.failed
    assert "there is no record" in verdict.lines[0]


def test_there_is_a_record_for_both_workloads() -> None:
    recorded = json.loads((BENCHMARKS / "instructions" / "record.json").read_text())
    assert {name for name, figures in recorded["workloads"].items() if "3.11" in figures} == {"links", "bare"}
