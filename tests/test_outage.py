"""When to try again: soon where it is cheap, within 15 s where somebody said no, rarely where asking does harm."""

import random

import pytest

from gateway.config import Platform
from gateway.uplink import hints
from gateway.uplink.hints import Problem, of_code
from gateway.uplink.outage import FLAPS, STABLE_S, Outage
from gateway.uplink.pulse import PATIENCE_S

NEAR, FAR = Problem("refused", "en", "zh", "near"), of_code(0x86, "Bad user name or password")
PLATFORM = Platform(id="county", host="h", port=1883)


def story(seed):
    return Outage(PLATFORM, random.Random(seed), 0.0)


def waits(outage, problem, times, now=0.0, **more):
    out = []
    for _ in range(times):
        outage.lost(problem, now, **more)
        out.append(outage.retry_at_s - now)
        now = outage.retry_at_s + 0.01
    return out


SEEDS = range(50)


@pytest.mark.parametrize(("problem", "longest"), [(NEAR, 1.5), (FAR, 9.0), (hints.NO_CONNACK, 9.0)])
def test_a_cause_that_ended_is_found_within_the_promise(problem, longest):
    """15 s: the wait, and an attempt that was under way when it ended (5 s)."""
    for seed in SEEDS:
        got = waits(story(seed), problem, 200)
        assert max(got) <= longest
        assert got[0] <= 0.5, "the first is soon"
        assert min(got[10:]) >= longest / 2


@pytest.mark.parametrize("code", [0x8E, 0x8A])
def test_who_does_harm_by_asking_asks_rarely(code):
    for seed in SEEDS:
        got = waits(story(seed), of_code(code, ""), 20)
        assert min(got) >= 15
        assert min(got[8:]) >= 150
        assert max(got) <= 300


def test_no_two_boxes_try_in_step():
    assert len({round(waits(story(seed), FAR, 10)[-1], 3) for seed in SEEDS}) > 45


def test_a_stubborn_no_costs_a_metered_link_little():
    outage = story(1)
    first_hour = [w for w in waits(outage, FAR, 400, metered=True) if w]
    assert max(first_hour) <= 9.0
    later = waits(outage, FAR, 100, now=4000.0, metered=True)
    assert min(later) >= 150
    assert max(waits(story(1), FAR, 100, now=4000.0)) <= 9.0, "others keep the promise"
    assert max(waits(story(1), NEAR, 100, now=4000.0, metered=True)) <= 1.5


def test_short_connections_are_forgiven_a_few_times():
    outage, now = story(3), 0.0
    for n in range(12):
        outage.ended(now)
        told = outage.lost(hints.LOST, now + 1)
        assert (told is hints.FLAPPING) == (n == FLAPS)
        wait = outage.retry_at_s - now - 1
        assert wait <= (0.5 if n < FLAPS else 9.0)
        now = outage.retry_at_s
    assert wait > 4
    outage.ended(now)
    outage.lost(hints.LOST, now + STABLE_S)
    assert outage.retry_at_s - now - STABLE_S <= 0.5, "a good connection is a new beginning"


def test_after_silence_without_one_answer_the_next_connection_has_more_patience():
    outage, now, seen = story(4), 0.0, []
    for answered in (False, False, False, True, False):
        seen.append(outage.patience_s / PATIENCE_S)
        outage.ended(now)
        outage.lost(hints.SILENT, now + 20, answered=answered)
        outage.lost(NEAR, now + 21)  # attempts in between teach nothing
        now += 30
    assert seen == [1, 2, 4, 4, 1]


def test_a_broker_that_hangs_up_on_a_subscription_is_sent_to_without():
    outage = story(5)
    assert outage.subscribes
    outage.ended(0.0)
    outage.lost(hints.SUBSCRIPTION, 1.0)
    assert not outage.subscribes
    outage.ended(2.0)
    assert not outage.subscribes
    outage.lost(hints.LOST, 500.0)
    assert outage.subscribes, "rights may have come meanwhile"
