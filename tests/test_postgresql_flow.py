"""Whole crawls into a table of PostgreSQL: killed, continued, looked at."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest
from numbers_job import Job, Numbers
from postgres_server import PASSWORD

from crawler.testing import LocalSite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from postgres_server import Server

POINTS = (
    "mid_output_write",
    "after_output_before_commit:2",
    "recovery_outputs",
    "after_outputs_closed",
)


class TableJob(Job):
    """Its items are in a table as well as in a file."""

    def __init__(self, folder: Path, numbers: Numbers, server: Server) -> None:
        super().__init__(folder, numbers)
        self.server = server
        self.address = server.database()
        self.outputs = ("out.jsonl", f"{self.address}&table=numbers")

    def items_in(self, output: str) -> list[dict[str, int]]:
        if output == "out.jsonl":
            return super().items_in(output)
        database = self.address.partition("?")[0].rpartition("/")[2]
        found = self.server.sql(
            "SELECT json_agg(json_build_object('number', number, 'twice', twice)) FROM numbers", database
        )
        items: list[dict[str, int]] = json.loads(found)
        return items


@pytest.fixture
async def job(tmp_path: Path, postgres: Server) -> AsyncIterator[TableJob]:
    async with LocalSite() as site:
        yield TableJob(tmp_path, Numbers(site), postgres)


async def test_killed_at_one_point_after_the_other_a_crawl_gives_every_row_once(job: TableJob) -> None:
    for point in POINTS:
        async with job.crawl(crash_at=point) as crawl:
            assert await crawl.ends() == -signal.SIGKILL, f"{point} was not passed:\n{crawl.said}"
    async with job.crawl() as last:
        assert await last.ends() == 0, last.said
    job.assert_complete()


async def test_a_server_that_restarts_while_a_crawl_writes_costs_nothing(job: TableJob) -> None:
    job.numbers.hold_after(100)
    async with job.crawl() as crawl:
        await job.committed(101)
        job.server.stop("immediate")
        job.numbers.open()
        job.server.start()
        assert await crawl.ends() == 0, crawl.said
    job.assert_complete()


SPIDER = """
from crawler import Spider

class Three(Spider):
    name = "three"
    async def start(self):
        for n in range(3):
            yield {"n": n}
"""


def test_what_a_crawl_and_its_job_show_has_no_password(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path, postgres: Server
) -> None:
    database = postgres.database().partition("?")[0].rpartition("/")[2]
    role = f"secretive_{database}"
    postgres.sql(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'; GRANT ALL ON SCHEMA public TO {role}", database)
    target = postgres.address(database, role, PASSWORD, table="books")
    (tmp_path / "three.py").write_text(SPIDER)
    said = [
        command("run", "three.py", "--job", "j", "-o", target),
        command("run", "three.py", "--job", "j", "-O", target),
        command("explain", "http://127.0.0.1/", "--job", "j"),
        command("jobs", "j"),
        command("jobs", "repair", "j"),
        command("jobs", "export", "j", "-o", "all.jsonl"),
    ]
    assert [code for code, _, _ in said] == [0, 0, 1, 0, 0, 2]
    assert "in a database, where they can be queried: postgresql://***@" in said[-1][2]
    assert postgres.sql("SELECT string_agg(n::text, ' ') FROM books", database) == "0 1 2", (
        "-O replaces the first crawl's"
    )
    everything = "".join(out + err for _, out, err in said).encode()
    everything += b"".join(path.read_bytes() for path in (tmp_path / "j").rglob("*") if path.is_file())
    assert b"hunter2" not in everything
    assert f"***@/{database}".encode() in everything


def test_a_refresh_does_not_replace_a_table_by_what_has_changed(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path, postgres: Server
) -> None:
    (tmp_path / "three.py").write_text(SPIDER)
    target = postgres.database()
    assert command("run", "three.py", "--job", "j", "-O", target)[0] == 0
    code, _, said = command("run", "three.py", "--job", "j", "-O", target, "--refresh")
    assert code == 2
    assert "would replace what is there" in said
