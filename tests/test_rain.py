"""Rain windows against a sum by hand; classes, tables and curves at their minute."""

import math

import msgspec
import numpy as np
import pytest

from gateway.judgement.detect.rain import CURVES, Curve, Rain, RainSettings, Step, Table
from gateway.judgement.detect.windows import WINDOWS_MIN, Gauge, Windows
from gateway.model import Colour

TABLE = Table(prepare="orange", evacuate="red", steps=(Step(window_min=60, prepare_mm=30, evacuate_mm=50),
                                                       Step(window_min=180, prepare_mm=60, evacuate_mm=90)))


def storm(minutes=900, seed=5):
    """Rain by the minute, in whole tips of 0.2 mm: hours of drizzle, a burst, a tail."""
    print(f"seed={seed}")
    rng = np.random.default_rng(seed)
    mean = np.full(minutes, 0.25)
    mean[400:520] = 4.5
    mean[700:] = 0.0
    return rng.poisson(mean) * 0.2


def sums(rain, window):
    padded = np.r_[np.zeros(window), np.cumsum(rain)]
    return padded[window:] - padded[:-window]


def run(settings, rain, start=0.0):
    gauge = Rain(settings)
    gauge.update(start, counter_mm=0.0)
    counts = np.cumsum(rain)
    return [gauge.update(start + 60.0 * (k + 1), counter_mm=float(counts[k])) for k in range(len(rain))]


def test_every_window_is_the_sum_of_its_minutes():
    rain = storm()
    verdicts = run(RainSettings(), rain)
    for k, window in enumerate(WINDOWS_MIN):
        found = np.array([v.totals_mm[k] for v in verdicts])
        np.testing.assert_allclose(found, sums(rain, window), atol=0.0101)
        assert found[-1] == pytest.approx(sums(rain, window)[-1], abs=0.011)


def test_the_four_classes_at_the_right_minute_and_only_as_labels():
    rain = np.r_[np.full(400, 0.06), np.full(300, 0.2), np.full(100, 0.7), np.zeros(1600)]
    verdicts = run(RainSettings(), rain)
    order = ("", "blue", "yellow", "orange", "red")
    for mm, window, name in ((50, 720, "blue"), (50, 360, "yellow"), (50, 180, "orange"), (100, 180, "red")):
        right = np.flatnonzero(sums(rain, window) >= mm - 1e-9)
        if not len(right):
            right = [None]
        first = next((k for k, v in enumerate(verdicts) if order.index(v.label) >= order.index(name)), None)
        assert first == right[0], name
    assert {v.colour for v in verdicts} == {Colour.NONE}
    assert not any(f.siren or f.tell for v in verdicts for f in v.findings)
    assert verdicts[-1].label == ""


def test_all_four_classes_come():
    rain = np.full(720, 0.1)
    rain[600:] = 1.0
    assert {v.label for v in run(RainSettings(), rain)} == {"", "blue", "yellow", "orange", "red"}


def test_the_sites_table_gives_the_colours_at_their_minute():
    rain = storm()
    verdicts = run(RainSettings(table=TABLE, siren=("red",)), rain)
    for colour, name in ((Colour.ORANGE, "prepare_mm"), (Colour.RED, "evacuate_mm")):
        right = min(int(np.argmax(sums(rain, s.window_min) >= getattr(s, name) - 1e-9)) for s in TABLE.steps)
        reached = [v.colour in (colour, Colour.RED) for v in verdicts]
        assert reached.index(True) == right
    red = next(v for v in verdicts if v.colour is Colour.RED)
    evacuate = next(f for f in red.findings if f.kind == "rain.evacuate")
    assert evacuate.siren
    assert evacuate.value >= evacuate.limit
    assert "立即转移" in evacuate.text_zh
    assert "evacuate" in evacuate.text_en


