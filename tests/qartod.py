"""The argument names and conventions of `ioos_qc.qartod` over the product's batch functions.

Owns: what differs in convention only: masks, times as datetime64, thresholds as counts or pairs, words of periods.
Promises: no test of its own: every flag comes from `gateway.judgement.qartod`.

Source: ioos/ioos_qc, ioos_qc/qartod.py at commit 282d081be3a04edfe7b876073c381843ae502f41 (signatures) and its
tests/test_qartod.py at c91d50c3d8407e469d016f3b5c2bd83ff310aad1 (spike_test's `method`).
"""

import numpy as np

from gateway.judgement.qartod import flags, motion, ranges, seasons, stillness

PERIODS = {"year": "year", "quarter": "quarter", "month": "month", "week": "week", "weekofyear": "week",
           "dayofyear": "day_of_year", "dayofweek": "weekday", "weekday": "weekday", "hour": "hour"}


def values(inp):
    """None, NaN and masked are missing; infinite too."""
    if not isinstance(inp, np.ma.MaskedArray):
        inp = [np.nan if x is None or x is np.ma.masked else x for x in inp]
    found = np.ma.filled(np.ma.asarray(inp, np.float64), np.nan)
    return np.where(np.isfinite(found), found, np.nan)


def seconds(tinp):
    """Moments as datetime64 (or what becomes it), or seconds since 1970."""
    found = np.asarray(tinp)
    if found.dtype.kind in "iuf":
        return found.astype(np.float64)
    return found.astype("datetime64[ns]").astype(np.int64) / 1e9


def interval_s(t_s):
    return float(np.floor(np.median(np.diff(t_s))))


def pair(span):
    if not isinstance(span, (tuple, list)) or len(span) != 2:
        raise ValueError(f"expected two numbers, got {span!r}")
    return float(span[0]), float(span[1])


def qartod_compare(vectors):
    return flags.aggregate([np.asarray(v) for v in vectors])


def gross_range_test(inp, fail_span, suspect_span=None):
    return ranges.gross_range(values(inp), pair(fail_span), None if suspect_span is None else pair(suspect_span))


def spike_test(inp, suspect_threshold=None, fail_threshold=None, method="average", thresholds=None):
    if thresholds is not None:      # as it was called before 2019
        suspect_threshold, fail_threshold = sorted(abs(x) for x in thresholds)
    v = values(inp)
    found = motion.spike(v, suspect_threshold, fail_threshold, method)
    found[1:-1][found[1:-1] == flags.UNTESTED] = flags.MISSING      # there: a neighbour is missing
    return found


def rate_of_change_test(inp, tinp, threshold):
    return motion.rate_of_change(values(inp), seconds(tinp), threshold)


def flat_line_test(inp, tinp, suspect_threshold, fail_threshold, tolerance=0):
    v, t_s = values(inp), seconds(tinp)[:len(inp)]
    if len(v) < 3:
        return np.ones(len(v), np.uint8)
    step_s = interval_s(t_s)
    return stillness.flat_line(v, t_s, *(int(int(x) / step_s) * step_s for x in (suspect_threshold, fail_threshold)),
                               tolerance)


def attenuated_signal_test(inp, tinp, suspect_threshold, fail_threshold, test_period=None, min_obs=None,
                           min_period=None, check_type="std"):
    t_s = seconds(tinp)
    if min_obs is None and min_period is not None:
        min_obs = int(min_period / interval_s(t_s))
    return stillness.attenuated(values(inp), t_s, suspect_threshold, fail_threshold, test_period or None, check_type,
                                least=min_obs or 0 if test_period else 0)


class ClimatologyConfig:
    def __init__(self, members=()):
        self.members = []
        for member in members:
            self.add(**member)

    def add(self, tspan, vspan, fspan=None, zspan=None, period=None):
        if period is not None and period not in PERIODS:
            raise ValueError(f"the period {period!r} is not known")
        first, last = sorted(tspan if period else seconds([np.datetime64(t) for t in tspan]).tolist())
        self.members.append(seasons.Season(
            (seasons.When(PERIODS[period] if period else "time_s", first, last),), pair(vspan),
            None if fspan is None else pair(fspan), None if zspan is None else pair(zspan)))


def climatology_test(config, inp, tinp, zinp):
    members = config if isinstance(config, ClimatologyConfig) else ClimatologyConfig(config)
    return seasons.climatology(values(inp), seconds(tinp), members.members, values(zinp))
