"""A streaming robust z-score for any channel: how unusual is this reading among the channel's last ones?

Owns: the last `WINDOW` readings of every channel (counters: their steps).
Promises: constant memory; a fixed cost a reading; silent until a channel's window is full; the same stream gives the
same state bit for bit, however it is cut into calls; gaps and NaN change nothing.
Never: raises an alarm or demands a siren: a score is a hint.

Score = |x - median| / max(1.4826 MAD, floor), with median and MAD over the window before x (Iglewicz & Hoaglin 1993,
"How to Detect and Handle Outliers"; 1.4826 makes the MAD the standard deviation of a normal distribution). The floor
is the channel's resolution: a sensor that repeats one number must not turn its last digit into an anomaly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

WINDOW = 60
CHANNELS = 1024
"""Channels of a round scored in one go: enough for numpy, few enough for a small machine's cache and memory."""
EPISODE_HOLD_S = 600.0
NORMAL = 1.4826
_TINY = 1e-9


class Scores(NamedTuple):
    """What the detector says of a batch: arrays side by side, one entry a reading that could be scored."""

    indices: Array
    t_s: Array
    values: Array
    expected: Array
    score: Array


class _State(msgspec.Struct, frozen=True):
    window: int
    ring: bytes
    filled: bytes
    head: bytes
    last: bytes


def rounds(indices: Array) -> Iterator[Array]:
    """Split a batch into position arrays with at most one reading a channel each, in order of arrival.

    `a[i] += 1` with a repeated i counts once, so a batch with two readings of one channel takes two rounds.
    """
    n = len(indices)
    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if n else np.zeros(0, np.int64)
    nth = np.empty(n, np.int64)
    nth[order] = np.arange(n) - np.repeat(first, np.diff(np.r_[first, n]))
    for k in range(int(nth.max(initial=-1)) + 1):
        yield np.flatnonzero(nth == k)


class Anomaly:
    """Windows of all channels of one inventory."""

    def __init__(self, resolution: Array, counter: Array) -> None:
        """`resolution` (float, in the channel's unit) and `counter` (bool): one entry a channel."""
        n = len(resolution)
        self._floor = np.maximum(np.asarray(resolution, np.float64), _TINY)
        self._counter = np.asarray(counter, bool)
        self._ring = np.zeros((n, WINDOW))  # memory the machine gives with the first reading, not before
        self._filled = np.zeros(n, np.int64)
        self._head = np.zeros(n, np.int64)
        self._last = np.full(n, np.nan)

    def score(self, indices: Array, t_s: Array | float, values: Array) -> Scores:
        """Score a batch and learn from it.

        Args:
            indices: channels, int; may repeat.
            t_s: monotonic seconds, one for all or one each.
            values: float64; NaN is skipped.
        """
        indices = np.asarray(indices, np.int64)
        values = np.asarray(values, np.float64)
        times = np.broadcast_to(np.asarray(t_s, np.float64), indices.shape)
        expected = np.full(len(indices), np.nan)
        score = np.full(len(indices), np.nan)
        usable = np.flatnonzero(np.isfinite(values))
        for at in rounds(indices[usable]):
            for first in range(0, len(at), CHANNELS):
                where = usable[at[first:first + CHANNELS]]
                expected[where], score[where] = self._round(indices[where], values[where])
        told = np.flatnonzero(~np.isnan(score))
        return Scores(indices[told], times[told], values[told], expected[told], score[told])

    def _round(self, c: Array, values: Array) -> tuple[Array, Array]:
        """One reading a channel: (expected value, score), NaN where the channel is not warm."""
        counter = self._counter[c]
        base = np.where(counter, self._last[c], 0.0)
        x = values - base
        self._last[c] = values
        known = ~np.isnan(x) & ~(counter & (x < 0))  # a counter that restarts says nothing about its step
        warm = known & (self._filled[c] == WINDOW)
        expected = np.full(len(c), np.nan)
        score = np.full(len(c), np.nan)
        if warm.any():
            k = c[warm]
            window = self._ring[k]
            middle = _median(window)
            spread = NORMAL * _median(np.abs(window - middle[:, None]))
            score[warm] = np.abs(x[warm] - middle) / np.maximum(spread, self._floor[k])
            expected[warm] = middle + base[warm]
        k = c[known]
        self._ring[k, self._head[k]] = x[known]
        self._head[k] = (self._head[k] + 1) % WINDOW
        self._filled[k] = np.minimum(self._filled[k] + 1, WINDOW)
        return expected, score

    def state(self) -> bytes:
        """Everything learned, for `restore`."""
        return msgspec.msgpack.encode(_State(WINDOW, self._ring.tobytes(), self._filled.tobytes(),
                                             self._head.tobytes(), self._last.tobytes()))

    def restore(self, state: bytes) -> None:
        """Go on where `state` was taken.

        Raises:
            ValueError: the state is damaged or of another inventory; nothing was changed, learning starts afresh.
        """
        n = len(self._filled)
        try:
            kept = msgspec.msgpack.decode(state, type=_State)
        except msgspec.DecodeError as error:
            raise ValueError(f"anomaly state: cannot be read ({error}); start afresh") from error
        sizes = [len(kept.ring), len(kept.filled), len(kept.head), len(kept.last)]
        if kept.window != WINDOW or sizes != [n * WINDOW * 8, n * 8, n * 8, n * 8]:
            raise ValueError(f"anomaly state: made for another inventory or window, expected {n} channels of "
                             f"{WINDOW} readings; start afresh")
        self._ring = np.frombuffer(kept.ring, np.float64).reshape(n, WINDOW).copy()
        self._filled = np.frombuffer(kept.filled, np.int64).copy()
        self._head = np.frombuffer(kept.head, np.int64).copy()
        self._last = np.frombuffer(kept.last, np.float64).copy()


def _median(window: Array) -> Array:
    """Median of each row; numpy sorts short rows with vector instructions, three times as fast as it partitions."""
    ordered = np.sort(window, axis=1)
    middle: Array = (ordered[:, WINDOW // 2 - 1] + ordered[:, WINDOW // 2]) / 2
    return middle


class Episodes:
    """Turns scores into episodes: one mark when a channel becomes unusual, not one a reading."""

    def __init__(self, n: int, level: float) -> None:
        """`level`: a score from which a channel is unusual; it is usual again below half of it."""
        self._level = level
        self._open = np.zeros(n, bool)
        self._told = np.full(n, -np.inf)

    def opened(self, scores: Scores) -> list[int]:
        """Return positions in `scores` that begin an episode (at most one a channel in `EPISODE_HOLD_S`)."""
        interesting = (scores.score >= self._level) | self._open[scores.indices]
        begun = []
        for k in np.flatnonzero(interesting).tolist():
            channel, t_s = int(scores.indices[k]), float(scores.t_s[k])
            if scores.score[k] < self._level / 2:
                self._open[channel] = False
            elif scores.score[k] >= self._level and not self._open[channel]:
                self._open[channel] = True
                if t_s - self._told[channel] >= EPISODE_HOLD_S:
                    self._told[channel] = t_s
                    begun.append(k)
        return begun
