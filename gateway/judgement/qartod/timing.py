"""Tests of when readings come, and of counters that begin again.

Owns: QARTOD test 1 (time gap) and what belongs to it: order, future, warm-up; resets of counters. Promises: pure; the
first reading of a series is good, or not evaluated where there is nothing to compare it with. Never: reads a clock.
"""

from __future__ import annotations

import numpy as np

from drivers.counter import Resets, grew
from gateway.judgement.qartod.flags import GOOD, SUSPECT, UNTESTED, Array, fresh
from gateway.judgement.qartod.motion import last_known

ON_TIME, DUPLICATE, BACKWARD, FUTURE = range(4)
"""What `order` says of a time."""


def time_gap(t_s: Array, most_s: float) -> Array:
    """Flag (3) the first reading after a silence of more than `most_s`; the very first is not evaluated (2).

    Args:
        t_s: times in order, seconds (n,).
        most_s: the longest time between two readings that is no gap.
    """
    flags = np.full(len(t_s), GOOD, np.uint8)
    flags[:1] = UNTESTED
    flags[1:][np.diff(t_s) > most_s] = SUSPECT
    return flags


def order(t_s: Array, now_s: Array | float = np.inf, ahead_s: float = 0.0) -> Array:
    """Say of each time whether it is told again, goes back, or has not come yet; a future time wins.

    Args:
        t_s: times as the instrument gave them, in order of arrival, seconds (n,).
        now_s: what time it was on arrival, on the same clock; inf = not known.
        ahead_s: how far the clocks may differ.

    Returns:
        ON_TIME, DUPLICATE, BACKWARD or FUTURE (uint8), each compared with the reading before, whatever that one was: an
        instrument whose clock was set back is doubted once.
    """
    found = np.full(len(t_s), ON_TIME, np.uint8)
    step = np.diff(t_s)
    found[1:][step == 0] = DUPLICATE
    found[1:][step < 0] = BACKWARD
    found[t_s > np.asarray(now_s) + ahead_s] = FUTURE
    return found


def warm_up(t_s: Array, on_s: float, warm_up_s: float) -> Array:
    """Flag (3) what was read less than `warm_up_s` after the instrument was switched on at `on_s`."""
    return np.where((t_s >= on_s) & (t_s - on_s < warm_up_s), np.uint8(SUSPECT), np.uint8(GOOD))


def counter_reset(v: Array, wrap: float | None = None, resets: Resets = "power_loss") -> Array:
    """Flag (3) a counter that fell without having come to its end; one that wraps is good.

    Args:
        v: values in order of time, float64 (n,), NaN where missing (passed over).
        wrap: where it begins again at 0; None = not known.
        resets: what else makes it begin again (`drivers.counter.grew`); of one that says ``never`` a fall without a
            known wrap is doubted all the same.
    """
    flags = fresh(v)
    at = last_known(v)
    for i in np.flatnonzero((at >= 0) & (v < v[at])).tolist():
        if grew(float(v[at[i]]), float(v[i]), wrap, resets).how == "reset":
            flags[i] = SUSPECT
    return flags
