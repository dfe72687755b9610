"""How often a reservoir's station should be read and reported: hourly, or every five minutes while something changes.

Owns: the reporting rule. Promises: constant memory; irregular times, gaps and NaN are normal; the same readings give
the same answer however they are cut into calls. Never: sends anything; it asks.

The rule (Hunan DB43/T, draft 2022, appendix G): hourly on the hour; extra reports (加报) every 5 min once rain reaches
1 mm or the level has moved by 1 cm. Levels are compared as medians of 5 min, so that waves do not count; the end,
60 min without a change, is ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct

Array = np.ndarray[Any, np.dtype[Any]]
Positive = Annotated[float, Meta(gt=0)]

SLOTS = 60
"""Readings the median looks at, at most: the last of each slot of its window."""


class Reporting(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rule's numbers."""

    usual_s: Positive = 3600.0
    fast_s: Positive = 300.0
    rain_mm: Positive = 1.0
    """Since the last usual report, or since rain last counted as a change."""
    level_m: Positive = 0.01
    median_s: Positive = 300.0
    quiet_s: Positive = 3600.0
    """That long without a change ends fast reports."""


class Pace(Struct, frozen=True, kw_only=True):
    """What is asked of the wire (`drivers.Command`, kind ``pace``)."""

    period_s: float
    until_s: float | None
    """When it ends if nothing changes; None: it is the usual pace."""
    due_s: float
    """When the next report is due: on the grid of the period, the hour for the usual one."""
    reason: str
    """``usual``, ``rain`` or ``level``."""


class Reporter:
    """The rule at one station. Times are seconds of an axis whose hours are hours of the clock."""

    def __init__(self, rule: Reporting) -> None:
        self.rule = rule
        self._slot_s = rule.median_s / SLOTS
        self._values = np.full(SLOTS, np.nan)
        self._slots = np.full(SLOTS, np.iinfo(np.int64).min)
        self._n = np.array([np.nan, 0.0, -np.inf, 0.0, -np.inf, np.nan])
        """Reference level, rain not yet counted as a change, time of the last change, whether it was rain, the hour
        that rain is counted in, time of the first level."""

    def level(self, t_s: float, level_m: float) -> None:
        """Take a level; NaN is ignored."""
        if not math.isfinite(level_m):
            return
        slot = math.floor(t_s / self._slot_s)
        at = slot % SLOTS
        if slot < self._slots[at]:
            return
        self._slots[at], self._values[at] = slot, level_m
        if math.isnan(self._n[5]):
            self._n[5] = t_s
        if t_s - self._n[5] < self.rule.median_s:
            self._n[0] = self.median_m(t_s)  # a single wave is no level to compare with
        # the resolution of floats must not hide a change of exactly a centimetre
        elif abs(self.median_m(t_s) - self._n[0]) >= self.rule.level_m * (1 - 1e-6):
            self._n[0] = self.median_m(t_s)
            self._changed(t_s, rain=False)

    def rain(self, t_s: float, growth_mm: float) -> None:
        """Take rain that fell since the last call; not finite or nothing: ignored."""
        if not (math.isfinite(growth_mm) and growth_mm > 0):
            return
        hour = math.floor(t_s / self.rule.usual_s)
        if hour > self._n[4]:
            self._n[1], self._n[4] = 0.0, hour
        self._n[1] += growth_mm
        if self._n[1] >= self.rule.rain_mm * (1 - 1e-6):
            self._n[1] = 0.0
            self._changed(t_s, rain=True)

    def _changed(self, t_s: float, *, rain: bool) -> None:
        self._n[2], self._n[3] = t_s, float(rain)

    def median_m(self, t_s: float) -> float:
        """Median of the levels of the last `median_s`; NaN when there are none."""
        now = math.floor(t_s / self._slot_s)
        recent = self._values[(self._slots > now - SLOTS) & (self._slots <= now)]
        return float(np.median(recent)) if len(recent) else math.nan

    def pace(self, t_s: float) -> Pace:
        """What is asked at `t_s`."""
        until_s = float(self._n[2]) + self.rule.quiet_s
        fast = t_s < until_s
        period_s = self.rule.fast_s if fast else self.rule.usual_s
        due_s = (math.floor(t_s / period_s) + 1) * period_s
        reason = "usual" if not fast else "rain" if self._n[3] else "level"
        return Pace(period_s=period_s, until_s=until_s if fast else None, due_s=due_s, reason=reason)

    def columns(self) -> dict[str, Array]:
        """Return the state; `take` puts it back."""
        return {"pace_values": self._values, "pace_slots": self._slots, "pace": self._n}

    def take(self, columns: Mapping[str, Array]) -> None:
        """Go on from `columns`."""
        self._values, self._slots, self._n = (columns[k] for k in ("pace_values", "pace_slots", "pace"))
