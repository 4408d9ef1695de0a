"""Secrets do not show: not in logs, statistics, tracebacks and reports of a crawl in which everything goes wrong. The
job's files are for their owner alone."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import stat
import time
from typing import TYPE_CHECKING, Any

import forked
import pytest
import rich.console
import rich.pretty
from hypothesis import given
from hypothesis import strategies as st
from test_cli import in_thread

from crawler import Failure, Request, Response, Spider
from crawler.errors import StatusError
from crawler.explain import explain
from crawler.redaction import redact, redact_text
from crawler.request import Hop
from crawler.testing import LocalSite, run_spider

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SPIDER = '''
import asyncio

from crawler import Request, Spider


class Unlucky(Spider):
    """Whatever it asks for has a secret in it, and goes wrong."""

    name = "unlucky"
    site = ""
    password = ""

    async def start(self):
        self.logger.debug("I am %r, at %s", self, self.site)
        yield self.request(self.site.replace("://", "://user:userinfo-s3cret@") + "/page")
        yield self.request(self.site + "/login")
        for name in ("token", "api_key", "access_token", "signature", "X-Amz-Signature", "password", "client_secret"):
            yield self.request(f"{self.site}/page?n=1&{name}=query-s3cret")
        yield self.request(
            self.site + "/own",
            headers={"Authorization": "Bearer header-s3cret", "X-Api-Key": "key-s3cret"},
            cookies={"session": "own-cookie-s3cret"},
        )
        yield self.request(self.site + "/post", method="POST", data={"password": self.password})
        for path in ("missing", "drop", "private", "loop", "ftp", "away", "slow", "cut", "busy"):
            yield self.request(f"{self.site}/{path}?token=query-s3cret", timeout=0.3 if path == "slow" else None)
        yield self.request("http://name.invalid/?api_key=query-s3cret")
        yield self.request("http://user:userinfo-s3cret@name.invalid/")
        yield self.request(self.site + "/p1", proxy="http://user:proxy-s3cret@127.0.0.1:9/")
        yield self.request(self.site + "/p2", proxy="ftp://user:proxy-s3cret@127.0.0.1:9/")
        yield self.request(self.site + "/p3", proxy="http://127.0.0.1:9/", proxy_auth=("user", "proxy-s3cret"))

    def parse(self, response):
        self.logger.info("at %s: %r, %r", response.url, response, response.request)
        self.logger.info("cookies %r", self.cookies())
        yield {"title": "of no secret"}
        yield response.follow_all()
        if "api_key" in response.url:
            raise ValueError(f"cannot read {response.url}")
        if "access_token" in response.url:
            yield response.follow("http://user:userinfo-s3cret@[bad/?token=query-s3cret")
        if "signature" in response.url:
            yield object()
        if "password" in response.url:
            yield self.request(self.site + "/live?token=query-s3cret", meta={"lock": asyncio.Lock()})
        if "client_secret" in response.url:
            response.json()
'''

SECRETS = {
    "userinfo": "userinfo-s3cret",
    "query": "query-s3cret",
    "header": "header-s3cret",
    "cookie of a site": "jar-s3cret",
    "cookie of a request": "own-cookie-s3cret",
    "http.auth": "auth-s3cret",
    "http.host_headers": "host-s3cret",
    "argument": "argument-s3cret",
}


def secretive(site: LocalSite) -> None:
    links = "".join(
        f"<a href='{link}'>x</a>"
        for link in (
            "/page?n=2&token=query-s3cret",
            "http://user:userinfo-s3cret@elsewhere.test/?token=query-s3cret",
            "http://other.test/?token=query-s3cret",
            "/a/b/a/b/a/b/?token=query-s3cret",
        )
    )
    site.page("*", links)
    site.page("/login", links, headers={"Set-Cookie": "sid=jar-s3cret"})
    site.page("/own", "", headers={"Set-Cookie": "sid=jar-s3cret; Domain=com"})
    site.page("/missing", "", status=404)
    site.page("/busy", "", status=503)
    site.drop("/drop")
    site.robots("User-agent: *\nDisallow: /private")
    site.redirect("/loop", "/loop?token=query-s3cret")
    site.redirect("/ftp", "ftp://user:userinfo-s3cret@127.0.0.1/?token=query-s3cret")
    site.redirect("/away", "http://user:userinfo-s3cret@127.0.0.9:1/?token=query-s3cret")
    site.page("/slow", "", delay=60)
    site.page("/cut", "cut", headers={"Content-Encoding": "gzip"})


SETTINGS = """
[crawl]
max_path_repeats = 2
[politeness]
delay_seconds = 0
[retry]
times = 1
base_seconds = 0.01
[http]
unsafe_cookies = true
auth."{host}" = "user:auth-s3cret"
host_headers."{host}" = "X-Api-Token: host-s3cret"
[dns]
nameservers = ["127.0.0.1:9"]
"""


@pytest.mark.hostile("S50")
def test_no_report_of_a_crawl_in_which_all_goes_wrong_shows_a_secret(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "unlucky.py").write_text(SPIDER)
    said: list[str] = []

    def says(code: int, *arguments: str) -> str:
        ended, out, err = command(*arguments)
        assert ended == code, f"{arguments}: {err}"
        said.extend((out, err))
        return out + err

    with in_thread(LocalSite()) as site:
        secretive(site)
        (tmp_path / "settings.toml").write_text(SETTINGS.format(host=site.host))
        run = ("run", "unlucky.py", "-c", "settings.toml", "-L", "DEBUG")
        run += ("-a", f"site={site.url}", "-a", "password=argument-s3cret")
        crashed = asyncio.run(forked.run(tmp_path, *run, crash_at="after_commit:3"))
        assert crashed.code == -signal.SIGKILL, crashed.said
        said.append(crashed.said)
        assert "slow?token=***" in says(0, "jobs", "frontier", "jobs/unlucky", "--host", site.host)
        says(0, *run, "-O", "items.jsonl")
        asked = {hit.path for hit in site.journal if "s3cret" in hit.path}
        assert "cannot read" in says(0, *run, "--json-logs")
        secrets = ("-b", "session=own-cookie-s3cret", "-H", "Authorization: Bearer header-s3cret")
        page = f"{site.url}/page?token=query-s3cret"
        assert "> GET /page?token=***" in says(
            0, "fetch", page, "--headers", "--trace", "-c", "settings.toml", *secrets
        )
        gone = (f"{site.url}/busy?token=query-s3cret", "--fail", "-L", "DEBUG", "-s", "retry.times=0")
        assert "busy?token=***" in says(1, "fetch", *gone)
        assert "no connection to the proxy" in says(1, "fetch", *gone, "-x", "http://u:proxy-s3cret@127.0.0.1:9")
        sent = "\n".join(f"{hit.path} {dict(hit.headers)} {hit.body!r}" for hit in site.journal)
    for path in sorted(asked):
        assert "job " in says(0, "explain", f"{site.url}{path}")
    for url in ("http://other.test/?token=query-s3cret", "http://name.invalid/?api_key=query-s3cret"):
        says(0, "explain", url, "--json")
    says(0, "explain", f"{site.url}/a/b/a/b/a/b/?token=query-s3cret")
    says(0, "explain", site.url.replace("://", "://user:userinfo-s3cret@") + "/page")
    says(2, "run", "unlucky.py", "-a", "pass-word=argument-s3cret")
    for report in ("status", "status --json", "jobs", "jobs --json", f"politeness {site.host}"):
        says(0, *report.split())
    says(0, "config", "unlucky.py", "-c", "settings.toml")
    files = ("jobs/unlucky/crawl.log", "jobs/unlucky/stats.json", "items.jsonl")
    said.extend((tmp_path / name).read_text() for name in files)
    planted = {name for name, secret in SECRETS.items() if secret in sent}
    assert planted == SECRETS.keys() - {"userinfo", "http.auth"}  # these are sent in Base64
    assert sent.count("Basic ") > 5
    assert [line for text in said for line in text.splitlines() if "s3cret" in line] == []


class Linked(Spider):
    name = "linked"
    allowed_domains = ("127.0.0.1",)
    site = ""

    async def start(self) -> Any:
        yield self.request(self.site + "/first?token=one-s3cret")

    def parse(self, response: Any) -> Any:
        yield response.follow_all()


async def test_a_page_with_a_secret_in_its_address_is_explained_to_whoever_knows_it(tmp_path: Path) -> None:
    async with LocalSite() as site:
        site.page("/first", "<a href='/second?token=two-s3cret'>x</a>")
        site.redirect("/second", "/third?token=three-s3cret")
        site.page("/third", "<a href='http://other.test/?token=four-s3cret'>x</a>")
        settings = {"politeness": {"delay_seconds": 0.01}}  # so that a redirect has a turn of its own
        await run_spider(Linked, args={"site": site.url}, settings=settings, job=tmp_path)
    second = explain(f"{site.url}/second?token=two-s3cret", tmp_path, 0.0)
    third = explain(f"{site.url}/third?token=three-s3cret", tmp_path, 0.0)
    other = explain("http://other.test/?token=four-s3cret", tmp_path, 0.0)
    assert (second.verdict, second.target, second.target_verdict) == (
        "redirected",
        f"{site.url}/third?token=***",
        "done",
    )
    assert (third.verdict, third.found_on) == ("done", [f"{site.url}/{name}?token=***" for name in ("second", "first")])
    assert other.reason == "offsite"
    assert other.found_on[-1] == f"{site.url}/first?token=***"
    assert explain(f"{site.url}/third?token=else", tmp_path, 0.0).verdict == "never met"
    assert "s3cret" not in f"{second} {third} {other}"


# -- what counts as one ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h.test/?token=x", "http://h.test/?token=***"),
        ("http://h.test/?a=1&Api_Key=x&b=2", "http://h.test/?a=1&Api_Key=***&b=2"),
        ("http://h.test/?X-Amz-Signature=x#f", "http://h.test/?X-Amz-Signature=***#f"),
        ("http://h.test/#access_token=x&state=1", "http://h.test/#access_token=***&state=1"),
        ("http://u:p@h.test/?sig=x;y", "http://***@h.test/?sig=***"),
        ("http://h.test/?password=", "http://h.test/?password="),
        ("http://h.test/?tokenizer=x&key=3&page=2", "http://h.test/?tokenizer=x&key=3&page=2"),
        ("http://h.test/token=x", "http://h.test/token=x"),
    ],
)
def test_known_names_of_parameters_hide_their_values(url: str, shown: str) -> None:
    assert redact(url) == shown
    told = redact_text(f"no answer from {url}, again later")
    assert told.startswith(f"no answer from {shown}".partition(";")[0])


@given(st.text())
def test_a_text_without_addresses_is_left_as_it_is(text: str) -> None:
    plain = text.replace("=", "").replace("@", "")
    assert redact_text(plain) == plain


def test_redacting_a_text_takes_time_in_proportion_to_its_length() -> None:
    hostile = "a://" * 20_000 + "?token" * 10_000 + "&token=" * 10_000 + "x" * 20_000
    began = time.process_time()
    redact_text(hostile + "@")
    redact(hostile + "@")
    assert time.process_time() - began < 2


@pytest.mark.hostile("S50")
def test_no_repr_shows_a_secret() -> None:
    url = "http://user:s3cret@h.test/?token=s3cret"
    hop = Hop(302, url, (("Set-Cookie", "sid=s3cret"),))
    request = Request(
        url,
        headers={"Authorization": "Bearer s3cret"},
        cookies={"sid": "s3cret"},
        data={"password": "s3cret"},
        proxy_auth=("user", "s3cret"),
        history=(hop,),
    )
    response = Response(url, request=request, status=404, headers={"Set-Cookie": "sid=s3cret"})
    failure = Failure(request, "status_404", StatusError(404, redact(url)), response)
    links = response.follow_all([url])
    for shown in (hop, request, response, response.history, failure, failure.request_info, links, list(links)):
        out = io.StringIO()
        rich.pretty.pprint(shown, console=rich.console.Console(file=out, width=200), expand_all=True)
        assert "s3cret" not in f"{shown!r} {shown} {out.getvalue()}"


# -- the job's files ---------------------------------------------------------------------------------------------------


class Plain(Spider):
    name = "plain"
    site = ""

    async def start(self) -> Any:
        yield self.request(self.site + "/")

    async def parse(self, response: Any) -> Any:
        self.logger.info("here")
        yield {"n": 1}


@pytest.mark.hostile("S20", "S50")
async def test_whatever_the_umask_a_jobs_files_are_for_their_owner_and_outputs_as_the_umask_says(
    tmp_path: Path,
) -> None:
    before = os.umask(0o002)
    try:
        async with LocalSite() as site:
            site.page("/", "ok")
            job = tmp_path / "jobs" / "plain"
            for _ in range(2):  # what is there from the first time is taken again
                await run_spider(Plain, args={"site": site.url}, job=job, output=tmp_path / "items.jsonl")
    finally:
        os.umask(before)
    modes = {path.relative_to(tmp_path): stat.S_IMODE(path.stat().st_mode) for path in [job, *job.rglob("*")]}
    assert {str(path) for path in modes} >= {f"jobs/plain/{name}" for name in ("crawl.log", "stats.json", "frontier")}
    assert {str(path): oct(mode) for path, mode in modes.items() if mode & 0o077} == {}
    assert stat.S_IMODE((tmp_path / "items.jsonl").stat().st_mode) == 0o664
    assert stat.S_IMODE((tmp_path / "jobs").stat().st_mode) == 0o775


# -- arguments that no list of processes shows -------------------------------------------------------------------------


SAYS = """
from crawler import Spider

