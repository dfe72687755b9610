"""Readings of many channels, kept in bins that grow coarser with age: what a slope detector remembers.

Owns: the bins. Level k has bins of `width_s` x 4^k; a ring of the last `ring` of them; each holds the mean time, the
mean value and the count of its readings.
Promises: constant memory (20 bytes a bin); the same readings give the same bins bit for bit, however they were cut
into calls; a gap is an empty bin, never an invented value.
Never: judges; smooths over a bin's edge.

Five levels of 48 bins from 5 min up reach back 43 days in 4.8 kB a channel. Bins lie on a fixed grid of time, so that
18 bins of level 2 are exactly 24 h: whatever repeats daily (sun on steel, tides of temperature) cancels in their
difference.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

GROWTH = 4


class Series(NamedTuple):
    """One channel's memory, oldest first: fine where it is young, coarse where it is old. Arrays of one length."""

    t_s: Array
    values: Array
    counts: Array


class Bins:
    """Rings of bins for `n` channels."""

    def __init__(self, n: int, width_s: float = 300.0, levels: int = 5, ring: int = 48) -> None:
        """`width_s`: of the finest bin; `ring`: bins a level."""
        self.width_s = width_s * float(GROWTH) ** np.arange(levels)
        self.ring = ring
        self.t_s = np.zeros((n, levels, ring))
        self.mean = np.zeros((n, levels, ring))
        self.count = np.zeros((n, levels, ring), np.int32)

    @property
    def arrays(self) -> tuple[Array, ...]:
        """All there is to keep."""
        return self.t_s, self.mean, self.count

    def add(self, channels: Array, t_s: Array, values: Array) -> None:
        """Add one reading a channel: `channels` (int) without repeats, times never before the last, finite values."""
        for k, width in enumerate(self.width_s):
            ids = np.floor(t_s / width).astype(np.int64)
            at = channels, np.int64(k), ids % self.ring
            fresh = np.floor(self.t_s[at] / width).astype(np.int64) != ids
            count = np.where(fresh, 0, self.count[at]) + 1
            was_s, was = np.where(fresh, 0.0, self.t_s[at]), np.where(fresh, 0.0, self.mean[at])
            self.t_s[at] = was_s + (t_s - was_s) / count
            self.mean[at] = was + (values - was) / count
            self.count[at] = count

    def last(self, channels: Array, t_s: Array, level: int, back: int | None = None) -> tuple[Array, Array, Array]:
        """The last `back` bins (default: the whole ring) up to the bin of `t_s`, oldest first.

        Returns:
            times (s), means and counts, each (channels, back); NaN and 0 where no reading fell.
        """
        back = self.ring if back is None else back
        ids = np.floor(t_s / self.width_s[level]).astype(np.int64)[:, None] + np.arange(1 - back, 1)
        at = channels[:, None], np.int64(level), ids % self.ring
        times, count = self.t_s[at], self.count[at]
        there = (count > 0) & (np.floor(times / self.width_s[level]).astype(np.int64) == ids)
        return np.where(there, times, np.nan), np.where(there, self.mean[at], np.nan), np.where(there, count, 0)

    def series(self, channel: int, t_s: float) -> Series:
        """Everything known of one channel up to `t_s`: each stretch of time once, from its finest bins."""
        parts, edge_s = [], np.inf
        for k, width in enumerate(self.width_s):
            times, means, count = (x[0] for x in self.last(np.array([channel]), np.array([t_s]), k))
            ids = np.floor(t_s / width) + np.arange(1 - self.ring, 1)
            whole = (count > 0) & ((ids + 1) * width <= edge_s)
            parts.append((times[whole], means[whole], count[whole]))
            first_s = float(ids[0] * width)
            # where coarse bins end and fine ones begin, a coarse bin may straddle: it is left out, the fine ones stay
            edge_s = min(edge_s, first_s)
        t, y, n = (np.concatenate([part[i] for part in reversed(parts)]) for i in range(3))
        return Series(t, y, n.astype(np.float64))

    def shift(self, channels: Array, by: Array) -> None:
        """Add `by` to all that is remembered of `channels`: the datum moved, the slope did not."""
        self.mean[channels] += by[:, None, None]

    def forget(self, channels: Array) -> None:
        """Start afresh."""
        self.count[channels] = 0
