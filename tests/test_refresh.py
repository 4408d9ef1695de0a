"""`crawler run --refresh`: the pages of a finished job again, at the price of those that have changed."""

from __future__ import annotations

import datetime as dt
import json
import logging
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import forked
import kept_job
import pytest
from aiohttp import web

from crawler import Spider, crawl, stream
from crawler import url as urls
from crawler.errors import JobError, UsageError
from crawler.explain import explain
from crawler.fate import Fate, Revisit
from crawler.frontier.previous import Previous
from crawler.frontier.reader import FrontierReader
from crawler.jobs import open_frontier, overview, remove
from crawler.testing import LocalSite, run_spider
from crawler.url import Fingerprinter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FIXTURES = Path(__file__).parent / "fixtures"


class Shop:
    """Pages with validators. A handler answers as RFC 9110, section 13.2.2, has it: ETags first, dates without them."""

    def __init__(self, site: LocalSite) -> None:
        self.site = site
        self.url = site.url
        self.pages: dict[str, dict[str, Any]] = {}
        site.route("*", self._answer)

    def put(self, path: str, text: str, **headers: str) -> None:
        """`etag` and `last_modified` are its validators; none: it is always sent whole."""
        self.pages[path] = {"text": text, **headers}

    def asked(self, since: int = 0) -> list[str]:
        return sorted(hit.path for hit in self.site.journal[since:] if hit.path != "/robots.txt")

    async def _answer(self, request: web.Request) -> web.Response:
        page = self.pages.get(request.path)
        if page is None:
            return web.Response(status=404)
        headers = {
            name: page[key] for key, name in (("etag", "ETag"), ("last_modified", "Last-Modified")) if key in page
        }
        if "status" in page:
            return web.Response(status=page["status"])
        if "location" in page:
            return web.Response(status=302, headers={**headers, "Location": page["location"]})
        if "If-None-Match" in request.headers:
            is_same = request.headers["If-None-Match"] == page.get("etag")
        else:
            is_same = "last_modified" in page and request.headers.get("If-Modified-Since") == page["last_modified"]
        if is_same:
            return web.Response(status=304, headers={**headers, "Content-Encoding": "gzip"})
        return web.Response(text=page["text"], content_type="text/html", headers=headers)


class Pages(Spider):
    name = "pages"
    site = ""
    settings: ClassVar[dict[str, Any]] = {"retry": {"times": 0}}

    async def start(self) -> AsyncIterator[Any]:
        yield self.request(f"{self.site}/")

    def parse(self, response: Any) -> Any:
        yield {"path": urls.redact(response.url).removeprefix(self.site), "changed": response.changed}
        yield response.follow_all()


LONG_AGO = "Thu, 01 Jan 2026 00:00:00 GMT"


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    """An index with an ETag, a page with a date, a page with neither."""
    async with LocalSite() as site:
        shop = Shop(site)
        shop.put("/", '<a href="/etag">.</a><a href="/date">.</a><a href="/plain">.</a>', etag='"index-1"')
        shop.put("/etag", "<p>1</p>", etag='W/"1"')
        shop.put("/date", "<p>2</p>", last_modified=LONG_AGO)
        shop.put("/plain", "<p>3</p>")
        yield shop


class Job:
    """The same crawl again and again."""

    def __init__(self, folder: Path, shop: Shop) -> None:
        self.folder = folder
        self.shop = shop
        self.before = 0

    async def run(self, spider: type[Spider] = Pages, **options: Any) -> Any:
        self.before = len(self.shop.site.journal)
        return await run_spider(spider, args={"site": self.shop.url}, job=self.folder, **options)

    async def refresh(self, spider: type[Spider] = Pages, **options: Any) -> Any:
        return await self.run(spider, refresh=True, **options)

    @property
    def asked(self) -> list[str]:
        """In the last run."""
        return self.shop.asked(self.before)

    def end(self, path: str) -> Fate:
        with open_frontier(self.folder) as reader:
            url = f"{self.shop.url}{path}"
            ended = reader.end(urls.host_key(url), Fingerprinter(reader.values.key)(urls.canonical(url)))
        assert ended is not None
        return ended.fate


