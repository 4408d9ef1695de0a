"""Which URLs are in scope, by their form alone."""

from __future__ import annotations

import random
import re
import time

import pytest

from crawler.errors import SettingsError
from crawler.scope import Scope, Shape, compiled

USUAL = Shape(2083, 20, 2)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://a.test/", None),
        ("http://a.test/x/x/", None),
        ("http://a.test/x/x/x", "path_repeats"),
        ("http://a.test/x/x/x/", "path_repeats"),
        ("http://a.test/x/x/x/page.html", "path_repeats"),
        ("http://a.test/in/x/y/x/y/x/y/z", "path_repeats"),
        ("http://a.test/x/y/x/y/x", None),
        ("http://a.test/x/y/x/z/x/y", None),
        ("http://a.test/1/2/3/4/1/2/3/4/1/2/3/4", "path_repeats"),
        ("http://a.test/x/X/x", None),
        ("http://a.test////", "path_repeats"),
        ("http://a.test/web/2020/http://b.test/", None),
        ("http://a.test/?next=/x/x/x/x", None),
        ("http://a.test/x?next=/" + "y/" * 30, None),
        ("http://a.test/2012/12/12/", None),
        ("http://a.test/" + "/".join("abcdefghijklmnopqrst"), None),
        ("http://a.test/" + "/".join("abcdefghijklmnopqrst") + "/", None),
        ("http://a.test/" + "/".join("abcdefghijklmnopqrstu"), "path_segments"),
        ("http://a.test/" + "/".join("abcdefghijklmnopqrstu") + "?x", "path_segments"),
    ],
)
def test_paths_that_are_too_deep_or_go_in_circles_are_refused(url: str, reason: str | None) -> None:
    scope = Scope(shape=USUAL)
    assert [scope.refusal(url, 1) for _ in range(2)] == [reason, reason], "asked again it says the same"


def test_one_more_than_the_number_of_times_is_refused() -> None:
    for times in (1, 2, 3):
        scope = Scope(shape=Shape(2083, 0, times))
        found = [scope.refusal("http://a.test/p" + "/q" * n, 1) for n in range(1, 6)]
        assert found == [None if n <= times else "path_repeats" for n in range(1, 6)]


def test_zero_switches_the_rules_of_the_path_off() -> None:
    scope = Scope(shape=Shape(2083, 0, 0))
    assert scope.refusal("http://a.test/" + "x/" * 100, 1) is None
    assert Scope(shape=Shape(2083, 20, 0)).refusal("http://a.test/" + "x/" * 20, 1) is None
    assert Scope(shape=Shape(2083, 0, 2)).refusal("http://a.test/" + "x/" * 3, 1) == "path_repeats"


def test_repeats_are_those_that_a_regular_expression_finds() -> None:
    rng = random.Random(7)
    oracle = re.compile(r"/((?:[^/]*/)+?)\1\1")
    seen = set()
    for _ in range(3000):
        segments = [rng.choice("abc") for _ in range(rng.randint(1, 14))]
        path = "/" + "/".join(segments)
        expected = "path_repeats" if oracle.search(path + "/") else None
        assert Scope(shape=Shape(2083, 0, 2)).refusal("http://a.test" + path, 1) == expected, path
        seen.add(expected)
    assert len(seen) == 2


def test_a_path_of_a_thousand_segments_takes_no_time() -> None:
    thue = [bin(number).count("1") % 2 for number in range(1000)]  # no group of it comes three times in a row
    url = "http://a.test/" + "/".join(map(str, thue))
    scope = Scope(shape=Shape(5000, 0, 2))
    began = time.process_time()
    assert scope.refusal(url, 1) is None
    assert time.process_time() - began < 0.05


def test_a_domain_alone_is_a_list_of_one() -> None:
    scope = Scope("a.test", shape=USUAL)
    assert scope.refusal("http://www.a.test/", 0) is None
    assert scope.refusal("http://b.test/", 0) == "offsite"


def test_deny_wins_over_allow_and_both_search_the_absolute_url() -> None:
    scope = Scope(allow=compiled("s", "allow", [r"/blog/", re.compile("^https:")]), deny=compiled("s", "deny", r"\?"))
    assert scope.refusal("http://a.test/blog/x", 1) is None
    assert scope.refusal("https://a.test/other", 1) is None
    assert scope.refusal("http://a.test/other", 1) == "not_allowed"
    assert scope.refusal("http://a.test/blog/x?y", 1) == "denied"
    assert Scope(deny=compiled("s", "deny", "x")).refusal("http://a.test/y", 1) is None


def test_each_url_is_matched_once() -> None:
    class Counting:
        asked = 0

        def search(self, url: str) -> bool:
            self.asked += 1
            return True

    counting = Counting()
    scope = Scope(deny=[counting])  # type: ignore[list-item]
    assert [scope.refusal("http://a.test/", 1) for _ in range(5)] == ["denied"] * 5
    assert counting.asked == 1


@pytest.mark.parametrize("wrong", [["("], "*", 7, [7], [b"x"], [re.compile(b"x")], lambda url: True])
def test_what_is_no_regular_expression_is_named(wrong: object) -> None:
    with pytest.raises(SettingsError, match=r"deny of spider 'books'"):
        compiled("books", "deny", wrong)


def test_the_first_reason_is_the_one_that_is_told() -> None:
    scope = Scope(["a.test"], depth_limit=1, deny=compiled("s", "deny", "."), shape=Shape(30, 3, 2))
    assert scope.refusal("http://b.test/" + "x/" * 20, 2) == "depth"
    assert scope.refusal("http://b.test/" + "x/" * 20, 1) == "url_length"
    assert scope.refusal("http://b.test/x/x/x/x", 1) == "offsite"
    assert scope.refusal("http://a.test/x/x/x/x", 1) == "denied"
