"""How much rain fell in the last minutes and hours, in the hydrological day, and in this event, at one gauge.

Owns: one day of rain by the minute, the running sums over it, the day's total, the event, the antecedent index.
Promises: constant memory (3 kB a gauge); sums are whole hundredths of a millimetre, so that nothing drifts and nothing
is lost to rounding; gaps and NaN are normal; a counter that begins again loses nothing that was counted after it; the
same readings give the same state bit for bit, whatever clock ticks fall between them.
Never: judges, or knows the wall clock except as an argument.

A minute holds what fell in (60 k, 60 (k + 1)] seconds. Growth between two readings of a counter is spread evenly over
the time between them, as nobody knows better; a tip belongs to its moment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta, Struct

from drivers.counter import grew

Array = np.ndarray[Any, np.dtype[Any]]

MINUTES = 1440
WINDOWS_MIN = (10, 30, 60, 180, 360, 720, 1440)
UNITS = 100
"""Of a millimetre."""
DAY_BEGINS_S = 8 * 3600
"""The hydrological day runs from 08:00 to 08:00 local time (SL 61)."""
_FULL = np.iinfo(np.uint16).max


class Gauge(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a rain gauge counts, and what the site takes for an event."""

    wrap_mm: Annotated[float, Meta(gt=0)] | None = None
    """Where the counter begins again by itself; None: not known."""
    resets: Literal["power_loss", "command", "never"] = "power_loss"
    most_mm_per_min: Annotated[float, Meta(gt=0, le=600)] = 40.0
    """More is no rain but a counter that jumped: not counted and told. 38 mm in a minute is the most ever measured
    (Barot, Guadeloupe, 1970; WMO)."""
    event_gap_h: Annotated[float, Meta(gt=0, le=168)] = 6.0
    """That long without rain ends an event."""
    antecedent_k: Annotated[float, Meta(gt=0, lt=1)] = 0.85
    """What is left of the antecedent index after a day (Kohler & Linsley 1951: 0.85 to 0.90)."""
    utc_offset_s: Annotated[int, Meta(ge=-50400, le=50400)] = 8 * 3600
    """Local minus UTC, for the day; China has one."""


_FLOATS: tuple[str, ...] = ("counter_mm", "counter_s", "doubt_mm", "read_s", "owed", "event_from_s", "event_to_s",
                            "index_mm", "index_s")
_INTS: tuple[str, ...] = ("minute", "day", "day_units", "before_units", "event_units", "jumps", "resets", "late")


