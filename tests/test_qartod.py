"""Vectors written for another implementation of the QARTOD manuals: the published tests of ioos_qc.

Source: github.com/ioos/ioos_qc, tests/test_qartod.py at commit c91d50c3d8407e469d016f3b5c2bd83ff310aad1 (inputs,
thresholds, expected flags), and at 0166080ef12473caac2b2115b43d96fe6733faf0 for the spike test as called before.
Left out: location and density inversion (no such quantity here).
"""

import numpy as np
import pytest

from tests import qartod

D = np.datetime64


def every(minutes, count, start="2015-01-01T00:00:00"):
    return D(start) + np.arange(count) * np.timedelta64(minutes, "m")


# --- gross range

@pytest.mark.parametrize(("values", "expected"), [
    ([5, 10, 15, 20, 25, 30, 35, 40, 45, 51], [4, 3, 3, 1, 1, 1, 1, 1, 3, 4]),
    ([None, 10, 15, 20, 25, 30, 35, 40, np.nan, 51, np.ma.masked], [9, 3, 3, 1, 1, 1, 1, 1, 9, 4, 9]),
])
def test_gross_range(values, expected):
    found = qartod.gross_range_test(values, fail_span=(10, 50), suspect_span=(20, 40))
    assert found.tolist() == expected


@pytest.mark.parametrize(("fail", "suspect"), [(10, (1, 1)), ((1, 1), 10), ((1, 1), (2, 2))])
def test_gross_range_bad_input(fail, suspect):
    with pytest.raises(ValueError, match="expected"):
        qartod.gross_range_test(np.array([5]), fail_span=fail, suspect_span=suspect)


# --- climatology

@pytest.mark.parametrize(("tspan", "period"), [
    ((0, 3), "month"), ((0, 12), "weekofyear"), ((0, 90), "dayofyear"), ((0, 1), "quarter")])
def test_climatology_periods(tspan, period):
    config = qartod.ClimatologyConfig()
    config.add(vspan=(10, 20), tspan=tspan, period=period)
    times = [D(t) for t in ("2011-02-02", "2013-02-03", "2011-04-01", "2011-12-31", "2020-02-29")]
    assert qartod.climatology_test(config, [9, 11, 21, 21, 15], times, [None] * 5).tolist() == [3, 1, 2, 2, 1]


INCLUSIVE = [
    ("2019-10-31", 55, 5, 2), ("2019-11-01", 55, 5, 1), ("2020-02-04", 55, 5, 1), ("2020-02-05", 55, 5, 2),
    ("2020-01-01", 49, 5, 3), ("2020-01-01", 50, 5, 1), ("2020-01-01", 60, 5, 1), ("2020-01-01", 61, 5, 3),
    ("2020-01-01", 30, 5, 4), ("2020-01-01", 40, 5, 3), ("2020-01-01", 70, 5, 3), ("2020-01-01", 71, 5, 4),
    ("2020-01-01", 55, -1, 2), ("2020-01-01", 55, 0, 1), ("2020-01-01", 55, 10, 1), ("2020-01-01", 55, 11, 2),
]


@pytest.mark.parametrize(("time", "value", "depth", "expected"), INCLUSIVE)
def test_climatology_spans_include_both_ends(time, value, depth, expected):
    config = [{"tspan": (D("2019-11-01"), D("2020-02-04")), "fspan": (40, 70), "vspan": (50, 60), "zspan": (0, 10)}]
    assert qartod.climatology_test(config, [value], [D(time)], [depth]).tolist() == [expected]


DATED = [{"tspan": (D("2011-01"), D("2011-07")), "vspan": (10, 20)},
         {"tspan": (D("2011-07"), D("2012-01")), "vspan": (30, 40)},
         {"tspan": (D("2012-01"), D("2013-01")), "vspan": (40, 50)},
         {"tspan": (D("2012-01"), D("2013-01")), "vspan": (50, 60), "zspan": (0, 10)},
         {"tspan": (D("2012-01"), D("2013-01")), "vspan": (70, 80), "zspan": (10, 100)}]


