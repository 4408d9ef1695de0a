"""Traps: what is recognised, after how much, and above all what is not."""

from __future__ import annotations

import datetime as dt
import itertools
import random
import time

import pytest

from crawler.traps import _BODIES, _PATTERNS, Closed, Kind, Traps, pattern_of

SITE = "https://a.test"


@pytest.mark.parametrize(
    ("path", "text", "kind"),
    [
        ("/calendar/2024/05", "/calendar/#/#", Kind.CALENDAR),
        ("/events/page-7", "/events/page-#", Kind.CALENDAR),
        ("/x/2024-05-17", "/x/#-#-#", Kind.CALENDAR),
        ("/x/2024-W07", "/x/#-W#", Kind.CALENDAR),
        ("/x/20240517", "/x/#", Kind.CALENDAR),
        ("/index.php?month=5&year=2024", "/index.php?month&year", Kind.CALENDAR),
        ("/?y=2024&m=5", "/?m&y", Kind.CALENDAR),
        ("/show?d=2024-05", "/show?d", Kind.CALENDAR),
        ("/login?back=/x/2024%2F05", "/login?back", Kind.CALENDAR),
        ("/p/1?PHPSESSID=0f3", "/p/#?PHPSESSID", Kind.SESSIONS),
        ("/p/1;jsessionid=0F3A?x=1", "/p/#;jsessionid?x", Kind.SESSIONS),
        ("/(S(lit3py55t21z5v55vlm25s55))/default.aspx", "/default.aspx", Kind.SESSIONS),
        ("/p?sid=1", "/p?sid", Kind.SESSIONS),
        ("/d/0123456789abcdef0123", "/d/{}", Kind.TOKENS),
        ("/d/6fa459ea-ee8a-3ca4-894e-db77e160355e/x", "/d/{}/x", Kind.TOKENS),
        ("/feed?cursor=eyJvZmZzZXQiOjEwMDAwMH0", "/feed?cursor", Kind.TOKENS),
    ],
)
def test_what_varies_is_taken_out_of_a_pattern(path: str, text: str, kind: Kind) -> None:
    assert pattern_of(SITE + path) == (f"a.test:443{text}", kind)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/page/17",
        "/item?id=201905",
        "/catalogue/a-light-in-the-attic_1000/index.html",
        "/list?page=3&sort=price",
        "/calendar",
        "/update/17",
        "/local/5",
        "/everyday/5",
        "/mandate-7",
        "/Donaudampfschifffahrtsgesellschaft/3",
        "/inside/3",
        "/item/12345678901234567890",
        "/a*b/3",
        "/x/1234-5678",
    ],
)
def test_other_urls_have_no_pattern(path: str) -> None:
    assert pattern_of(SITE + path) is None


def test_a_pattern_takes_no_time_whatever_the_url() -> None:
    rng = random.Random(3)
    nasty = ["/" + "a1" * 5000, "/" + "2024/" * 3000, "/?" + "m=1&" * 3000, "/" + "-0" * 5000, "/(S(" * 2000 + "1"]
    nasty += ["/" + "".join(rng.choices("0a-_/;=(&?", k=10_000)) for _ in range(5)]
    for path in nasty:
        began = time.process_time()
        pattern_of(SITE + path)
        assert time.process_time() - began < 0.2, path[:40]


# -- recognising -------------------------------------------------------------------------------------------------------


class Crawl:
    """Pages one after the other, as the loop hands them in."""

    def __init__(self, pages: int = 1000, known: tuple[bytes, ...] = ()) -> None:
        self.traps = Traps(pages, known)
        self.closed: list[Closed] = []

    def page(self, path: str, body: str, *gives: str, has_items: bool = False) -> None:
        watch = self.traps.look(SITE + path, body.encode())
        if watch is None:
            return
        for url in gives:
            watch.gave(SITE + url)
        closed = self.traps.settle(watch, has_items=has_items)
        if closed is not None:
            self.closed.append(closed)