@pytest.fixture
def job(tmp_path: Path, shop: Shop) -> Job:
    return Job(tmp_path / "job", shop)


def paths(run: Any) -> list[str]:
    return sorted(item["path"] for item in run.items)


def changes(run: Any) -> dict[str, bool]:
    return {item["path"]: item["changed"] for item in run.items}


ALL = ["/", "/date", "/etag", "/plain"]


# -- unchanged and changed pages ---------------------------------------------------------------------------------------


async def test_pages_with_validators_that_have_not_changed_answer_304_and_no_callback_runs(job: Job) -> None:
    first = await job.run()
    assert changes(first) == dict.fromkeys(ALL, True), "without a last crawl everything counts as changed"
    again = await job.refresh()
    assert job.asked == ALL
    assert changes(again) == {"/plain": False}, "the one without a validator came whole, with the same body"
    assert (again.stats["pages"], again.stats["not_modified"], again.stats["errors"]) == (1, 3, 0)
    assert again.stats["status"] == {"200": 1, "304": 3}
    assert again.stats["added"] == again.stats["done"] == 4
    assert not (job.folder / "frontier.previous").exists(), "it has finished"


async def test_what_is_sent_is_the_validator_as_the_server_wrote_it(job: Job) -> None:
    await job.run()
    await job.refresh()
    sent = {hit.path: hit.headers for hit in job.shop.site.journal[job.before :]}
    assert sent["/etag"]["If-None-Match"] == 'W/"1"'
    assert "If-Modified-Since" not in sent["/etag"]
    assert sent["/date"]["If-Modified-Since"] == LONG_AGO
    assert "If-None-Match" not in sent["/plain"]


async def test_a_page_that_has_changed_is_read_and_its_new_links_are_followed(job: Job) -> None:
    await job.run()
    job.shop.put("/etag", '<a href="/new">.</a>', etag='"2"')
    job.shop.put("/new", "<p>new</p>")
    again = await job.refresh()
    assert changes(again) == {"/etag": True, "/new": True, "/plain": False}
    assert job.asked == sorted([*ALL, "/new"])


async def test_a_refresh_of_a_refresh_has_the_validators_of_both(job: Job) -> None:
    await job.run()
    job.shop.put("/etag", "<p>other</p>", etag='"2"')
    await job.refresh()
    third = await job.refresh()
    assert third.stats["not_modified"] == 3
    assert changes(third) == {"/plain": False}
    assert job.end("/etag").revisit == Revisit(job.end("/etag").revisit.content, '"2"')  # type: ignore[union-attr]
    assert len(job.end("/etag").revisit.content) == 8  # type: ignore[union-attr]


async def test_a_304_may_bring_a_newer_validator(job: Job) -> None:
    await job.run()
    job.shop.pages["/date"]["etag"] = '"now with one"'
    await job.refresh()
    revisit = job.end("/date").revisit
    assert revisit is not None
    assert (revisit.etag, revisit.last_modified) == ('"now with one"', LONG_AGO)


async def test_the_end_of_an_unchanged_page_says_so(job: Job, command: Any) -> None:
    await job.run()
    await job.refresh()
    told = explain(f"{job.shop.url}/etag", job.folder, 0.0)
    assert (told.verdict, told.status, told.found_on) == ("done", 304, [f"{job.shop.url}/"])
    code, said, _ = command("explain", f"{job.shop.url}/etag", "--job", str(job.folder))
    assert code == 0
    assert "done: 304, it had not changed since the last crawl" in said