@pytest.mark.parametrize(("config", "times", "values", "depths", "expected"), [
    (DATED, [D("2011-01-02")], [11], [None], [1]),
    (DATED, [1293926400], [11], [None], [1]),
    (DATED, [D("2011-01-02")] * 3 + [D("2015-01-02")], [9, 11, 21, 21], [None] * 4, [3, 1, 3, 2]),
    (DATED, [D("2012-01-02")] * 6, [51, 71, 42, 39, 59, 79], [2, 90, None, None, 11, 101], [1, 1, 1, 3, 3, 2]),
    (DATED[3:], [D("2011-01-02")] * 3 + [D("2015-01-02")], [9, 11, 21, 21], [None] * 4, [2, 2, 2, 2]),
])
def test_climatology(config, times, values, depths, expected):
    assert qartod.climatology_test(config, values, times, depths).tolist() == expected


def test_climatology_full_years():
    days = D("2018-01-01") + np.arange(1096)
    for period, spans in (("quarter", ((0, 1), (1, 3), (3, 4))), ("month", ((0, 1), (1, 2), (2, 3), (3, 10), (10, 11))),
                          ("dayofyear", ((0, 1), (1, 363), (363, 364))), ("weekofyear", ((0, 1), (1, 50), (50, 51)))):
        config = [{"tspan": span, "period": period, "vspan": (10, 20)} for span in spans]
        found = qartod.climatology_test(config, np.ones(len(days)), days, np.full(len(days), np.nan))
        told = found.tolist()
        assert (told[0], set(told) - {2}) == (3, {3}), period      # 1 is too low; after the last span nothing is known
        assert told.count(2) == {"quarter": 0, "month": 93, "dayofyear": 4, "weekofyear": 25}[period]


# --- spike

NOISY = [-0.189, -0.0792, -0.0122, 0.0457, 0.0671, 0.0213, -0.0488, -0.1463, -0.2438, -0.3261, -0.3871, -0.4054,
         -0.3932, -0.3383, -0.2804, -0.2347, -0.2134, -0.2347, -0.2926, -0.3597, -0.442, -0.509, 0, -0.5944,
         -0.57, -0.4267, -0.2926, -0.1585, -0.0945, -0.0762]
MIXED = [3, 4.99, 5, 6, 8, 6, 6, 6.75, 6, 6, 5.3, 6, 6, 9, 5, None, 4, 4]
SPIKES = [
    # values, suspect, fail, method, expected
    ([10, 12, 999.99, 13, 15, 40, 9, 9], 25, 50, "average", [2, 4, 4, 4, 1, 3, 1, 2]),
    ([-10, -12, -999.99, -13, -15, -40, -9, -9], 25, 50, "average", [2, 4, 4, 4, 1, 3, 1, 2]),
    ([-100, -99, -99, -98], 25, 50, "average", [2, 1, 1, 2]),
    ([10, 12, 999.99, 13, 15, 40, 9, 9, None, 10, 10, 999.99, 10, None], 25, 50, "average",
     [2, 4, 4, 4, 1, 3, 1, 1, 9, 9, 4, 4, 4, 9]),
    (NOISY, 0.5, 1, "average", [2] + [1] * 21 + [3] + [1] * 6 + [2]),
    (MIXED, 0.5, 1, "average", [2, 3, 1, 1, 4, 3, 1, 3, 1, 1, 3, 1, 4, 4, 4, 9, 9, 2]),
    (MIXED, 0.5, 1, "differential", [2, 1, 1, 1, 4, 1, 1, 3, 1, 1, 3, 1, 1, 4, 9, 9, 9, 2]),
]


