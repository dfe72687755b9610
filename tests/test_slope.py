import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.judgement.detect.slope import BACKWARD_MOST, Slope
from gateway.judgement.detect.slope_bins import Bins
from gateway.judgement.detect.slope_failure import forecast
from gateway.judgement.detect.slope_settings import SlopePoint, Thresholds, Verdict
from gateway.judgement.detect.slope_vote import VoteSettings, sentences, vote
from gateway.model import LEVELS, Colour

DAY = 86400.0
TABLE = Thresholds(yellow_per_d=5, orange_per_d=15, red_per_d=40)
CRACK = SlopePoint(name="裂缝", accuracy=1.0, thresholds=TABLE, steady_d=3)
KNOWN = SlopePoint(name="裂缝", accuracy=1.0, thresholds=TABLE, steady_rate_per_d=1.0)


def feed(slope, t_d, values, channel=0):
    told = []
    for t, x in zip(t_d, values, strict=True):
        told += slope.update(np.array([channel]), t * DAY, np.array([x]))
    return told


def noise(n, seed, scale=0.5):
    print(f"seed={seed}")
    return scale * np.random.default_rng(seed).standard_normal(n)


def times(days, per_day=24):
    return np.arange(0, days, 1 / per_day)


def failing(until_d, fails_d=30.0, per_day=24):
    t = times(until_d, per_day)
    return t, -60 * np.log((fails_d - t) / fails_d)


def test_uniform_creep_is_steady_and_its_rate_is_frozen():
    slope = Slope([CRACK])
    t = times(6)
    told = feed(slope, t, 2 * t + noise(len(t), 1))
    assert {v.colour for v in told} == {Colour.NONE}
    rates = {v.steady_rate_per_d for v in told if v.stage == "steady"}
    assert len(rates) == 1
    assert rates.pop() == pytest.approx(2, rel=0.1)
    assert told[-1].angle_deg == pytest.approx(45, abs=4)


def test_an_accelerating_slope_goes_through_its_colours_in_order_and_its_end_is_foreseen():
    slope = Slope([CRACK])
    t, s = failing(29.75, per_day=8)
    told = feed(slope, t, s + noise(len(t), 2))
    first = [next(v.t_s for v in told if v.colour is c) for c in LEVELS[2:]]
    assert first == sorted(first)
    assert told[-1].colour is Colour.RED
    assert told[-1].stage == "imminent"
    assert told[-1].acceleration_per_d2 > 0
    assert told[-1].failure_s is not None
    least, lead, most = told[-1].failure_s
    assert least < lead < most
    assert lead / DAY == pytest.approx(30, abs=0.1)
    assert 3 < told[-1].onset_s / DAY < 29
    zh, en = sentences(told[-1], CRACK)
    assert "切线角" in zh
    assert "红色" in zh
    assert "failure in about" in en
    assert "red" in en


def test_without_a_table_a_point_is_monitored_only():
    slope = Slope([SlopePoint(name="P", accuracy=1.0, steady_rate_per_d=1.0)])
    told = feed(slope, *failing(29.5, per_day=6))
    assert {v.colour for v in told} == {Colour.NONE}
    assert all(v.monitor_only for v in told)
    assert told[-1].angle_deg > 85
    assert "monitor only" in sentences(told[-1], slope.points[0])[1]


def test_a_steep_angle_without_the_sites_rate_has_no_colour():
    slope = Slope([SlopePoint(name="P", accuracy=0.05, thresholds=TABLE, steady_rate_per_d=0.01)])
    t = times(6, 8)
    told = feed(slope, t, 1.0 * t)
    assert told[-1].angle_deg > 85
    assert {v.colour for v in told} == {Colour.NONE}


def test_a_rate_counts_from_three_accuracies_and_yellow_needs_a_day():
    t = times(0.8, 48)
    fine = SlopePoint(name="P", accuracy=0.5, thresholds=TABLE, steady_rate_per_d=1.0)
    fast = feed(Slope([fine]), t, 10 * t)
    assert fast[-1].counts
    assert max(LEVELS.index(v.colour) for v in fast) == 0      # 10 mm/d is yellow, but not within a day
    longer = feed(Slope([fine]), times(2, 24), 10 * times(2, 24))
    assert longer[-1].colour is Colour.YELLOW
    coarse = SlopePoint(name="P", accuracy=5.0, thresholds=TABLE, steady_rate_per_d=1.0)
    assert not feed(Slope([coarse]), times(2, 48), 7 * times(2, 48))[20].counts
    warm = SlopePoint(name="P", accuracy=0.5, thresholds=TABLE, steady_rate_per_d=1.0, compensated=True)
    assert feed(Slope([warm]), t, 10 * t)[-1].colour is Colour.YELLOW


def test_temperature_raises_nothing():
    point = SlopePoint(name="P", accuracy=0.5, thresholds=TABLE, steady_d=3)
    t = times(12)
    told = feed(Slope([point]), t, 3 * np.sin(2 * np.pi * t) + noise(len(t), 3, 0.3))
    assert {v.colour for v in told} == {Colour.NONE}


def test_one_step_is_told_and_not_taken_for_movement_and_two_are():
    slope = Slope([KNOWN, KNOWN])
    t = times(6)
    told = feed(slope, t, np.where(t > 5, 30.0, 0.0) + noise(len(t), 4, 0.2))
    assert {v.colour for v in told} == {Colour.NONE}
    step = next(v for v in told if v.stage == "step")
    assert step.held is Colour.RED
    assert "突变" in sentences(step, KNOWN)[0]
    points = [KNOWN, KNOWN]
    alone = vote([step, Verdict(channel=1, t_s=step.t_s, stage="steady")], points, VoteSettings(), step.t_s)
    both = vote([step, step], points, VoteSettings(), step.t_s)
    assert (alone.colour, both.colour) == (Colour.NONE, Colour.RED)


