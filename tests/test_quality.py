import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers import DEVICE_NOTES, WIRE_NOTES, PointInfo
from gateway.judgement.quality import Quality
from gateway.model import REASONS, Flag, Reason
from tests.judgement_site import point


def one(info=None, **quality):
    poll_s = quality.pop("poll_s", 1.0)
    q = Quality([(point("p", "d.p", poll_s=poll_s, **quality),
                  info or PointInfo(unit="mm", resolution=0.1, low=0.0, high=100.0))], 0.0)
    return q, q.table(slice(0, 1), np.array([True]))


def read(q, table, t, value, note=""):
    v = np.array([value], np.float64)
    q.judge(table, v, [note] if note else (), t)
    return int(q.flag[0]), REASONS[q.reason[0]].value, float(v[0])


def info(**more):
    return PointInfo(**{"unit": "mm", "resolution": 0.1, "low": 0.0, "high": 100.0} | more)


SATURATING = info(beyond_high="saturated", beyond_low="saturated")

TRUTH = [
    # template, site limits, value, note → flag, reason
    (info(), {}, 50.0, "", 1, ""),
    (info(), {}, 0.0, "", 1, ""),
    (info(), {}, 100.0, "", 1, ""),
    (info(), {}, 100.01, "", 4, "out_of_range"),
    (info(), {}, -0.01, "", 4, "out_of_range"),
    (SATURATING, {}, 100.01, "", 3, "saturated"),
    (SATURATING, {}, -0.01, "", 3, "saturated"),
    (info(beyond_high="saturated"), {}, -0.01, "", 4, "out_of_range"),
    (info(), {"high": 80.0}, 81.0, "", 3, "out_of_range"),
    (info(), {"low": 10.0}, 9.0, "", 3, "out_of_range"),
    (info(), {"high": 80.0}, 101.0, "", 4, "out_of_range"),
    (info(), {"high": 120.0}, 110.0, "", 4, "out_of_range"),
    (info(), {}, math.nan, "", 4, "not_a_number"),
    (info(), {}, None, "", 4, "not_a_number"),
    (SATURATING, {}, math.inf, "", 4, "not_a_number"),
    (info(low=None, high=None), {}, 1e31, "", 4, "not_a_number"),
    (info(), {}, None, "over_range", 4, "over_range"),
    (SATURATING, {}, None, "over_range", 3, "over_range"),
    (SATURATING, {}, 100.0, "over_range", 3, "over_range"),
    (SATURATING, {}, None, "under_range", 3, "under_range"),
    (info(beyond_high="saturated"), {}, None, "under_range", 4, "under_range"),
    *[(info(), {}, None, n.value, 9, n.value) for n in sorted(WIRE_NOTES)],
    *[(info(), {}, None, n.value, 4, n.value) for n in sorted(DEVICE_NOTES)],
    (info(), {}, 7.0, "sensor_fault", 4, "sensor_fault"),
]


@pytest.mark.parametrize(("template", "limits", "value", "note", "flag", "reason"), TRUTH)
def test_truth_table_of_flags(template, limits, value, note, flag, reason):
    assert read(*one(template, **limits), 1.0, value, note)[:2] == (flag, reason)


def test_a_missing_reading_has_no_value_even_if_the_driver_left_one():
    assert math.isnan(read(*one(), 1.0, 7.0, "bad_crc")[2])


RATE = [
    # step, seconds, counter → flag
    (1.9, 1.0, False, 1), (2.0, 1.0, False, 1), (2.1, 1.0, False, 3), (-2.1, 1.0, False, 3),
    (-2.1, 1.0, True, 1), (2.1, 1.0, True, 3), (3.9, 2.0, False, 1), (4.1, 2.0, False, 3), (9.0, 0.0, False, 1),
]


@pytest.mark.parametrize(("step", "seconds", "counter", "flag"), RATE)
def test_truth_table_of_rates(step, seconds, counter, flag):
    q, table = one(info(counter=counter), rate_per_s=2.0)
    assert read(q, table, 10.0, 50.0)[0] == Flag.GOOD
    found = read(q, table, 10.0 + seconds, 50.0 + step)
    assert found[:2] == (flag, "rate" if flag == 3 else "")


def test_rate_compares_with_the_last_believable_reading_not_with_a_failed_one():
    q, table = one(rate_per_s=2.0)
    read(q, table, 0.0, 50.0)
    read(q, table, 1.0, None, "no_answer")
    assert read(q, table, 2.0, 53.9)[0] == Flag.GOOD
    assert read(q, table, 3.0, 60.0)[:2] == (3, "rate")
    assert read(q, table, 4.0, 60.5)[0] == Flag.GOOD


