"""How much of a host, a domain, a path: counts, where they are kept, and what is not counted."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from crawler import budgets as module
from crawler import url as urls
from crawler.budgets import Budgets, Limits
from crawler.url import Fingerprinter

FINGERPRINT = Fingerprinter(b"0123456789abcdef")


class Kept:
    """The rows that were committed."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes | None] = {}

    def commit(self, budgets: Budgets) -> None:
        self.rows.update(budgets.rows())

    def budgets(self, **limits: int) -> Budgets:
        """Of a process that has just started."""
        return Budgets(Limits(**limits), FINGERPRINT, self.rows.get)


def page(budgets: Budgets, host: str, ticket: int = 1, *, delivered: bool = True) -> bool:
    if not budgets.take(ticket, host):
        return False
    budgets.settle(ticket, delivered=delivered)
    return True


def refusal(budgets: Budgets, url: str, *, named: bool = False) -> str | None:
    return budgets.refusal(url, urls.host_key(url), named=named)


# -- pages and bytes ---------------------------------------------------------------------------------------------------


def test_places_in_flight_count_until_they_are_given_back() -> None:
    budgets = Kept().budgets(pages_per_host=2)
    assert budgets.take(1, "a.test:80")
    assert budgets.take(2, "a.test:80")
    assert not budgets.take(3, "a.test:80")
    assert budgets.take(4, "b.test:80")
    assert budgets.spent("a.test:80") is None, "those in flight may fail"
    budgets.settle(1, delivered=False)
    assert budgets.take(3, "a.test:80")
    budgets.settle(2, delivered=True)
    budgets.settle(3, delivered=True)
    assert budgets.spent("a.test:80") == "host_pages"
    assert not budgets.take(5, "a.test:80")
    assert refusal(budgets, "http://a.test/x") == "host_pages"
    assert refusal(budgets, "http://b.test/x") is None


def test_an_end_without_a_place_changes_nothing() -> None:
    budgets = Kept().budgets(pages_per_host=1)
    budgets.settle(7, delivered=True)
    assert page(budgets, "a.test:80")


def test_pages_and_bytes_are_those_of_the_last_commit_after_a_kill() -> None:
    kept = Kept()
    first = kept.budgets(pages_per_host=3, bytes_per_host=100)
    page(first, "a.test:80")
    first.received("b.test:80", 60)
    kept.commit(first)
    page(first, "a.test:80")  # not committed
    second = kept.budgets(pages_per_host=3, bytes_per_host=100)
    assert [page(second, "a.test:80") for _ in range(3)] == [True, True, False]
    assert second.spent("b.test:80") is None
    second.received("b.test:80", 40)
    assert second.spent("b.test:80") == "host_bytes"
    assert refusal(second, "http://b.test/") == "host_bytes"


def test_nothing_is_counted_or_asked_where_there_is_no_limit() -> None:
    def asked(key: str) -> bytes | None:
        raise AssertionError(key)

    budgets = Budgets(Limits(), FINGERPRINT, asked)
    assert page(budgets, "a.test:80")
    budgets.received("a.test:80", 10)
    assert budgets.spent("a.test:80") is None
    assert refusal(budgets, "http://a.test/x?a=1&b=2&c=3") is None
    assert budgets.rows() == {}


def test_more_hosts_than_memory_has_room_for_are_counted_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HOSTS", 100)
    kept = Kept()
    budgets = kept.budgets(pages_per_host=2)
    for _ in range(3):
        for number in range(130):
            page(budgets, f"h{number}.test:80")
            if number % 25 == 0:
                kept.commit(budgets)
    assert len(budgets._uses) <= 100
    kept.commit(budgets)
    assert {budgets.spent(f"h{number}.test:80") for number in range(130)} == {"host_pages"}


def test_what_is_being_committed_is_known_although_memory_has_let_go_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HOSTS", 100)
    budgets = Kept().budgets(pages_per_host=1)
    page(budgets, "a.test:80")
    budgets.rows()  # on their way; the frontier does not have them yet
    for number in range(100):
        budgets.spent(f"h{number}.test:80")
    assert "a.test:80" not in budgets._uses
    assert budgets.spent("a.test:80") == "host_pages"


# -- hosts -------------------------------------------------------------------------------------------------------------


def hosts(budgets: Budgets, domain: str, count: int, start: int = 0) -> int:
    """How many of these come in."""
    return sum(refusal(budgets, f"http://n{n}.{domain}/") is None for n in range(start, start + count))


@pytest.mark.hostile("S44")
def test_hosts_below_one_registrable_domain_are_limited_and_others_come_in() -> None:
    budgets = Kept().budgets(hosts_per_domain=100)
    assert hosts(budgets, "shop.co.uk", 150) == 100
    assert refusal(budgets, "http://n149.shop.co.uk/") == "domain_hosts"
    assert refusal(budgets, "http://n5.shop.co.uk:8080/other") is None, "it is one of the hundred"
    assert hosts(budgets, "other.co.uk", 50) == 50, "co.uk is no domain"
    assert hosts(budgets, "github.io", 300) == 300, "nor is what gives people a host each"
    assert refusal(budgets, "http://10.0.0.1/") is None
    assert refusal(budgets, "http://[::1]/") is None
    assert refusal(budgets, "http://localhost/") is None


