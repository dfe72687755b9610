"""Flat line and attenuated signal: a channel that says the same, or nearly the same, for too long.

Owns: QARTOD tests 8 and 10 over whole series, and how a window is cut into panes. Promises: pure; with `pane_s` 0 the
windows are exact; otherwise readings count by panes of that length, so that a window begins up to one pane early and a
bounded number of panes holds all that is needed of it. Never: a state.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from gateway.judgement.qartod.flags import FAIL, GOOD, MISSING, SUSPECT, UNTESTED, Array, fresh

Spread = Literal["std", "range"]
SLACK = 1e-9
"""A standard deviation within this part of its threshold has reached it: sums in another order end in other digits."""


class Window(NamedTuple):
    """What lies in the window that ends with each reading; arrays (n,), NaN (or 0) where it is empty."""

    n: Array
    low: Array
    high: Array
    mean: Array
    m2: Array
    """Sum of squared distances from the mean."""


def flat_line(v: Array, t_s: Array, suspect_s: float | None, fail_s: float | None, tolerance: float, *,
              bridge: bool = False, pane_s: float = 0.0) -> Array:
    """Flag readings since which, and this long before which, the values all lay within less than `tolerance`.

    Args:
        v: values in order of time, float64 (n,), NaN where missing.
        t_s: their times, seconds, not going back.
        suspect_s: this long is suspect; None = never.
        fail_s: this long fails; None = never.
        tolerance: in the unit of `v`; greatest minus least value must be smaller.
        bridge: the window begins with the last *value* at or before its time; otherwise with the last reading, value
            or not (as ioos_qc, which counts readings).
        pane_s: see the module.

    Returns:
        Flags, uint8 (n,); good where the series is not that long yet.
    """
    flags = fresh(v)
    for span_s, flag in ((suspect_s, SUSPECT), (fail_s, FAIL)):
        if span_s is None:
            continue
        values, times, at = _valued(v, t_s) if bridge else (v, t_s, np.arange(len(v)))
        pane = panes(times, pane_s)
        begins = np.searchsorted(times[pane.first], times - span_s, side="right") - 1
        window = _windows(values, pane, np.where(begins < 0, len(pane.first), begins))
        flat = (begins >= 0) & (window.high - window.low < tolerance)
        flags[at[flat]] = flag
    flags[np.isnan(v)] = MISSING
    return flags


def attenuated(v: Array, t_s: Array, suspect: float, fail: float | None, within_s: float | None,
               spread: Spread = "std", *, least: int = 1, whole: bool = False, pane_s: float = 0.0) -> Array:
    """Flag readings whose window varies less than a living signal does.

    Args:
        v: values in order of time, float64 (n,), NaN where missing.
        t_s: their times, seconds, not going back.
        suspect: a spread below this is suspect, in the unit of `v`.
        fail: one below this fails; None = never.
        within_s: window, later than this long ago up to the reading; None = the whole series for every reading.
        spread: ``std`` (of a window: that of a sample, n - 1; of a whole series: n) or ``range`` (greatest - least).
        least: fewer values than this in the window are not judged (2).
        whole: nor are windows that began before the first value.
        pane_s: see the module.

    Returns:
        Flags, uint8 (n,).

    Raises:
        ValueError: an unknown `spread`.
    """
    if spread not in ("std", "range"):
        raise ValueError(f"expected the spread std or range, got {spread!r}")
    values, times, at = _valued(v, t_s)
    flags = fresh(v, UNTESTED)
    if not len(values):
        return flags
    if within_s is None:
        found = np.full(len(values), values.std() if spread == "std" else np.ptp(values))
    else:
        pane = panes(times, pane_s)
        begins = np.searchsorted(times[pane.last], times - within_s, side="right")
        window = _windows(values, pane, np.minimum(begins, pane.of))
        with np.errstate(invalid="ignore", divide="ignore"):
            found = (window.high - window.low if spread == "range" else
                     np.sqrt(np.where(window.n > 1, window.m2, np.nan) / np.maximum(window.n - 1, 1)))
        found[window.n < least] = np.nan
        if whole:
            found[times - within_s < times[0]] = np.nan
    flags[at] = weak(found, suspect, fail)
    return flags


def weak(spread: Array, suspect: float | Array, fail: float | Array | None) -> Array:
    """Flag spreads below their thresholds; not evaluated where NaN."""
    flags = np.where(np.isnan(spread), np.uint8(UNTESTED), np.uint8(GOOD))
    flags[spread < suspect - SLACK * np.abs(suspect)] = SUSPECT
    if fail is not None:
        flags[spread < fail - SLACK * np.abs(fail)] = FAIL
    return flags


class Cut(NamedTuple):
    """A series cut into panes; positions of its first and last readings (k,), and each reading's pane (n,)."""

    first: Array
    last: Array
    of: Array


def panes(t_s: Array, pane_s: float) -> Cut:
    """Cut a series by the clock into panes of `pane_s`; 0 = one for every reading."""
    n = len(t_s)
    if pane_s <= 0 or not n:
        return Cut(np.arange(n), np.arange(n), np.arange(n))
    number = np.floor(t_s / pane_s)
    begins = np.concatenate(([True], number[1:] != number[:-1]))
    first = np.flatnonzero(begins)
    return Cut(first, np.append(first[1:], n) - 1, np.cumsum(begins) - 1)


def _valued(v: Array, t_s: Array) -> tuple[Array, Array, Array]:
    at = np.flatnonzero(~np.isnan(v))
    return v[at], t_s[at], at


def _windows(v: Array, cut: Cut, begins: Array) -> Window:
    """Sum up the panes from `begins` to each reading's own, of which only what came until then counts."""
    n = len(v)
    nothing = Window(np.zeros(n), np.full(n, np.nan), np.full(n, np.nan), np.zeros(n), np.zeros(n))
    done = nothing
    own = _so_far(v, cut)
    for back in range(int((cut.of - begins).max(initial=-1)) + 1):
        inside = cut.of - back >= begins
        if back == 0:
            part = own
        else:
            ends = cut.last[np.maximum(cut.of - back, 0)]
            part = Window(*(column[ends] for column in own))
        done = _joined(done, Window(np.where(inside, part.n, 0.0), *(
            np.where(inside, column, empty[0]) for column, empty in zip(part[1:], nothing[1:], strict=True))))
    return done


def _so_far(v: Array, cut: Cut) -> Window:
    """What each pane holds up to each of its readings (Welford 1962)."""
    found = Window(*(np.zeros(len(v)) for _ in Window._fields))
    for first, last in zip(cut.first.tolist(), cut.last.tolist(), strict=True):
        count, low, high, mean, m2 = 0.0, np.nan, np.nan, 0.0, 0.0
        for i in range(first, last + 1):
            x = v[i]
            if x == x:
                count += 1
                low, high = np.fmin(low, x), np.fmax(high, x)
                off = x - mean
                mean += off / count
                m2 += off * (x - mean)
            for column, value in zip(found, (count, low, high, mean, m2), strict=True):
                column[i] = value
    return found


def _joined(a: Window, b: Window) -> Window:
    """Two parts as one (Chan, Golub & LeVeque 1983)."""
    count = a.n + b.n
    safe = np.maximum(count, 1.0)
    off = b.mean - a.mean
    return Window(count, np.fmin(a.low, b.low), np.fmax(a.high, b.high), a.mean + off * b.n / safe,
                  a.m2 + b.m2 + off * off * a.n * b.n / safe)
