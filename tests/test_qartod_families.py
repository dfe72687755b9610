"""What the published vectors do not reach: gaps, order, warm-up, counters, siblings, panes, seasons round the turn."""

import datetime as dt

import numpy as np
import pytest

from gateway.judgement.qartod import flags, motion, seasons, siblings, stillness, timing

NAN = np.nan


def a(*values):
    return np.array(values, np.float64)


def test_a_gap_is_longer_than_allowed_and_the_first_reading_has_none():
    assert timing.time_gap(a(0, 10, 20.001, 30, 100), 10.0).tolist() == [2, 1, 3, 1, 3]
    assert timing.time_gap(a(), 10.0).tolist() == []


@pytest.mark.parametrize(("times", "now", "ahead_s", "expected"), [
    ([1, 2, 2, 1, 2], np.inf, 0.0, [0, 0, 1, 2, 0]),
    ([1, 500, 3], [1, 2, 3], 0.0, [0, 3, 2]),
    ([6, 7], [1, 1], 5.0, [0, 3]),
    ([9, 9], [1, 2], 5.0, [3, 3]),      # told again, and not come yet: the future wins
    ([], np.inf, 0.0, []),
])
def test_order_of_the_times_an_instrument_gives(times, now, ahead_s, expected):
    assert timing.order(a(*times), np.asarray(now, np.float64), ahead_s).tolist() == expected


def test_warm_up_ends_at_its_end_and_does_not_reach_back():
    assert timing.warm_up(a(9, 10, 69.9, 70), 10.0, 60.0).tolist() == [1, 3, 3, 1]


@pytest.mark.parametrize(("values", "wrap", "resets", "expected"), [
    ([5, 6, 0.2, 0.4], None, "power_loss", [1, 1, 3, 1]),
    ([95, 99, 1, 2], 100, "power_loss", [1, 1, 1, 1]),      # through its end
    ([50, 1, 2], 100, "power_loss", [1, 3, 1]),             # not near its end
    ([50, 1, 2], 100, "never", [1, 1, 1]),
    ([50, 1], None, "never", [1, 3]),
    ([5, NAN, 3, 3], None, "power_loss", [1, 9, 3, 1]),     # what is missing is passed over
])
def test_counter_reset(values, wrap, resets, expected):
    assert timing.counter_reset(a(*values), wrap, resets).tolist() == expected


def test_a_sibling_is_asked_for_its_last_reading_and_proves_nothing_when_it_is_old_or_silent():
    v, t = a(5, 5, NAN, 5, 5, 9), a(0, 10, 20, 30, 50, 51)
    found = siblings.apart(v, t, a(5.5, 7.0, 5.0), a(5, 25, 50.5), 1.0, 20.0)
    assert found.tolist() == [2, 1, 9, 3, 2, 3]
    assert siblings.apart(v, t, a(), a(), 1.0, 20.0).tolist() == [2, 2, 9, 2, 2, 2]


def test_seasons_may_go_round_the_turn_of_year_and_day():
    winter_nights = seasons.Season((seasons.When("month", 11, 2), seasons.When("hour", 22, 6)), (0, 10))
    moments = ["2026-12-31T23:00", "2026-12-31T12:00", "2027-02-28T06:00", "2027-03-01T00:00", "2026-01-01T05:59"]
    local_s = np.array(moments, "datetime64[s]").astype(np.float64)
    assert seasons.climatology(a(11, 11, 5, 11, NAN), local_s, [winter_nights]).tolist() == [3, 2, 1, 2, 9]


