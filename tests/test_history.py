"""The judge of `benchmarks/fleet` finds what was planted, and nothing where nothing was."""

from __future__ import annotations

import pytest

HOST = "127.1.0.1"
LEASE = 2.0


@pytest.fixture
def judged(fleet):
    """What is found of requests, each (start, path, ...). Items are of all good pages, unless given."""
    journal, history = fleet("journal"), fleet("history")

    def hit(started, path, worker="w1", *, took=0.1, status=200, host=HOST, wait=0.0, after=0.002):
        return journal.Hit(host, path, started, started - after, worker, 1, started + took, status, wait)

    def judge(*hits, items=None, expected=None, deaths=(), restarts=(), delay=1.0, places=1):
        hits = sorted(hits, key=lambda each: each.started)
        good = {each.url for each in hits if each.is_good and each.path != journal.ROBOTS}
        engines = [history.Restart(*each) for each in restarts]
        rules = history.Rules(lambda host: delay, places, LEASE, are_exact=not deaths, restarts=engines)
        found = [history.Death(*death) for death in deaths]
        return history.judge(
            hits, good if items is None else items, good if expected is None else expected, rules, found
        )

    judge.hit = hit
    return judge


def pages(judged, *starts, **options):
    return [judged.hit(start, f"/page/{number}", **options) for number, start in enumerate(starts)]


def test_a_crawl_that_keeps_everything_has_no_violations(judged):
    found = judged(judged.hit(0.0, "/robots.txt"), *pages(judged, 1.0, 2.0, 3.0, 4.0))
    assert found.violations == []
    assert (found.pages, found.requests, found.gaps.count) == (4, 5, 4)
    assert (found.gaps.shortest, found.efficiency) == (1.0, 1.0)


def test_a_start_before_the_delay_is_over_is_found_whichever_worker_it_was(judged):
    found = judged(judged.hit(1.0, "/a", "w1"), judged.hit(1.9, "/b", "w2"), judged.hit(2.896, "/c", "w1"))
    assert [words.partition(":")[0] for words in found.violations] == ["900.0 ms instead of 1000"]
    assert (found.gaps.slightly, found.gaps.shortest) == (1, pytest.approx(0.9))


def test_a_short_gap_is_none_where_the_farm_had_not_looked(judged):
    found = judged(judged.hit(1.0, "/a", after=0.2), judged.hit(1.9, "/b"))
    assert found.violations == []
    assert found.gaps.stalled == 1


def test_requests_to_different_hosts_may_start_together(judged):
    found = judged(judged.hit(1.0, "/a"), judged.hit(1.0, "/a", host="127.1.0.2"))
    assert found.violations == []


def test_more_requests_at_a_host_than_it_has_places_are_found(judged):
    overlapping = pages(judged, 1.0, 2.0, 3.0, took=2.5)
    assert [words.partition(":")[0] for words in judged(*overlapping, places=2).violations] == ["3 at a time"]
    assert judged(*overlapping, places=3).violations == []


def test_a_page_that_is_fetched_again_is_a_violation_unless_its_first_answer_was_none(judged):
    twice = judged.hit(1.0, "/a"), judged.hit(2.0, "/a", "w2")
    assert judged(*twice).again == ["again although it was answered: 127.1.0.1/a 200 by w2"]
    assert judged(judged.hit(1.0, "/a", status=503), judged.hit(2.0, "/a", "w2")).violations == []
    assert len(judged(judged.hit(1.0, "/robots.txt"), judged.hit(2.0, "/robots.txt", "w2")).again) == 1


def test_after_a_death_a_page_may_be_fetched_again_but_not_by_who_had_its_answer(judged):
    dead = [("w1", 1.05)]
    found = judged(judged.hit(1.0, "/a"), judged.hit(3.5, "/a", "w2"), deaths=dead)
    assert (found.violations, found.refetched) == ([], 1)
    found = judged(judged.hit(1.0, "/a"), judged.hit(3.5, "/a", "w2"), judged.hit(5.0, "/a", "w2"), deaths=dead)
    assert len(found.again) == 1