class Says(Spider):
    name = "says"
    password = ""
    user = ""

    async def start(self):
        yield {"user": self.user, "password": self.password}
"""


def test_an_argument_can_come_from_the_environment_or_a_file(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "says.py").write_text(SAYS)
    (tmp_path / "password").write_text("s3cret\n")
    monkeypatch.setenv("CRAWLER_ARGS__PASSWORD_FILE", str(tmp_path / "password"))
    monkeypatch.setenv("CRAWLER_ARGS__USER", "anna")
    code, out, err = command("run", "says.py", "-o", "-")
    assert (code, out) == (0, '{"user":"anna","password":"s3cret"}\n')
    assert "s3cret" not in err
    code, out, _ = command("run", "says.py", "-o", "-", "-a", "user=berta")
    assert out == '{"user":"berta","password":"s3cret"}\n'  # what is typed wins


def test_an_argument_file_that_is_not_there_or_one_too_many_is_an_error(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "says.py").write_text(SAYS)
    monkeypatch.setenv("CRAWLER_ARGS__PASSWORD_FILE", str(tmp_path / "nothing"))
    code, _, err = command("run", "says.py")
    assert code == 2
    assert "CRAWLER_ARGS__PASSWORD_FILE: cannot read the file it names: No such file" in err
    monkeypatch.setenv("CRAWLER_ARGS__PASSWORD", "s3cret")
    code, _, err = command("run", "says.py")
    assert code == 2
    assert "CRAWLER_ARGS__PASSWORD is set as well" in err
