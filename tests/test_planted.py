"""Somebody writes into the queue of a job: what he plants is data, and never runs. The rest of the crawl goes on."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from crawler import Request, Response, Spider
from crawler.contracts import Entry
from crawler.errors import CallbackError
from crawler.frontier.disk import DiskStore
from crawler.frontier.local import LocalFrontier
from crawler.politeness import HostRule
from crawler.request import RequestCodec
from crawler.spider import callback_of
from crawler.storable import ENCODER
from crawler.testing import LocalSite, run_spider
from crawler.url import host_key

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parent.parent
PICKLED: list[str] = []
"""What a planted pickle would add to, if anybody loaded it."""


class Payload:
    def __reduce__(self) -> Any:
        return PICKLED.append, ("executed",)


class Careless(Spider):
    """As people write them: with more attributes than callbacks."""

    name = "careless"
    site = ""
    helper = Payload
    open_file = open
    called: list[str] = []

    @property
    def secret(self) -> Any:
        self.called.append("property")
        return self.parse

    async def start(self) -> Any:
        yield self.request(f"{self.site}/honest")

    def parse(self, response: Response) -> Any:
        yield {"url": response.url}

    def parse_more(self, response: Response, **more: Any) -> Any:
        yield {"url": response.url, "more": True}

    @staticmethod
    def parse_alone(response: Response) -> Any:
        yield {"url": response.url}

    @classmethod
    def parse_of_class(cls, response: Response) -> Any:
        yield {"url": response.url}


NO_CALLBACKS = [
    "__init__", "__class__", "__reduce__", "__setattr__", "__init_subclass__", "mro", "nobody", "",
    "parse.__globals__", "name", "site", "called",
    "settings", "pipelines", "helper", "secret", "start", "opened", "closed", "request", "fetch", "robots",
    "websocket", "cookies", "log", "logger",
    "stats", "job", "_services", "_running", "os.system", "crawler.demo:serve",
]  # fmt: skip


@pytest.mark.hostile("S37")
@pytest.mark.parametrize("name", NO_CALLBACKS)
def test_a_name_that_is_no_method_of_the_spiders_class_is_no_callback(name: str) -> None:
    Careless.called.clear()
    with pytest.raises(CallbackError, match=r"spider 'careless' has no method"):
        callback_of(Careless(), name)
    assert Careless.called == []


@pytest.mark.parametrize("name", ["parse", "failed", "parse_more", "parse_alone", "parse_of_class"])
def test_its_methods_are_whatever_their_kind(name: str) -> None:
    assert callable(callback_of(Careless(), name))


async def plant(job: Path, site: str, records: Iterable[bytes]) -> None:
    """A job that was interrupted, in whose queue these records stand."""
    rule = HostRule(delay=0.0, jitter=0.0, concurrency=10_000)
    async with LocalFrontier(DiskStore(job / "frontier"), rule=lambda host: rule, rng=Random(1)) as frontier:
        entries = [Entry(host_key(f"{site}/"), number, record) for number, record in enumerate(records, 1)]
        frontier.add(entries, 0.0)
        kept = {"key": b"0123456789abcdef", "spider": b"careless", "state": b"running"}
        await frontier.commit({**kept, "named": msgspec.json.encode([host_key(f"{site}/")])}, 0.0)


def records(site: str) -> dict[str, bytes]:
    encode, fields = RequestCodec().encode, {"url": f"{site}/planted"}

    def extension(code: int, content: Any) -> bytes:
        return ENCODER.encode({**fields, "meta": {"a": msgspec.msgpack.Ext(code, ENCODER.encode(content))}})

    return {
        "a pickle": pickle.dumps(Payload()),
        "a pickle in a body": ENCODER.encode(
            {**fields, "meta": {"a": msgspec.msgpack.Ext(99, pickle.dumps(Payload()))}}
        ),
        "an import": ENCODER.encode({**fields, "c": "os:system"}),
        "a class of a module": extension(1, ["os.system", {"command": "true"}]),
        "a class that is no item": extension(1, ["Payload", {}]),
        "no number": extension(7, "not a number"),
        "a set of lists": extension(3, [[1], [2]]),
        "too deep": b"\x91" * 5000,
        "nothing": b"",
        "another type": ENCODER.encode(["http://a.example/"]),
        "a number as callback": ENCODER.encode({**fields, "c": 5}),
        "a scheme": ENCODER.encode({"url": "file:///etc/hostname"}),
        **{f"callback {name}": encode(Request(f"{site}/planted", name)) for name in NO_CALLBACKS if name},
        **{
            f"errback {name}": encode(Request(f"{site}/planted", errback=name))
            for name in ("__init__", "nobody", "fetch")
        },
    }


@pytest.mark.hostile("S37")
async def test_what_is_planted_in_the_queue_is_set_aside_unseen_and_the_crawl_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    PICKLED.clear()
    Careless.called.clear()
    async with LocalSite() as site:
        site.page("*", "a page")
        planted = records(site.url)
        good = [RequestCodec().encode(Request(f"{site.url}/good", "parse_more", cb_kwargs={"a": (1, 2)}))]
        await plant(tmp_path / "job", site.url, [*planted.values(), *good])
        run = await run_spider(Careless, args={"site": site.url}, job=tmp_path / "job")
    assert run.reason == "finished"
    assert sorted(item["url"] for item in run.items) == [f"{site.url}/good", f"{site.url}/honest"]
    assert sorted(site.paths) == ["/good", "/honest"]
    unreadable = 11
    assert run.stats["failures"] == {"unreadable": unreadable, "unknown_callback": len(planted) - unreadable}
    assert PICKLED == Careless.called == []
    assert "/planted: spider 'careless' has no method '__init__'" in caplog.text


@dataclass
class Book:
    title: str


class Record(dict[str, Any]):
    """An item of the user's own kind."""


def test_an_item_comes_back_with_its_own_fields_alone() -> None:
    codec = RequestCodec({"Book": Book, "Record": Record})
    planted = ["Book", {"title": "x", "__class__": 1, "__dict__": {}, "__module__": "os", "added": 1}]
    meta = {"book": msgspec.msgpack.Ext(1, ENCODER.encode(planted))}
    found = codec.decode(ENCODER.encode({"url": "http://a.example/", "meta": meta})).meta["book"]
    assert (type(found), vars(found)) == (Book, {"title": "x"})
    kept = codec.decode(codec.encode(Request("http://a.example/", meta={"record": Record(a=1)}))).meta["record"]
    assert (type(kept), kept) == (Record, {"a": 1})