async def test_a_page_that_is_gone_goes_to_the_errback_and_is_not_visited_the_next_time(job: Job) -> None:
    gone = []

    class Watching(Pages):
        def failed(self, failure: Any) -> None:
            gone.append(failure.reason)

    await job.run(Watching)
    del job.shop.pages["/etag"]
    again = await job.refresh(Watching)
    assert gone == ["status_404"]
    assert again.stats["failures"] == {"status_404": 1}
    await job.refresh(Watching)
    assert job.asked == ["/", "/date", "/plain"]


async def test_a_304_that_nobody_asked_for_is_a_failure(job: Job) -> None:
    async def always(request: web.Request) -> web.Response:
        return web.Response(status=304)

    await job.run()
    job.shop.site.route("/plain", always)
    again = await job.refresh()
    assert again.stats["failures"] == {"status_304": 1}
    assert again.stats["not_modified"] == 3


async def test_a_page_whose_failure_may_pass_is_tried_again_by_the_refresh(job: Job) -> None:
    job.shop.pages["/etag"]["status"] = 503
    assert paths(await job.run()) == ["/", "/date", "/plain"]
    del job.shop.pages["/etag"]["status"]
    assert paths(await job.refresh()) == ["/etag", "/plain"], "the index, which links to it, was not read again"


async def test_a_page_whose_callback_failed_is_read_in_full(job: Job) -> None:
    class Failing(Pages):
        broken = True

        def parse(self, response: Any) -> Any:
            yield from super().parse(response)
            if Failing.broken and response.url.endswith("/etag"):
                raise RuntimeError

    await job.run(Failing)
    Failing.broken = False
    again = await job.refresh(Failing)
    assert changes(again) == {"/etag": True, "/plain": False}


async def test_a_page_whose_item_failed_in_a_pipeline_is_read_in_full(job: Job) -> None:
    class Broken:
        broken = True

        async def process_item(self, item: Any, spider: Spider) -> Any:
            if Broken.broken and item["path"] == "/etag":
                raise RuntimeError
            return item

    class Piped(Pages):
        pipelines = (Broken,)

    await job.run(Piped)
    Broken.broken = False
    assert changes(await job.refresh(Piped)) == {"/etag": True, "/plain": False}


async def test_what_waited_when_the_last_crawl_reached_its_limit_is_visited_too(job: Job) -> None:
    first = await job.run(settings={"crawl": {"page_limit": 1}})
    assert (paths(first), first.reason) == (["/"], "page_limit")
    assert paths(await job.refresh()) == ["/date", "/etag", "/plain"]


# -- which requests come again, and how --------------------------------------------------------------------------------


class Rich(Spider):
    """Requests that have more than a URL and a callback."""

    name = "rich"
    site = ""

    async def start(self) -> AsyncIterator[Any]:
        yield self.request(f"{self.site}/")

    def parse(self, response: Any) -> Any:
        yield response.follow("/plain", self.parse_plain, priority=3, meta={"tags": ("a", "b")}, cb_kwargs={"n": 1})
        yield response.follow("/etag", self.parse_named)
        yield response.follow("/date", self.parse_named, method="POST", body=b"x")

    def parse_plain(self, response: Any, n: int) -> Any:
        yield {"path": "/plain", "n": n, "tags": response.meta["tags"], "depth": response.request.depth}

    def parse_named(self, response: Any) -> Any:
        yield {"path": response.url.removeprefix(self.site), "headers": sorted(response.request.headers)}


async def test_callback_arguments_meta_priority_and_depth_come_again(job: Job) -> None:
    first = await job.run(Rich)
    again = await job.refresh(Rich)
    expected = {"path": "/plain", "n": 1, "tags": ("a", "b"), "depth": 1}
    assert expected in first.items
    assert again.items == [expected], "a POST is not made again, and /etag has not changed"
    assert job.end("/etag").revisit.callback == "parse_named"  # type: ignore[union-attr]