def months(count: int) -> list[dt.date]:
    return [dt.date(1 + number // 12, 1 + number % 12, 1) for number in range(count)]


def address(day: dt.date) -> str:
    return f"/calendar/{day.year + 1999}/{day.month:02}"


def empty_months(crawl: Crawl, count: int, more: str = "", **also: bool) -> None:
    for day, following in itertools.pairwise(months(count)):
        crawl.page(address(day), f"{day:%B %Y}{more} {address(following)}", address(following), **also)


def test_an_empty_calendar_is_a_trap_after_the_pages_that_were_asked_for() -> None:
    crawl = Crawl()
    empty_months(crawl, 1180)
    assert not crawl.closed
    empty_months(crawl, 1400)
    assert [(each.pattern, each.kind) for each in crawl.closed] == [("a.test:443/calendar/#/#", "a calendar")]
    assert crawl.traps.is_closed(f"{SITE}/calendar/1815/12")
    assert not crawl.traps.is_closed(f"{SITE}/calendar/")
    assert not crawl.traps.is_closed("https://b.test/calendar/1815/12")


def test_a_page_with_an_item_sets_a_calendar_back() -> None:
    crawl = Crawl(pages=100)
    for _ in range(20):
        empty_months(crawl, 90)
        crawl.page("/calendar/2024/13", "Concert", "/calendar/2025/01", has_items=True)
    assert not crawl.closed


def test_a_page_with_words_that_are_new_sets_a_calendar_back() -> None:
    crawl = Crawl(pages=100)
    for number in range(20):
        empty_months(crawl, 90)
        word = chr(ord("a") + number)
        crawl.page("/calendar/2024/01", f"Concert of {word}", "/calendar/2025/01")
    assert not crawl.closed


def test_a_calendar_that_leads_to_new_pages_elsewhere_is_no_trap() -> None:
    crawl = Crawl(pages=100)
    for number, (day, following) in enumerate(itertools.pairwise(months(2000))):
        crawl.page(address(day), "empty", address(following), *(["/concert/x"] if number % 50 == 0 else []))
    assert not crawl.closed


def test_pages_of_a_calendar_that_do_not_lead_on_are_no_trap() -> None:
    crawl = Crawl(pages=100)
    for day in months(2000):
        crawl.page(address(day), "empty")
    assert not crawl.closed


def test_the_same_pages_under_ever_new_session_ids_are_a_trap_whatever_they_give() -> None:
    crawl = Crawl()
    for number in range(1600):
        page, ids = number % 30, (f"{number * 7919:08x}", f"{number * 104729:08x}")
        body = f"<h1>Product {page}</h1><a href='/p/{page + 1}?sid={ids[1]}'>next</a> you are {ids[0]}"
        gives = f"/p/{page + 1}?sid={ids[1]}"
        crawl.page(f"/p/{page}?sid={ids[0]}", body, gives, "/other/page", has_items=True)
    assert [each.kind for each in crawl.closed] == ["session ids"]


def test_different_pages_under_ever_new_session_ids_are_no_trap() -> None:
    crawl = Crawl(pages=100)
    for number in range(3000):
        crawl.page(f"/p/{number}?sid={number * 7919:08x}", f"<h1>Product {number}</h1>", f"/p/{number + 1}?sid=1")
    assert not crawl.closed


def test_more_pages_under_one_pattern_than_are_remembered_are_no_trap() -> None:
    crawl = Crawl(pages=100)
    for number in range(6 * _BODIES):
        page = number % (2 * _BODIES)
        crawl.page(f"/p/{page}?sid={number:08x}", f"<h1>Product {page}</h1>", f"/p/{page}?sid={number + 1:08x}")
    assert not crawl.closed


@pytest.mark.parametrize(("gives", "has_items"), [(("/object/a",), False), ((), True)])
def test_a_list_of_tokens_by_a_cursor_of_tokens_is_no_trap_if_it_gives_anything(
    gives: tuple[str, ...], has_items: bool
) -> None:
    crawl = Crawl(pages=100)
    for number in range(2000):
        cursor, following = f"c0ffee0000{number:010}", f"c0ffee0000{number + 1:010}"
        body = f'{{"ids": ["0123456789abcdef{number:08}"], "next": "{following}"}}'
        crawl.page(f"/feed?cursor={cursor}", body, f"/feed?cursor={following}", *gives, has_items=has_items)
    assert not crawl.closed


def test_a_cursor_that_leads_nowhere_for_ever_is_a_trap() -> None:
    crawl = Crawl(pages=100)
    for number in range(400):
        following = f"c0ffee0000{number + 1:010}"
        crawl.page(f"/feed?cursor=c0ffee0000{number:010}", f"nothing <a href={following}>", f"/feed?cursor={following}")
    assert [each.kind for each in crawl.closed] == ["tokens"]


def test_a_body_that_is_too_large_to_compare_counts_as_new() -> None:
    crawl = Crawl(pages=100)
    empty_months(crawl, 1000, more="." * (256 * 1024))
    assert not crawl.closed


def test_zero_switches_it_off() -> None:
    known = tuple(filter(None, _closed().traps.rows().values()))
    crawl = Crawl(pages=0, known=known)
    empty_months(crawl, 3000)
    assert not crawl.closed
    assert not crawl.traps.is_closed(f"{SITE}/calendar/1815/12")


def _closed() -> Crawl:
    crawl = Crawl(pages=50)
    empty_months(crawl, 400)
    assert crawl.closed
    return crawl


def test_what_was_recognised_is_known_to_the_next_run_and_told_once() -> None:
    first = _closed()
    rows = first.traps.rows()
    assert len(rows) == 1
    assert first.traps.rows() == {}
    again = Crawl(pages=50, known=tuple(filter(None, rows.values())))
    assert again.traps.is_closed(f"{SITE}/calendar/1815/12")
    empty_months(again, 1000)
    assert not again.closed


def test_bodies_are_looked_at_late_and_seldom() -> None:
    traps = Traps(1000)
    watches = [traps.look(f"{SITE}/calendar/{number}", b"x") for number in range(1, 1001)]
    assert not any(watches[:200])
    samples = [watch for watch in watches if watch is not None and watch.digest is not None]
    assert len(samples) == 100


def test_patterns_are_remembered_up_to_a_number_and_the_busiest_stay() -> None:
    crawl = Crawl(pages=50)
    for number, (day, following) in enumerate(itertools.pairwise(months(400))):
        crawl.page(address(day), "empty", address(following))
        for other in range(20):
            crawl.page(f"/calendar/{'x' * (number % 90)}{chr(97 + other)}/{number}", "once")
    assert crawl.closed
    assert len(crawl.traps._growing) <= _PATTERNS
