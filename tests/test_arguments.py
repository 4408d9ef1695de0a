"""What is given to a `Request` in the wrong way is an error where it is given, which names the argument."""

from __future__ import annotations

import datetime as dt
from http.cookies import SimpleCookie
from typing import Any

import pytest
import yarl
from multidict import CIMultiDict

from crawler import Request, Response, Spider
from crawler.request import RequestCodec
from crawler.testing import LocalSite, run_spider

URL = "http://site.example/"


@pytest.mark.parametrize(
    ("argument", "given", "words"),
    [
        ("priority", "5", "whole number"),
        ("priority", 1.5, "whole number"),
        ("priority", None, "whole number"),
        ("meta", [1], "is a dict"),
        ("meta", {1: 2}, "names in meta are str, not int"),
        ("cb_kwargs", [1], "is a dict"),
        ("cookies", "a=b", "not a str"),
        ("cookies", [{"name": "a", "value": "b"}], "not a list of dict"),
        ("cookies", {"a": None}, "NoneType"),
        ("headers", "X-Own: 1", "mapping or pairs"),
        ("headers", 5, "mapping or pairs"),
        ("key", 5, "is a str"),
        ("session", 5, "is a str"),
        ("proxy", 5, "is a URL"),
        ("proxy_auth", "user:secret", "proxy_auth is"),
        ("auth", "user:secret", "auth is"),
        ("server_hostname", 5, "is a str"),
        ("timeout", float("nan"), "number of seconds"),
        ("ok_status", ["abc"], "got 'abc'"),
        ("ok_status", [1.5], r"got 1\.5"),
        ("ok_status", 99, "got '?99"),
        ("not_before", dt.timedelta(seconds=5), "number of seconds"),
        ("not_before", "5", "number of seconds"),
        ("not_before", float("inf"), "number of seconds"),
        ("retry_times", -1, "at least 0"),
        ("retry_times", "3", "whole number"),
        ("max_redirects", -1, "at least 0"),
        ("max_body_bytes", 0, "at least 1"),
        ("max_body_bytes", "10", "whole number"),
        ("dont_filter", "yes", "True or False"),
        ("allow_redirects", "no", "True or False"),
        ("stream", None, "True or False"),
        ("method", 5, "HTTP method"),
        ("body", 5, "bytes or str"),
        ("body", {"a": 1}, "bytes or str"),
        ("data", 5, "not 5"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_argument(argument: str, given: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words) as caught:
        Request(URL, **{argument: given})
    assert argument in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "given", "kept"),
    [
        ("priority", True, 1),
        ("meta", None, {}),
        ("cookies", {"a": 1}, {"a": "1"}),
        ("cookies", [("a", "b")], {"a": "b"}),
        ("cookies", SimpleCookie("a=b"), {"a": "b"}),
        ("dont_filter", 1, True),
        ("allow_redirects", 0, False),
        ("proxy_auth", ["user", "secret"], ("user", "secret")),
        ("proxy", yarl.URL("http://proxy.example:3128"), "http://proxy.example:3128"),
        ("ok_status", range(400, 402), [400, 401]),
        ("body", bytearray(b"ab"), b"ab"),
    ],
)
def test_what_has_the_same_meaning_is_kept_in_its_one_form_and_can_wait(argument: str, given: Any, kept: Any) -> None:
    request = Request(URL, **{argument: given})
    assert (getattr(request, argument), type(getattr(request, argument))) == (kept, type(kept))
    codec = RequestCodec()
    assert getattr(codec.decode(codec.encode(request)), argument) == kept


def test_a_dict_that_is_filled_anew_for_each_request_is_none_of_theirs() -> None:
    values: dict[str, Any] = {}
    requests = []
    for number in range(3):
        values["number"] = number
        requests.append(Request(URL, meta=values, cb_kwargs=values, cookies=values))
    assert [request.meta["number"] for request in requests] == [0, 1, 2]
    assert [request.cb_kwargs["number"] for request in requests] == [0, 1, 2]
    assert [(request.cookies or {})["number"] for request in requests] == ["0", "1", "2"]


def test_headers_may_be_given_as_scrapy_has_them() -> None:
    request = Request(URL, headers={b"X-Bytes": b"1", "X-Several": ["a", "b"], "X-Number": 5, "Accept": None})
    assert list(request.headers.items()) == [
        ("X-Bytes", "1"),
        ("X-Several", "a"),
        ("X-Several", "b"),
        ("X-Number", "5"),
    ]
    assert request.skip_auto_headers == ("Accept",)
    assert list(Request(URL, headers=CIMultiDict([("A", "1"), ("a", "2")])).headers.values()) == ["1", "2"]
    with pytest.raises(ValueError, match="not UTF-8"):
        Request(URL, headers={"X-Bytes": b"\xff"})


def test_equal_requests_are_one_in_a_set() -> None:
    assert len({Request(URL, meta={"a": [1]}), Request(URL, meta={"a": [1]}), Request(URL, method="POST")}) == 2


async def test_a_wrong_argument_ends_one_callback_and_not_the_crawl() -> None:
    class Careless(Spider):
        name = "careless"
        site = ""

        async def start(self) -> Any:
            yield self.request(f"{self.site}/wrong", self.wrong)
            yield self.request(f"{self.site}/right")

        def wrong(self, response: Response) -> Any:
            yield response.follow("/next", priority=0.5)

        def parse(self, response: Response) -> Any:
            yield {"path": response.url.removeprefix(self.site)}

    async with LocalSite() as site:
        site.page("/wrong")
        site.page("/right")
        run = await run_spider(Careless, args={"site": site.url})
    assert (run.reason, run.items, run.stats["failures"]) == ("finished", [{"path": "/right"}], {"callback_error": 1})
