"""How long each device takes to begin its answer, where it is steady enough to count on.

Owns: the last few turnarounds of each unit. Promises: an answer is expected only of a device that has lately taken
about the same time again and again, and then as soon as its quickest; one that was there before anybody looked ends
the expectation, so it can waste the line's time once in so many exchanges at most. Never: decides how long to wait
for a silent device.
"""

from __future__ import annotations

from collections import deque

_LAST = 8
"""Turnarounds that must agree."""
_STEADY_S = 0.002
"""How far apart they may be."""


class Turnarounds:
    """The turnarounds of the units on a line."""

    def __init__(self) -> None:
        self._took: dict[int, deque[float]] = {}

    def of(self, unit: int) -> float | None:
        """Return the expected time from the end of a request to the beginning of its answer; None = not to be told."""
        took = self._took.get(unit, ())
        if len(took) < _LAST or max(took) - min(took) > _STEADY_S:
            return None
        return min(took)

    def learn(self, unit: int, took_s: float, *, overdue: bool) -> None:
        """Take note of an answer that began `took_s` after its request; `overdue` = it was there at the first look."""
        took = self._took.setdefault(unit, deque(maxlen=_LAST))
        if overdue:
            took.clear()   # how long it really took is not known
        else:
            took.append(took_s)