def test_a_limit_below_the_few_that_are_not_looked_up_holds_too() -> None:
    budgets = Kept().budgets(hosts_per_domain=3)
    assert hosts(budgets, "a.test", 10) == 3
    assert hosts(budgets, "b.test", 10) == 3


def test_hosts_that_the_user_named_come_in_anyway_and_stay_in() -> None:
    kept = Kept()
    budgets = kept.budgets(hosts_per_domain=3)
    hosts(budgets, "a.test", 3)
    assert refusal(budgets, "http://mine.a.test/", named=True) is None
    kept.commit(budgets)
    again = kept.budgets(hosts_per_domain=3)
    assert refusal(again, "http://mine.a.test/page") is None
    assert refusal(again, "http://another.a.test/") == "domain_hosts"


def test_hosts_are_remembered_over_restarts() -> None:
    kept = Kept()
    total = 0
    for run in range(4):
        budgets = kept.budgets(hosts_per_domain=100)
        total += hosts(budgets, "a.test", 40, start=40 * run)
        kept.commit(budgets)
    assert total == 100
    assert hosts(kept.budgets(hosts_per_domain=100), "a.test", 100) == 100


def test_the_public_suffixes_are_not_read_for_a_crawl_of_few_hosts() -> None:
    code = (
        "import sys\n"
        "from crawler.budgets import Budgets, Limits\n"
        "from crawler.url import Fingerprinter\n"
        "budgets = Budgets(Limits(hosts_per_domain=1000), Fingerprinter(b'k'))\n"
        "[budgets.refusal(f'http://n{n}.a.test/', f'n{n}.a.test:80') for n in range(64)]\n"
        "assert 'publicsuffixlist' not in sys.modules\n"
        "budgets.refusal('http://one-more.a.test/', 'one-more.a.test:80')\n"
        "assert 'publicsuffixlist' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# -- queries -----------------------------------------------------------------------------------------------------------


def queries(budgets: Budgets, *values: int, path: str = "http://a.test/list") -> int:
    """How many of all combinations of parameters with so many values each come in."""
    combinations = itertools.product(*map(range, values))
    urls = (path + "?" + "&".join(f"p{n}={value}" for n, value in enumerate(each)) for each in combinations)
    return sum(refusal(budgets, url) is None for url in urls)


def test_combinations_of_known_values_are_limited_at_each_path() -> None:
    budgets = Kept().budgets(query_permutations=100)
    pairs = 6 * 5 // 2 * 3**2
    assert 100 <= queries(budgets, 3, 3, 3, 3, 3, 3) <= 100 + pairs
    assert 100 <= queries(budgets, 3, 3, 3, 3, 3, 3, path="http://a.test/other") <= 100 + pairs


def test_the_order_of_parameters_makes_no_difference() -> None:
    budgets = Kept().budgets(query_permutations=1)
    for order in itertools.permutations(["a=1", "b=2", "c=3"]):
        assert refusal(budgets, f"http://a.test/?{'&'.join(order)}&d=4") is None or order != ("a=1", "b=2", "c=3")
    assert refusal(budgets, "http://a.test/?c=3&a=1&b=2") == "query_permutations"


def test_ids_topics_and_pages_are_no_permutations() -> None:
    budgets = Kept().budgets(query_permutations=1)
    shop, forum, wiki = "http://a.test/item", "http://a.test/view", "http://a.test/w"
    honest = [f"{shop}?id={n}" for n in range(2000)]
    honest += [f"{shop}?category={n}&page={p}" for n in range(50) for p in range(40)]
    honest += [f"{forum}?f={n % 7}&t={n}&start={25 * p}" for n in range(500) for p in range(6)]
    honest += [f"{wiki}?title=T{n}&action=history&lang=en" for n in range(1000)]
    assert [url for url in honest if refusal(budgets, url) is not None] == []


def test_two_pages_that_find_the_same_query_count_it_once() -> None:
    budgets = Kept().budgets(query_permutations=3)
    first = "http://a.test/?a=1&b=1&c=1"
    for _ in range(10):
        assert refusal(budgets, first) is None
    for url in ("a=1&b=1&c=2", "a=1&b=2&c=1", "a=2&b=1&c=1", "a=2&b=2&c=1", "a=2&b=1&c=2", "a=1&b=2&c=2"):
        assert refusal(budgets, f"http://a.test/?{url}") is None
    assert refusal(budgets, "http://a.test/?a=2&b=2&c=2") is None, "the first that brings nothing new"


def test_permutations_are_remembered_over_restarts() -> None:
    kept = Kept()
    first = kept.budgets(query_permutations=100)
    queries(first, 4, 4, 4, 4, 4)
    kept.commit(first)
    second = kept.budgets(query_permutations=100)
    assert queries(second, 4, 4, 4, 4, 4) <= 5 * 4 // 2 * 4**2, "what teaches it the pairs again, and no more"


def test_what_is_remembered_of_queries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAIRS", 500)
    budgets = Kept().budgets(query_permutations=1)
    for number in range(1000):
        assert refusal(budgets, f"http://a.test/?a={number}&b={number}&c={number}&d={number}") is None
    assert sum(map(len, budgets._pairs)) <= 2 * 500 + 6
    assert len(budgets._let_in) <= 500
