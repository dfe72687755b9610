"""Gas channels: set points, what does not count as gas, what is only a hint."""

import math
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from gateway.judgement.detect.gas import Gas, GasSettings, Siblings
from gateway.model import Colour


def channel(**more):
    return GasSettings(**{"name": "井 1", "place": "room", "principle": "infrared", **more})


def kinds(gas, t, siblings=None):
    return [f.kind for f in gas.findings(t, siblings)]


def beside(oxygen=math.nan, h2s=math.nan, co2=math.nan):
    return Siblings(np.array([oxygen]), np.array([h2s]), np.array([co2]))


def feed(gas, pairs):
    for t, x in pairs:
        gas.update(np.array([0]), float(t), np.array([x]))


def test_a_ramp_reaches_both_set_points_within_a_poll_and_the_delay():
    gas, poll = Gas([channel(on_delay_s=3.0)]), 2.0
    seen = {}
    for k in range(400):
        t = poll * k
        feed(gas, [(t, 0.1 * t)])
        for f in gas.findings(t):
            seen.setdefault(f.kind, (t, f))
    for kind, lel in (("gas.low", 25.0), ("gas.high", 50.0)):
        t, f = seen[kind]
        assert lel / 0.1 + 3.0 <= t <= lel / 0.1 + poll + 3.0
        assert f.limit == lel
        assert f.value >= lel
        assert f.tell == ("gas_company", "officer")
    assert (seen["gas.low"][1].siren, seen["gas.high"][1].siren) == (False, True)
    assert (seen["gas.low"][1].colour, seen["gas.high"][1].colour) == (Colour.YELLOW, Colour.RED)
    assert "燃气公司" in seen["gas.low"][1].text_zh


def test_a_manhole_sounds_only_where_the_site_signs():
    for signed, siren in ((None, False), (True, True)):
        gas = Gas([channel(place="manhole", siren=signed, on_delay_s=0)])
        feed(gas, [(0, 60.0)])
        assert [f.siren for f in gas.findings(0.0)] == [siren]


def test_a_set_point_above_the_standards_bound_or_no_reset_room_is_refused():
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": "x", "place": "room", "principle": "infrared", "low_lel": 26}, GasSettings)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": "x", "place": "room", "principle": "infrared", "high_lel": 51}, GasSettings)
    with pytest.raises(ValueError, match="reset_lel"):
        channel(low_lel=5, reset_lel=5)


def test_the_basis_of_lel_is_a_parameter():
    for settings, reading, lel in ((channel(unit="%VOL"), 1.0, 20.0),
                                   (channel(unit="%VOL", lel_vol_pct=4.4), 1.0, 22.727),
                                   (channel(unit="ppm"), 12500.0, 25.0),
                                   (channel(lel_vol_pct=4.4, device_lel_vol_pct=5.0), 22.0, 25.0)):
        gas = Gas([settings])
        feed(gas, [(0, reading)])
        assert gas.columns(0.0).lel[0] == pytest.approx(lel, abs=1e-3)
        feed(gas, [(5, reading)])
        assert kinds(gas, 5.0) == (["gas.low"] if lel >= 25 - 1e-6 else [])


def test_the_delay_ends_by_the_clock_when_the_sensor_dies():
    gas = Gas([channel(on_delay_s=3.0)])
    feed(gas, [(10, 30.0)])
    assert kinds(gas, 12.9) == []
    assert kinds(gas, 13.0) == ["gas.low"]


def test_resets_by_a_reading_below_and_by_nothing_else():
    gas = Gas([channel(on_delay_s=0)])
    feed(gas, [(0, 25.0), (1, 21.0), (2, math.nan)])
    assert kinds(gas, 9e4) == ["gas.low"]
    feed(gas, [(1e5, 20.0)])
    assert kinds(gas, 1e5) == ["gas.low"]
    feed(gas, [(1e5 + 1, 19.9)])
    assert kinds(gas, 1e5 + 1) == []


def test_warm_up_is_mute_and_lets_no_standing_alarm_go():
    gas = Gas([channel(on_delay_s=0, warm_up_s=60)])
    gas.powered(np.array([0]), 0.0)
    feed(gas, [(t, 80.0) for t in range(60)])
    assert kinds(gas, 59.0) == ["gas.warm_up"]
    feed(gas, [(60, 80.0)])
    assert kinds(gas, 60.0) == ["gas.high"]
    gas.powered(np.array([0]), 61.0)
    feed(gas, [(62, 0.0)])
    assert kinds(gas, 62.0) == ["gas.high", "gas.warm_up"]
    feed(gas, [(130, 0.0)])
    assert kinds(gas, 130.0) == []


