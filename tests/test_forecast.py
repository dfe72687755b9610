import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.judgement.detect.forecast import Ahead, Forecast

LEVEL = Ahead(limits=(10.0, 20.0), resolution=0.01, window_s=3600)


def feed(f, values, step_s=60.0):
    told = []
    for k, x in enumerate(values):
        told += f.update(np.array([0]), k * step_s, np.array([x]))
    return told


def test_a_linear_rise_is_foreseen_within_a_tenth():
    print("seed=1")
    values = 2 + 0.03 * np.arange(120) + 0.01 * np.random.default_rng(1).standard_normal(120)
    told = feed(Forecast([LEVEL]), values)
    last = told[-1]
    true_s = (10 - (2 + 0.03 * last.t_s / 60)) / 0.03 * 60
    assert last.limit == 10
    assert last.in_s == pytest.approx(true_s, rel=0.1)
    assert abs(last.in_s - true_s) < 5 * last.error_s < 0.2 * true_s
    assert last.text_en.startswith("at this rate 10 is reached in 2 h ")
    assert "小时" in last.text_zh


@pytest.mark.parametrize("slope", [0.0, -0.03])
def test_none_when_falling_or_still(slope):
    print("seed=2")
    noise = 0.01 * np.random.default_rng(2).standard_normal(200)
    assert feed(Forecast([LEVEL]), 5 + slope * np.arange(200) + noise) == []


def test_a_limit_below_is_foreseen_when_falling_and_a_far_one_is_not_told():
    low = Ahead(limits=(1.0,), rising=False)
    told = feed(Forecast([low]), 5 - 0.01 * np.arange(100))
    assert told[-1].limit == 1
    assert told[-1].rate_per_h == pytest.approx(-0.6)
    assert feed(Forecast([Ahead(limits=(1e6,))]), 5 + 0.01 * np.arange(100)) == []


def test_the_next_limit_after_the_first_is_passed():
    told = feed(Forecast([LEVEL]), 8 + 0.05 * np.arange(100))
    assert {x.limit for x in told} == {10.0, 20.0}


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 200))
def test_any_division_gives_the_same_and_a_restored_state_goes_on(seed, cut):
    rng = np.random.default_rng(seed)
    c, t = rng.integers(0, 2, 200), np.cumsum(rng.exponential(40, 200))
    x = 0.001 * t + rng.normal(0, 0.05, 200)
    x[rng.random(200) < 0.1] = np.nan
    ahead = [LEVEL, Ahead(limits=(12.0,), window_s=900)]
    whole, first, second = Forecast(ahead), Forecast(ahead), Forecast(ahead)
    told = whole.update(c, t, x)
    again = first.update(c[:cut], t[:cut], x[:cut])
    second.restore(first.state())
    again += second.update(c[cut:], t[cut:], x[cut:])
    assert second.state() == whole.state()
    assert sorted(map(repr, told)) == sorted(map(repr, again))


def test_a_state_of_other_windows_is_refused():
    with pytest.raises(ValueError, match="start afresh"):
        Forecast([LEVEL]).restore(Forecast([Ahead(limits=(10.0,), window_s=60)]).state())