@pytest.mark.parametrize(("values", "rest", "flags"), [
    ([5, 5, 5, 5], None, [1, 1, 1, 3]),
    ([5, 5.04, 5.05, 5.0], None, [1, 1, 1, 3]),     # within half a digit is no change
    ([5, 5, 5.06, 5.06], None, [1, 1, 1, 1]),
    ([0, 0, 0, 0], 0.0, [1, 1, 1, 1]),              # nothing happening looks like nothing changing
    ([5, 5, 5, 5], 0.0, [1, 1, 1, 3]),
])
def test_flat_line_after_flat_s_without_change_and_never_at_rest(values, rest, flags):
    q, table = one(info(rest=rest), flat_s=30.0)
    assert [read(q, table, 10.0 * k, v)[0] for k, v in enumerate(values)] == flags


def test_a_flat_line_is_good_again_when_the_value_moves():
    q, table = one(flat_s=10.0)
    assert [read(q, table, t, v)[1] for t, v in ((0, 5), (10, 5), (11, 6), (12, 6))] == ["", "flat_line", "", ""]


def test_maintenance_readings_enter_no_rate_or_flat_state():
    q, table = one(rate_per_s=2.0, flat_s=100.0)
    away = q.table(slice(0, 1), np.array([False]))
    read(q, table, 0.0, 50.0)
    assert read(q, away, 1.0, 90.0)[0] == Flag.GOOD       # test gas: a jump is no news
    assert read(q, table, 2.0, 51.0)[0] == Flag.GOOD      # compared with 50, not with 90
    assert read(q, table, 3.0, 60.0)[1] == "rate"


def test_lost_at_the_second_failure_in_a_row_and_at_once_when_sure():
    q, table = one()
    read(q, table, 0.0, 5.0)
    read(q, table, 1.0, None, "bad_crc")
    assert (bool(q.lost[0]), bool(q.told[0])) == (False, False)
    read(q, table, 2.0, None, "no_answer")
    assert (bool(q.lost[0]), bool(q.told[0])) == (True, True)
    read(q, table, 3.0, 5.0)
    assert (bool(q.lost[0]), bool(q.told[0])) == (False, False)
    read(q, table, 4.0, None, "quarantined")
    assert bool(q.told[0])


def test_a_point_never_read_is_lost_but_not_told():
    q, _ = one()
    assert (q.lost.tolist(), q.told.tolist(), q.flag.tolist()) == ([True], [False], [2])


@pytest.mark.parametrize(("poll_s", "given", "expected"), [(1.0, None, 10.0), (60.0, None, 180.0), (60.0, 61.0, 61.0)])
def test_stale_after_three_polls_at_least_ten_seconds_or_as_written(poll_s, given, expected):
    q, table = one(poll_s=poll_s, **({} if given is None else {"stale_s": given}))
    read(q, table, 5.0, 1.0)
    assert q.next_stale_s() == 5.0 + expected
    assert q.silent(5.0 + expected - 0.001).tolist() == []
    assert q.silent(5.0 + expected).tolist() == [0]


def test_a_lost_point_is_not_stale_again_until_it_has_spoken():
    q, table = one()
    q.judge(table, np.array([np.nan]), [Reason.STALE], 10.0, heard=False)
    assert q.next_stale_s() == math.inf
    read(q, table, 20.0, 1.0)
    assert q.next_stale_s() == 30.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.one_of(st.none(), st.floats(), st.floats(-10, 110)),
                          st.sampled_from(["", "no_answer", "no_data", "over_range"])), min_size=1, max_size=20))
def test_columns_judge_as_single_points_do(stream):
    """A Scan of many points says of each what a Scan of that point alone would have said."""
    spec = (point("p", "d.p", rate_per_s=5.0, flat_s=3.0), SATURATING)
    wide = Quality([spec] * len(stream), 0.0)
    table = wide.table(slice(0, len(stream)), np.ones(len(stream), bool))
    for t in (1.0, 2.0, 6.0):
        wide.judge(table, np.array([v for v, _ in stream], np.float64), [n for _, n in stream], t)
    for k, (value, note) in enumerate(stream):
        q, alone = one(SATURATING, rate_per_s=5.0, flat_s=3.0)
        for t in (1.0, 2.0, 6.0):
            found = read(q, alone, t, value, note)
        assert (int(wide.flag[k]), REASONS[wide.reason[k]].value) == found[:2]


def test_only_rules_see_a_saturated_value_as_endless():
    q, table = one(SATURATING)
    v = np.array([100.5])
    verdict = q.judge(table, v, (), 1.0)
    assert (v[0], verdict.judged[0]) == (100.5, math.inf)


@pytest.mark.parametrize(("value", "note"), [(101.0, ""), (7.0, "sensor_fault"), (None, "no_answer"), (math.inf, "")])
def test_rules_never_see_a_value_that_nobody_believes(value, note):
    q, table = one()
    assert math.isnan(q.judge(table, np.array([value], np.float64), [note], 1.0).judged[0])


def test_one_failed_reading_is_no_proof_that_an_unread_point_is_there():
    q, table = one()
    read(q, table, 1.0, None, "bad_crc")
    assert (bool(q.lost[0]), bool(q.told[0])) == (True, False)
