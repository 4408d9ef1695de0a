"""Names for files: nothing that a site says leads out of the folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from crawler import Request, Spider
from crawler.file_names import name_of
from crawler.testing import LocalSite, run_spider

NAMES = [
    "..", "../up", "../../../etc/passwd", "..%2f..%2fup", "%2e%2e/%2e%2e/up", "..\\..\\up", "/etc/passwd", "//etc/up",
    "C:\\up.txt", "C:up.txt", "\\\\server\\share", "~/.bashrc", "~root", ".bashrc", ".ssh/authorized_keys", "a/../up",
    "nul\0.txt", "up\0/../up", "line\nfeed", "carriage\r\nSet-Cookie: x", "tab\t", " ", ".", "-rf", "--help", "*",
    "?", "CON", "nul.txt", "aux.h", "LPT1", "file:stream", "x" * 300, "é" * 200, "x" * 300 + ".pdf", "\u202egpj.exe",
    "\u2066x\u2069.pdf", "\u200fx", "full\uff0fwidth", "\u2024\u2024\u2215up", "$(id)", "`id`", ";id", "|id", "&id",
    "%00", "%0a", "a.pdf/../../up.pdf", "x.php", "x.desktop", "x.exe", "x.pdf.exe", "x.exe.pdf", ".htaccess", ".part",
    "x.part", "Thumbs.db", "\x1b[31mred", "\ud83d", "name.PDF", "a b.zip",
]  # fmt: skip
PLAIN_BODY = {"Accept-Encoding": "identity"}
PLAIN = re.compile(r"[0-9a-f]{32}(\.(pdf|zip|html|txt|h))?")


class Keeps(Spider):
    name = "keeps"
    urls: tuple[str, ...] = ()
    folder = Path()
    resume = False

    async def start(self) -> Any:
        for url in self.urls:
            yield self.request(url, stream=True, headers=PLAIN_BODY, ok_status=[200, 404])

    async def parse(self, response: Any) -> Any:
        saved = await response.save_in(self.folder, resume=self.resume)
        yield {"url": response.url, "path": saved.path}


def in_path(name: str) -> str:
    return "/" + quote(name.encode("utf-8", "surrogatepass"))


@pytest.mark.hostile("S33")
@pytest.mark.parametrize("resume", [False, True])
async def test_whatever_a_site_calls_its_files_all_are_in_the_folder(tmp_path: Path, resume: bool) -> None:
    assert len(NAMES) >= 60
    folder = tmp_path / "deep" / "files"
    async with LocalSite() as site:
        urls = list(dict.fromkeys(Request(site.url + in_path(name)).url for name in NAMES))
        headers = {"ETag": '"1"', "Last-Modified": "Tue, 01 Jan 2019 00:00:00 GMT"}
        site.page("*", "content", headers=headers, content_type="application/octet-stream")
        for number, name in enumerate(NAMES):
            field = re.sub("[\x00-\x1f\x7f]", "", name.encode("utf-8", "replace").decode("latin-1"))
            disposition = f"attachment; filename=\"{field}\"; filename*=UTF-8''{in_path(name)[1:]}"
            site.page(f"/n{number}", "content", headers={**headers, "Content-Disposition": disposition})
            urls.append(f"{site.url}/n{number}")
        settings = {"crawl": {"max_path_segments": 0, "max_path_repeats": 0}, "politeness": {"obey_robots": False}}
        arguments = {"urls": urls, "folder": folder, "resume": resume}
        run = await run_spider(Keeps, args=arguments, settings=settings)
    assert len(run.items) == len(urls)
    paths = {Path(item["path"]) for item in run.items}
    assert len(paths) == len(urls)  # each has a file of its own
    assert {path for path in tmp_path.rglob("*") if not path.is_dir()} == paths
    assert [path for path in paths if path.parent != folder or not PLAIN.fullmatch(path.name)] == []


@pytest.mark.hostile("S33")
@pytest.mark.parametrize("resume", [False, True])
async def test_links_that_somebody_planted_under_the_names_are_not_followed(tmp_path: Path, resume: bool) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "files"
    victim.write_text("precious")
    folder.mkdir()
    async with LocalSite() as site:
        site.page("*", "content", headers={"ETag": '"1"'}, content_type="application/pdf")
        urls = [f"{site.url}/{number}" for number in range(3)]
        names = [name_of(url, url, "application/pdf") for url in urls]
        for planted in (names[0], f".{names[1]}.part", f".{names[2]}.part.json"):
            (folder / planted).symlink_to(victim)
        run = await run_spider(Keeps, args={"urls": urls, "folder": folder, "resume": resume})
    assert victim.read_text() == "precious"
    assert sorted(item["path"] for item in run.items) == sorted(str(folder / name) for name in names)
    assert {(folder / name).is_symlink() or (folder / name).read_text() for name in names} == {"content"}


async def test_a_url_has_the_same_name_at_every_visit_wherever_it_redirects_to(tmp_path: Path) -> None:
    async with LocalSite() as site:
        site.redirect("/latest", "/store/1?signature=a")
        site.page("/store/1", "content", content_type="application/zip")
        run = await run_spider(Keeps, args={"urls": [f"{site.url}/latest"], "folder": tmp_path})
    (item,) = run.items
    name = name_of(f"{site.url}/latest", "", "application/zip")
    assert item["path"] == str(tmp_path / name)
    assert name.endswith(".zip")