def test_a_changed_instrument_goes_on_where_the_old_one_stood():
    slope = Slope([KNOWN])
    t = times(4)
    feed(slope, t[:48], t[:48])
    slope.moved_datum(0)
    told = feed(slope, t[48:], t[48:] + 500)
    assert {v.stage for v in told} <= {"steady"}
    assert abs(told[-1].rate_per_d) < 2


def test_spikes_and_dropouts_change_no_colour():
    t = times(10)
    values = t + noise(len(t), 5, 0.2)
    values[::40] = 1e4
    values[100:130] = math.nan
    told = feed(Slope([CRACK]), t, values)
    assert {v.colour for v in told} == {Colour.NONE}
    assert told[-1].steady_rate_per_d == pytest.approx(1, rel=0.25)


def test_a_broken_wire_is_told_at_once():
    wire = SlopePoint(name="断线", contact=True, thresholds=TABLE)
    slope = Slope([wire, SlopePoint(name="x", contact=True)])
    told = slope.update(np.array([0, 1]), 5.0, np.array([1.0, 1.0]))
    assert [(v.stage, v.colour) for v in told] == [("broken", Colour.RED), ("broken", Colour.NONE)]
    assert slope.update(np.array([0]), 6.0, np.array([0.0]))[0].stage == "intact"


def test_time_set_back_makes_a_point_start_afresh():
    slope = Slope([KNOWN])
    feed(slope, 100 + times(2), times(2))
    assert feed(slope, times(2)[:BACKWARD_MOST], times(2)[:BACKWARD_MOST]) == []
    assert feed(slope, times(2), times(2))


def verdict(channel, colour):
    return Verdict(channel=channel, t_s=0.0, stage="medium", colour=colour)


def test_points_vote_rain_gates_and_loss_lowers_nothing():
    points = [KNOWN] * 3
    quiet, yellow, red = (verdict(0, c) for c in (Colour.NONE, Colour.YELLOW, Colour.RED))
    two = VoteSettings(votes=2, rain_gate_mm=20)
    assert vote([red, quiet, quiet], points, two, 0).colour is Colour.ORANGE
    assert vote([red, red, quiet], points, two, 0).colour is Colour.RED
    assert vote([red, None, None], points, two, 0).colour is Colour.RED
    assert vote([None] * 3, points, two, 0).colour is Colour.UNKNOWN
    one = VoteSettings(rain_gate_mm=20)
    assert vote([yellow, quiet, quiet], points, one, 0, 5).gated
    assert vote([yellow, quiet, quiet], points, one, 0, 5).colour is Colour.BLUE
    assert vote([yellow, quiet, quiet], points, one, 0, 25).colour is Colour.YELLOW
    assert vote([yellow, quiet, quiet], points, one, 0).colour is Colour.YELLOW
    assert vote([red, quiet, quiet], points, one, 0, 0).colour is Colour.RED


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 119), max_size=5))
def test_any_division_of_a_stream_gives_the_same_state_and_a_restored_one_goes_on(seed, cuts):
    rng = np.random.default_rng(seed)
    c = rng.integers(0, 3, 120)
    t = np.cumsum(rng.exponential(4000, 120))
    x = np.cumsum(rng.normal(0.3, 2, 120))
    x[rng.random(120) < 0.1] = np.nan
    points = [KNOWN, CRACK, SlopePoint(name="w", contact=True)]
    whole, parts = Slope(points), Slope(points)
    told = whole.update(c, t, x)
    again = []
    for a, b in zip([0, *sorted(set(cuts))], [*sorted(set(cuts)), 120], strict=True):
        again += parts.update(c[a:b], t[a:b], x[a:b])
        kept = parts.state()
        parts = Slope(points)
        parts.restore(kept)
        assert parts.state() == kept
    assert parts.state() == whole.state()
    assert sorted(map(repr, told)) == sorted(map(repr, again))


def test_a_state_of_other_points_is_refused():
    with pytest.raises(ValueError, match="start afresh"):
        Slope([KNOWN]).restore(Slope([KNOWN, KNOWN]).state())
    with pytest.raises(ValueError, match="start afresh"):
        Slope([KNOWN]).restore(b"\x00")
    assert len(Slope([KNOWN]).state()) < 6000


@pytest.mark.parametrize("shape", [lambda t: 2 * t, lambda t: 5 * np.exp(t / 6), lambda t: 80 / (1 + np.exp(20 - t))])
def test_creep_growth_without_end_and_coming_to_rest_get_no_forecast_of_failure(shape):
    bins, t = Bins(1), times(25)
    for at, x in zip(t * DAY, shape(t) + noise(len(t), 6), strict=True):
        bins.add(np.array([0]), np.array([at]), np.array([x]))
    assert forecast(bins.series(0, t[-1] * DAY), 1.0).refused


@pytest.mark.parametrize("wrong", [{"accuracy": 0.0}, {"accuracy": 1.0, "towards": 2}, {"accuracy": 1.0, "steady_d": 1},
                                   {"accuracy": 1.0, "steady_rate_per_d": 0.0}])
def test_settings_that_cannot_be_judged_are_refused(wrong):
    with pytest.raises(ValueError, match="P"):
        SlopePoint(name="P", **wrong)
    with pytest.raises(ValueError, match="ascend"):
        Thresholds(yellow_per_d=5, orange_per_d=4, red_per_d=9)
