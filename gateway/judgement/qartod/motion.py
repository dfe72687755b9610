"""Spike and rate of change: how far a reading is from its neighbours.

Owns: QARTOD tests 6 and 7. Promises: pure. Never: a state.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from gateway.judgement.qartod.flags import FAIL, MISSING, SUSPECT, UNTESTED, Array, fresh

Method = Literal["average", "differential"]


def spike(v: Array, suspect: float | None, fail: float | None = None, method: Method = "differential") -> Array:
    """Flag single readings that stand out from both neighbours.

    Args:
        v: values in order of time, float64 (n,), NaN where missing.
        suspect: further out than this is suspect, in the unit of `v`; None = never.
        fail: further than this fails; None = never.
        method: ``average``: distance from the mean of both neighbours (a step stands out from it too, on both sides);
            with the next one missing, from the one before alone. ``differential``: the smaller of the distances from
            both, where both lie on the same side (a step does not stand out).

    Returns:
        Flags, uint8 (n,). Not evaluated (2): the first and the last, and where a neighbour is missing that the method
        needs.

    Raises:
        ValueError: an unknown method.
    """
    if method not in ("average", "differential"):
        raise ValueError(f"expected the method average or differential, got {method!r}")
    if not len(v):
        return fresh(v)
    before, after = np.full(v.shape, np.nan), np.full(v.shape, np.nan)
    before[1:], after[:-1] = v[:-1], v[1:]
    out = prominence(before, v, after, average=np.full(v.shape, method == "average"))
    flags = graded(out, suspect, fail)
    flags[[0, -1]] = UNTESTED
    flags[np.isnan(v)] = MISSING
    return flags


def prominence(before: Array, v: Array, after: Array, average: Array) -> Array:
    """Return how far each reading stands out from its neighbours; NaN where its method cannot say.

    Args:
        before: values, float64, NaN where missing.
        v: those after them, and of the same shape.
        after: those after these.
        average: by which method (bool); differential where False.
    """
    up, down = v - before, after - v
    mean = np.abs(v - np.where(np.isnan(after), before, (before + after) / 2))
    lone = np.where(up * down < 0, np.minimum(np.abs(up), np.abs(down)), 0.0)
    lone[np.isnan(up) | np.isnan(down)] = np.nan
    return np.where(average, mean, lone)


def graded(out: Array, suspect: float | Array | None, fail: float | Array | None) -> Array:
    """Flag what exceeds `suspect` (3) or `fail` (4); not evaluated where `out` is NaN."""
    flags = np.where(np.isnan(out), np.uint8(UNTESTED), np.uint8(1))
    if suspect is not None:
        flags[out > suspect] = SUSPECT
    if fail is not None:
        flags[out > fail] = FAIL
    return flags


def rate_of_change(v: Array, t_s: Array, suspect_per_s: float, fail_per_s: float | None = None, *,
                   bridge: bool = False) -> Array:
    """Flag readings that moved too fast since the one before.

    Args:
        v: values in order of time, float64 (n,), NaN where missing.
        t_s: their times, seconds.
        suspect_per_s: faster than this is suspect, in the unit of `v` a second.
        fail_per_s: faster than this fails; None = never.
        bridge: compare with the last reading that had a value; otherwise a reading after a missing one is good, as
            nothing is known of its rate.

    Returns:
        Flags, uint8 (n,); the first reading is good. Two readings at the same time have no rate.
    """
    at = last_known(v) if bridge else np.arange(len(v)) - 1
    step = np.where(at >= 0, v - v[at], np.nan)
    gap = np.where(at >= 0, t_s - t_s[at], np.nan)
    flags = fresh(v)
    size = np.abs(step)
    flags[(size > suspect_per_s * gap) & (gap > 0)] = SUSPECT
    if fail_per_s is not None:
        flags[(size > fail_per_s * gap) & (gap > 0)] = FAIL
    return flags


def last_known(v: Array) -> Array:
    """Return for each reading the position of the last one before it that has a value; -1 where there is none."""
    if not len(v):
        return np.zeros(0, np.int64)
    known = np.where(np.isnan(v), -1, np.arange(len(v)))
    return np.concatenate(([-1], np.maximum.accumulate(known)[:-1]))