async def test_what_a_callback_put_into_meta_is_not_asked_for_again(job: Job) -> None:
    class Marking(Pages):
        broken = True

        def parse(self, response: Any) -> Any:
            yield response.follow("/plain", self.parse_marked, meta={"mark": 1}, errback=self.broke)

        def parse_marked(self, response: Any) -> Any:
            marks = dict(response.meta)
            response.meta["live"] = object()
            if Marking.broken:
                raise RuntimeError
            yield {"path": "/plain", "marks": marks}

        def broke(self, failure: Any) -> None:
            pass

    first = await job.run(Marking)
    assert first.stats["failures"] == {"callback_error": 1}
    Marking.broken = False
    for _ in range(2):
        assert (await job.refresh(Marking)).items == [{"path": "/plain", "marks": {"mark": 1}}]


async def test_a_url_with_a_password_comes_again_with_it_and_is_not_shown(job: Job) -> None:
    class Guarded(Pages):
        async def start(self) -> AsyncIterator[Any]:
            yield self.request(f"{self.site}/etag".replace("//", "//user:secret@"))

    class Anonymous(Pages):
        async def start(self) -> AsyncIterator[Any]:
            yield self.request(f"{self.site}/plain")

    await job.run(Guarded)
    with open_frontier(job.folder) as reader:
        (fate,) = [ended.fate for _, ended in reader.ends()]
    assert "secret" not in fate.url
    await job.refresh(Anonymous)
    (hit,) = [hit for hit in job.shop.site.journal[job.before :] if hit.path == "/etag"]
    assert hit.headers["Authorization"] == "Basic dXNlcjpzZWNyZXQ="
    assert "If-None-Match" not in hit.headers


async def test_of_a_plain_request_no_record_is_kept(job: Job) -> None:
    await job.run(Rich)
    index, named, rich = (job.end(path).revisit for path in ("/", "/etag", "/plain"))
    assert index is not None
    assert named is not None
    assert rich is not None
    assert (index.record, named.record) == (b"", b"")
    assert b"tags" in rich.record
    assert len(job.end("/etag").encode()) < len(job.end("/etag").url) + 110


async def test_the_request_that_a_callback_sees_has_no_condition(job: Job) -> None:
    await job.run(Rich)
    job.shop.put("/etag", "<p>other</p>", etag='"2"')
    again = await job.refresh(Rich)
    assert {"path": "/etag", "headers": []} in again.items


async def test_requests_with_conditions_or_credentials_of_their_own_get_no_more(job: Job) -> None:
    class Own(Spider):
        name = "own"
        site = ""

        async def start(self) -> AsyncIterator[Any]:
            yield self.request(f"{self.site}/etag", headers={"If-None-Match": '"x"'})
            yield self.request(f"{self.site}/date", auth=("user", "password"))

        def parse(self, response: Any) -> Any:
            yield {"url": response.url}

    await job.run(Own)
    again = await job.refresh(Own)
    sent = {hit.path: hit.headers for hit in job.shop.site.journal[job.before :]}
    assert sent["/etag"]["If-None-Match"] == '"x"'
    assert "If-Modified-Since" not in sent["/date"]
    assert len(again.items) == 2


async def test_another_callback_gets_the_page_in_full(job: Job) -> None:
    class Other(Pages):
        async def start(self) -> AsyncIterator[Any]:
            yield self.request(f"{self.site}/etag", self.parse_other)
            async for request in super().start():
                yield request

        def parse_other(self, response: Any) -> Any:
            yield {"path": "other", "changed": response.changed}

    await job.run()
    again = await job.refresh(Other)
    assert changes(again) == {"other": False, "/plain": False}


async def test_an_inline_fetch_has_no_condition(job: Job) -> None:
    class Inline(Pages):
        async def start(self) -> AsyncIterator[Any]:
            response = await self.fetch(f"{self.site}/etag")
            yield {"path": "inline", "changed": response.changed, "status": response.status}
            async for request in super().start():
                yield request

    await job.run(Inline)
    again = await job.refresh(Inline)
    assert {"path": "inline", "changed": True, "status": 200} in again.items


