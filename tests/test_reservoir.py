"""A reservoir's level: datum, calendar, one transition a crossing, rates, what is ahead, the pace."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from gateway.judgement.detect.calendar import Order, Period, limit_m, month_day
from gateway.judgement.detect.pace import Reporter, Reporting
from gateway.judgement.detect.reservoir import Mark, Reservoir, ReservoirSettings
from gateway.judgement.detect.storage import Storage
from gateway.model import Colour

MARKS = (Mark(name="design", level_m=105.0, colour="yellow"), Mark(name="check", level_m=106.0, colour="orange"),
         Mark(name="crest", level_m=107.0, colour="red", siren=True))
SEASONS = (Period(begins="04-01", level_m=103.0), Period(begins="07-01", level_m=102.0),
           Period(begins="10-01", level_m=104.0))
JUNE = datetime(2026, 6, 15, tzinfo=UTC).timestamp()


def dam(**more):
    return Reservoir(ReservoirSettings(**{"datum_m": 95.0, "marks": MARKS, "flood_limits": SEASONS, **more}))


def test_each_level_gives_exactly_one_transition_each_way():
    r, seen = dam(), []
    rng = np.random.default_rng(2)
    print("seed=2")
    up = np.linspace(6.0, 12.5, 1500)
    for k, x in enumerate(np.r_[up, up[::-1]] + rng.uniform(-0.02, 0.02, 3000)):
        seen += r.update(60.0 * k, float(x), utc_s=JUNE).crossings
    assert [(c.name, c.up) for c in seen] == [
        ("flood_limit", True), ("design", True), ("check", True), ("crest", True),
        ("crest", False), ("check", False), ("design", False), ("flood_limit", False)]
    assert all(c.level_m >= c.limit_m for c in seen if c.up)


def test_the_flood_limit_tells_the_county_alone_and_colours_come_from_the_table():
    r = dam()
    told = r.update(0, 8.0, utc_s=JUNE)
    assert told.level_m == 103.0
    assert told.colour is Colour.NONE
    assert [(f.kind, f.tell, f.siren) for f in told.findings] == [("reservoir.flood_limit", ("county",), False)]
    high = r.update(60, 12.0, utc_s=JUNE)
    assert high.colour is Colour.RED
    assert [f.siren for f in high.findings] == [False, False, False, True]
    assert "坝顶高程 107.00 m" in high.findings[-1].text_zh
    assert "dam crest 107.00 m" in high.findings[-1].text_en


def test_off_the_scale_is_above_every_level_and_silence_clears_nothing():
    r = dam()
    assert r.update(0, math.inf, utc_s=JUNE).colour is Colour.RED
    assert r.update(60, math.nan, utc_s=JUNE).colour is Colour.RED
    assert r.update(9e5, utc_s=JUNE).colour is Colour.RED
    assert r.update(9e5 + 1, 5.0, utc_s=JUNE).colour is Colour.NONE


def test_the_calendar_switches_on_its_day_and_is_strict_without_a_date():
    day = datetime(2023, 12, 25, 3, tzinfo=UTC)
    for _ in range(1600):
        assert month_day(day.timestamp(), 0) == f"{day:%m-%d}"
        day += timedelta(days=1)
    assert [limit_m(SEASONS, d) for d in ("01-01", "03-31", "04-01", "06-30", "07-01", "12-31", None)] == [
        104.0, 104.0, 103.0, 103.0, 102.0, 104.0, 102.0]
    r = dam()
    july = datetime(2026, 6, 30, 16, tzinfo=UTC).timestamp()  # midnight in China
    assert r.update(0, 7.5, utc_s=july - 1).flood_limit_m == 103.0
    assert [c.name for c in r.update(1, 7.5, utc_s=july).crossings] == ["flood_limit"]
    assert r.update(2).flood_limit_m == 102.0


def test_an_order_raises_until_it_ends_and_never_more():
    r = dam()
    order = Order(id="令-7", who="县防办", level_m=104.5, until_s=1000.0)
    r.raise_limit(order, 0.0)
    assert r.update(0, 8.2, utc_s=JUNE).flood_limit_m == 104.5
    other = dam()
    other.restore(r.state())
    assert other.order == order
    assert other.state() == r.state()
    assert r.update(999, 8.2, utc_s=JUNE).findings == ()
    assert [c.up for c in r.update(1000, 8.2, utc_s=JUNE).crossings] == [True]
    for level, until, said in ((101.0, 9e9, "only raises"), (105.0, 9e9, "would reach"), (104.0, 5.0, "is over")):
        with pytest.raises(ValueError, match=said):
            r.raise_limit(Order(id="x", who="y", level_m=level, until_s=until), 10.0)


def test_rates_and_what_is_ahead():
    r = dam(rise_m_per_h=0.5, fall_m_per_d=1.0, fall_colour="yellow")
    rng = np.random.default_rng(4)
    print("seed=4")
    for k in range(120):  # 0.6 m/h, from 101.5 to 102.7
        v = r.update(60.0 * k, 6.5 + 0.01 * k + rng.normal(0, 0.003), utc_s=JUNE)
    assert v.rate_m_per_h == pytest.approx(0.6, rel=0.03)
    assert [f.kind for f in v.findings] == ["reservoir.rise"]
    left = (103.0 - 102.69) / 0.6 * 3600
    assert v.ahead[0].name == "flood_limit"
    assert v.ahead[0].reach.in_s == pytest.approx(left, rel=0.1)
    assert [a.name for a in v.ahead] == ["flood_limit", "design", "check", "crest"]
    assert "h" in v.ahead[1].text_en
    assert "小时" in v.ahead[1].text_zh
    for k in range(300):
        v = r.update(60.0 * (120 + k), 7.69 - 0.002 * k, utc_s=JUNE)
    assert v.ahead == ()
    assert [(f.kind, f.colour) for f in v.findings] == [("reservoir.fall", Colour.YELLOW)]


def test_the_storage_curve_is_exact_at_its_knots_and_silent_beyond():
    curve = Storage(levels_m=(90, 95, 107), volumes_1e4_m3=(0, 12.5, 80))
    assert [curve.volume(x) for x in (90, 95, 107, 89.9, 107.1)] == [0, 12.5, 80, None, None]
    found = [curve.volume(x) for x in np.linspace(90, 107, 200)]
    assert found == sorted(found)
    for levels, volumes in (((90, 90), (0, 1)), ((90, 91), (1, 1)), ((90, 91, 92), (0, 1))):
        with pytest.raises(ValueError, match="storage curve"):
            Storage(levels_m=levels, volumes_1e4_m3=volumes)
    assert dam(storage=curve).update(0, 0.0).volume_1e4_m3 == 12.5


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"marks": MARKS[::-1]}, {"marks": (MARKS[0], MARKS[0])},
                  {"flood_limits": (Period(begins="04-01", level_m=105.0),)}):
        with pytest.raises(ValueError, match="reservoir"):
            dam(**wrong)


def test_reports_hourly_then_every_five_minutes_and_hourly_again():
    station = Reporter(Reporting())
    print("seed=6")
    waves = np.random.default_rng(6).normal(0, 0.006, 355)
    for k in range(355):
        station.level(10.0 * k, 100.0 + float(waves[k]))
    pace = station.pace(3540.0)
    assert (pace.period_s, pace.until_s, pace.due_s, pace.reason) == (3600.0, None, 3600.0, "usual")
    station.rain(3600.0, 0.6)
    assert station.pace(3600.0).reason == "usual"
    station.rain(3660.0, 0.4)
    pace = station.pace(3660.0)
    assert (pace.period_s, pace.until_s, pace.due_s, pace.reason) == (300.0, 7260.0, 3900.0, "rain")
    assert station.pace(7259.0).period_s == 300.0
    assert station.pace(7260.0).period_s == 3600.0
    for k in range(10):
        station.level(8000.0 + 60 * k, 100.04)
    assert station.pace(8540.0).reason == "level"
    station.rain(9000.0, 0.9)
    station.rain(12601.0, 0.9)  # another hour
    assert station.pace(12601.0).period_s == 3600.0


@pytest.mark.parametrize("seed", range(4))
def test_calls_and_restarts_between_change_nothing(seed):
    print(f"seed={seed}")
    rng = np.random.default_rng(seed)
    t = np.cumsum(rng.exponential(90, 400))
    x = 8 + 3 * np.sin(t / 9000) + rng.normal(0, 0.02, 400)
    x[rng.random(400) < 0.1] = np.nan
    plain, cut = dam(), dam()
    for k in range(400):
        one = plain.update(float(t[k]), float(x[k]), rain_mm=0.2 * (k % 9 == 0), utc_s=JUNE)
        cut.update(float(t[k]) - 0.01, utc_s=JUNE)
        two = cut.update(float(t[k]), float(x[k]), rain_mm=0.2 * (k % 9 == 0), utc_s=JUNE)
        np.testing.assert_equal(two.level_m, one.level_m)
        assert (two.crossings, two.findings, two.pace) == (one.crossings, one.findings, one.pace)
        if rng.random() < 0.1:
            again = dam()
            again.restore(cut.state())
            cut = again
    assert cut.state() == plain.state()


def test_a_month_of_tides_and_pumping_is_no_alarm():
    print("seed=9")
    rng = np.random.default_rng(9)
    r = dam(rise_m_per_h=0.5, fall_m_per_d=4.0, rise_colour="yellow", fall_colour="yellow")
    for k in range(30 * 96):
        t = 900.0 * k
        x = 6.0 + 0.4 * math.sin(2 * math.pi * t / 44714) + 0.2 * math.sin(2 * math.pi * t / 86400)
        v = r.update(t, x + rng.normal(0, 0.01) if k % 50 else math.nan, utc_s=JUNE + t % 1e6)
        assert v.findings == ()
