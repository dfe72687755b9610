import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.judgement.detect.anomaly import EPISODE_HOLD_S, WINDOW, Anomaly, Episodes, Scores, rounds


def detector(n=3, resolution=0.1, counter=()):
    return Anomaly(np.full(n, resolution), np.array([i in counter for i in range(n)]))


def noise(n, seed=7, scale=1.0):
    print(f"seed={seed}")
    return np.random.default_rng(seed).normal(50.0, scale, n)


def feed(d, values, channel=0, start=0.0):
    return [d.score(np.array([channel]), start + k, np.array([v])) for k, v in enumerate(values)]


def test_silent_until_the_window_is_full():
    found = feed(detector(), noise(WINDOW + 1))
    assert [len(s.score) for s in found] == [0] * WINDOW + [1]


def test_score_is_the_distance_in_robust_standard_deviations():
    d = detector()
    history = noise(WINDOW)
    feed(d, history)
    found = d.score(np.array([0]), 1.0, np.array([58.0]))
    middle = np.median(history)
    spread = 1.4826 * np.median(np.abs(history - middle))
    assert found.expected.tolist() == [middle]
    assert found.score.tolist() == [(58.0 - middle) / spread]


def test_outliers_in_the_window_do_not_hide_the_next_one():
    d = detector()
    history = noise(WINDOW)
    history[10:20] = 1e6
    feed(d, history)
    assert d.score(np.array([0]), 1.0, np.array([60.0])).score[0] > 6


def test_a_constant_channel_is_not_unusual_in_its_last_digit():
    d = detector(resolution=0.1)
    feed(d, [5.0] * WINDOW)
    assert d.score(np.array([0]), 1.0, np.array([5.1])).score[0] == pytest.approx(1.0)


def test_counters_are_scored_by_their_steps_and_a_restart_says_nothing():
    d = detector(counter=(0,))
    feed(d, np.arange(WINDOW + 1) * 0.2)
    assert len(d.score(np.array([0]), 100.0, np.array([0.0])).score) == 0
    found = d.score(np.array([0]), 101.0, np.array([0.2]))
    assert found.score[0] == pytest.approx(0.0, abs=1e-9)
    assert d.score(np.array([0]), 102.0, np.array([9.2])).score[0] > 6


def test_gaps_and_nan_change_nothing():
    a, b = detector(), detector()
    values = noise(80)
    feed(a, values)
    for k, v in enumerate(values):
        b.score(np.array([0, 1]), float(k), np.array([v, math.nan]))
    assert a.state() == b.state()


def test_a_repeated_channel_takes_a_round_each_in_order():
    assert [r.tolist() for r in rounds(np.array([2, 1, 2, 2, 0]))] == [[0, 1, 4], [2], [3]]
    assert list(rounds(np.array([], np.int64))) == []


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 90), min_size=1, max_size=6))
def test_any_division_of_a_stream_gives_the_same_state_bit_for_bit(seed, cuts):
    rng = np.random.default_rng(seed)
    n = 300
    channels, values = rng.integers(0, 3, n), rng.normal(0, 1, n)
    values[rng.random(n) < 0.1] = np.nan
    whole, cut = detector(), detector()
    every = whole.score(channels, np.arange(n, dtype=float), values)
    parts, at = [], 0
    for size in [*cuts, n]:
        parts.append(cut.score(channels[at:at + size], np.arange(at, min(n, at + size), dtype=float),
                               values[at:at + size]))
        at = min(n, at + size)
    assert whole.state() == cut.state()
    assert np.array_equal(np.concatenate([p.score for p in parts]), every.score)
    assert np.array_equal(np.concatenate([p.t_s for p in parts]), every.t_s)


def test_state_goes_on_bit_for_bit_and_refuses_another_inventory():
    a, b = detector(), detector()
    feed(a, noise(75))
    b.restore(a.state())
    assert b.state() == a.state()
    assert feed(a, [51.5])[0].score.tolist() == feed(b, [51.5])[0].score.tolist()
    assert a.state() == b.state()
    before = b.state()
    for bad in (detector(4).state(), b"nonsense", b""):
        with pytest.raises(ValueError, match="start afresh"):
            b.restore(bad)
    assert b.state() == before


def scores(channel, t, z):
    return Scores(np.array([channel]), np.array([t]), np.array([1.0]), np.array([0.0]), np.array([z]))


def test_an_episode_is_told_once_and_again_only_after_the_hold():
    e = Episodes(2, 6.0)
    story = [(0.0, 5.9, 0), (1.0, 6.0, 1), (2.0, 9.0, 0), (3.0, 4.0, 0), (4.0, 7.0, 0), (5.0, 2.9, 0), (6.0, 7.0, 0),
             (7.0, 0.0, 0), (1.0 + EPISODE_HOLD_S, 6.0, 1)]
    assert [len(e.opened(scores(0, t, z))) for t, z, _ in story] == [told for _, _, told in story]
    assert e.opened(scores(1, 2.0, 6.0)) == [0]