@pytest.mark.parametrize(("values", "suspect", "fail", "method", "expected"), SPIKES)
def test_spike(values, suspect, fail, method, expected):
    found = qartod.spike_test(inp=values, suspect_threshold=suspect, fail_threshold=fail, method=method)
    assert found.tolist() == expected


def test_spike_is_by_average_unless_said_otherwise_and_takes_thresholds_as_a_pair():
    expected = qartod.spike_test(MIXED, 0.5, 1, "average").tolist()
    assert qartod.spike_test(inp=MIXED, suspect_threshold=0.5, fail_threshold=1).tolist() == expected
    assert qartod.spike_test(inp=MIXED, thresholds=(1, 0.5)).tolist() == expected


@pytest.mark.parametrize("method", ["bad", 123])
def test_spike_bad_method(method):
    with pytest.raises(ValueError, match="method"):
        qartod.spike_test(inp=MIXED, suspect_threshold=0.5, fail_threshold=1, method=method)


# --- rate of change

@pytest.mark.parametrize(("values", "expected"), [
    ([2, 10, 2.1, 3, 4, 5, 7, 10, 0, 2, 2.2, 2, 1, 2, 3, 90, 91, 92, 93, 1, 2, 3, 4, 5],
     [1, 3, 3, 1, 1, 1, 1, 1, 3, 1, 1, 1, 1, 1, 1, 3, 1, 1, 1, 3, 1, 1, 1, 1]),
    ([2, 10, 2, 3, None, None, 7, 10], [1, 3, 3, 1, 9, 9, 1, 1]),
    ([-2, -10, -2, -3], [1, 3, 3, 1]),
])
def test_rate_of_change(values, expected):
    times = every(15, len(values))
    threshold = 5 / 15 / 60
    assert qartod.rate_of_change_test(inp=values, tinp=times, threshold=threshold).tolist() == expected
    seconds = times.astype("datetime64[s]").astype(int)
    assert qartod.rate_of_change_test(inp=values, tinp=seconds, threshold=threshold).tolist() == expected


# --- flat line

FLAT = [1, 2, 2.0001, 2, 2.0001, 2, 2.0001, 2, 4, 5, 3, 3.0001, 3.0005, 3.00001]
QUARTERS = every(15, 14)


@pytest.mark.parametrize(("times", "values", "suspect_s", "fail_s", "tolerance", "expected"), [
    (QUARTERS, FLAT, 3000, 4800, 0.01, [1, 1, 1, 1, 3, 3, 4, 4, 1, 1, 1, 1, 1, 3]),
    (QUARTERS, [-x for x in FLAT], 3000, 4800, 0.01, [1, 1, 1, 1, 3, 3, 4, 4, 1, 1, 1, 1, 1, 3]),
    (QUARTERS, [], 3000, 4800, 0.01, []),
    (QUARTERS, FLAT[1:], 3000, 4800, 0.01, [1, 1, 1, 3, 3, 4, 4, 1, 1, 1, 1, 1, 3]),
    (QUARTERS, [1, None, np.ma.masked, 2, 2.0001, 2, 2.0001, 2, 4, None, 3, None, None, 3.00001], 3000, 4800, 0.01,
     [1, 9, 9, 1, 3, 3, 4, 4, 1, 9, 1, 9, 9, 3]),
    ([], [], 3, 5, 0.1, []),
    ([0], [5], 3, 5, 0.1, [1]),
    ([0, 1], [5, 5], 3, 5, 0.1, [1, 1]),
    ([0, 1, 2], [5] * 3, 3, 5, 0.1, [1, 1, 1]),
    ([0, 1, 2, 3], [5] * 4, 3, 5, 0.1, [1, 1, 1, 3]),
    ([0, 1, 2, 3, 4], [5] * 5, 3, 5, 0.1, [1, 1, 1, 3, 3]),
    ([0, 1, 2, 3, 4, 5], [5] * 6, 3, 5, 0.1, [1, 1, 1, 3, 3, 4]),
    (list(range(1, 11)), [1, 1, 1, 1, 1, 6, 5, 4, 3, 2], 3, 6, 4, [1, 1, 1, 3, 3, 1, 1, 1, 3, 3]),
])
def test_flat_line(times, values, suspect_s, fail_s, tolerance, expected):
    found = qartod.flat_line_test(inp=values, tinp=times, suspect_threshold=suspect_s, fail_threshold=fail_s,
                                  tolerance=tolerance)
    assert found.tolist() == expected


