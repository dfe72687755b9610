"""How much a counter grew."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.counter import grew
from drivers.sensor import Point, Template
from drivers.sheet import Counter, Title


@pytest.mark.parametrize(("before", "after", "more", "growth"), [
    (10, 10, {}, (0, "")),
    (10, 12.5, {}, (2.5, "")),
    (6553.4, 0.2, {"wrap": 6553.6}, (0.4, "wrapped")),
    (100.0, 0.2, {"wrap": 6553.6}, (0.2, "reset")),             # far from its end: power was lost
    (100.0, 0.2, {"wrap": 6553.6, "resets": "never"}, (6453.8, "wrapped")),
    (6553.4, 30.0, {"wrap": 6553.6, "most": 5.0}, (30.0, "reset")),   # it never rains 30 mm in that time
    (6553.4, 3.0, {"wrap": 6553.6, "most": 5.0}, (3.2, "wrapped")),
    (7000.0, 1.0, {"wrap": 6553.6, "resets": "never"}, (1.0, "reset")),   # it never wrapped there
    (50.0, 49.0, {}, (49.0, "reset")),
    (50.0, 0.0, {}, (0.0, "reset")),
])
def test_growth(before, after, more, growth):
    delta, how = grew(before, after, **more)
    assert (pytest.approx(delta), how) == growth


@given(st.integers(2, 2**32), st.data())
def test_a_counter_that_never_resets_loses_nothing(wrap, data):
    start = data.draw(st.integers(0, wrap - 1))
    steps = data.draw(st.lists(st.integers(0, wrap - 1), max_size=20))
    at, total = start, 0.0
    for step in steps:
        total += grew(at, (at + step) % wrap, wrap, "never").delta
        at = (at + step) % wrap
    assert total == sum(steps)


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.one_of(st.none(), st.floats(1, 1e9)), st.sampled_from(
    ["power_loss", "command", "never"]), st.one_of(st.none(), st.floats(0, 1e9)))
def test_growth_is_never_negative(before, after, wrap, resets, most):
    assert grew(before, after, wrap, resets, most).delta >= 0


def test_judgement_hears_of_the_wrap_in_the_points_unit():
    line = Title(zh="x", en="x")
    rain = Point(id="total", register=0, scale=0.2, unit="mm", resolution=0.2,
                 counter=Counter(wrap=65536, resets="command"))
    old = Point(id="old", register=1, unit="mm", resolution=0.2, counter=True)
    level = Point(id="level", register=2, unit="mm", resolution=0.2)
    model = Template(maker="m", title=line, manual="m", points=(rain, old, level), examples=())
    assert [(i.counter, i.wrap, i.resets) for p in model.points for i in [p.info(model)]] == [
        (True, 13107.2, "command"), (True, None, "power_loss"), (False, None, "power_loss")]
