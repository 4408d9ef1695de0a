"""What the container is built of is written down to the last byte, and somebody asks whether flaws of it are known."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import pytest
from audit import first_of, judge
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PLACES = [
    {"python_version": "3.13", "python_full_version": "3.13.5", "sys_platform": "linux", "platform_system": "Linux",
    "os_name": "posix",
     "platform_machine": machine, "platform_python_implementation": "CPython", "implementation_name": "cpython"}
    for machine in ("x86_64", "aarch64")
]  # fmt: skip
ENTRY = re.compile(r"^([a-z0-9-]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n", re.MULTILINE)


def lock(name: str) -> dict[str, str]:
    """Versions by package."""
    return {name: version for name, version, _ in ENTRY.findall((ROOT / "requirements" / name).read_text("utf-8"))}


def needed(requirements: list[str], extras: tuple[str, ...] = ("",)) -> list[Requirement]:
    """Those that count on Python 3.13 on Linux, on either processor."""
    read = list(map(Requirement, requirements))
    return [
        each
        for each in read
        if each.marker is None
        or any(each.marker.evaluate({**place, "extra": extra}) for place in PLACES for extra in extras)
    ]


def missing(requirements: list[Requirement], locked: dict[str, str]) -> list[str]:
    return [
        str(each)
        for each in requirements
        if not each.specifier.contains(Version(locked.get(canonicalize_name(each.name), "0")), prereleases=True)
        or canonicalize_name(each.name) not in locked
    ]


@pytest.mark.hostile("S55")
@pytest.mark.parametrize("name", ["container.txt", "build.txt"])
def test_every_line_of_a_lock_is_an_exact_version_with_hashes_and_no_address(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    assert len(lock(name)) >= 5
    assert ENTRY.sub("", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)) == ""
    assert "://" not in text


@pytest.mark.hostile("S55")
def test_the_lock_has_all_that_the_project_asks_for() -> None:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    asked = [each for name in ("speed", "xpath", "redis", "postgres", "metrics") for each in extras[name]]
    assert missing(needed([*project["dependencies"], *asked]), lock("container.txt")) == []
    assert missing(needed(PROJECT["build-system"]["requires"]), lock("build.txt")) == []


@pytest.mark.parametrize("name", ["container.txt", "build.txt"])
def test_the_lock_has_all_that_its_packages_ask_for(name: str) -> None:
    locked, looked_at = lock(name), 0
    extras = {"aiohttp": ("", "speedups"), "redis": ("", "hiredis")}
    for package in locked:
        try:
            wanted = requires(package) or []
        except PackageNotFoundError:  # for another Python, or to build
            continue
        looked_at += 1
        assert missing(needed(wanted, extras.get(package, ("",))), locked) == [], package
    assert looked_at > len(locked) / 2 or name == "build.txt"


def test_a_requirement_that_the_lock_has_not_is_seen() -> None:
    assert missing(needed(["aiohttp>=999", "nothing", "brotli; python_version < '3'"]), lock("container.txt")) == [
        "aiohttp>=999",
        "nothing",
    ]


@pytest.mark.hostile("S55")
def test_the_image_installs_what_is_locked_and_nothing_else() -> None:
    installs = re.findall(r"pip (?:install|wheel) ([^\\\n]+)", DOCKERFILE)
    assert len(installs) == 4
    for options in installs:
        locked = "--require-hashes" in options and re.search(r"-r requirements/\w+\.txt", options)
        assert locked or ("--no-index" in options and "--no-deps" in options), options
    python = re.search(r"python:(3\.\d+)-slim", DOCKERFILE)
    assert python
    assert f"--python-version {python[1]}" in (ROOT / "Makefile").read_text(encoding="utf-8")


# -- audit.py ----------------------------------------------------------------------------------------------------------

CLEAN: dict[str, Any] = {"name": "a", "version": "1", "vulns": []}
FLAWED: dict[str, Any] = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1"}]}
UNKNOWN: dict[str, Any] = {"name": "c", "skip_reason": "not found"}


def report(*dependencies: dict[str, Any]) -> str:
    return json.dumps({"dependencies": dependencies})


@pytest.mark.hostile("S55")
@pytest.mark.parametrize("must", [True, False])
def test_a_known_flaw_fails(must: bool) -> None:
    verdict = judge([report(CLEAN, UNKNOWN), report(FLAWED)], must=must)
    assert (verdict.code, verdict.lines[1:]) == (1, ["b 2: PYSEC-1"])


@pytest.mark.parametrize("reports", [[""], ["Traceback"], [report(UNKNOWN)], [report(CLEAN), ""], ["[]"]])
def test_a_database_that_is_not_reached_is_said_and_fails_only_where_it_must(reports: list[str]) -> None:
    line = "pip-audit: skipped, its database cannot be reached"
    assert judge(reports, must=False) == (0, [line])
    assert judge(reports, must=True) == (1, [line])


def test_what_the_database_does_not_know_is_named() -> None:
    verdict = judge([report(CLEAN, UNKNOWN)], must=True)
    assert verdict == (0, ["pip-audit: no known flaw in 1 packages; its database does not know c"])


def test_the_first_question_is_one_entry_of_the_lock() -> None:
    assert len(ENTRY.findall(first_of((ROOT / "requirements" / "container.txt").read_text(encoding="utf-8")))) == 1


def test_it_is_part_of_what_ci_runs() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "test", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "tests/audit.py --if-possible" in done.stdout
