"""The benchmarks run, and notice when somebody brings home less than he should or costs more than he may."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from crawler.download.body import Decoder
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


# -- politeness.py ----------------------------------------------------------------------------------------------------


def test_a_killed_crawl_is_judged_by_the_journals_of_its_hosts() -> None:
    command = [sys.executable, str(BENCHMARKS / "politeness.py"), "--quick", "--only", "kill", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "pages got: 60 of 60" in done.stdout
    assert "SIGKILLs" in done.stdout


@pytest.fixture
def journal(scripts: Any) -> Any:
    """`politeness_journal`, with `site(hits)`: one plain host of four pages, whose journal is (path, arrival,
    end, status) each."""
    module, sites = scripts("politeness_journal"), scripts("politeness_site")

    def site(*hits: tuple[str, float, float, int]) -> Any:
        made = sites.Site([sites.Script(pages=4)], 1)
        for path, arrived, ended, status in hits:
            hit = sites.Hit(0, path, after=arrived - 0.002)
            hit.arrived, hit.ended, hit.status = arrived, ended, status
            made.journal.note(hit)
        return made

    module.site = site
    return module


def pages(*arrivals: float, took: float = 0.1) -> list[tuple[str, float, float, int]]:
    return [(f"/page/{number}", at, at + took, 200) for number, at in enumerate(arrivals)]


def test_a_gap_below_the_delay_is_named_unless_it_is_within_5_ms_or_the_journal_was_not_read(journal: Any) -> None:
    site = journal.site(*pages(1.0, 2.0, 2.997, 3.9, 4.8))
    site.journal.hits[-2].after = 3.7  # the last gap may have been a second
    found = journal.gaps(site, lambda script: 1.0)
    assert (found.short, found.slightly, found.stalled, found.count) == (1, 1, 1, 4)
    assert found.words == ["903.0 ms instead of 1000: 127.0.0.2/page/2 200, then 127.0.0.2/page/3 200"]


def test_a_gap_in_which_the_crawl_was_killed_is_counted_apart(journal: Any) -> None:
    site = journal.site(*pages(1.0, 2.0, 3.5))
    site.journal.deaths.append(2.5)
    found = journal.gaps(site, lambda script: 1.0)
    assert (found.across, found.least_across) == (1, 1.5)


def test_requests_that_overlap_at_a_host_are_counted(journal: Any) -> None:
    assert journal.concurrency(journal.site(*pages(1.0, 1.1, 1.2, took=0.25))) == (3, "127.0.0.2")
    assert journal.concurrency(journal.site(*pages(1.0, 1.1, 1.2, took=0.05)))[0] == 1


@pytest.mark.parametrize(
    ("arrival", "death", "counted"),
    [
        (1.3, None, (1, 0, 0)),
        (1.105, None, (0, 1, 0)),
        (3.2, None, (0, 0, 0)),
        (2.5, 2.0, (1, 0, 0)),
        (2.5, 1.3, (0, 0, 1)),
    ],
)
def test_a_request_is_inside_a_pause_unless_it_was_on_its_way_or_the_pause_died_with_the_crawl(
    journal: Any, arrival: float, death: float | None, counted: tuple[int, int, int]
) -> None:
    site = journal.site(("/page/0", 1.0, 1.1, 429), ("/page/1", arrival, arrival + 0.1, 200))
    site.journal.hits[0].wait_until = 3.1
    site.journal.deaths += [] if death is None else [death]
    found = journal.windows(site)
    assert found[2:5] == counted
    assert found.count == 1


@pytest.mark.parametrize(("death", "found"), [(None, (1, 0, 1)), (1.3, (1, 1, 0)), (1.9, (1, 0, 1))])
def test_a_second_robots_txt_is_a_fault_unless_the_first_one_died_with_the_crawl(
    journal: Any, death: float | None, found: tuple[int, int, int]
) -> None:
    site = journal.site(("/robots.txt", 1.0, 1.1, 200), ("/robots.txt", 2.0, 2.1, 200))
    site.journal.deaths += [] if death is None else [death]
    more, lost, words = journal.robots(site)
    assert (more, lost, len(words)) == found


def test_pages_that_nobody_got_or_somebody_got_twice_are_named(journal: Any) -> None:
    site = journal.site(*pages(1.0, 2.0, 3.0), ("/page/2", 4.0, 4.1, 200), ("/page/3", 5.0, 5.1, 503))
    assert journal.pages(site) == (4, ["127.0.0.2/page/3"])
    assert journal.repeats(site) == (0, ["127.0.0.2/page/2 200 twice"])
    site.journal.deaths.append(3.5)
    assert journal.repeats(site) == (1, [])
    assert journal.requests_a_page(site) == 5 / 4


def test_efficiency_is_what_was_asked_for_over_what_the_delay_allows(journal: Any) -> None:
    swift = journal.efficiency(journal.site(*pages(1.0, 2.0, 3.0, 4.0)), 1.0, 2, 1.0)
    assert swift.spaced == pytest.approx(1.0)
    assert swift.issue == pytest.approx(4 / (4 * 2 / 1.1))
    halved = journal.efficiency(journal.site(*pages(1.0, 3.0, 5.0, 7.0)), 1.0, 2, 1.0)
    assert halved.spaced == pytest.approx(4 / 7)
    slow = journal.efficiency(journal.site(*pages(1.0, 3.0, 5.0, 7.0, took=4.0)), 1.0, 2, 1.0)
    assert slow.spaced == pytest.approx(1.0)  # two places of a host that takes 4 s: one in 2 s


@pytest.mark.hostile("R-26")
def test_of_ten_thousand_hosts_none_waits_for_longer_than_its_delay_and_none_stays_in_memory(scripts: Any) -> None:
    model = scripts("politeness_model")
    seen = model.simulate(model.Load(hosts=10_000, pages=2, delay=1.0, jitter=0, latency=0.05, adaptive=False))
    assert (seen.pages, seen.met, seen.hosts_left) == (20_000, 10_000, 0)
    assert seen.quick_wait.times < 3
    assert seen.last_met < 3


def test_the_simulated_crawl_gets_every_page_and_sees_who_waits(scripts: Any) -> None:
    model = scripts("politeness_model")
    seen = model.simulate(model.Load(hosts=20, pages=5, delay=1.0, adaptive=False))
    assert (seen.pages, seen.hosts_left) == (100, 0)
    assert 0.99 < seen.efficiency <= 1.0001
    crowded = model.simulate(model.Load(hosts=20, pages=5, delay=1.0, adaptive=False, concurrency=1, latency=0.2))
    assert crowded.efficiency < 0.6
    assert crowded.quick_wait.times > 2
    slow = model.simulate(model.Load(hosts=20, slow=5, pages=0, seconds=20, warm_up=5, concurrency=8))
    assert slow.quick_pages > 0.9 * slow.pages
    assert slow.met == 15


@pytest.mark.hostile("R-41")
async def test_a_soak_of_a_few_seconds_loses_doubles_and_leaks_nothing(scripts: Any, tmp_path: Path) -> None:
    soak = scripts("soak")
    done = await soak.soak(tmp_path, seconds=1.0, rate=0.2, pages=60)
    assert (done.problems, done.complaints, done.code) == ([], [], 0)
    assert done.last >= 60
    assert done.faults.total() > 5
    assert max(done.tasks) == min(done.tasks), "each page saw as many tasks"


def test_a_soak_notices_what_is_missing_comes_twice_or_grows(scripts: Any) -> None:
    soak = scripts("soak")
    expected = soak.Expected.of(30)
    items = [{"number": number} for number in expected.items] + [{"flood": 1}] * soak.FLOOD
    assert soak._differences(items, sorted(expected.refused), expected) == []
    assert soak._differences(items[1:], sorted(expected.refused), expected) == ["1 items lost: [1]"]
    assert soak._differences([*items, {"number": 1}], [], expected) == [
        "1 items twice: [1]",
        "2 refused items lost: [4, 24]",
    ]
    assert soak.growth([5, 9, 100, 100, 100]) == 0.0
    assert soak.growth(list(range(100, 200))) > soak.MOST_GROWTH


# -- hostile.py -------------------------------------------------------------------------------------------------------


def test_a_bomb_and_a_private_address_hurt_the_plain_client_and_not_this_one() -> None:
    command = [sys.executable, str(BENCHMARKS / "hostile.py"), "--quick", "--only", "rules,private,/bomb/zstd"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    told = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("    ")]
    plain, here = ([words for side, words in told if side == wanted] for wanted in ("plain", "here"))
    assert len(plain) == len(here) == len(told) / 2
    assert here[0] == "all refused"
    assert here[-2] == "0 connections" != plain[-2]
    assert here[-1].startswith("body_too_large; ")
    assert plain[-1].startswith("200, 32 MiB; ")


@pytest.mark.parametrize(
    ("seen", "asked", "found"),
    [
        ({"outcome": "body_too_large"}, {"outcome": ("body_too_large",)}, ""),
        ({"outcome": "200, 32 MiB"}, {"outcome": ("body_too_large",)}, "200, 32 MiB instead of body_too_large"),
        ({"canary": 2}, {"canary": 0}, "2 connections"),
        ({"seconds": 10.9}, {"over_seconds": 1.0}, ""),
        ({"seconds": 11.1}, {"over_seconds": 1.0}, "11.1 s with a time-out of 10 s"),
        ({"grown_mib": 63.0}, {"grown_mib": 64.0}, ""),
        ({"grown_mib": 65.0}, {"grown_mib": 64.0}, "grown_mib 65.00 > 64"),
        ({"outcome": "killed by SIGSEGV"}, {"grown_mib": 64.0}, "grown_mib inf > 64"),
    ],
)
def test_what_is_not_as_promised_is_told(scripts: Any, seen: Any, asked: Any, found: str) -> None:
    options = SimpleNamespace(quick=False, timeout=10.0)
    assert scripts("hostile").missed(seen, asked, options) == found


def test_the_bombs_are_as_large_as_they_say(scripts: Any) -> None:
    bombs = scripts("hostile_site")._bombs(blocks=2)
    sizes = {coding: sum(map(len, Decoder(coding, 1 << 30).feed(body))) for coding, body in bombs}
    assert sizes == dict.fromkeys(("gzip", "deflate", "br", "zstd", "gzip, gzip"), 32 << 20)


# -- guards.py --------------------------------------------------------------------------------------------------------

CARELESS = """
import asyncio, gzip, json
from crawler import Spider
from crawler.testing import Canary, LocalSite, run_spider