async def test_each_hop_of_a_redirect_has_its_own_validators_or_none(job: Job) -> None:
    job.shop.put("/", '<a href="/old">.</a>')
    job.shop.put("/old", "", location="/etag", etag='"of the redirect"')
    await job.run()
    again = await job.refresh()
    sent = {hit.path: hit.headers for hit in job.shop.site.journal[job.before :]}
    assert "If-None-Match" not in sent["/old"]
    assert sent["/etag"]["If-None-Match"] == 'W/"1"'
    assert again.stats["not_modified"] == 1
    assert job.end("/old").status == 304
    assert job.end("/etag").verdict == "reached"
    job.shop.put("/etag", "<p>other</p>", etag='"2"')
    third = await job.refresh()
    assert changes(third) == {"/": False, "/etag": True}


async def test_a_page_whose_callback_failed_behind_a_redirect_is_read_in_full(job: Job) -> None:
    class Failing(Pages):
        broken = True

        def parse(self, response: Any) -> Any:
            yield from super().parse(response)
            if Failing.broken and response.url.endswith("/etag"):
                raise RuntimeError

    job.shop.put("/", '<a href="/old">.</a>')
    job.shop.put("/old", "", location="/etag")
    await job.run(Failing)
    Failing.broken = False
    assert changes(await job.refresh(Failing)) == {"/": False, "/etag": True}


async def test_a_request_that_came_by_a_redirect_from_another_host_is_asked_where_it_led(job: Job) -> None:
    async with LocalSite("127.0.0.2") as other:
        other.page("/there", "<p>there</p>", headers={"ETag": '"there"'})

        class Both(Pages):
            async def start(self) -> AsyncIterator[Any]:
                yield self.request(f"{other.url}/never")
                yield self.request(f"{self.site}/old")

        job.shop.put("/old", "", location=f"{other.url}/there")
        await job.run(Both)
        with open_frontier(job.folder) as reader:
            url = f"{other.url}/there"
            ended = reader.end(urls.host_key(url), Fingerprinter(reader.values.key)(url))
        assert ended is not None
        assert ended.fate.revisit is not None
        assert (ended.fate.revisit.etag, ended.fate.revisit.record) == ('"there"', b"")
        await job.refresh(Both)
        sent = [hit for hit in other.journal if hit.path == "/there"]
        assert [hit.headers.get("If-None-Match") for hit in sent] == [None, '"there"']


async def test_validators_that_cannot_be_sent_back_are_not_kept(job: Job) -> None:
    job.shop.put("/etag", "<p>1</p>", etag='"' + "x" * 600 + '"', last_modified=LONG_AGO)
    job.shop.put("/date", "<p>2</p>", etag='"ä"')
    job.shop.put("/plain", "<p>3</p>", etag='"a\tb"')
    first = await job.run()
    assert paths(first) == ALL
    kept = [(again.etag, again.last_modified) for path in ALL if (again := job.end(path).revisit) is not None]
    assert kept == [('"index-1"', ""), ("", ""), ("", LONG_AGO), ('"a\tb"', "")]
    again = await job.refresh()
    assert again.stats["errors"] == 0
    assert changes(again) == {"/date": False, "/plain": False}


async def test_streams_are_not_visited_again(job: Job) -> None:
    class Streaming(Pages):
        def parse(self, response: Any) -> Any:
            yield response.follow("/etag", self.parse_stream, stream=True)

        async def parse_stream(self, response: Any) -> Any:
            yield {"path": "/etag", "changed": response.changed, "bytes": len(await response.content.read())}

    await job.run(Streaming)
    again = await job.refresh(Streaming)
    assert again.items == []
    assert job.asked == ["/"]


