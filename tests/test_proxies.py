"""The rotation over proxies: who goes where, who rests and for how long, and what nobody may see."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from crawler import errors
from crawler.errors import BlockedError, BodyError, ConnectError, DNSError, ProtocolError, TLSError
from crawler.proxies import (
    Blame,
    ProxyPool,
    authorization,
    blame,
    credentials,
    is_socks,
    redacted,
    with_credentials,
)

A, B, C = (f"http://user:secret-{name}@{name}.example:3128" for name in "abc")
HOSTS = [f"host{number}.example:443" for number in range(300)]
REST = 30.0


def pool(*urls: str, **options: Any) -> ProxyPool:
    return ProxyPool(urls or (A, B, C), rest_seconds=REST, max_rest_seconds=REST * 8, **options)


def owners(of: ProxyPool, now: float = 0.0) -> dict[str, str]:
    return {host: of.choose(host, None, now) for host in HOSTS}


# -- rotation ----------------------------------------------------------------------------------------------------------


def test_per_request_each_has_its_turn() -> None:
    turns = pool(per="request")
    assert [turns.choose("one.example:80", None, 0.0) for _ in range(7)] == [A, B, C, A, B, C, A]


def test_per_request_a_resting_one_is_passed_over_and_the_others_share_its_turns() -> None:
    turns = pool(per="request")
    turns.failed(B, began=0.0, now=1.0)
    assert [turns.choose("one.example:80", None, 2.0) for _ in range(4)] == [A, C, A, C]


def test_per_host_a_host_keeps_its_proxy_whatever_the_session() -> None:
    kept = pool(per="host")
    for host in HOSTS[:20]:
        assert len({kept.choose(host, session, 0.0) for session in (None, "first", "second")}) == 1


def test_per_session_a_session_keeps_its_proxy_whatever_the_host() -> None:
    kept = pool(per="session")
    chosen = {session: {kept.choose(host, session, 0.0) for host in HOSTS[:20]} for session in map(str, range(30))}
    assert all(len(urls) == 1 for urls in chosen.values())
    assert {url for urls in chosen.values() for url in urls} == {A, B, C}
    assert len({kept.choose(host, None, 0.0) for host in HOSTS[:20]}) == 1


def test_hosts_spread_evenly_over_the_proxies() -> None:
    counts = Counter(owners(pool()).values())
    assert all(70 <= counts[url] <= 130 for url in (A, B, C)), counts


def test_another_process_with_the_same_list_in_another_order_chooses_the_same() -> None:
    script = (
        "import json, sys; from crawler.proxies import ProxyPool; urls, hosts = json.load(sys.stdin);"
        "pool = ProxyPool(urls); print(json.dumps({host: pool.choose(host, None, 0.0) for host in hosts}))"
    )
    there = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps([[C, A, B], HOSTS]), capture_output=True, text=True, check=True
    )
    assert json.loads(there.stdout) == owners(pool())


def test_when_a_proxy_rests_only_its_own_hosts_move_and_not_all_to_one() -> None:
    kept = pool()
    before = owners(kept)
    kept.failed(B, began=0.0, now=1.0)
    during = owners(kept, 2.0)
    assert {host for host in HOSTS if during[host] != before[host]} == {host for host in HOSTS if before[host] == B}
    assert {during[host] for host in HOSTS if before[host] == B} == {A, C}


def test_they_come_back_when_it_does() -> None:
    kept = pool()
    before = owners(kept)
    kept.failed(B, began=0.0, now=1.0)
    owners(kept, 2.0)
    owners(kept, 40.0)
    kept.succeeded(B, began=40.0)
    assert owners(kept, 41.0) == before


def test_more_hosts_than_are_remembered_keep_their_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = owners(pool())
    monkeypatch.setattr("crawler.proxies._REMEMBERED", 10)
    kept = pool()
    assert owners(kept) == expected
    assert len(kept._kept) <= 10


def test_when_all_rest_it_is_the_one_that_comes_back_soonest() -> None:
    for per in ("request", "host", "session"):
        resting = pool(per=per)
        for url, at in ((C, 1.0), (A, 2.0), (B, 3.0)):
            resting.failed(url, began=0.0, now=at)
        assert {resting.choose(host, None, 4.0) for host in HOSTS[:20]} == {C}


def test_a_proxy_listed_twice_counts_once() -> None:
    assert len(pool(A, B, A)) == 2


# -- health ------------------------------------------------------------------------------------------------------------


def test_pauses_grow_while_it_fails_and_start_anew_after_an_answer() -> None:
    ailing = pool(A)
    now, pauses = 0.0, []
    for _ in range(6):
        pauses.append(ailing.failed(A, began=now, now=now + 1.0))
        now += 1000.0
    assert pauses == [30.0, 60.0, 120.0, 240.0, 240.0, 240.0]
    assert ailing.succeeded(A, began=now) is True
    assert ailing.failed(A, began=now + 1.0, now=now + 2.0) == 30.0


def test_a_thousand_failures_in_a_row_are_no_arithmetic_error() -> None:
    ailing = pool(A)
    assert [ailing.failed(A, began=float(n), now=n + 0.5) for n in range(1100)][-1] == 240.0


def test_what_was_in_flight_when_it_died_counts_once() -> None:
    dying = pool()
    assert dying.failed(A, began=1.0, now=10.0) == 30.0
    assert [dying.failed(A, began=9.0 + n / 100, now=10.0 + n) for n in range(64)] == [None] * 64
    assert dying.snapshot(10.0)["http://a.example:3128"] == {"failures": 1, "resting_seconds": 30.0}


def test_two_failures_at_one_moment_count_once() -> None:
    dying = pool()
    assert (dying.failed(A, began=5.0, now=5.0), dying.failed(A, began=5.0, now=5.0)) == (30.0, None)


def test_an_answer_to_a_request_from_before_the_failure_does_not_end_the_rest() -> None:
    dying = pool()
    dying.failed(A, began=1.0, now=10.0)
    assert dying.succeeded(A, began=9.0) is False
    assert dying.snapshot(11.0)["http://a.example:3128"]["resting_seconds"] == 29.0


def test_after_its_rest_one_request_tries_it_and_the_others_wait_for_its_answer() -> None:
    turns = pool(A, B, per="request")
    turns.failed(A, began=0.0, now=0.0)
    assert [turns.choose("one.example:80", None, 31.0) for _ in range(4)].count(A) == 1
    turns.succeeded(A, began=31.0)
    assert [turns.choose("one.example:80", None, 32.0) for _ in range(4)].count(A) == 2


def test_where_the_trial_fails_it_rests_twice_as_long() -> None:
    turns = pool(A, B, per="request")
    turns.failed(A, began=0.0, now=0.0)
    while turns.choose("one.example:80", None, 31.0) != A:
        pass
    assert turns.failed(A, began=31.0, now=32.0) == 60.0
    assert {turns.choose("one.example:80", None, 91.0) for _ in range(4)} == {B}


def test_where_the_trial_is_never_heard_of_again_another_follows() -> None:
    turns = pool(A, B, per="request")
    turns.failed(A, began=0.0, now=0.0)
    assert [turns.choose("one.example:80", None, 31.0) for _ in range(4)].count(A) == 1
    assert [turns.choose("one.example:80", None, 62.0) for _ in range(4)].count(A) == 1


def test_one_doubt_is_no_failure_but_three_in_a_row_are() -> None:
    doubtful = pool()
    outcomes = [doubtful.failed(A, began=float(n), now=n + 0.5, sure=False) for n in range(3)]
    assert outcomes == [None, None, 30.0]


def test_an_answer_in_between_ends_the_doubts() -> None:
    doubtful = pool()
    for n in range(0, 30, 3):
        assert doubtful.failed(A, began=float(n), now=n + 0.5, sure=False) is None
        assert doubtful.failed(A, began=n + 1.0, now=n + 1.5, sure=False) is None
        assert doubtful.succeeded(A, began=n + 2.0) is False


def test_on_probation_a_doubt_is_enough() -> None:
    doubtful = pool()
    doubtful.failed(A, began=0.0, now=0.0)
    assert doubtful.failed(A, began=31.0, now=32.0, sure=False) == 60.0


def test_a_proxy_of_a_request_alone_is_none_of_the_pools_business() -> None:
    kept = pool()
    assert kept.failed("http://other.example:80", began=0.0, now=1.0) is None
    assert kept.succeeded("http://other.example:80", began=2.0) is False
    assert "http://other.example:80" not in kept
    assert A in kept


# -- whose fault -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectError("", reason="proxy"), Blame.PROXY),
        (DNSError("", reason="dns_not_found"), Blame.PROXY),
        (DNSError("", reason="dns_timeout"), Blame.PROXY),
        (ConnectError("", reason="proxy_tunnel"), Blame.UNCLEAR),
        (errors.TimeoutError("", reason="connect_timeout"), Blame.UNCLEAR),
        (errors.TimeoutError("", reason="read_timeout"), Blame.UNCLEAR),
        (errors.TimeoutError("", reason="total_timeout"), Blame.UNCLEAR),
        (ConnectError("", reason="connect_reset"), Blame.UNCLEAR),
        (ProtocolError("", reason="disconnected"), Blame.UNCLEAR),
        (ProtocolError(""), Blame.UNCLEAR),
        (ConnectError("", reason="connect_refused"), Blame.OTHERS),
        (ConnectError("", reason="connect_unreachable"), Blame.OTHERS),
        (TLSError("", reason="tls_certificate"), Blame.OTHERS),
        (TLSError("", reason="tls_fingerprint"), Blame.OTHERS),
        (BodyError("", reason="body_truncated"), Blame.OTHERS),
        (BlockedError("", reason="blocked_address"), Blame.OTHERS),
    ],
    ids=lambda value: getattr(value, "reason", None) or getattr(value, "name", None),
)
def test_an_error_is_blamed_on_the_proxy_only_where_it_can_be_its_fault(error: Any, expected: Blame) -> None:
    assert blame(error) is expected


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_nothing_shown_of_a_pool_holds_a_secret() -> None:
    shown = pool()
    shown.failed(A, began=0.0, now=1.0)
    assert repr(shown) == "<ProxyPool per=host proxies=3 ailing=1>"
    words = f"{shown!r} {shown.snapshot(2.0)} {[shown.name(url) for url in (A, B, C)]}"
    assert "secret" not in words
    assert "user" not in words


def test_the_snapshot_says_who_rests_and_for_how_long() -> None:
    shown = pool(A, B)
    shown.failed(A, began=0.0, now=10.0)
    assert shown.snapshot(15.0) == {
        "http://a.example:3128": {"failures": 1, "resting_seconds": 25.0},
        "http://b.example:3128": {"failures": 0, "resting_seconds": 0.0},
    }
    assert shown.snapshot(50.0)["http://a.example:3128"] == {"failures": 1, "resting_seconds": 0.0}


def test_accounts_at_one_address_have_names_of_their_own() -> None:
    gate = ["http://one:x@gate.example:7000", "http://two:x@gate.example:7000", "http://three:x@gate.example:7000"]
    shown = pool(*gate)
    assert [shown.name(url) for url in gate] == [
        "http://gate.example:7000",
        "http://gate.example:7000 #2",
        "http://gate.example:7000 #3",
    ]
    assert len(shown.snapshot(0.0)) == 3


# -- URLs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://user:secret@proxy.example:3128", "http://proxy.example:3128"),
        ("HTTP://user:secret@Proxy.Example:3128/", "http://proxy.example:3128"),
        ("http://proxy.example", "http://proxy.example:80"),
        ("https://token@proxy.example", "https://proxy.example:443"),
        ("socks5://user:secret@proxy.example", "socks5://proxy.example:1080"),
        ("socks5h://[2001:db8::1]:9050", "socks5h://[2001:db8::1]:9050"),
        ("http://user:p%40ss%2Fword@192.0.2.1:80", "http://192.0.2.1:80"),
        ("http://user:with@sign@192.0.2.1:80", "http://192.0.2.1:80"),
    ],
)
def test_a_proxy_is_named_by_scheme_host_and_port(url: str, expected: str) -> None:
    assert redacted(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "proxy.example:3128",
        "user:hunter2@proxy.example:3128",
        "http://",
        "http://user:hunter2@",
        "http://user:hunter2@:80",
        "http://user:hunter2@proxy.example:0",
        "http://user:hunter2@proxy.example:hunter2",
        "http://user:12/hunter2@proxy.example:80",
        "http://user:12#hunter2@proxy.example:80",
        "http://user:12?hunter2@proxy.example:80",
        "http://user:hunter2@[proxy.example:80",
        "ftp://user:hunter2@proxy.example",
        "ftp://user:hunter2@proxy.example:3128",
    ],
)
def test_what_is_no_proxy_is_refused_without_being_shown(url: str) -> None:
    for ask in (redacted, credentials, authorization, ProxyPool):
        with pytest.raises(ValueError, match="proxy") as caught:
            ask([url] if ask is ProxyPool else url)  # type: ignore[arg-type]
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_pool_needs_a_proxy() -> None:
    with pytest.raises(ValueError, match="needs a proxy"):
        ProxyPool([])


def test_credentials_are_unescaped_once() -> None:
    assert credentials("http://us%40er:p%252F%3A@proxy.example") == ("us@er", "p%2F:")
    assert credentials("http://token@proxy.example") == ("token", "")
    assert credentials("http://proxy.example") is None


def test_the_header_is_basic_in_utf8() -> None:
    assert authorization("http://user:secret@proxy.example") == "Basic dXNlcjpzZWNyZXQ="
    assert authorization("http://us%C3%A9r:p%3Ass@proxy.example") == "Basic dXPDqXI6cDpzcw=="
    assert authorization("http://proxy.example") is None


def test_a_user_with_a_colon_is_refused_because_basic_would_cut_there() -> None:
    with pytest.raises(ValueError, match="colon") as caught:
        authorization("http://us%3Aer:secret@proxy.example")
    assert "secret" not in str(caught.value)


def test_other_credentials_replace_those_of_the_url() -> None:
    url = with_credentials("http://old:word@proxy.example", "us@er", "p/:?#w")
    assert redacted(url) == "http://proxy.example:80"
    assert credentials(url) == ("us@er", "p/:?#w")


def test_socks_is_told_from_the_others() -> None:
    assert [is_socks(f"{scheme}://h:1") for scheme in ("http", "https", "socks5", "SOCKS5h", "socks4")] == [
        False,
        False,
        True,
        True,
        True,
    ]
