"""How a host is treated, as pure decisions: no server, no clock."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.politeness import Answer, Circuit, Controller, HostRule, Pause, is_trouble

NOW = 1_000_000.0
GOOD = Answer(200, latency=0.01)
BUSY = Answer(503)
PLAIN = HostRule(jitter=0.0)


def controller(rule: HostRule = PLAIN) -> Controller:
    return Controller("a.test:80", rule)


def after(host: Controller, *answers: Answer) -> Controller:
    for number, answer in enumerate(answers):
        host.observe(answer, NOW + number)
    return host


# -- turns and places ------------------------------------------------------------------------------------------------


def test_two_starts_are_a_delay_apart_and_two_are_there_at_a_time() -> None:
    host = controller()
    assert (host.taken < host.places, host.turn) == (True, 0.0)
    host.take(NOW, 0.0)
    assert (host.taken < host.places, host.turn) == (True, NOW + 0.5)
    host.take(NOW + 0.5, 0.0)
    assert (host.taken < host.places, host.turn) == (False, NOW + 1.0)


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1), st.floats(0, 60))
def test_jitter_never_makes_a_delay_shorter(chance: float, jitter: float, delay: float) -> None:
    host = controller(HostRule(delay=delay, jitter=jitter))
    assert delay <= host.spacing(chance) <= 2 * delay


def test_a_turn_that_was_not_used_is_there_for_the_next_unless_somebody_had_one_since() -> None:
    host = controller()
    host.take(NOW, 0.0)
    host.leave(unused=True)
    assert (host.taken, host.turn) == (0, 0.0)
    host.take(NOW, 0.0)
    host.take(NOW + 0.5, 0.0)
    host.leave(unused=False)
    host.take(NOW + 1.0, 0.0)
    host.leave(unused=True)
    assert host.turn == NOW + 1.0


def test_what_went_out_late_moves_the_next_turn() -> None:
    host = controller()
    host.take(NOW, 0.0)
    assert host.sent(NOW + 3)
    assert host.turn == NOW + 3.5
    assert not host.sent(NOW + 1)


# -- the delay follows the host --------------------------------------------------------------------------------------


def test_the_rate_grows_by_a_fixed_step_after_twenty_good_answers_down_to_a_tenth_of_the_delay() -> None:
    host = after(controller(), *[GOOD] * 20)
    assert host.delay == 0.5, "a few pages say little"
    delays = [after(host, GOOD).delay for _ in range(100)]
    rates = [1 / delay for delay in delays]
    steps = [later - earlier for earlier, later in itertools.pairwise(rates[:80])]
    assert steps == pytest.approx([0.2] * 79)
    assert delays[-1] == pytest.approx(0.05)


def test_the_delay_never_gets_shorter_than_the_host_takes_to_answer() -> None:
    host = after(controller(), *[Answer(200, latency=0.2)] * 300)
    assert host.delay == pytest.approx(0.2)


def test_a_host_that_answers_more_slowly_is_followed_halfway_at_each_answer() -> None:
    host = after(controller(), Answer(200, latency=4.5))
    assert host.delay == pytest.approx(2.5)
    assert after(host, *[Answer(200, latency=4.5)] * 20).delay == pytest.approx(4.5, abs=0.01)


def test_trouble_doubles_the_delay_up_to_the_longest_and_a_few_good_answers_bring_it_back() -> None:
    host = controller(HostRule(jitter=0.0, max_delay=6.0, circuit_failures=0))
    assert [after(host, BUSY).delay for _ in range(5)] == [1.0, 2.0, 4.0, 6.0, 6.0]
    back = [after(host, GOOD).delay for _ in range(10)]
    assert back == sorted(back, reverse=True)
    assert back[0] == pytest.approx(1 / (1 / 6 + 0.2))
    assert back[-1] == 0.5


def test_error_pages_are_no_reason_to_come_faster_than_configured() -> None:
    assert after(controller(), *[Answer(404, latency=0.001)] * 200).delay == 0.5


def test_what_is_wrong_on_our_side_or_with_one_page_changes_nothing() -> None:
    ours = ("tls_expired", "body_too_large", "dns_not_found")
    host = after(controller(), *[Answer(reason=reason) for reason in ours])
    assert (host.delay, host.failures, host.answers) == (0.5, 0, 0)


def test_without_adapting_the_delay_is_always_as_configured() -> None:
    host = controller(HostRule(jitter=0.0, adaptive=False))
    assert after(host, *[GOOD] * 100).delay == 0.5
    assert after(host, *[BUSY] * 5, Answer(200, latency=9.0)).delay == 0.5


def test_a_configured_delay_of_nothing_stays_nothing_and_opens_no_circuit() -> None:
    host = after(controller(HostRule(delay=0.0)), *[BUSY] * 50)
    assert (host.delay, host.circuit(NOW)) == (0.0, Circuit.CLOSED)


@given(st.lists(st.sampled_from([GOOD, BUSY, Answer(200, latency=100.0), Answer(reason="read_timeout"), Answer(404)])))
def test_the_delay_stays_between_a_tenth_of_the_configured_one_and_the_longest(answers: list[Answer]) -> None:
    host = controller()
    for answer in answers:
        assert 0.05 <= after(host, answer).delay <= 60.0


def test_a_crawl_delay_is_a_floor_and_no_longer_than_allowed() -> None:
    host = controller()
    host.ask_delay(3.0)
    assert host.delay == 3.0
    assert after(host, *[GOOD] * 300).delay == 3.0
    host.ask_delay(1000.0)
    assert host.delay == 60.0
    host.ask_delay(0.0)
    assert after(host, *[GOOD] * 30).delay < 1.0


def test_a_crawl_delay_shorter_than_the_configured_delay_makes_nothing_faster() -> None:
    host = controller()
    host.ask_delay(0.1)
    assert host.delay == 0.5


# -- pauses ----------------------------------------------------------------------------------------------------------


def test_a_host_that_asks_for_a_pause_has_no_turn_before() -> None:
    host = after(controller(), Answer(429, retry_after=100.0))
    assert (host.turn, host.pause) == (NOW + 100, Pause.RETRY_AFTER)
    assert host.is_paused(NOW + 99)
    assert not host.is_paused(NOW + 100)


def test_a_longer_pause_stays() -> None:
    host = after(controller(), Answer(429, retry_after=100.0), Answer(503, retry_after=5.0))
    assert host.turn == NOW + 100


# -- the circuit -----------------------------------------------------------------------------------------------------


def failing(rule: HostRule = PLAIN, *, was_good: bool = True) -> Controller:
    """With its circuit just opened, at NOW + 20."""
    host = controller(rule)
    host.was_good = was_good
    for number in range(1, 21):
        host.observe(BUSY, NOW + number)
    return host


@pytest.mark.hostile("R-21")
def test_the_circuit_opens_after_so_many_failures_in_a_row_and_not_before() -> None:
    host = after(controller(), *[BUSY] * 19, GOOD, *[BUSY] * 19)
    assert host.circuit(NOW) is Circuit.CLOSED
    host = failing()
    assert host.circuit(NOW + 21) is Circuit.OPEN
    assert (host.turn, host.pause) == (NOW + 50, Pause.CIRCUIT)


@pytest.mark.hostile("R-21")
def test_after_the_pause_one_probe_goes_and_not_two() -> None:
    host = failing()
    assert host.places == 1
    host.take(NOW + 50, 0.0)
    assert host.taken == host.places


def test_each_probe_that_fails_doubles_the_pause_up_to_a_quarter_of_an_hour() -> None:
    host, now = failing(), NOW + 20
    pauses = []
    for _ in range(8):
        pauses.append(host.turn - now)
        now = host.turn
        host.observe(BUSY, now)
    assert pauses == [30, 60, 120, 240, 480, 900, 900, 900]


def test_a_probe_that_is_answered_well_closes_the_circuit() -> None:
    host = failing()
    host.observe(GOOD, NOW + 51)
    assert host.circuit(NOW + 51) is Circuit.CLOSED
    assert host.places == 2
    assert not host.is_paused(NOW + 51)


def test_what_was_sent_before_the_circuit_opened_is_no_probe() -> None:
    host = failing()
    host.observe(BUSY, NOW + 21)
    assert (host.probes, host.turn) == (0, NOW + 50)
    host.observe(GOOD, NOW + 22)
    assert host.turn <= NOW + 50
    assert host.circuit(NOW + 22) is Circuit.CLOSED


@pytest.mark.parametrize(("was_good", "probes"), [(True, 8), (False, 2)])
def test_a_host_is_given_up_after_probes_that_fail_until_the_next_one_is_due(was_good: bool, probes: int) -> None:
    host = failing(was_good=was_good)
    for _ in range(probes):
        assert host.circuit(host.blocked_until - 1) is Circuit.OPEN
        host.observe(BUSY, host.blocked_until)
    assert host.circuit(host.blocked_until - 1) is Circuit.DOWN
    assert host.turn < host.blocked_until, "what waits for it is to fail soon"
    assert host.circuit(host.blocked_until) is Circuit.OPEN


def test_no_circuit_where_none_is_wanted() -> None:
    assert after(controller(HostRule(circuit_failures=0)), *[BUSY] * 100).circuit(NOW) is Circuit.CLOSED


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 520, 524])
def test_statuses_that_are_trouble(status: int) -> None:
    assert is_trouble(Answer(status))


@pytest.mark.parametrize("answer", [Answer(200), Answer(404), Answer(403), Answer(501), Answer(reason="tls_expired")])
def test_answers_that_are_none(answer: Answer) -> None:
    assert not is_trouble(answer)


def test_a_row_of_first_tries_that_fail_is_the_hosts_fault_if_it_answered_well_before() -> None:
    host = after(controller(), GOOD, *[BUSY] * 4)
    assert not host.is_to_blame(0, NOW), "one broken page fails as often"
    host.observe(BUSY, NOW)
    assert host.is_to_blame(0, NOW)
    assert not host.is_to_blame(1, NOW), "it was counted before"
    stranger = after(controller(), *[BUSY] * 9)
    assert not stranger.is_to_blame(0, NOW)
    hurried = after(controller(HostRule(delay=0.0)), GOOD, *[BUSY] * 9)
    assert not hurried.is_to_blame(0, NOW), "it would be sent again and again"


def test_a_probe_that_failed_is_the_hosts_fault_whatever_was_tried_before() -> None:
    host = failing(was_good=False)
    host.observe(BUSY, NOW + 50)
    assert host.is_to_blame(3, NOW + 50)


def test_a_turn_given_ahead_waits_a_delay_after_what_was_really_sent() -> None:
    host = controller()
    host.take(NOW, 0.0)
    host.take(NOW + 0.5, 0.0)  # an inline fetch, which waits for its turn
    host.sent(NOW + 0.2)
    assert host.early_by(NOW + 0.5) == pytest.approx(0.2)
    assert host.early_by(NOW + 0.7) == pytest.approx(0.0)
    host.block(NOW + 5, Pause.RETRY_AFTER)
    assert host.early_by(NOW + 0.7) == pytest.approx(4.3)


# -- over restarts ---------------------------------------------------------------------------------------------------


def restored(host: Controller, rule: HostRule = PLAIN) -> Controller:
    again = controller(rule)
    again.restore(host.state(), NOW + 100)
    return again


def test_what_was_learnt_survives() -> None:
    host = after(controller(), *[GOOD] * 5, *[BUSY] * 3, Answer(429, retry_after=500.0))
    host.ask_delay(2.0)
    again = restored(host)
    assert again.state() == host.state()
    assert repr(again) == repr(host)


def test_an_open_circuit_survives() -> None:
    again = restored(failing())
    assert again.circuit(NOW + 21) is Circuit.OPEN
    assert again.turn == NOW + 50


def test_a_host_treated_as_configured_takes_a_new_configuration() -> None:
    assert restored(controller(), HostRule(delay=3.0)).delay == 3.0
    faster = after(controller(), *[GOOD] * 200)
    assert restored(faster, HostRule(delay=3.0)).delay == pytest.approx(0.3)
    assert restored(faster, HostRule(delay=3.0, adaptive=False)).delay == 3.0


@pytest.mark.hostile("R-24")
def test_a_saved_turn_far_in_the_future_is_a_clock_that_went_wrong() -> None:
    host = controller()
    host.take(NOW + 1e6, 0.0)
    assert restored(host).turn <= NOW + 100.5


def test_a_pause_of_a_word_that_this_version_does_not_know_is_a_pause() -> None:
    again = controller()
    again.restore(controller().state()._replace(pause="tea", blocked_until=NOW + 9), NOW)
    assert (again.pause, again.turn) == (Pause.ASKED, NOW + 9)