def test_the_calendar_is_that_of_the_standard_library():
    days = [dt.date(1999, 12, 1) + dt.timedelta(n) for n in range(0, 9500, 3)]
    local_s = np.array([(day - dt.date(1970, 1, 1)).days * 86400.0 + 3600.0 * 7.5 for day in days])
    for period, expected in (
            ("year", [d.year for d in days]), ("month", [d.month for d in days]),
            ("quarter", [(d.month + 2) // 3 for d in days]), ("week", [d.isocalendar()[1] for d in days]),
            ("day_of_year", [d.timetuple().tm_yday for d in days]), ("weekday", [d.weekday() for d in days]),
            ("hour", [7.5] * len(days)), ("time_s", local_s.tolist())):
        assert seasons.calendar(local_s, period).tolist() == expected, period


def test_a_step_stands_out_by_average_and_not_by_difference():
    step = a(1, 1, 1, 9, 9, 9)
    assert motion.spike(step, 3.0, method="average").tolist() == [2, 1, 3, 3, 1, 2]
    assert motion.spike(step, 3.0).tolist() == [2, 1, 1, 1, 1, 2]


def test_rate_may_be_bridged_over_what_is_missing():
    v, t = a(1, NAN, 9, 9), a(0, 1, 2, 2)
    assert motion.rate_of_change(v, t, 1.0).tolist() == [1, 9, 1, 1]
    assert motion.rate_of_change(v, t, 1.0, bridge=True).tolist() == [1, 9, 3, 1]
    assert motion.rate_of_change(v, t, 1.0, 3.9, bridge=True).tolist() == [1, 9, 4, 1]


def test_bridged_flat_line_counts_from_a_value_not_from_a_silence():
    v, t = a(NAN, NAN, NAN, 5, 5), np.arange(5.0)
    assert stillness.flat_line(v, t, 3.0, None, 0.1).tolist() == [9, 9, 9, 3, 3]
    assert stillness.flat_line(v, t, 3.0, None, 0.1, bridge=True).tolist() == [9, 9, 9, 1, 1]


def plain_flat(v, t, span_s, tolerance):
    """The definition, reading by reading."""
    found = np.where(np.isnan(v), 9, 1)
    for i in np.flatnonzero(~np.isnan(v)):
        before = [j for j in range(i + 1) if t[j] <= t[i] - span_s and v[j] == v[j]]
        if before:
            window = [x for x in v[before[-1]:i + 1] if x == x]
            if max(window) - min(window) < tolerance:
                found[i] = 3
    return found.tolist()


def plain_weak(v, t, span_s, threshold):
    found = np.where(np.isnan(v), 9, 2)
    for i in np.flatnonzero(~np.isnan(v)):
        window = [x for x, at in zip(v[:i + 1], t, strict=False) if at > t[i] - span_s and x == x]
        if len(window) > 1:
            found[i] = 3 if np.std(window, ddof=1) < threshold else 1
    return found.tolist()


@pytest.mark.parametrize("seed", range(12))
def test_irregular_series_are_judged_by_the_definition(seed):
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    t = np.cumsum(random.exponential(2.0, 80))
    v = np.round(np.cumsum(random.normal(0, 0.4, 80)))
    v[random.random(80) < 0.15] = NAN
    assert stillness.flat_line(v, t, 7.0, None, 1.5, bridge=True).tolist() == plain_flat(v, t, 7.0, 1.5)
    assert stillness.attenuated(v, t, 0.7, None, 9.0).tolist() == plain_weak(v, t, 9.0, 0.7)


@pytest.mark.parametrize("seed", range(6))
def test_panes_with_one_reading_each_change_nothing_and_wide_ones_only_look_further_back(seed):
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    t = np.arange(200.0)
    v = np.round(np.cumsum(random.normal(0, 0.3, 200)))
    exact = stillness.flat_line(v, t, 6.0, None, 1.5, bridge=True)
    assert stillness.flat_line(v, t, 6.0, None, 1.5, bridge=True, pane_s=1.0).tolist() == exact.tolist()
    wide = stillness.flat_line(v, t, 6.0, None, 1.5, bridge=True, pane_s=3.0)
    longer = stillness.flat_line(v, t, 6.0 + 3.0, None, 1.5, bridge=True)
    assert not ((wide == 3) & (exact != 3)).any()
    assert not ((longer == 3) & (wide != 3)).any()
    by_range = {"within_s": 8.0, "spread": "range"}
    weak = stillness.attenuated(v, t, 2.5, None, **by_range)
    assert stillness.attenuated(v, t, 2.5, None, **by_range, pane_s=1.0).tolist() == weak.tolist()
    assert not ((stillness.attenuated(v, t, 2.5, None, **by_range, pane_s=4.0) == 3) & (weak == 1)).any()


def test_a_whole_window_is_waited_for_when_asked():
    v, t = np.ones(6), np.arange(6.0)
    assert stillness.attenuated(v, t, 0.5, 0.1, 3.0, whole=True).tolist() == [2, 2, 2, 4, 4, 4]
    assert stillness.attenuated(v, t, 0.5, 0.1, 3.0, whole=True, least=4).tolist() == [2] * 6


def test_a_spread_at_its_threshold_has_reached_it_in_whatever_order_it_was_summed():
    v = a(0.1, 0.2, 0.3, 0.4)
    std = float(np.std(v, ddof=1))
    for threshold in (std, np.nextafter(std, 1), np.nextafter(std, 0)):
        assert stillness.attenuated(v, np.arange(4.0), threshold, None, 10.0)[-1] == 1
    assert stillness.attenuated(v, np.arange(4.0), std * 1.001, None, 10.0)[-1] == 3


@pytest.mark.parametrize("vectors", [[], [np.ones(2), np.ones(3)]])
def test_flags_of_different_lengths_are_no_flags_of_one_series(vectors):
    with pytest.raises(ValueError, match="one shape"):
        flags.aggregate(vectors)
