"""A crawl's snapshot in Prometheus' text format.

Counters begin at 0 with the process, as Prometheus expects of them, although those of a job go on from run to run: a
job that was killed goes on from its last commit, and a counter that falls by a little would be taken for a restart
that counted everything again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from crawler import __version__
from crawler.redaction import redact_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["Metrics"]

_COUNTERS: Final = (
    ("requests", "requests", "Requests sent to servers, retries and redirects included."),
    ("pages", "pages", "Responses handed to callbacks."),
    ("not_modified", "not_modified", "Pages of a refresh that have not changed (304)."),
    ("items", "items", "Items that passed the pipelines."),
    ("items_dropped", "items_dropped", "Items that pipelines dropped, the refused ones included."),
    ("items_refused", "items_refused", "Items that a pipeline raised on, or no output could hold."),
    ("items_unchanged", "items_unchanged", "Items of unchanged pages that were left out."),
    ("errors", "errors", "Requests and pages that were given up."),
    ("retries", "retries", "Requests tried again."),
    ("redirects", "redirects", "Redirects followed."),
    ("received_bytes", "bytes", "Bytes of bodies received, after decompression."),
    ("added", "added", "Requests that were new, and queued."),
    ("duplicates", "duplicates", "Requests that were known already."),
    ("stalls", "stalls", "How often the event loop was blocked for more than a second."),
)  # name, key of the snapshot, help
_LABELLED: Final = (
    ("responses", "status", "status", "Responses by HTTP status."),
    ("failures", "reason", "failures", "Requests and pages given up or refused, by reason."),
)  # name, label, key of the snapshot, help
_GAUGES: Final = (
    ("queued", "queued", "Requests that wait in the frontier."),
    ("in_flight", "in_flight", "Requests that workers have now."),
    ("unfinished", "waiting", "Requests queued and not ended: those that wait, and those in flight."),
    ("hosts", "hosts", "Hosts met."),
    ("active_hosts", "active_hosts", "Hosts with requests that wait or are in flight."),
    ("longest_stall_seconds", "longest_stall_seconds", "The longest time for which the event loop was blocked."),
)
_ENDS: Final = ("done", "failed", "dropped")
_MOST_NAMES: Final = 100
"""Of counters of the spider's own. It may count what sites send, and each name is a time series for ever."""
_LONGEST_NAME: Final = 80


class Metrics:
    """`text()` answers a scrape: what `snapshot()` says now, and memory, CPU and descriptors of the process."""

    def __init__(self, snapshot: Callable[[], dict[str, Any]]) -> None:
        self._registry = CollectorRegistry()  # prometheus_client's own one is global
        self._registry.register(_Snapshot(snapshot))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Snapshot(Collector):
    def __init__(self, snapshot: Callable[[], dict[str, Any]]) -> None:
        self._snapshot = snapshot
        self._before = snapshot()

    def describe(self) -> Iterator[Metric]:
        """Nothing: to describe them the registry would collect them."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        seen = self._snapshot()
        yield InfoMetricFamily("crawler", "What crawls.", {"spider": _label(seen["spider"]), "version": __version__})
        yield from self._counters(seen)
        yield from _gauges(seen)

    def _counters(self, seen: Mapping[str, Any]) -> Iterator[Metric]:
        before = self._before
        for name, key, meaning in _COUNTERS:
            yield CounterMetricFamily(f"crawler_{name}", meaning, seen[key] - before[key])
        for name, label, key, meaning in _LABELLED:
            yield _counted(name, label, meaning, _since(seen[key], before[key]))
        ends = {end: seen[end] - before[end] for end in _ENDS}
        yield _counted("ended", "how", "Queued requests that ended, by how.", ends)
        for name, key in (("proxy_requests", "requests"), ("proxy_failures", "failures")):
            now, then = ({proxy: of[key] for proxy, of in each["proxies"].items()} for each in (seen, before))
            yield _counted(name, "proxy", f"Through each proxy: {key}.", _since(now, then))


def _gauges(seen: Mapping[str, Any]) -> Iterator[Metric]:
    for name, key, meaning in _GAUGES:
        yield GaugeMetricFamily(f"crawler_{name}", meaning, seen[key])
    yield _measured("waiting_hosts", "for", "Hosts with work, by what they wait for; ready: a worker.", seen["waits"])
    yield _measured("phase", "phase", "1: what the crawl does now.", {seen["phase"]: 1})
    yield _measured("limited_by", "what", "1: what keeps the crawl from going faster now.", {seen["limited_by"]: 1})
    custom = dict(sorted(seen["custom"].items())[:_MOST_NAMES])
    yield _measured("custom", "name", "Counters of the spider's own, over all runs of the job.", custom)


def _counted(name: str, label: str, meaning: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(f"crawler_{name}", meaning, labels=[label])
    for value, number in values.items():
        family.add_metric([_label(value)], number)
    return family


def _measured(name: str, label: str, meaning: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"crawler_{name}", meaning, labels=[label])
    for value, number in values.items():
        family.add_metric([_label(value)], number)
    return family


def _since(now: Mapping[str, int], then: Mapping[str, int]) -> dict[str, int]:
    return {key: number - then.get(key, 0) for key, number in now.items()}


def _label(text: str) -> str:
    """What a spider named may hold lone surrogates, which UTF-8 has not, and an address with a password."""
    return redact_text(text[:_LONGEST_NAME]).encode("utf-8", "backslashreplace").decode()