def test_rain_cut_into_any_calls_and_clock_ticks_is_the_same_state():
    rain = storm(300, seed=11)
    counts = np.cumsum(rain)
    rng = np.random.default_rng(3)
    times = np.sort(rng.uniform(0, 18000, 200))
    readings = counts[np.minimum((times // 60).astype(int), 299)]
    readings[50:60] = np.nan
    readings[120:] -= readings[120]

    def fed(ticks):
        gauge = Rain(RainSettings(table=TABLE))
        for t, value in zip(times.tolist(), readings.tolist(), strict=True):
            gauge.update(t, counter_mm=value, utc_s=t + 1_700_000_000)
            for extra in ticks:
                gauge.update(t + extra, utc_s=t + extra + 1_700_000_000)
        gauge.update(30000.0, utc_s=1_700_030_000)
        return gauge

    plain = fed(())
    assert fed((0.01, 0.02)).state() == plain.state()
    restored = Rain(RainSettings(table=TABLE))
    restored.restore(plain.state())
    assert restored.state() == plain.state()
    assert restored.update(40000.0, counter_mm=90.0) == plain.update(40000.0, counter_mm=90.0)


@pytest.mark.parametrize("seed", range(8))
def test_running_sums_are_those_of_the_minutes_over_any_gaps(seed):
    print(f"seed={seed}")
    rng = np.random.default_rng(seed)
    gauge, ticked, t, count, utc = Windows(Gauge()), Windows(Gauge()), 5.0, 0.0, 1.7e9
    for _ in range(300):
        t += float(rng.choice([0.5, 20.0, 61.0, 700.0, 9000.0, 100000.0], p=[.2, .3, .2, .2, .08, .02]))
        count += float(rng.choice([0.0, 0.2, 3.0]))
        ticked.tick(t - 0.25, utc + t - 0.25)
        for w in (gauge, ticked):
            w.counter(t, count, utc + t)
        minutes = np.arange(gauge.minute - 1439, gauge.minute + 1) % 1440
        by_hand = tuple(float(gauge._ring[minutes[-k:]].sum() / 100) for k in WINDOWS_MIN)
        assert gauge.totals_mm() == by_hand
    for name, column in gauge.columns().items():
        np.testing.assert_array_equal(column, ticked.columns()[name], err_msg=name)


def test_a_damaged_state_and_one_of_another_version_are_refused():
    gauge = Rain(RainSettings())
    state = gauge.state()
    for damaged in (state[:-1], state[:-5] + b"zzzzz", b""):
        with pytest.raises(ValueError, match="start afresh"):
            gauge.restore(damaged)
    other = msgspec.msgpack.decode(state)
    other["version"] = 99
    with pytest.raises(ValueError, match="version 99"):
        gauge.restore(msgspec.msgpack.encode(other))


def test_a_counter_that_begins_again_loses_nothing_counted_since():
    gauge = Rain(RainSettings())
    for t, reading in ((0, 990.0), (60, 995.0), (120, 2.0), (180, 3.0)):
        verdict = gauge.update(t, counter_mm=reading)
    assert verdict.totals_mm[-1] == 8.0
    assert verdict.resets == 1
    wrapping = Rain(RainSettings(gauge=Gauge(wrap_mm=1000.0)))
    for t, reading in ((0, 990.0), (60, 995.0), (120, 2.0)):
        verdict = wrapping.update(t, counter_mm=reading)
    assert verdict.totals_mm[-1] == 12.0
    assert verdict.resets == 0


def test_a_jump_of_the_counter_is_no_rain_whether_it_stays_or_not():
    gauge = Rain(RainSettings())
    for t, reading in ((0, 10.0), (60, 510.0), (120, 10.4), (180, 10.6)):
        verdict = gauge.update(t, counter_mm=reading)
    assert (verdict.totals_mm[-1], verdict.jumps) == (pytest.approx(0.6), 1)
    for t, reading in ((240, 800.0), (300, 800.4)):
        verdict = gauge.update(t, counter_mm=reading)
    assert (verdict.totals_mm[-1], verdict.jumps) == (pytest.approx(1.0), 2)


def test_growth_over_a_gap_is_spread_over_it():
    gauge = Rain(RainSettings())
    gauge.update(0, counter_mm=0.0)
    verdict = gauge.update(3 * 3600, counter_mm=36.0)
    by_window = dict(zip(WINDOWS_MIN, verdict.totals_mm, strict=True))
    assert (by_window[10], by_window[60], by_window[180]) == (2.0, 12.0, 36.0)


def test_tips_belong_to_their_moment_and_fractions_are_not_lost():
    gauge = Rain(RainSettings())
    for k in range(3000):
        verdict = gauge.update(k * 20.0 + 1, tips_mm=0.0033)
    assert verdict.totals_mm[WINDOWS_MIN.index(60)] == pytest.approx(180 * 0.0033, abs=0.02)
    assert verdict.totals_mm[-1] == pytest.approx(3000 * 0.0033, abs=0.011)


def test_the_day_turns_at_eight_local_time_and_only_when_the_clock_is_known():
    eight = 86400 * 19000  # 00:00 UTC is 08:00 in China
    gauge = Rain(RainSettings())
    gauge.update(0, counter_mm=0.0, utc_s=eight - 600)
    verdict = gauge.update(540, counter_mm=5.0, utc_s=eight - 60)
    assert (verdict.day_mm, verdict.day_sure) == (5.0, True)
    verdict = gauge.update(660, counter_mm=7.0, utc_s=eight + 60)  # half of it before, half after
    assert (verdict.before_mm, verdict.day_mm) == (6.0, 1.0)
    verdict = gauge.update(90000, counter_mm=8.0)
    assert (verdict.day_mm, verdict.day_sure) == (2.0, False)


def test_events_antecedent_and_the_curve():
    assert CURVES["seattle"].intensity(24) == pytest.approx(82.73 * 24 ** -1.13)
    assert CURVES["caine"].intensity(1) == 14.82
    assert CURVES["guzzetti"].intensity(10) == pytest.approx(2.2 * 10 ** -0.44)
    heavy = run(RainSettings(curve=CURVES["caine"]), np.full(120, 0.5))
    over = [v for v in heavy if any(f.kind == "rain.curve" for f in v.findings)]
    assert over
    assert over[0].curve_ratio >= 1
    assert over[0].colour is Colour.NONE
    assert not any(f.kind == "rain.curve" for v in run(RainSettings(curve=CURVES["caine"]), np.full(120, 0.05))
                   for f in v.findings)
    gauge = Rain(RainSettings())
    gauge.update(0, counter_mm=0.0)
    verdict = gauge.update(3600, counter_mm=10.0)
    assert (verdict.event_h, verdict.event_mm, verdict.antecedent_mm, verdict.growth_mm) == (1.0, 10.0, 10.0, 10.0)
    later = gauge.update(3600 + 86400)
    assert (later.event_h, later.event_mm) == (0.0, 0.0)
    assert later.antecedent_mm == pytest.approx(8.5)


def test_settings_that_make_no_sense_are_refused():
    for wrong in (lambda: Step(window_min=45, prepare_mm=1, evacuate_mm=2),
                  lambda: Step(window_min=60, prepare_mm=2, evacuate_mm=2),
                  lambda: Curve(name="x", a=1, b=1, from_h=2, to_h=1)):
        with pytest.raises(ValueError, match=r"must|expected"):
            wrong()


def test_a_month_of_showers_makes_no_colour():
    rng = np.random.default_rng(21)
    print("seed=21")
    rain = rng.poisson(0.02, 30 * 144) * 0.2 * (rng.random(30 * 144) < 0.3)
    gauge = Rain(RainSettings(table=TABLE, curve=CURVES["caine"]))
    counts = np.cumsum(rain)
    for k, count in enumerate(counts.tolist()):
        verdict = gauge.update(600.0 * k, counter_mm=count if k % 97 else math.nan, utc_s=1.7e9 + 600 * k)
        assert not verdict.findings
