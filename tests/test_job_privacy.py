"""A job folder into which others could put something is refused, before anything is written."""

from __future__ import annotations

import io
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from crawler import lock
from crawler.errors import JobError
from crawler.lock import private_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SPIDER = """
from crawler import Spider

class Says(Spider):
    name = "says"
    site = ""

    async def start(self):
        yield {"n": 1}
"""
STRANGER, US = 54_321, 12_345


@pytest.fixture
def crawl(command: Any, tmp_path: Path) -> Any:
    (tmp_path / "says.py").write_text(SPIDER)
    return lambda: command("run", "says.py", "--job", "job", "-o", "items.jsonl", "--fresh")


def everything_in(folder: Path) -> dict[str, Any]:
    found = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path)] = (status.st_mode, status.st_size if content else 0, status.st_ino, content)
    return found


def open_to_the_group(job: Path) -> None:
    job.chmod(0o770)


def open_to_all(job: Path) -> None:
    job.chmod(0o777)


def frontier_open_to_all(job: Path) -> None:
    (job / "frontier").chmod(0o777)


def link(name: str) -> Callable[[Path], None]:
    def plant(job: Path) -> None:
        path, victim = job / name, job.parent / "victim"
        if path.is_dir():
            path.rename(victim)
        else:
            victim.write_bytes(path.read_bytes() if path.exists() else b"of somebody")
            path.unlink(missing_ok=True)
        path.symlink_to(victim)

    return plant


FILES = ("lock", "stats.json", "stats.json.new", "crawl.log", "demo-port")


@pytest.mark.hostile("S52")
@pytest.mark.parametrize(
    ("plant", "says"),
    [
        pytest.param(open_to_the_group, "(mode 0770)", id="group-writable"),
        pytest.param(open_to_all, "(mode 0777), and so decide what this crawl does: take that away with `chmod go-w j"),
        pytest.param(frontier_open_to_all, "others may write into job/frontier"),
        *[
            pytest.param(link(name), f"job/{name} is a symbolic link", id=f"link at {name}")
            for name in (*FILES, "frontier", "frontier/data.mdb")
        ],
    ],
)  # fmt: skip
def test_what_was_planted_ends_the_command_before_anything_is_written(
    crawl: Any, command: Any, tmp_path: Path, plant: Callable[[Path], None], says: str
) -> None:
    assert crawl()[0] == 0
    plant(tmp_path / "job")
    before = everything_in(tmp_path)
    code, out, err = crawl()
    assert (code, out) == (2, "")
    assert says in err
    assert "--job" in err
    assert everything_in(tmp_path) == before
    if plant is not open_to_the_group:
        return
    assert command("run", "says.py", "--job", "job", "--demo")[0] == 2  # nor does --demo leave its note there
    assert everything_in(tmp_path) == before
    assert command("jobs", "rm", "job")[0] == 0  # which is a way out


def owned_by(path: Path, user: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root can give a file away; everybody else becomes another user, and everything a stranger's."""
    if os.geteuid() == 0:
        os.chown(path, user, -1)
    monkeypatch.setattr(os, "geteuid", lambda: US)


@pytest.mark.hostile("S52")
@pytest.mark.parametrize("name", ["", "crawl.log", "lock", "frontier", "frontier/data.mdb"])
def test_what_belongs_to_somebody_else_is_refused(
    crawl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert crawl()[0] == 0
    path = tmp_path / "job" / name
    owned_by(path, STRANGER, monkeypatch)
    before = everything_in(tmp_path)
    code, _, err = crawl()
    assert code == 2
    refused = path.relative_to(tmp_path) if os.getuid() == 0 else "job"
    assert f"{refused} belongs to user" in err
    assert "run the crawl as its owner" in err
    assert everything_in(tmp_path) == before


# -- what is as it should be -------------------------------------------------------------------------------------------


def test_a_folder_that_the_crawl_made_is_taken_again_whatever_the_umask(crawl: Any, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert [crawl()[0] for _ in range(2)] == [0, 0]
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "job").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o1777, 0o500 | 0o200])
def test_a_folder_into_which_nobody_else_can_put_anything_is_taken(crawl: Any, tmp_path: Path, mode: int) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job").chmod(mode)
    (tmp_path / "job" / "notes.txt").symlink_to("elsewhere")  # the user's own
    assert crawl()[0] == 0
    assert stat.S_IMODE((tmp_path / "job").stat().st_mode) == mode


def test_the_folder_may_be_named_by_a_link_and_what_is_around_it_does_not_matter(crawl: Any, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir(mode=0o777)
    (tmp_path / "far").chmod(0o777)
    (tmp_path / "far" / "away").mkdir(mode=0o700)
    (tmp_path / "job").symlink_to("far/away")
    assert crawl()[0] == 0


def test_root_works_in_everybodys_folder_as_containers_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: US)
    owner = tmp_path.stat().st_uid
    if owner == 0:
        os.chown(tmp_path, STRANGER, -1)
    with pytest.raises(JobError, match="belongs to user"):
        private_folder(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    private_folder(tmp_path)


def test_on_a_file_system_without_modes_they_say_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(JobError, match="others may write"):
        private_folder(tmp_path)
    everything_is_0777 = tmp_path / "probe"
    everything_is_0777.touch()
    everything_is_0777.chmod(0o777)
    monkeypatch.setattr(lock.tempfile, "TemporaryFile", lambda **_: io.FileIO(everything_is_0777))
    private_folder(tmp_path)
