"""Readings of a stretch of time as one line a point, no longer than was asked for.

Owns: what becomes of more values than fit (buckets of equal length, of which least, most, mean and worst quality stay),
and what counts as a gap. Promises: least, most and count are exact, a mean weighs every reading alike, whatever had
been thinned or aggregated before; nothing that may not be used is in any of them; memory follows from series and
values asked for, not from the readings. Never: does I/O.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from gateway.journal.rows import AGGREGATE
from gateway.model import Flag, Samples

ITEM = np.dtype([("series", "<i4"), ("t_ms", "<i8"), ("since_ms", "<i8"), ("every_ms", "<i8"), ("worst", "<u2"),
                 ("n", "<u4"), ("bad", "<u4"), ("min", "<f8"), ("max", "<f8"), ("mean", "<f8")])
"""Readings of one series, the last at `t_ms`, the first at `since_ms` (UTC): `n` that may be used and their least, most
and mean (NaN without any), `bad` others; `worst` is 256 x flag + reason; the next is due after `every_ms`."""
GAP = 2.5
"""So many times the interval without a reading is a gap."""
_POOL = 1 << 19


def items(samples: Samples, series: Samples, every_ms: Samples, offset_ms: Samples) -> Samples:
    """SAMPLEs or AGGREGATEs as ITEMs, with what stands beside each."""
    out, value = np.empty(len(samples), ITEM), samples["value"]
    merged = samples.dtype == AGGREGATE
    used = (samples["flag"] <= Flag.SUSPECT) & np.isfinite(value)
    count = samples["n"] if merged else np.uint32(1)
    out["series"], out["every_ms"] = series, every_ms
    out["t_ms"] = samples["t_ms"] + offset_ms
    out["since_ms"] = samples["since_ms"] + offset_ms if merged else out["t_ms"]
    out["worst"] = samples["flag"].astype(np.uint16) << 8 | samples["reason"]
    out["n"], out["bad"] = np.where(used, count, 0), np.where(used, 0, count)
    for name in ("min", "max", "mean"):
        out[name] = np.where(used, samples[name] if merged else value, np.nan)
    return out


class Lines:
    """Takes ITEMs in order of time, roughly; then gives the values and gaps of each series."""

    def __init__(self, series: int, since_ms: int, until_ms: int, most: int) -> None:
        self.bucket_ms = max(1, -(-(until_ms - since_ms + 1) // most))
        self.readings, self.bad = np.zeros(series, np.int64), np.zeros(series, np.int64)
        """Of each series."""
        self.folded = np.zeros(series, bool)
        """Which have more values than fit."""
        self._since, self._most, self._series = since_ms, most, series
        self._gaps: dict[int, list[tuple[int, int]]] = {}
        self._held = np.empty(0, ITEM)
        self._fresh: list[Samples] = []
        self._waiting = 0

    def add(self, found: Samples) -> None:
        """Take some."""
        self._fresh.append(found)
        self._waiting += len(found)
        if self._waiting >= _POOL:
            self._work()

    def values(self) -> dict[int, Samples]:
        """The ITEMs of each series that has any, in order of time."""
        self._work()
        ends = np.searchsorted(self._held["series"], np.arange(self._series + 1))
        return {n: self._held[a:b] for n, (a, b) in enumerate(pairwise(ends.tolist())) if a < b}

    def gaps(self, series: int) -> list[tuple[int, int]]:
        """Between readings, when `values` was asked: the last before and the first after."""
        return self._gaps.get(series, [])

    def _work(self) -> None:
        if not self._waiting:
            return
        held = np.concatenate([self._held, *self._fresh])
        for name in ("n", "bad"):
            sums = np.bincount(held["series"][len(self._held):], held[name][len(self._held):], self._series)
            self.readings += sums.astype(np.int64)
            self.bad += sums.astype(np.int64) if name == "bad" else 0
        fresh = np.arange(len(held)) >= len(self._held)
        # Sorting short keys is three times as fast.
        order = np.lexsort((held["t_ms"], held["series"].astype(np.uint16 if self._series <= 1 << 16 else np.int32)))
        held, fresh = held.take(order), fresh.take(order)   # ten times as fast as [order]
        self._fresh, self._waiting = [], 0
        self._note_gaps(held, fresh)
        self.folded |= np.bincount(held["series"], minlength=self._series) > self._most
        self._held = self._merged(held) if self.folded.any() else held

    def _note_gaps(self, held: Samples, fresh: Samples) -> None:
        """Where one that is new came later than it was due."""
        series, since, t, every = (held[name] for name in ("series", "since_ms", "t_ms", "every_ms"))
        late = ((since[1:] - t[:-1] > GAP * np.maximum(every[1:], every[:-1])) & (series[1:] == series[:-1])
                & fresh[1:])
        for n in np.flatnonzero(late).tolist():
            self._gaps.setdefault(int(series[n]), []).append((int(t[n]), int(since[n + 1])))

    def _merged(self, held: Samples) -> Samples:
        """All of one bucket as one, in series that have more than fit."""
        bucket = np.clip((held["t_ms"] - self._since) // self.bucket_ms, 0, self._most - 1)
        begins = np.ones(len(held), bool)
        begins[1:] = (np.diff(bucket) != 0) | (np.diff(held["series"]) != 0) | ~self.folded[held["series"][1:]]
        at = np.flatnonzero(begins)
        out = held.take(at)
        rules: dict[str, Any] = {"t_ms": np.maximum, "since_ms": np.minimum, "worst": np.maximum, "n": np.add,
                                 "bad": np.add, "min": np.fmin, "max": np.fmax, "every_ms": np.maximum}
        for name, rule in rules.items():
            out[name] = rule.reduceat(held[name], at)
        weighed = np.add.reduceat(np.where(held["n"] > 0, held["mean"], 0) * held["n"], at)
        several = np.diff(at, append=len(held)) > 1   # of a single one the mean stays to the last bit
        out["mean"][several] = (weighed / np.maximum(out["n"], 1))[several]
        out["mean"][out["n"] == 0] = np.nan
        return out