def test_flat_line_is_silent_about_a_living_signal():
    values = np.random.default_rng(5).random(14)
    assert qartod.flat_line_test(values, QUARTERS, 3000, 4800, 1e-11).tolist() == [1] * 14


# --- attenuated signal

WEAK = [
    # values, suspect, fail, by, window (s), least count, least time (s), expected
    ([1, 2, 3, 4], 0.75, 0.5, "std", None, None, None, [1, 1, 1, 1]),
    ([1, 2, 3, 4], 5, 0, "std", None, None, None, [3, 3, 3, 3]),
    ([1, 1, 1, 1], 10, 8, "std", None, None, None, [4, 4, 4, 4]),
    ([10, 20, 30, 40], 100000, 1000, "std", None, None, None, [4, 4, 4, 4]),
    ([10, 20, 30, 40], 50, 31, "range", None, None, None, [4, 4, 4, 4]),
    ([10, 20, 30, 40], 31, 10, "range", None, None, None, [3, 3, 3, 3]),
    ([3, 4, 5, 8.1, 9, 8.5, 8.7, 8.4, 8.2, 8.35, 2, 1], 0.15, 0.1, "range", None, None, None, [1] * 12),
    ([1, 2, 3, 100, 1000], 100, 10, "range", 172800, 0, None, [4, 4, 4, 3, 1]),
    ([1, 2, 3, 100, 1000], 100, 10, "range", 172800, None, 0, [4, 4, 4, 3, 1]),
    ([1, 2, 3, 100, 1000], 100, 10, "range", 172800, 2, None, [2, 4, 4, 3, 1]),
    ([1, 2, 3, 100, 1000], 100, 10, "range", 172800, None, 172800, [2, 4, 4, 3, 1]),
    ([None, 2, 3, 4], 0.75, 0.5, "std", None, None, None, [9, 1, 1, 1]),
    ([None] * 4, 0.75, 0.5, "std", None, None, None, [9, 9, 9, 9]),
    ([10, None, None, 40], 50, 31, "range", None, None, None, [4, 9, 9, 4]),
    ([1, None, 10, 100, 1000], 100, 50, "range", 172800, 2, None, [2, 9, 2, 3, 1]),
    ([1, None, 10, 100, 1000], 150, 40, "std", 172800, 2, None, [2, 9, 2, 3, 1]),
]


@pytest.mark.parametrize(("values", "suspect", "fail", "by", "period", "least", "least_s", "expected"), WEAK)
def test_attenuated_signal(values, suspect, fail, by, period, least, least_s, expected):
    times = D("2019-01-01") + np.arange(len(values))
    for form in (times, times.astype("datetime64[s]").astype(int)):
        found = qartod.attenuated_signal_test(
            inp=values, tinp=form, suspect_threshold=suspect, fail_threshold=fail, test_period=period, min_obs=least,
            min_period=least_s, check_type=by)
        assert found.tolist() == expected


def test_attenuated_signal_bad_check():
    with pytest.raises(ValueError, match="std or range"):
        qartod.attenuated_signal_test([1, 2], [0, 1], 1, 1, check_type="mad")


# --- several tests together

def test_compare():
    vectors = [[1, 1, 1, 9, 1, 1, 9, 9], [2, 1, 1, 1, 1, 1, 9, 9], [1, 3, 3, 4, 3, 1, 2, 9]]
    assert qartod.qartod_compare(vectors).tolist() == [1, 3, 3, 4, 3, 1, 2, 9]
