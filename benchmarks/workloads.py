"""The six workloads: what is crawled, what each contestant is told, and whether it brought home what it should."""

from __future__ import annotations

import json
import socket
import sys
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nginx
import sites
from machine import ROOT

from crawler.demo import PER_PAGE
from tests.docs_site import docs_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from sites import Site

__all__ = ["CONTESTANTS", "PEERS", "Workload", "workloads"]

YARDSTICKS = ROOT / "benchmarks" / "yardsticks"
CONTESTANTS = ("ours", "plain", "tuned", "scrapy", "crawlee")
PEERS = {"scrapy": YARDSTICKS / "peer_scrapy.py", "crawlee": YARDSTICKS / "peer_crawlee.py"}
_OUR_SPIDERS = YARDSTICKS / "spiders.py"
_HAND_WRITTEN = {"plain": YARDSTICKS / "plain.py", "tuned": YARDSTICKS / "tuned.py"}
_SHOWN = 3
"""How many items of a difference are shown."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One of a to f. A contestant runs in a folder of its own: `out.jsonl`, `files/`, and our `job/`."""

    letter: str
    title: str
    unit: str
    """What `count` counts and costs are shown for: page, book page, file."""
    count: int | None
    """How many the contestants fetch and use; None where only the site can tell."""
    sizes: dict[str, Any]
    """What the site was made with, for the record."""
    open: Callable[[], AbstractContextManager[Site]]
    spider: str
    check: Callable[[Workload, str, Site, Path], list[str]]
    """(workload, contestant, site, folder): what is wrong, empty where nothing is."""
    targets: dict[str, float]
    """Our CPU as a share of a contestant's, at most."""
    one_host: bool = True
    missing: str | None = None
    """Why this machine cannot run it."""

    def units(self, site: Site) -> int:
        return len(site.expected) if self.count is None else self.count

    def command(self, contestant: str, site: Site, home: Path, concurrency: int, peers_python: Path) -> list[str]:
        """What runs this contestant in `home`."""
        if contestant == "ours":
            return self._ours(site, home, concurrency)
        script = {**PEERS, **_HAND_WRITTEN}[contestant]
        python = peers_python if contestant in PEERS else Path(sys.executable)
        command = [str(python), str(script), self.letter, site.start, str(home / "out.jsonl")]
        command += ["--concurrency", str(concurrency)]
        if site.bodies:
            command += ["--count", str(self.count), "--folder", str(home / "files")]
        if site.ca_file is not None:
            command += ["--ca-file", str(site.ca_file)]
        return command

    def _ours(self, site: Site, home: Path, concurrency: int) -> list[str]:
        settings: dict[str, Any] = {"crawl.concurrency": concurrency, "politeness.delay_seconds": 0}
        if self.one_host:
            settings["politeness.concurrency_per_host"] = concurrency
        if site.ca_file is not None:
            settings["tls.ca_file"] = site.ca_file
        arguments = {
            "a": {"start": site.start},
            "b": {"starts": site.start},
            "c": {"site": site.origin},
            "d": {"site": site.start, "count": self.count},
            "e": {"site": site.start, "count": self.count, "folder": home / "files"},
            "f": {"start": site.start},
        }[self.letter]
        command = [sys.executable, "-m", "crawler", "run", self.spider, "--spiders", str(ROOT / "spiders"), "--quiet"]
        command += ["--job", str(home / "job")]
        if site.expected:
            command += ["-O", str(home / "out.jsonl")]
        for name, value in arguments.items():
            command += ["-a", f"{name}={value}"]
        for name, value in settings.items():
            command += ["-s", f"{name}={value}"]
        return command


def workloads(quick: bool, folder: Path | None) -> list[Workload]:
    """All six, in order; `quick` makes them tiny, except a folder given for a and f instead of Debian's."""
    html = folder or docs_folder()
    if quick and folder is None and html is not None:
        html /= "tutorial"  # two dozen pages; what their links lead to outside answers 404
    a = _documentation(html)
    f = replace(
        a,
        letter="f",
        title="the same over HTTPS",
        open=partial(sites.documentation, html or Path(), tls=True),
        targets={},
        missing=a.missing or _unreachable("127.0.0.2"),
    )
    if quick:
        return [a, _hosts(10, 5), _shop(60), _numbered(200), _files(10), f]
    return [a, _hosts(500, 20), _shop(1000), _numbered(20_000), _files(1000), f]


