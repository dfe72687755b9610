"""The regression of seepage: finds its coefficients, and what level and season do not explain."""

import math

import numpy as np
import pytest

from gateway.judgement.detect.seepage import TERMS, YEAR_S, Seepage, SeepageSettings

DAY = 86400.0


def point(**more):
    return Seepage(SeepageSettings(**{"name": "量水堰", "unit": "L/s", "middle_m": 100.0, "half_range_m": 5.0,
                                      "scale": 10.0, "resolution": 0.01, "step_s": DAY, **more}))


def dam(days, seed, noise=0.1):
    print(f"seed={seed}")
    rng = np.random.default_rng(seed)
    t = DAY * np.arange(days) + rng.uniform(0, 3600, days)
    level = 100 + 3 * np.sin(2 * np.pi * t / YEAR_S + 1) + np.cumsum(rng.normal(0, 0.15, days)) * 0.3
    h = (level - 100) / 5
    y = 8 + 2 * h + 0.7 * h * h + 0.5 * np.cos(2 * np.pi * t / YEAR_S) + rng.normal(0, noise, days)
    return t, level, y


def feed(p, t, level, y):
    return [p.update(float(a), float(c), float(b)) for a, b, c in zip(t, level, y, strict=True)]


def test_the_recursion_is_the_least_squares_of_all_readings():
    t, level, y = dam(800, 1)
    p = point()
    feed(p, t, level, y)
    rows = np.array([p._row(a, b) for a, b in zip(t.tolist(), level.tolist(), strict=True)])
    prior = np.eye(TERMS) / (1e4 * 100)
    whole = np.linalg.solve(rows.T @ rows + prior, rows.T @ y)
    np.testing.assert_allclose(rows @ p._theta, rows @ whole, atol=2e-3)


def test_ordinary_years_say_nothing_and_a_leak_is_found():
    t, level, y = dam(1200, 2)
    leaking = y.copy()
    leaking[900:] += 1.5
    p = point()
    for k, r in enumerate(feed(p, t[:900], level[:900], leaking[:900])):
        assert r.learnt or k > 400
    assert p.findings() == ()
    found = None
    for k in range(900, 1100):
        p.update(float(t[k]), float(leaking[k]), float(level[k]))
        if p.findings() and found is None:
            found = k
    assert found <= 903
    assert p.findings()[0].value > p.findings()[0].limit
    assert "量水堰" in p.findings()[0].text_zh
    assert p.findings()[0].kind == "reservoir.seepage"  # 200 days later it has still not been learnt
    p.accept()
    assert p.findings() == ()
    for k in range(1100, 1200):
        assert p.update(float(t[k]), float(leaking[k]), float(level[k])).learnt
        assert p.findings() == ()


@pytest.mark.parametrize("seed", range(5))
def test_three_ordinary_years_raise_no_finding(seed):
    t, level, y = dam(1100, seed + 50)
    p = point()
    for a, b, c in zip(t.tolist(), level.tolist(), y.tolist(), strict=True):
        p.update(a, c, b)
        assert p.findings() == ()


@pytest.mark.parametrize("r", [0.5, 0.9])
def test_residuals_that_hang_together_are_not_many_witnesses(r):
    for seed in range(4):
        t, level, y = dam(1100, seed + 80, noise=0.0)
        rng = np.random.default_rng(seed)
        e = 0.0
        p = point()
        for k in range(1100):
            e = r * e + rng.normal(0, 0.1)
            p.update(float(t[k]), float(y[k]) + e, float(level[k]))
            assert p.findings() == ()
        for k in range(1100, 1110):
            p.update(float(t[-1]) + DAY * (k - 1099), float(y[-1]) + 5.0, float(level[-1]))
        assert p.findings()


def test_a_slow_drift_is_found():
    t, level, y = dam(1500, 3)
    y[700:] += np.minimum(0.01 * np.arange(800), 1.0)
    p = point(time=False)
    feed(p, t[:700], level[:700], y[:700])
    assert p.findings() == ()
    feed(p, t[700:], level[700:], y[700:])
    assert p.findings()[0].kind.startswith("reservoir.seepage")


def test_gaps_are_normal_and_a_restart_changes_no_bit():
    t, level, y = dam(600, 4)
    y[::7] = math.nan
    plain, cut = point(), point()
    for k in range(600):
        one, two = (p.update(float(t[k]), float(y[k]), float(level[k])) for p in (plain, cut))
        assert (one is None) == (two is None) == math.isnan(y[k])
        assert cut.update(float(t[k]) + 1, float(y[k]), float(level[k])) is None
        if k % 50 == 0:
            again = point()
            again.restore(cut.state())
            cut = again
    assert cut.state() == plain.state()
    with pytest.raises(ValueError, match="start afresh"):
        cut.restore(b"nothing")
