"""A pipe's balance, its pressure drops, and where a wave began."""

import math

import numpy as np
import pytest

from gateway.judgement.detect.leak import Balance, BalanceSettings, Drop, DropSettings, baseline, locate


def section(**more):
    return Balance(BalanceSettings(**{"name": "南段", "leak_m3h": 10.0, "sigma_m3h": 5.0, **more}))


def flows(minutes, seed, leak_from=None, leak=10.0):
    print(f"seed={seed}")
    rng = np.random.default_rng(seed)
    through = 300 + 100 * np.sin(np.arange(minutes) / 200)
    lost = np.where(np.arange(minutes) >= (minutes if leak_from is None else leak_from), leak, 0.0)
    return through + rng.normal(0, 3.5, minutes), through - lost + rng.normal(0, 3.5, minutes)


@pytest.mark.parametrize("miss", [None, 0.01])
def test_a_leak_is_found_with_its_size_and_beginning(miss):
    b, found = section(miss=miss), None
    for k, (i, o) in enumerate(zip(*flows(3000, 1, leak_from=2000), strict=True)):
        told = b.update(60.0 * k, float(i), float(o))
        if told and found is None:
            found = (k, told[0])
    k, f = found
    assert 2000 < k <= 2000 + 20
    assert f.value == pytest.approx(10.0, abs=3 * f.facts["error_m3h"])
    assert abs(f.facts["since_s"] - 120000) <= 600
    assert f.facts["evidence"] >= f.facts["level"]
    b.accept()
    assert b.findings() == ()


def test_a_month_without_a_leak_says_nothing_and_a_dead_meter_is_no_evidence():
    b = section()
    assert b.level == pytest.approx(math.log(3650 * 1440))
    for k, (i, o) in enumerate(zip(*flows(30 * 1440, 2), strict=True)):
        assert b.update(60.0 * k, float(i), math.nan if k % 97 == 0 else float(o)) == ()
    for k in range(30 * 1440, 32 * 1440):
        assert b.update(60.0 * k, 300.0) == ()


def test_what_the_pipe_stores_is_no_leak():
    b = section(pipe_m3=500.0, sigma_m3h=1.0)
    for k in range(300):  # 0.1 kPa a minute into 500 m³: 29.6 m³/h
        assert b.update(60.0 * k, 100.0 + 500 / 101.325 * 6.0, 100.0, 400.0 + 0.1 * k) == ()
    stuffed = section(sigma_m3h=1.0)
    assert [stuffed.update(60.0 * k, 129.6, 100.0) for k in range(300)][-1]


def test_the_evidence_ends_with_the_leak_and_the_baseline_is_robust():
    b = section()
    i, o = flows(4000, 3, leak_from=1000)
    o[1500:] += 10.0
    told = [bool(b.update(60.0 * k, float(i[k]), float(o[k]))) for k in range(4000)]
    assert told[1400]
    assert not any(told[2000:])
    bias, sigma = baseline(np.r_[i[:1000] - o[:1000] + 2.0, np.full(50, 1e5), np.nan])
    assert bias == pytest.approx(2.0, abs=0.7)
    assert sigma == pytest.approx(4.95, rel=0.15)


def tap(**more):
    return Drop(DropSettings(**{"name": "调压站", "drop_kpa": 10.0, "flow_m3h": 50.0, **more}))


@pytest.mark.parametrize(("flow", "word"), [(300.0, "leak downstream"), (20.0, "supply"), (150.0, "unknown")])
def test_a_drop_that_stays_is_told_with_what_the_flow_says(flow, word):
    d = tap()
    for k in range(600):
        assert d.update(float(k), 300.0, 150.0) == ()
    told = [d.update(600.0 + k, 280.0, flow) for k in range(120)]
    f = told[-1][0]
    assert not told[20]
    assert word in f.text_en
    assert f.facts["began_s"] == pytest.approx(603, abs=3)
    assert f.value == pytest.approx(20, abs=1)
    for k in range(60):
        d.update(720.0 + k, 300.0, 150.0)
    assert d.findings() == ()


def test_a_demand_that_starts_and_a_day_of_them_are_no_drop():
    d = tap()
    for k in range(86400 // 10):
        t = 10.0 * k
        x = 300 + 4 * math.sin(t / 5000) - (8 if k % 180 < 2 else 0) + (math.nan if k % 50 == 0 else 0)
        assert d.update(t, x, 150.0) == ()


def test_states_are_bit_for_bit():
    i, o = flows(500, 4, leak_from=300)
    for make, feed in ((section, lambda p, k: p.update(37.0 * k, float(i[k]), float(o[k]), 400 + 0.01 * k)),
                       (tap, lambda p, k: p.update(1.7 * k, float(i[k]), float(o[k])))):
        plain, cut = make(), make()
        for k in range(500):
            assert feed(plain, k) == feed(cut, k)
            if k % 30 == 0:
                again = make()
                again.restore(cut.state())
                cut = again
        assert cut.state() == plain.state()
        with pytest.raises(ValueError, match="start afresh"):
            cut.restore(b"\xc1")


@pytest.mark.parametrize("gas", [0.0, 15.0])
def test_two_clocks_tell_the_place_with_its_error(gas):
    length, wave, where = 2000.0, 430.0, 640.0
    t_a, t_b = where / (wave - gas), (length - where) / (wave + gas)
    exact = locate(t_a, t_b, length, wave, clock_a_s=0.01, clock_b_s=0.01, gas_m_s=gas)
    assert exact.from_a_m == pytest.approx(where)
    print("seed=5")
    rng = np.random.default_rng(5)
    errors = rng.normal(0, (0.02, 0.03, 4.0, 10.0), (4000, 4))
    found = np.array([locate(t_a + a, t_b + b, length + d, wave + c, clock_a_s=0.02, clock_b_s=0.03, gas_m_s=gas,
                             wave_error_m_s=4.0, length_error_m=10.0).from_a_m for a, b, c, d in errors])
    said = locate(t_a, t_b, length, wave, clock_a_s=0.02, clock_b_s=0.03, gas_m_s=gas, wave_error_m_s=4.0,
                  length_error_m=10.0).error_m
    assert said == pytest.approx(found.std(), rel=0.05)


def test_no_place_where_none_explains_the_arrivals():
    assert locate(10.0, 0.0, 2000.0, 430.0, clock_a_s=0.05, clock_b_s=0.05) is None
    with pytest.raises(ValueError, match="faster"):
        locate(0, 0, 100, 10, clock_a_s=0, clock_b_s=0, gas_m_s=10)