def _documentation(html: Path | None) -> Workload:
    no_docs = None if html else "the Python documentation is not installed (apt-get install python3.11-doc)"
    return Workload(
        letter="a",
        title="Python's documentation",
        unit="page",
        count=None,
        sizes={"folder": html.name if html else None},
        open=partial(sites.documentation, html or Path()),
        spider="site",
        check=check_items,
        targets={"plain": 0.80, "tuned": 1.15, "scrapy": 0.10, "crawlee": 0.20},
        missing=_no_nginx() or no_docs,
    )


def _hosts(hosts: int, pages: int) -> Workload:
    return Workload(
        letter="b",
        title=f"{hosts} hosts of {pages} pages",
        unit="page",
        count=hosts * pages,
        sizes={"hosts": hosts, "pages": pages},
        open=partial(sites.hosts, hosts, pages),
        spider=f"{_OUR_SPIDERS}:Broad",
        check=check_items,
        targets={"plain": 1.15},
        one_host=False,
        missing=_no_nginx() or _unreachable("127.1.0.1"),
    )


def _shop(books: int) -> Workload:
    return Workload(
        letter="c",
        title=f"{books} books of the demo shop",
        unit="page",
        count=books + -(-books // PER_PAGE),  # and the lists
        sizes={"books": books},
        open=partial(sites.shop, books),
        spider="books",
        check=check_items,
        targets={"plain": 1.0},
        missing=_no_nginx(),
    )


def _numbered(pages: int) -> Workload:
    return Workload(
        letter="d",
        title=f"{pages} pages of 2 KB without links",
        unit="page",
        count=pages,
        sizes={"pages": pages, "bytes": 2000},
        open=sites.one_page,
        spider=f"{_OUR_SPIDERS}:Numbered",
        check=check_sums,
        targets={"plain": 1.35},
        missing=_no_nginx(),
    )


def _files(files: int) -> Workload:
    return Workload(
        letter="e",
        title=f"{files} files of 1 MB to disk",
        unit="file",
        count=files,
        sizes={"files": files, "bytes": 1_000_000},
        open=sites.files,
        spider=f"{_OUR_SPIDERS}:Files",
        check=check_files,
        targets={"plain": 1.15},
        missing=_no_nginx(),
    )


def _no_nginx() -> str | None:
    return None if nginx.find() else "nginx is not installed (apt-get install nginx)"


def _unreachable(address: str) -> str | None:
    # All of 127.0.0.0/8 is this machine on Linux; elsewhere each address has to be added first.
    try:
        with socket.create_server((address, 0)):
            return None
    except OSError:
        return f"{address} is no address of this machine (Linux has all of 127.0.0.0/8)"


# -- checking -------------------------------------------------------------------------------------------------------


def check_items(workload: Workload, contestant: str, site: Site, home: Path) -> list[str]:
    """The right items, each once."""
    counted: Counter[str] = Counter()
    with (home / "out.jsonl").open(encoding="utf-8") as lines:
        counted.update(sites.line(json.loads(text)) for text in lines)
    wrong = {
        "lacks": site.expected - counted.keys(),
        "has besides": counted.keys() - site.expected,
        "repeats": {item for item, count in counted.items() if count > 1},
    }
    found = [f"{what} {len(items)}: {' '.join(sorted(items)[:_SHOWN])}" for what, items in wrong.items() if items]
    return found if site.expected else ["no items at all are expected"]


def check_sums(workload: Workload, contestant: str, site: Site, home: Path) -> list[str]:
    """As many pages and bytes as there are."""
    told = home / ("job/stats.json" if contestant == "ours" else "out.jsonl")
    sums = json.loads(told.read_text(encoding="utf-8"))
    expected = {"pages": workload.count, "bytes": (workload.count or 0) * len(site.bodies[0])}
    return [
        f"{sums.get(what)} {what} instead of {value}" for what, value in expected.items() if sums.get(what) != value
    ]


def check_files(workload: Workload, contestant: str, site: Site, home: Path) -> list[str]:
    """The right files with the right bytes, and no others."""
    names = {str(number) for number in range(workload.count or 0)}
    there = {path.name for path in (home / "files").iterdir()}
    found = []
    if names != there:
        found.append(f"lacks {len(names - there)} files, has {len(there - names)} others")
    wrong = [
        name
        for name in sorted(names & there)
        if (home / "files" / name).read_bytes() != site.bodies[int(name) % len(site.bodies)]
    ]
    if wrong:
        found.append(f"{len(wrong)} files have other bytes: {' '.join(wrong[:_SHOWN])}")
    return found