async def test_a_time_that_was_said_for_one_visit_is_not_said_for_the_next(job: Job) -> None:
    class Later(Pages):
        def parse(self, response: Any) -> Any:
            when = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1)
            yield response.follow("/plain", self.parse_leaf, not_before=when)

        def parse_leaf(self, response: Any) -> Any:
            yield {"path": "/plain", "not_before": response.request.not_before}

    await job.run(Later)
    assert (await job.refresh(Later)).items == [{"path": "/plain", "not_before": None}]


# -- outputs -----------------------------------------------------------------------------------------------------------


async def test_only_changed_leaves_out_the_items_of_unchanged_pages_and_follows_their_links(
    job: Job, tmp_path: Path
) -> None:
    job.shop.put("/", '<a href="/plain">.</a><a href="/changing">.</a>')
    job.shop.put("/changing", "<p>1</p>")
    await job.run()
    job.shop.put("/changing", "<p>2</p>")
    again = await job.refresh(only_changed=True, output=tmp_path / "changed.jsonl")
    assert (paths(again), again.stats["items"], again.stats["items_unchanged"]) == (["/changing"], 1, 2)
    assert [json.loads(line)["path"] for line in (tmp_path / "changed.jsonl").read_text().splitlines()] == ["/changing"]
    assert again.stats["pages"] == 3


