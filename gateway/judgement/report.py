"""What goes upstream: polling is not reporting.

Owns: when each point was last reported, and the last failed reading held back.
Promises: every change of flag is reported, the last failed reading before a return too, everything while the
object is yellow or worse; otherwise one reading in `every_s` and every step of `change`. Constant memory.
Never: changes a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gateway.config import Point
from gateway.judgement.quality import Select
from gateway.model import SAMPLE, Flag, Samples

Array = np.ndarray[Any, np.dtype[Any]]
_MISSING = int(Flag.MISSING)


class Thinning:
    """Reporting state: columns over the inventory."""

    def __init__(self, points: Sequence[Point]) -> None:
        n = len(points)
        # half a poll of slack, so that a poll 10 ms early is not put off by a whole period
        self._every = np.array([p.report.every_s - p.poll_s / 2 if p.report.every_s else -np.inf for p in points])
        self._change = np.array([p.report.change or np.inf for p in points], np.float64)
        self._wait = self._every.copy()
        self._at = np.full(n, -np.inf)
        self._value = np.full(n, np.nan)
        self._held = np.zeros(n, SAMPLE)
        """Last failed reading of a point, where `_holding` says that it was not reported."""
        self._holding = np.zeros(n, bool)

    def alert(self, indices: Sequence[int], *, on: bool) -> None:
        """Report everything of these points from now on (`on`), or as configured again."""
        chosen = list(indices)
        self._wait[chosen] = -np.inf if on else self._every[chosen]

    def changes(self, sel: Select) -> bool:
        """Whether some point of the selection reports by change."""
        return bool((self._change[sel] < np.inf).any())

    def due(self, sel: Select, v: Array, t_s: float, *, by_change: bool) -> Array:
        """Return which readings of an all-good Scan are to be reported (bool, one a point)."""
        due: Array = t_s - self._at[sel] >= self._wait[sel]
        if by_change:
            due |= np.abs(v - self._value[sel]) >= self._change[sel]
        return due

    def quiet(self, sel: Select, samples: Samples, t_s: float, *, by_change: bool) -> Samples | None:
        """Thin an all-good Scan."""
        due = self.due(sel, samples["value"], t_s, by_change=by_change)
        count = np.count_nonzero(due)
        if count == len(due):
            self._at[sel] = t_s
            if by_change:
                self._value[sel] = samples["value"]
            return samples
        return self._take(samples, due, t_s) if count else None

    def uneven(self, sel: Select, samples: Samples, changed: Array, t_s: float) -> Samples | None:
        """Thin a Scan with remarks: changes of flag always, and the last failed reading before each return."""
        due = self.due(sel, samples["value"], t_s, by_change=True) | changed
        points = samples["point"]
        missing = samples["flag"] == _MISSING
        ended = points[~missing & self._holding[points]]
        earlier = self._held[ended]  # a copy: the index is an array
        held = missing & ~due
        self._held[points[held]] = samples[held]
        self._holding[points] = held
        taken = self._take(samples, due, t_s) if due.any() else None
        if not len(earlier):
            return taken
        return earlier if taken is None else np.concatenate((earlier, taken))

    def _take(self, samples: Samples, due: Array, t_s: float) -> Samples:
        taken = samples[due]
        points = taken["point"]
        self._at[points] = t_s
        self._value[points] = taken["value"]
        return taken
