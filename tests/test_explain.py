"""`crawler explain`: what became of a URL, and why."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from random import Random

import pytest
from aiohttp import web

from crawler import Spider
from crawler import url as urls
from crawler.contracts import Entry, Outcome, Verdict
from crawler.errors import InvalidURL, JobError
from crawler.explain import Found, explain
from crawler.fate import Fate
from crawler.frontier.disk import DiskStore
from crawler.frontier.local import LocalFrontier
from crawler.politeness import HostRule
from crawler.request import Request, RequestCodec
from crawler.testing import LocalSite, run_spider
from crawler.url import Fingerprinter

KEY = b"0123456789abcdef"
FINGERPRINT = Fingerprinter(KEY)
ENCODE = RequestCodec().encode


# -- after a real crawl ------------------------------------------------------------------------------------------------


class Pages(Spider):
    name = "pages"
    allowed_domains = ["127.0.0.1"]
    site = ""
    settings = {"crawl": {"depth_limit": 3}, "http": {"max_url_length": 200}, "retry": {"times": 1}}

    async def start(self):
        yield self.request(self.site + "/")

    def parse(self, response):
        yield response.follow_all()


@pytest.fixture
async def crawled(tmp_path):
    """The address of a site, and what `explain` says of a path of it."""
    async with LocalSite() as site:
        links = ("/a?y=2&x=1", "/gone", "/private/x", "/moved", "/there", "/broken", "https://elsewhere.test/", "/1")
        site.page("/robots.txt", "User-agent: *\nDisallow: /private\n")
        site.page("/", "".join(f'<a href="{link}">.</a>' for link in (*links, "/" + "l" * 300)))
        site.page("/a", "a")
        site.page("/new", "new")
        for number in range(1, 5):
            site.page(f"/{number}", f'<a href="/{number + 1}">.</a>')

        async def to_new(request):
            return web.Response(status=302, headers={"Location": "/new"})

        async def to_elsewhere(request):
            there = site.url.replace("127.0.0.1", "127.0.0.2")
            return web.Response(status=301, headers={"Location": f"{there}/a"})

        async def broken(request):
            return web.Response(status=500)

        site.route("/moved", to_new)
        site.route("/there", to_elsewhere)
        site.route("/broken", broken)
        run = await run_spider(Pages, args={"site": site.url}, job=tmp_path / "job")
        assert run.reason == "finished"
        yield (
            site.url,
            lambda path: explain(urls.normalize(urls.join(site.url + "/", path)), tmp_path / "job", time.time()),
        )


async def test_of_a_page_that_is_done_it_tells_status_depth_time_and_the_way_there(crawled):
    url, told = crawled
    start, second = told("/"), told("/2")
    assert (start.verdict, start.status, start.depth, start.found_on, start.from_start) == ("done", 200, 0, [], True)
    assert (second.verdict, second.status, second.depth, second.attempts) == ("done", 200, 2, 1)
    assert (second.found_on, second.from_start) == ([f"{url}/1", f"{url}/"], True)
    assert time.time() - second.at < 60


async def test_another_spelling_is_told_to_be_a_duplicate_of_the_one_that_was_met(crawled):
    url, told = crawled
    assert told("/a?y=2&x=1").duplicate_of == ""
    other = told("/a?x=1&y=2#top")
    assert (other.verdict, other.duplicate_of) == ("done", f"{url}/a?y=2&x=1")
    assert other.canonical == f"{url}/a?x=1&y=2"


async def test_a_failure_is_told_with_reason_message_and_attempts(crawled):
    _, told = crawled
    gone, broken = told("/gone"), told("/broken")
    assert (gone.verdict, gone.reason, gone.status) == ("failed", "status_404", 404)
    assert "404" in gone.message
    assert (broken.verdict, broken.reason, broken.attempts) == ("failed", "status_500", 2)


async def test_what_robots_txt_forbids_is_told_with_rule_and_line(crawled):
    _, told = crawled
    refused = told("/private/x")
    assert (refused.verdict, refused.reason) == ("refused", "robots")
    assert "line 2: Disallow: /private" in refused.message


async def test_of_a_redirect_both_ends_are_told(crawled):
    url, told = crawled
    new = told("/new")
    assert (new.verdict, new.target, new.found_on) == ("reached", f"{url}/moved", [f"{url}/"])
    assert told("/moved").verdict in ("done", "redirected")
    there = told("/there")
    assert (there.verdict, there.reason) == ("refused", "offsite"), "a redirect that leads out of the site"


async def test_what_never_came_to_the_frontier_is_told_with_its_page(crawled):
    url, told = crawled
    offsite, deep, long = told("https://elsewhere.test/"), told("/4"), told("/" + "l" * 300)
    assert [each.verdict for each in (offsite, deep, long)] == [Found.OUTSIDE] * 3
    assert [each.reason for each in (offsite, deep, long)] == ["offsite", "depth", "url_length"]
    assert (offsite.found_on, offsite.from_start) == ([f"{url}/"], True)
    assert deep.found_on == [f"{url}/3", f"{url}/2", f"{url}/1", f"{url}/"]
    assert deep.depth == 4


async def test_a_url_that_was_never_met_is_told_as_such(crawled):
    _, told = crawled
    nowhere = told("/nowhere")
    assert (nowhere.verdict, nowhere.is_known, nowhere.found_on, nowhere.from_start) == (
        Found.UNKNOWN,
        False,
        [],
        False,
    )


async def test_the_command_tells_it_in_lines_and_its_exit_code_whether_the_url_is_known(crawled, command):
    url, _ = crawled
    code, out, err = await asyncio.to_thread(command, "explain", f"{url}/2", "--job", "job")
    assert (code, err) == (0, "")
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    assert lines[0] == [f"{url}/2"]
    assert lines[1] == ["verdict", "done: 200"]
    assert [line for line in lines if line[0] in ("found", "from", "given")] == [
        ["found", f"on    {url}/1"], ["from", f"{url}/"], ["given", "by  start()"]
    ]  # fmt: skip
    code, out, _ = await asyncio.to_thread(command, "explain", f"{url}/private/x", "--job", "job")
    assert (code, "refused (robots): " in out, "(line 2: Disallow: /private)" in out) == (0, True, True)
    code, out, _ = await asyncio.to_thread(command, "explain", f"{url}/nowhere", "--job", "job")
    assert (code, "never met" in out) == (1, True)
    code, out, _ = await asyncio.to_thread(command, "explain", f"{url}/3", "--job", "job", "--json")
    told = json.loads(out)
    assert (code, told["verdict"], told["found_on"][0], told["host"]) == (
        0,
        "done",
        f"{url}/2",
        urls.host_key(url + "/"),
    )


def test_what_is_no_http_url_and_a_job_that_is_none_are_bad_usage(command):
    for wrong in ("example.com", "ftp://example.com/", "http://", "mailto:a@b.c"):
        code, out, err = command("explain", wrong, "--job", "job")
        assert (code, out) == (2, "")
        assert "URL" in err
    code, _, err = command("explain", "http://example.com/", "--job", "job")
    assert (code, "no job in job" in err) == (2, True)
    code, _, err = command("explain", "http://example.com/")
    assert (code, "there is no job under jobs/" in err) == (2, True)


def test_without_a_job_on_disk_it_says_so(tmp_path):
    with pytest.raises(InvalidURL):
        explain("no url", tmp_path, 0.0)
    with pytest.raises(JobError):
        explain("http://a.test/", tmp_path, 0.0)


# -- what a real crawl shows only for a moment -------------------------------------------------------------------------


def fingerprint(url):
    return FINGERPRINT(urls.canonical(url))


def entry(url, parent=None, **fields):
    origin = None if parent is None else (urls.host_key(parent), fingerprint(parent))
    return Entry(urls.host_key(url), fingerprint(url), ENCODE(Request(url)), parent=origin, **fields)


class Job:
    """A frontier in the making, and what `explain` says once it is committed and closed."""

    def __init__(self, folder):
        rule = HostRule(delay=0.0, jitter=0.0, concurrency=100)
        self.folder = folder
        self.frontier = LocalFrontier(DiskStore(folder / "frontier"), rule=lambda host: rule, rng=Random(1))

    async def commit(self, now, **values):
        kept = {"key": KEY, "spider": b"pages", "state": b"running"}
        await self.frontier.commit({**kept, **values}, now)
        await self.frontier.__aexit__(None, None, None)

    async def end(self, verdict, now, not_before=0.0, fate=None):
        (lease,) = (await self.frontier.lease(1, now)).leases
        self.frontier.complete([Outcome(lease, verdict, not_before, b"" if fate is None else fate.encode())], now)


@pytest.fixture
async def job(tmp_path):
    made = Job(tmp_path / "job")
    await made.frontier.__aenter__()
    return made


async def test_what_waits_is_told_with_what_it_waits_for(job):
    now = time.time()
    job.frontier.add([entry("http://a.test/again")], now)
    await job.end(Verdict.RETRY, now, now + 60)
    job.frontier.add([entry("http://a.test/later", not_before=now + 90), entry("http://b.test/paused")], now)
    job.frontier.add([entry("http://a.test/ready", "http://a.test/again", depth=1)], now)
    job.frontier.host("b.test:80", blocked_until=now + 600)
    await job.commit(now)
    again, later, paused, ready = (
        explain(f"http://{name}", job.folder, now)
        for name in ("a.test/again", "a.test/later", "b.test/paused", "a.test/ready")
    )
    assert {each.verdict for each in (again, later, paused, ready)} == {"waiting"}
    assert (again.waits_for, again.attempts, again.due) == ("retry", 1, pytest.approx(now + 60, abs=0.01))
    assert (later.waits_for, later.due) == ("not before", pytest.approx(now + 90, abs=0.01))
    assert (paused.waits_for, paused.paused_until) == ("paused", now + 600)
    assert (ready.waits_for, ready.due, ready.depth) == ("ready", None, 1)
    assert ready.found_on == ["http://a.test/again"], "a page may wait for another try"
    assert explain("http://a.test/later", job.folder, now + 100).waits_for == "ready"


async def test_the_command_says_what_a_waiting_url_waits_for_and_that_it_killed_a_process(job, command):
    now = time.time()
    job.frontier.add([entry("http://a.test/again")], now)
    await job.end(Verdict.RETRY, now, now + 6000)
    await job.commit(now, **{f"death/{fingerprint('http://a.test/again'):016x}": b"1"})
    code, out, _ = await asyncio.to_thread(command, "explain", "http://a.test/again", "--job", "job")
    assert code == 0
    assert "waiting for another try, due " in out
    assert "(in 100 min)" in out
    assert "its processing killed the process once" in out


async def test_a_request_that_killed_the_process_twice_is_told_to_be_set_aside(job, command):
    now, url = time.time(), "http://a.test/poison"
    job.frontier.add([entry(url)], now)
    fate = Fate(url, "set aside", now, reason="poison", message="its processing killed the process 2 times")
    await job.end(Verdict.DEAD, now, fate=fate)
    await job.commit(now)
    _, out, _ = await asyncio.to_thread(command, "explain", url, "--job", "job")
    assert "set aside (poison): its processing killed the process 2 times" in out


async def test_a_redirect_to_another_host_is_told_with_what_became_of_its_target(job, command):
    now = time.time()
    job.frontier.add([entry("http://a.test/old")], now)
    fate = Fate("http://a.test/old", "redirected", now, status=301, target="http://b.test/new")
    await job.end(Verdict.DONE, now, fate=fate)
    job.frontier.add([entry("http://b.test/new", "http://a.test/old")], now)
    await job.commit(now)
    told = explain("http://a.test/old", job.folder, now)
    assert (told.verdict, told.target, told.target_verdict) == ("redirected", "http://b.test/new", "waiting")
    _, out, _ = await asyncio.to_thread(command, "explain", "http://a.test/old", "--job", "job")
    assert "redirected (301) to http://b.test/new, which is waiting" in out


async def test_a_request_that_waits_again_is_told_with_how_it_ended_before(job):
    now, url = time.time(), "http://a.test/"
    job.frontier.add([entry(url)], now)
    await job.end(Verdict.DONE, now, fate=Fate(url, "done", now, status=200))
    job.frontier.add([entry(url, filtered=False)], now)
    await job.commit(now)
    told = explain(url, job.folder, now)
    assert (told.verdict, told.earlier) == ("waiting", "done")


async def test_what_is_known_and_nothing_more_is_told_as_such(job, command):
    now = time.time()
    job.frontier.add([entry("http://a.test/")], now)
    await job.end(Verdict.DONE, now)
    await job.commit(now)
    code, out, _ = await asyncio.to_thread(command, "explain", "http://a.test/", "--job", "job")
    assert (code, "known: it was met" in out) == (0, True)


async def test_the_way_back_ends_after_ten_steps_and_never_turns_in_a_circle(job):
    now = time.time()
    chain = [f"http://a.test/{number}" for number in range(15)]
    job.frontier.add([entry(chain[0])], now)
    job.frontier.add([entry(url, before) for before, url in itertools.pairwise(chain)], now)
    job.frontier.add([entry("http://a.test/x", "http://a.test/y"), entry("http://a.test/y", "http://a.test/x")], now)
    await job.commit(now)
    told = explain(chain[14], job.folder, now)
    assert (told.found_on, told.from_start) == (chain[13:3:-1], False)
    told = explain("http://a.test/x", job.folder, now)
    assert (told.found_on, told.from_start) == (["http://a.test/y", "http://a.test/x"], False)


async def test_secrets_and_control_characters_reach_no_terminal(job, command):
    now, url = time.time(), "http://user:hunter2@a.test/"
    job.frontier.add([entry(url)], now)
    fate = Fate("http://***@a.test/", "failed", now, reason="protocol", message="\x1b[2Jgone\u202e\x7f\nline")
    await job.end(Verdict.DEAD, now, fate=fate)
    await job.commit(now)
    for more in ((), ("--json",)):
        code, out, err = await asyncio.to_thread(command, "explain", url, "--job", "job", *more)
        assert code == 0
        assert "hunter2" not in out + err
        assert not {"\x1b", "\u202e", "\x7f"} & set(out)
    assert json.loads(out)["message"] == "\x1b[2Jgone\u202e\x7f\nline"
    assert json.loads(out).get("duplicate_of", "") == ""
