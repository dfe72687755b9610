"""Rate and acceleration over irregular readings, in five windows at once: 1.5 h, 6 h, 24 h, 4 d and 16 d.

Owns: how a rate is estimated, when it counts, what change is usual.
Promises: vectorised over channels; a daily cycle cancels exactly in the windows from 24 h up; one step in a window is
told from movement that goes on; gaps make a window unknown, never zero.
Never: keeps state.

A window's change is the median of its last 6 bins minus the median of 6 bins that lie 18 bins earlier; acceleration
is the second difference with 6 bins 36 earlier. Medians and a running median of three before them (see slope.py) make
it robust; equal groups make it free of bias under any curve's even part.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gateway.judgement.detect.slope_bins import Bins, Series

Array = np.ndarray[Any, np.dtype[Any]]

DAY_S = 86400.0
GROUP, LAG = 6, 18
BACK = 2 * LAG + GROUP
READINGS_LEAST = 2
STEP_SHARE = 0.7
"""Share of a window's change within one pair of neighbouring bins from which it is a step, not a movement."""


class Motion(NamedTuple):
    """Per channel and window (C, K); NaN where readings are too few."""

    change: Array
    lag_s: Array
    bend: Array
    """Second difference: of a uniform creep zero, whatever its rate."""
    stepped: Array
    """Bool: the change is one step."""


def motion(bins: Bins, channels: Array, t_s: Array) -> Motion:
    """Estimate the motion of `channels` up to `t_s` (one each)."""
    found = [_window(*bins.last(channels, t_s, k, BACK)) for k in range(len(bins.width_s))]
    return Motion(*(np.stack(column, axis=1) for column in zip(*found, strict=True)))


def _window(times: Array, means: Array, count: Array) -> tuple[Array, Array, Array, Array]:
    groups = [slice(BACK - GROUP, BACK), slice(BACK - LAG - GROUP, BACK - LAG), slice(0, GROUP)]
    mid = [_middle(means[:, g], count[:, g]) for g in groups]
    when = [_middle(times[:, g], count[:, g]) for g in groups]
    change, lag = mid[0] - mid[1], when[0] - when[1]
    # the two halves need not be equally long: the earlier change is scaled to the later one's time
    bend = change - (mid[1] - mid[2]) * lag / (when[1] - when[2])
    return change, lag, bend, _stepped(means[:, LAG:], change)


def _middle(values: Array, count: Array) -> Array:
    """Median of each row without its NaN; NaN where fewer than `READINGS_LEAST` readings are in it."""
    ordered = np.sort(values, axis=1)   # NaN last
    there = np.count_nonzero(~np.isnan(values), axis=1)
    rows = np.arange(len(values))
    low, high = ordered[rows, np.maximum(there - 1, 0) // 2], ordered[rows, there // 2]
    return np.where(count.sum(axis=1) >= READINGS_LEAST, (low + high) / 2, np.nan)


def _stepped(means: Array, change: Array) -> Array:
    """Whether most of the change happened between two bins that stand close together."""
    n, width = means.shape
    there = ~np.isnan(means)
    before = np.maximum.accumulate(np.where(there, np.arange(width), -1), axis=1)
    last = np.concatenate([np.full((n, 1), -1), before[:, :-1]], axis=1)
    rows = np.arange(n)[:, None]
    rise = np.where(there & (last >= 0), means - means[rows, last], 0.0)
    gap = np.where(there & (last >= 0), np.arange(width) - last, 0)
    # a bin that was open when the step came holds both sides of it: two neighbours are one step
    pair = rise.copy()
    pair[:, 1:] += rise[:, :-1]
    near = np.where(gap <= 2, np.where(np.abs(pair) > np.abs(rise), pair, rise), 0.0)
    enough = np.count_nonzero(there, axis=1) >= 5
    share: Array = np.max(near * np.sign(change)[:, None], axis=1, initial=0.0)
    stepped: Array = enough & (share > STEP_SHARE * np.abs(change))
    return stepped


def steady_rate(bins: Bins, channel: int, t_s: float, steady_s: float, accuracy: float) -> float | None:
    """Rate (unit a second, unsigned) of the last `steady_s`, when that stage was steady; else None.

    Theil-Sen over bins of 5.3 h (Sen 1968): outliers and one step in it do not move it. Steady: the rates of the two
    halves differ by no more than half of it, or by no more than the instrument can tell. No rate is less than what
    the instrument could tell in that time.
    """
    times, means, _ = (x[0] for x in bins.last(np.array([channel]), np.array([t_s]), 3))
    there = ~np.isnan(means) & (times > t_s - steady_s - bins.width_s[3])
    times, means = times[there], means[there]
    if len(times) < 16 or times[-1] - times[0] < steady_s - bins.width_s[3]:
        return None
    early = times <= (times[0] + times[-1]) / 2
    if not 6 <= np.count_nonzero(early) <= len(times) - 6:
        return None
    rate = theil_sen(times, means)
    apart = abs(theil_sen(times[~early], means[~early]) - theil_sen(times[early], means[early]))
    if apart > max(0.5 * abs(rate), 6 * accuracy / steady_s):
        return None
    return max(abs(rate), accuracy / steady_s)


def theil_sen(times: Array, values: Array) -> float:
    """Median of the slopes between all pairs."""
    i, j = np.triu_indices(len(times), 1)
    return float(np.median((values[j] - values[i]) / (times[j] - times[i])))


def onset_s(series: Series, steady: float, since_s: float) -> float:
    """Time from which the readings leave the line of the steady rate: least squares over all bends after `since_s`.

    Args:
        series: towards failure positive.
        steady: unit a second.
        since_s: no earlier than this.
    """
    t = series.t_s - series.t_s[-1]
    rest = series.values - steady * t
    root = np.sqrt(series.counts)
    best, found = np.inf, float(series.t_s[-1])
    for at in range(3, len(t) - 3):
        if series.t_s[at] < since_s:
            continue
        bent = np.maximum(t - t[at], 0.0)
        design = np.column_stack([root, root * bent, root * bent**2 / -t[at]])
        rest_w = root * rest
        solved = np.linalg.lstsq(design, rest_w, rcond=None)[0]
        off = rest_w - design @ solved
        if (misfit := float(off @ off)) < best:
            best, found = misfit, float(series.t_s[at])
    return found