def test_items_that_are_missing_there_twice_or_of_no_page_are_found(judged):
    a, b, c = ((HOST, f"/page/{number}") for number in range(3))
    found = judged(*pages(judged, 1.0, 2.0), items=[a, a, c], expected=[a, b])
    assert found.lost == ["no item of 127.1.0.1/page/1"]
    assert found.twice == ["2 items of 127.1.0.1/page/0"]
    assert found.strays == ["an item of 127.1.0.1/page/2, which is not there"]
    assert len(found.violations) == 3


def test_an_orphan_has_the_time_of_a_lease_and_a_second_and_the_delay(judged):
    cut = judged.hit(1.0, "/a", status=0, took=0.05)
    found = judged(cut, judged.hit(5.0, "/a", "w2"), deaths=[("w1", 1.05)])
    assert (found.violations, found.orphans.count) == ([], 1)
    assert found.orphans.longest == pytest.approx(2.95)
    found = judged(cut, judged.hit(5.2, "/a", "w2"), deaths=[("w1", 1.05)])
    assert [words.partition(" after")[0] for words in found.violations] == ["3.15 s"]


def test_the_second_orphan_of_a_host_may_come_a_delay_later(judged):
    had = [judged.hit(start, path) for start, path in ((1.0, "/a"), (2.0, "/b"))]
    again = [judged.hit(start, path, "w2") for start, path in ((5.9, "/a"), (6.9, "/b"))]
    assert judged(*had, *again, deaths=[("w1", 2.05)]).violations == []
    late = [again[0], judged.hit(7.2, "/b", "w2")]
    assert len(judged(*had, *late, deaths=[("w1", 2.05)]).violations) == 1


def test_a_late_orphan_is_excused_where_another_process_died_that_may_have_had_it(judged):
    cut = judged.hit(1.0, "/a", status=0, took=0.05)
    found = judged(cut, judged.hit(7.0, "/a", "w3"), deaths=[("w1", 1.05), ("w2", 4.0)])
    assert (found.violations, found.orphans.held_up) == ([], 1)


def test_a_late_orphan_is_excused_where_the_engine_was_started_anew_in_between_and_only_there(judged):
    cut = judged.hit(1.0, "/a", status=0, took=0.05)
    late = [cut, judged.hit(7.0, "/a", "w3")]
    found = judged(*late, deaths=[("w1", 1.05)], restarts=[(4.0, 5.0)])
    assert found.violations == []
    assert (found.orphans.longest, found.orphans.longest_held) == (0.0, pytest.approx(4.95))
    assert len(judged(*late, deaths=[("w1", 1.05)], restarts=[(8.0, 9.0)]).violations) == 1


def test_a_request_in_a_pause_is_found_unless_whoever_heard_of_it_died(judged):
    asked = judged.hit(1.0, "/a", status=429, wait=3.0)
    found = judged(asked, judged.hit(3.0, "/b", "w2"), judged.hit(4.2, "/a"))
    assert [words.partition(":")[0] for words in found.violations] == ["1.90 s after being asked to wait 3 s"]
    found = judged(asked, judged.hit(3.0, "/b", "w2"), deaths=[("w1", 1.5)])
    assert (found.violations, found.pauses.lost) == ([], 1)


def test_efficiency_is_what_delay_places_and_pauses_need_of_the_time_that_was_taken(judged):
    assert judged(*pages(judged, 1.0, 2.0, 4.0)).efficiency == pytest.approx(2 / 3)
    assert judged(*pages(judged, 1.0, 3.0, 5.0, took=2.0)).efficiency == pytest.approx(1.0)
    waited = [judged.hit(1.0, "/a"), judged.hit(2.0, "/b", status=429, wait=3.0), judged.hit(5.1, "/b")]
    assert judged(*waited).efficiency == pytest.approx(1.0)


def test_a_line_of_the_journal_that_was_cut_off_is_not_read(fleet, judged, tmp_path):
    journal = fleet("journal")
    lines = [journal.encode(judged.hit(start, "/a")) for start in (2.0, 1.0, 3.0)]
    (tmp_path / "journal").write_bytes(b"".join(lines)[:-5])
    assert [hit.started for hit in journal.read(tmp_path / "journal")] == [1.0, 2.0]