async def test_refresh_needs_a_job_and_excludes_fresh_and_only_changed_needs_refresh(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs job="):
        await crawl(Pages, refresh=True)
    with pytest.raises(UsageError, match=r"exclude each other"):
        await crawl(Pages, refresh=True, fresh=True, job=tmp_path)
    with pytest.raises(UsageError, match=r"--only-changed .* needs --refresh"):
        await crawl(Pages, only_changed=True, job=tmp_path)


def test_on_the_command_line_only_changed_without_refresh_is_a_wrong_usage(command: Any, tmp_path: Path) -> None:
    (tmp_path / "spider.py").write_text("from crawler import Spider\n\nclass A(Spider):\n    name = 'a'\n")
    code, _, said = command("run", "spider.py", "--only-changed")
    assert (code, "needs --refresh" in said) == (2, True)


async def test_a_stream_of_a_refresh_gives_what_has_changed(job: Job) -> None:
    await job.run()
    job.shop.put("/etag", "<p>other</p>", etag='"2"')
    quick = {"politeness": {"delay_seconds": 0}}
    options: dict[str, Any] = {"args": {"site": job.shop.url}, "settings": quick, "job": job.folder}
    assert [item["path"] async for item in stream(Pages, **options, refresh=True, only_changed=True)] == ["/etag"]


async def test_with_the_setting_off_nothing_is_kept_and_a_refresh_is_a_new_crawl(job: Job) -> None:
    off = {"crawl": {"keep_validators": False}}
    await job.run(settings=off)
    assert job.end("/etag").revisit is None
    again = await job.refresh()
    assert changes(again) == dict.fromkeys(ALL, True)


# -- how a run begins --------------------------------------------------------------------------------------------------


def first_words(caplog: pytest.LogCaptureFixture) -> str:
    words = [record.getMessage() for record in caplog.records if record.name == "crawler.job"]
    caplog.clear()
    return words[0]


async def test_the_first_log_line_says_what_a_refresh_finds(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    where = re.escape(str(job.folder))
    await job.refresh()
    assert re.fullmatch(f"pages: starting a new crawl in {where}; there is none to refresh", first_words(caplog))
    await job.refresh()
    assert re.fullmatch(f"pages: refreshing 4 pages of the last crawl in {where}", first_words(caplog))
    await job.run(settings={"crawl": {"error_limit": 1}}, output="-")
    caplog.clear()
    del job.shop.pages["/plain"]
    await job.run(settings={"crawl": {"error_limit": 1}})
    caplog.clear()
    await job.refresh()
    words = (
        f"pages: continuing the interrupted crawl in {where}: .* done, .* waiting; it can be refreshed when it has .*"
    )
    assert re.fullmatch(words, first_words(caplog))


async def test_pages_that_the_crawl_does_not_go_to_any_more_are_left_out(
    job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    class Poorer(Spider):
        name = "rich"
        site = ""
        start = Rich.start
        parse_plain = Rich.parse_plain

    await job.run(Rich)
    again = await job.refresh(Poorer)
    assert [record.getMessage() for record in caplog.records if "no longer there" in record.getMessage()] == [
        "rich: 1 pages of the last crawl are not, because their callbacks or items are no longer there"
    ]
    assert [item["path"] for item in again.items] == ["/plain"]


async def test_another_spider_cannot_refresh_a_job_and_leaves_it_as_it_was(job: Job) -> None:
    await job.run()
    with pytest.raises(JobError, match="'rich' can only refresh a crawl of its own"):
        await job.refresh(Rich)
    assert (await job.refresh()).stats["not_modified"] == 3


async def test_a_job_of_an_earlier_version_can_be_finished_and_refreshed(tmp_path: Path) -> None:
    """Its ends have no more than they had."""
    kept_job.unpack(FIXTURES / "job-format-2.tar.gz", tmp_path)
    with FrontierReader(tmp_path / "job" / "frontier") as reader:
        ends = [ended.fate for _, ended in reader.ends()]
    assert len(ends) > 20
    assert {fate.revisit for fate in ends} == {None}
    site = kept_job.KeptSite()
    site.open()
    async with site.serve() as socket:
        assert (await forked.run(tmp_path, *kept_job.command(socket))).code == 0
        before = len(site.asked)
        refreshed = await forked.run(tmp_path, *kept_job.command(socket), "--refresh", "--only-changed")
    assert refreshed.code == 0
    assert "refreshing 41 pages of the last crawl" in refreshed.said
    assert "/1" in site.asked[before:], "found again by links"


# -- killed ------------------------------------------------------------------------------------------------------------

NUMBERS = 40
SPIDER = """
from crawler import Spider, epochs, refresh

epochs.EPOCH_SECONDS = 0.05
refresh._AT_ONCE = 10

class Numbers(Spider):
    name = "numbers"
    settings = {"politeness": {"delay_seconds": 0, "concurrency_per_host": 4, "obey_robots": False}}

    async def start(self):
        yield self.request(self.site + "/0")

    def parse(self, response):
        yield {"number": int(response.url.rpartition("/")[2]), "text": response.text}
        yield response.follow_all()
"""


class Numbers:
    """Numbered pages in a chain, each with an ETag; the odd ones change when `version` does."""

    def __init__(self, site: LocalSite) -> None:
        self.url = site.url
        self.version = 1
        site.route("*", self._page)

    async def _page(self, request: web.Request) -> web.Response:
        number = int(request.path[1:])
        version = self.version if number % 2 else 1
        etag = f'"{number}-{version}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304)
        text = f'v{version}<a href="/{number + 1}">.</a>' if number + 1 < NUMBERS else f"v{version}"
        return web.Response(text=text, content_type="text/html", headers={"ETag": etag})


@pytest.fixture
async def numbers() -> AsyncIterator[Numbers]:
    async with LocalSite() as site:
        yield Numbers(site)


async def finished_then_changed(folder: Path, numbers: Numbers) -> tuple[str, ...]:
    """The command that refreshes."""
    folder.mkdir(exist_ok=True)
    (folder / "spider.py").write_text(SPIDER)
    command = ("run", "spider.py", "-a", f"site={numbers.url}", "--job", "job")
    assert (await forked.run(folder, *command)).code == 0
    numbers.version = 2
    return (*command, "--refresh", "-o", "out.jsonl")


POINTS = (
    "recovery_set_aside", "recovery_discarding", "recovery_opened", "recovered", "after_commit:2", "after_commit:4",
    "after_outputs_closed",
)  # fmt: skip


@pytest.mark.parametrize("point", POINTS)
async def test_a_refresh_that_is_killed_goes_on_and_each_changed_page_gives_its_item_once(
    tmp_path: Path, numbers: Numbers, point: str
) -> None:
    command = await finished_then_changed(tmp_path, numbers)
    killed = await forked.run(tmp_path, *command, crash_at=point)
    assert killed.code == -9, killed.said
    assert (tmp_path / "job" / "frontier.previous").exists() == (point != "recovery_discarding")
    last = await forked.run(tmp_path, *command)
    assert last.code == 0, last.said
    assert "refresh" in last.said.splitlines()[0]
    items = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(item["number"] for item in items) == list(range(1, NUMBERS, 2))
    assert {item["text"][:2] for item in items} == {"v2"}
    stats = json.loads((tmp_path / "job" / "stats.json").read_bytes())
    assert stats["not_modified"] + stats["pages"] == stats["done"] == NUMBERS
    assert not (tmp_path / "job" / "frontier.previous").exists()


async def test_a_refresh_that_was_killed_is_continued_without_the_option_and_discarded_by_fresh(
    tmp_path: Path, numbers: Numbers
) -> None:
    command = await finished_then_changed(tmp_path, numbers)
    assert (await forked.run(tmp_path, *command, crash_at="after_commit:3")).code == -9
    shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    plain = tuple(word for word in command if word != "--refresh")
    goes_on = await forked.run(tmp_path, *plain)
    assert "continuing the interrupted refresh in job" in goes_on.said
    anew = await forked.run(tmp_path.with_name("copy"), *plain, "--fresh")
    assert "starting a new crawl in job; the last one is discarded" in anew.said
    stats = json.loads((tmp_path.with_name("copy") / "job" / "stats.json").read_bytes())
    assert (stats["pages"], stats["not_modified"]) == (NUMBERS, 0)
    assert not (tmp_path.with_name("copy") / "job" / "frontier.previous").exists()


async def test_a_whole_output_is_not_replaced_by_what_changed_unless_that_is_wanted(
    tmp_path: Path, numbers: Numbers
) -> None:
    *command, _, _ = await finished_then_changed(tmp_path, numbers)
    whole = tmp_path / "all.jsonl"
    whole.write_text("{}\n")
    refused = await forked.run(tmp_path, *command, "-O", "all.jsonl")
    assert (refused.code, whole.read_text()) == (2, "{}\n")
    assert "Append with -o" in refused.said
    assert not (tmp_path / "job" / "frontier.previous").exists(), "nothing was done"
    assert (await forked.run(tmp_path, *command, "-O", "new.jsonl")).code == 0
    assert (await forked.run(tmp_path, *command, "-O", "all.jsonl", "--only-changed")).code == 0
    assert whole.read_text() != "{}\n"


async def test_a_refresh_whose_last_crawl_was_removed_says_so_and_goes_on(tmp_path: Path, numbers: Numbers) -> None:
    command = await finished_then_changed(tmp_path, numbers)
    assert (await forked.run(tmp_path, *command, crash_at="after_commit:3")).code == -9
    shutil.rmtree(tmp_path / "job" / "frontier.previous")
    last = await forked.run(tmp_path, *command)
    assert last.code == 0
    assert "frontier.previous is gone" in last.said


async def test_others_see_a_job_whose_refresh_was_killed_as_it_began(tmp_path: Path, numbers: Numbers) -> None:
    command = await finished_then_changed(tmp_path, numbers)
    assert (await forked.run(tmp_path, *command, crash_at="recovery_set_aside")).code == -9
    job = tmp_path / "job"
    assert (overview(job).state, "as its refresh began" in overview(job).remark) == ("killed", True)
    with Previous(job / "frontier.previous") as previous:
        assert previous.done == NUMBERS
    assert remove(job) == []
    assert not job.exists()
