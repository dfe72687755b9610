"""Multi-variate: what a sibling that watches the same thing says.

Owns: QARTOD test 9 in its simplest form: two instruments that should agree. Promises: pure; a silent or stale sibling
proves nothing (2). Never: says which of the two is wrong.
"""

from __future__ import annotations

import numpy as np

from gateway.judgement.qartod.flags import SUSPECT, UNTESTED, Array, fresh


def latest(t_s: Array, other_t_s: Array) -> Array:
    """Return for each time the position of the sibling's last reading at or before it; -1 where there is none."""
    return np.searchsorted(other_t_s, t_s, side="right") - 1


def apart(v: Array, t_s: Array, other: Array, other_t_s: Array, most: float, within_s: float) -> Array:
    """Flag (3) readings further than `most` from the last reading of a sibling.

    Args:
        v: values of the channel, NaN where missing (n,).
        t_s: their times, seconds, in order.
        other: values of the sibling, without missing ones (m,).
        other_t_s: their times, in order.
        most: how far the two may be apart, in their unit.
        within_s: a sibling's reading older than this says nothing.

    Returns:
        Flags, uint8 (n,).
    """
    flags = fresh(v, UNTESTED)
    at = latest(t_s, other_t_s)
    if not len(other):
        return flags
    near = (at >= 0) & (t_s - other_t_s[at] <= within_s) & ~np.isnan(v)
    flags[near] = 1
    flags[near & (np.abs(v - other[at]) > most)] = SUSPECT
    return flags