def test_over_range_is_gas_and_a_catalytic_fall_after_it_is_no_relief():
    for principle, after in (("infrared", []), ("catalytic", ["gas.high", "gas.fold_back"])):
        gas = Gas([channel(principle=principle, on_delay_s=0)])
        feed(gas, [(0, math.inf)])
        over = gas.findings(0.0)[0]
        assert (over.kind, over.value) == ("gas.high", None)
        assert "超量程" in over.text_zh
        feed(gas, [(1, 3.0)])
        assert kinds(gas, 1.0) == after
        gas.clear(np.array([0]))
        feed(gas, [(2, 3.0)])
        assert kinds(gas, 2.0) == []


def test_hints_of_siblings():
    gas = Gas([channel(principle="catalytic", on_delay_s=0)])
    feed(gas, [(0, 5.0)])
    assert kinds(gas, 0.0, beside(oxygen=18.0)) == ["gas.oxygen_poor"]
    assert kinds(gas, 0.0, beside(oxygen=20.9, h2s=50.0)) == []
    feed(gas, [(1, 30.0)])  # 1.5 %VOL of methane
    assert kinds(gas, 1.0, beside(h2s=12.0)) == ["gas.low", "gas.sewer"]
    assert kinds(gas, 1.0, beside(co2=6000.0)) == ["gas.low", "gas.sewer"]
    assert kinds(gas, 1.0, beside(h2s=0.5, co2=700.0)) == ["gas.low"]
    assert "疑似沼气" in gas.findings(1.0, beside(h2s=12.0))[1].text_zh


def test_slightly_below_nought_for_an_hour_is_calibration():
    gas = Gas([channel()])
    feed(gas, [(60 * k, -1.5) for k in range(60)])
    assert kinds(gas, 3599.0) == []
    assert kinds(gas, 3600.0) == ["gas.calibration_due"]
    feed(gas, [(3700, 0.0)])
    assert kinds(gas, 9999.0) == []


def test_a_fast_rise_tells_before_the_set_point_and_says_when():
    gas = Gas([channel(rise_lel_per_min=5.0)])
    rng = np.random.default_rng(1)
    print("seed=1")
    feed(gas, [(2 * k, 0.2 * k + rng.normal(0, 0.1)) for k in range(75)])  # 6 %LEL a minute up to 15
    found = gas.findings(148.0)
    assert [f.kind for f in found] == ["gas.rising"]
    assert found[0].value == pytest.approx(6.0, rel=0.1)
    assert "2 min" in found[0].text_en


def stream(seed, n=7, readings=600):
    print(f"seed={seed}")
    rng = np.random.default_rng(seed)
    c = rng.integers(0, n, readings)
    t = np.cumsum(rng.exponential(1.0, readings))
    x = 30 + 30 * np.sin(t / 40) + rng.normal(0, 5, readings)
    x[rng.random(readings) < 0.1] = np.nan
    x[rng.random(readings) < 0.02] = np.inf
    return c, t, x


@pytest.mark.parametrize("seed", range(6))
def test_any_partition_gives_the_identical_state(seed):
    c, t, x = stream(seed)
    make = [channel(principle=("catalytic", "infrared")[k % 2]) for k in range(7)]
    whole = Gas(make)
    whole.update(c, t, x)
    rng = np.random.default_rng(seed + 100)
    cut = Gas(make)
    edges = np.r_[0, np.sort(rng.choice(len(c), 40, replace=False)), len(c)]
    for a, b in pairwise(edges.tolist()):
        cut.update(c[a:b], t[a:b], x[a:b])
        if b > a:
            cut.columns(float(t[b - 1]))
        if rng.random() < 0.2:
            again = Gas(make)
            again.restore(cut.state())
            cut = again
    whole.columns(float(t[-1]))
    assert cut.state() == whole.state()


def test_a_state_of_other_channels_is_refused():
    with pytest.raises(ValueError, match="start afresh"):
        Gas([channel()]).restore(Gas([channel(), channel()]).state())


def test_a_month_of_ordinary_air_says_nothing():
    n, days = 40, 30
    print("seed=8")
    rng = np.random.default_rng(8)
    gas = Gas([channel(principle="catalytic", rise_lel_per_min=5.0)] * n)
    for k in range(days * 24 * 4):
        t = 900.0 * k
        air = 1.5 + 1.5 * np.sin(2 * np.pi * t / 86400) + rng.normal(0, 0.4, n)
        gas.update(np.arange(n), t, np.where(rng.random(n) < 0.01, np.nan, air))
        if k % 4 == 0:
            assert gas.findings(t) == []