class Careless(Spider):
    name = "careless"

    async def start(self):
        yield self.request(self.site + "/")

    def parse(self, response):
        yield {"bytes": len(response.body)}
        yield response.follow_all("a")

async def main():
    async with LocalSite() as site, Canary() as canary:
        deep = "/a" * 30
        site.page("/", f'<a href="/bomb">large</a><a href="{deep}">deep</a><a href="{canary.url}/">private</a>')
        site.page("/bomb", gzip.compress(bytes(11 << 20)), headers={"Content-Encoding": "gzip"}, content_type="a/b")
        site.page(deep, "deep")
        retry = {"times": 0}
        result = await run_spider(Careless, args={"site": site.url}, settings={"retry": retry})
        sizes = sorted(item["bytes"] for item in result.items)
        print(json.dumps({"pages": len(sizes), "largest": sizes[-1], "inside": canary.connections > 0}))

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("off", "pages", "is_hurt"), [("none", 1, False), ("all", 3, True)], ids=["guarded", "unguarded"]
)
def test_a_crawl_without_its_guards_takes_what_one_with_them_refuses(
    tmp_path: Path, off: str, pages: int, is_hurt: bool
) -> None:
    """And each guard is still where `unguarded.py` looks for it: what has another name now is an error there."""
    (tmp_path / "careless.py").write_text(CARELESS)
    command = [sys.executable, str(BENCHMARKS / "unguarded.py"), off, str(tmp_path / "careless.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["pages"] == pages
    assert (seen["largest"] > 10 << 20) is is_hurt
    assert seen["inside"] is is_hurt


def test_a_guard_that_is_not_known_is_an_error(scripts: Any) -> None:
    with pytest.raises(KeyError, match="addreses"):
        scripts("unguarded").switch_off(["addreses"])


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_crawls_with_guards_and_without_bring_home_the_same_pages() -> None:
    command = [sys.executable, str(BENCHMARKS / "guards.py"), "--quick", "--only", "seconds"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "| CPU of the same, with gzip |" in done.stdout


def test_what_guards_cost_is_the_median_of_pairs_and_that_of_the_cheapest_runs(scripts: Any) -> None:
    guards = scripts("guards")
    pairs = [(100.0, 96.0), (110.0, 99.0), (200.0, 190.0)]
    (found,) = guards.shares({"instructions": [{"name": "links", "pairs": pairs}]})
    assert found["share"] == pytest.approx(0.05)
    assert found["of_least"] == pytest.approx(0.04)
    assert (found["least"], found["most"]) == (pytest.approx(0.04), pytest.approx(0.10))
