"""Has anybody reported a flaw in what the container installs, or in what builds it?

    python tests/audit.py [--if-possible]

pip-audit asks its database about the versions of `requirements/`. It is put into a folder of its own, `.tools/audit`,
with what it needs. One known flaw fails. Where pip-audit cannot be had or its database cannot be reached, that is said
in one line: no failure with `--if-possible`, for a test that needs no network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LOCKS = [ROOT / "requirements" / name for name in ("container.txt", "build.txt")]
TOOL = ROOT / ".tools" / "audit"
_PATIENCE_SECONDS = "2"


class Verdict(NamedTuple):
    code: int
    lines: list[str]


def judge(reports: list[str], *, must: bool) -> Verdict:
    """From what pip-audit wrote about each lock, as JSON; what is no JSON is a database that was not reached. So is
    one that knows none of the packages: pip-audit itself would call that clean."""
    found: list[dict[str, Any]] = []
    for report in reports:
        try:
            found += json.loads(report)["dependencies"]
        except (ValueError, KeyError, TypeError):
            return _unreached(must)
    asked = [each for each in found if "skip_reason" not in each]
    flaws = [f"{each['name']} {each['version']}: {flaw['id']}" for each in asked for flaw in each["vulns"]]
    if flaws:
        return Verdict(
            1, ["pip-audit: known flaws in what the container installs; try `make lock ARGS=--upgrade`", *flaws]
        )
    if not asked:
        return _unreached(must)
    unknown = sorted(each["name"] for each in found if "skip_reason" in each)
    told = f"pip-audit: no known flaw in {len(asked)} packages"
    return Verdict(0, [told + (f"; its database does not know {', '.join(unknown)}" if unknown else "")])


def _unreached(must: bool) -> Verdict:
    return Verdict(int(must), ["pip-audit: skipped, its database cannot be reached"])


def first_of(lock: str) -> str:
    """The first entry alone: the question by which to find out whether anybody answers."""
    lines = [line for line in lock.splitlines() if not line.startswith("#")]
    end = next(number for number, line in enumerate(lines) if not line.endswith("\\"))
    return "\n".join(lines[: end + 1]) + "\n"


def _installed() -> bool:
    if (TOOL / "pip_audit").is_dir():
        return True
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "0"]
    command += ["--timeout", _PATIENCE_SECONDS, "--target", str(TOOL), *wanted["audit"]]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _asked(lock: Path | str) -> str:
    """What pip-audit says of a lock, which is a file or text."""
    command = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip", "--progress-spinner", "off"]
    command += ["--format", "json", "--timeout", _PATIENCE_SECONDS]
    command += ["--requirement", str(lock) if isinstance(lock, Path) else "/dev/stdin"]
    told = None if isinstance(lock, Path) else lock
    environment = {**os.environ, "PYTHONPATH": str(TOOL)}
    return subprocess.run(command, input=told, env=environment, capture_output=True, text=True, check=False).stdout


def main(arguments: list[str]) -> int:
    must = "--if-possible" not in arguments
    if not _installed():
        verdict = Verdict(int(must), ["pip-audit: skipped, it cannot be installed here"])
    else:
        verdict = judge([_asked(first_of(LOCKS[0].read_text(encoding="utf-8")))], must=must)
        if "skipped" not in verdict.lines[0]:
            verdict = judge(list(map(_asked, LOCKS)), must=must)
    print("\n".join(verdict.lines))
    return verdict.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