class Windows:
    """One gauge. Times are seconds of one axis that goes on over restarts; `utc_s` is the same instant, None while
    the wall clock is not to be trusted."""  # noqa: D205, D209

    def __init__(self, gauge: Gauge) -> None:
        self.gauge = gauge
        self._ring = np.zeros(MINUTES, np.uint16)
        self._sums = np.zeros(len(WINDOWS_MIN), np.int64)
        self.counter_mm = self.counter_s = self.doubt_mm = self.read_s = math.nan
        self.event_from_s = self.event_to_s = self.index_s = math.nan
        self.owed = 0.0
        self.index_mm = 0.0
        self.minute = self.day = -1
        self.day_units = self.before_units = self.event_units = 0
        self.jumps = self.resets = self.late = 0

    def counter(self, t_s: float, reading_mm: float, utc_s: float | None = None) -> float:
        """Take a reading of an accumulator (mm since it last began at 0); return the growth that counts, in mm.

        The first reading only says where the counter stands. A reading that is not a number at least 0, or not later
        than the last one, is ignored (`late` counts the latter). A jump is not counted; where it stays, the
        counter goes on from there.
        """
        if not (math.isfinite(reading_mm) and reading_mm >= 0):
            self.tick(t_s, utc_s)
            return 0.0
        if t_s <= self.read_s:
            self.late += 1
            return 0.0
        before, since_s, doubt = self.counter_mm, self.counter_s, self.doubt_mm
        most_per_s = self.gauge.most_mm_per_min / 60
        if 0 <= reading_mm - doubt <= most_per_s * max(60.0, t_s - self.read_s):
            before, since_s = doubt, self.read_s  # the jump stayed: the counter stands elsewhere now
        self.read_s, self.doubt_mm = t_s, math.nan
        most = most_per_s * max(60.0, t_s - since_s) if not math.isnan(before) else math.inf
        growth = grew(before, reading_mm, self.gauge.wrap_mm, self.gauge.resets, most)
        if growth.delta > most:
            self.jumps += 1
            self.doubt_mm = reading_mm
            self.tick(t_s, utc_s)
            return 0.0
        self.counter_mm, self.counter_s = reading_mm, t_s
        if math.isnan(before):
            self.tick(t_s, utc_s)
            return 0.0
        self.resets += growth.how == "reset"
        self._add(since_s, t_s, growth.delta, utc_s)
        return growth.delta

    def tips(self, t_s: float, rain_mm: float, utc_s: float | None = None) -> float:
        """Take rain that was counted at a moment (tips × resolution); return what counts, in mm.

        More than the most in a minute is told as a jump and not counted; a moment before the last is `late` and counts
        in the minute it belongs to.
        """
        if not (math.isfinite(rain_mm) and rain_mm >= 0):
            self.tick(t_s, utc_s)
            return 0.0
        if rain_mm > self.gauge.most_mm_per_min:
            self.jumps += 1
            return 0.0
        if t_s < self.read_s:
            self.late += 1
        else:
            self.read_s = t_s
        self._add(t_s, t_s, rain_mm, utc_s)
        return rain_mm

    def tick(self, t_s: float, utc_s: float | None = None) -> None:
        """Let time pass: windows and the day move on."""
        self._advance(math.ceil(t_s / 60) - 1)
        if utc_s is not None:
            self._turn(math.floor((utc_s + self.gauge.utc_offset_s - DAY_BEGINS_S) / 86400))

    def _add(self, from_s: float, to_s: float, rain_mm: float, utc_s: float | None) -> None:
        self.tick(to_s, utc_s)
        if rain_mm <= 0:
            return
        exact = rain_mm * UNITS + self.owed
        units = math.floor(exact + 1e-6)
        self.owed = exact - units
        self._into_minutes(from_s, to_s, units)
        self._into_day(from_s, to_s, units, utc_s)
        if not to_s - self.event_to_s <= self.gauge.event_gap_h * 3600:
            self.event_from_s, self.event_units = max(from_s, to_s - self.gauge.event_gap_h * 3600), 0
        self.event_to_s = to_s if math.isnan(self.event_to_s) else max(to_s, self.event_to_s)
        self.event_units += units
        self.index_mm = self.index(to_s) + rain_mm
        self.index_s = to_s if math.isnan(self.index_s) else max(to_s, self.index_s)

    def _into_minutes(self, from_s: float, to_s: float, units: int) -> None:
        last = math.ceil(to_s / 60) - 1
        first = min(last, math.floor(from_s / 60))
        if last == first:
            share = np.array([units], np.int64)
        else:
            ends = np.minimum(60.0 * np.arange(first + 1, last + 2), to_s)
            share = np.diff(np.floor(units * (ends - from_s) / (to_s - from_s) + 1e-9).astype(np.int64), prepend=0)
        minutes = np.arange(first, last + 1)
        kept = minutes > self.minute - MINUTES
        minutes, share = minutes[kept], share[kept]
        if not len(minutes):
            return
        at = minutes % MINUTES
        room = np.minimum(share, _FULL - self._ring[at].astype(np.int64))
        self._ring[at] += room.astype(np.uint16)
        for k, window in enumerate(WINDOWS_MIN):
            self._sums[k] += int(room[minutes > self.minute - window].sum())

    def _into_day(self, from_s: float, to_s: float, units: int, utc_s: float | None) -> None:
        """Give a day only its part of what fell across 08:00."""
        old = 0
        if utc_s is not None and self.day >= 0:
            into_s = (utc_s + self.gauge.utc_offset_s - DAY_BEGINS_S) % 86400
            span_s = to_s - from_s
            if 0 <= into_s < span_s:
                old = units - math.floor(units * into_s / span_s + 1e-9)
        self.day_units += units - old
        self.before_units += old

    def _turn(self, day: int) -> None:
        if day > self.day >= 0:
            self.before_units = self.day_units if day == self.day + 1 else 0
            self.day_units = 0
        self.day = max(self.day, day)

    def _advance(self, minute: int) -> None:
        if self.minute < 0 or minute - self.minute >= MINUTES:
            self._ring[:] = 0
            self._sums[:] = 0
            self.minute = max(minute, self.minute)
            return
        step = minute - self.minute
        if step <= 0:
            return
        for k, window in enumerate(WINDOWS_MIN):
            left = np.arange(self.minute - window + 1, self.minute - window + 1 + min(step, window))
            self._sums[k] -= int(self._ring[left % MINUTES].sum(dtype=np.int64))
        self._ring[np.arange(self.minute + 1, minute + 1) % MINUTES] = 0
        self.minute = minute

    def totals_mm(self) -> tuple[float, ...]:
        """Rain in each of `WINDOWS_MIN`, up to and with the minute that runs."""
        return tuple((self._sums / UNITS).tolist())

    def event(self, t_s: float) -> tuple[float, float]:
        """(hours, mm) of the event under way at `t_s`, from its first to its last rain; (0, 0) when there is none."""
        if not t_s - self.event_to_s <= self.gauge.event_gap_h * 3600:
            return 0.0, 0.0
        return (self.event_to_s - self.event_from_s) / 3600, self.event_units / UNITS

    def index(self, t_s: float) -> float:
        """Antecedent precipitation index in mm at `t_s`: rain so far, fading by `antecedent_k` a day."""
        if math.isnan(self.index_s):
            return 0.0
        return self.index_mm * math.pow(self.gauge.antecedent_k, max(0.0, t_s - self.index_s) / 86400)

    def columns(self) -> dict[str, Array]:
        """Return the state; `take` puts it back."""
        return {"ring": self._ring, "sums": self._sums,
                "floats": np.array([getattr(self, name) for name in _FLOATS]),
                "ints": np.array([getattr(self, name) for name in _INTS], np.int64)}

    def take(self, columns: Mapping[str, Array]) -> None:
        """Go on from `columns`."""
        self._ring, self._sums = columns["ring"], columns["sums"]
        for names, column in ((_FLOATS, "floats"), (_INTS, "ints")):
            for name, value in zip(names, columns[column].tolist(), strict=True):
                setattr(self, name, value)
