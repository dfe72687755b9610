"""Less of a row, when room runs out before it was told: some of its readings, then their extremes and mean.

Owns: what is kept of Samples. Promises: every reading that is not good, or not Actual, is kept; so is each point's
first in ten of its intervals; the minimum, maximum, mean and last of what is merged are exact. The same rows give the
same result, whenever they are thinned. Never: does I/O, decides when.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gateway.journal.rows import AGGREGATE
from gateway.model import SAMPLE, Flag, Inventory, Samples

ONE_IN = 10
_UNKNOWN_MS = 1000
"""Interval of a point whose inventory is not known."""


def intervals_ms(inventory: Inventory | None) -> Samples:
    """How often each point is reported; one entry a point, at least one."""
    points = inventory.points if inventory is not None else ()
    return np.array([max(1, round(1000 * max(p.poll_s, p.report_every_s))) for p in points] or [_UNKNOWN_MS], np.int64)


def _odd(samples: Samples) -> Samples:
    mask: Samples = (samples["flag"] != Flag.GOOD) | (samples["status"] != 0)
    return mask


def thin(samples: Samples, every_ms: Samples) -> Samples:
    """One in `ONE_IN` of each point's good readings, by time, and all that are not good."""
    point = samples["point"].astype(np.int64)
    step = every_ms[np.minimum(point, len(every_ms) - 1)]
    t, span = samples["t_ms"], step * ONE_IN
    kept: Samples = samples[(t // span != (t - step) // span) | _odd(samples)]
    return kept


def aggregate(rows: Sequence[Samples], most: int) -> list[Samples]:
    """Readings of several rows, as many rows: all good ones of a point are one, in the last rows that have room for it.

    What is not good stays in its row, as it is. `most` AGGREGATEs fit a row; empty when there is no room for all.
    """
    if not rows:
        return []
    joined = np.concatenate([_widened(samples) for samples in rows])
    good = joined[~_odd(joined)]
    merged: list[Any] = []
    for point in np.unique(good["point"]):
        mine = good[good["point"] == point]
        one = mine[-1].copy()
        one["since_ms"], one["min"], one["max"] = mine["since_ms"].min(), mine["min"].min(), mine["max"].max()
        one["mean"] = np.average(mine["mean"], weights=mine["n"])
        one["n"] = mine["n"].sum()
        merged.append(one)
    left = np.array(merged, AGGREGATE)
    left = left[np.argsort(left["t_ms"], kind="stable")]
    out: list[Samples] = []
    for samples in reversed(rows):
        odd = samples[_odd(samples)]
        piece = left[max(0, len(left) - max(0, most - len(odd))):]
        left = left[:len(left) - len(piece)]
        if len(piece):
            odd = np.concatenate([_widened(odd), piece])
            odd = odd[np.argsort(odd["t_ms"], kind="stable")]
        out.insert(0, odd)
    return out if not len(left) else []


def _widened(samples: Samples) -> Samples:
    """Samples as aggregates of one; aggregates as they are."""
    if samples.dtype == AGGREGATE:
        return samples
    out = np.zeros(len(samples), AGGREGATE)
    for name in SAMPLE.names or ():
        out[name] = samples[name]
    out["since_ms"], out["n"] = samples["t_ms"], 1
    out["min"] = out["max"] = out["mean"] = samples["value"]
    return out
