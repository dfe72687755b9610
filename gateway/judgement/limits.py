"""Rules spelled out as limits: one switch for each rule and colour, with its delays, hysteresis and doubts.

Owns: every limit's state; the columns that let a quiet Scan be judged without a loop.
Promises: flags 4 and 9 hold a limit's state and never clear it; a doubtful reading needs a second one, but a raise
goes through without it when none comes.
Never: knows alarms or outputs, reads a clock, loops over rules while all is quiet.

How a limit counts. Crossing is *at or beyond* the limit (a reading that reaches it counts). Each (rule, colour) is
a switch of its own:

- on: crossing without a break for `on_delay_s`. The delay ends by the clock at its exact moment: if no reading says
  otherwise until then (also because the sensor has died), it counts.
- off: below the limit by more than the hysteresis for `off_delay_s`, and only *by a reading* at or after that moment:
  silence clears nothing.
- a suspect reading (3) that would change the switch asks for a confirming read. For *on* it counts when the next
  reading crosses too, when that read fails, or after `CONFIRM_S`; for *off* only when the next reading agrees.
  Saturation is not a doubt: the instrument itself says that the quantity is off the scale. It counts at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gateway.config import Rule, Watched
from gateway.model import LEVELS, Flag, Why

Array = np.ndarray[Any, np.dtype[Any]]

_FAIL = int(Flag.FAIL)
CONFIRM_S = 3.0
"""A confirming read that has not come by then is not waited for."""


class Limit:
    """One threshold of one rule: a switch with delays. Values are read in the limit's own sign: crossing is ≥."""

    __slots__ = ("doubt_s", "latches", "level", "limit", "name", "off_doubt", "off_s", "on", "owner", "point",
                 "point_id", "reach", "release", "resolution", "rule", "sign", "since_s", "unit", "value")

    def __init__(self, owner: int, point: int, name: str, unit: str, resolution: float, rule: Rule, level: int,
                 limit: float, sign: int) -> None:
        """`owner`: which object; `point`: index in the inventory, called `name` by people."""
        self.owner = owner
        self.point = point
        self.point_id = rule.point
        self.name = name
        self.unit = unit
        self.resolution = resolution
        self.rule = rule
        self.level = level
        self.limit = limit
        self.sign = sign
        # 0.1 × 3 must reach 0.3: a reading is scaled in floating point, a limit is written in decimals
        slack = 1e-9 * max(1.0, abs(limit))
        self.reach = sign * limit - slack
        self.release = self.reach - rule.hysteresis
        self.latches = LEVELS[level].value in rule.latch
        self.value: float | None = None
        self.forget()

    def forget(self) -> None:
        """Rest: neither on nor on the way there."""
        self.on = False
        self.since_s: float | None = None
        self.doubt_s: float | None = None
        self.off_s: float | None = None
        self.off_doubt = False

    @property
    def due_s(self) -> float:
        """When the delay (and the wait for a confirming read) is over. Only while crossing and not on."""
        assert self.since_s is not None
        due = self.since_s + self.rule.on_delay_s
        return due if self.doubt_s is None else max(due, self.doubt_s)

    def read(self, x: float, value: float | None, t_s: float, *, doubtful: bool) -> bool:
        """Take a believable reading; return whether it asks for a confirming read.

        Args:
            x: signed value, ±inf where saturated.
            value: what people are shown.
            t_s: arrival, monotonic seconds.
            doubtful: flag 3, and not by saturation.
        """
        if not self.on:
            if x < self.reach:
                self.since_s = self.doubt_s = None
                return False
            self.value = value
            if self.since_s is None:
                self.since_s = t_s
                if doubtful:
                    self.doubt_s = t_s + CONFIRM_S
                return doubtful or x == np.inf
            self.doubt_s = None
            return False
        self.value = value
        if x >= self.release:
            self.off_s = None
            self.off_doubt = False
            return False
        if self.off_s is None:
            if doubtful and not self.off_doubt:
                self.off_doubt = True
                return True
            self.off_s = t_s
        if t_s - self.off_s >= self.rule.off_delay_s:
            self.forget()
        return False

    def hold(self) -> None:
        """Take a reading nobody can believe (4 or 9): nothing is cleared, and a doubt is not waited for."""
        self.doubt_s = None

    def why(self) -> Why:
        """Return what decided, for status and warn; no value when the sensor is off the scale without a number."""
        value = None if self.value is None or not np.isfinite(self.value) else self.value
        return Why(rule=self.rule.id, point=self.point_id, value=value, limit=self.limit,
                   unit=self.unit)


class LimitTable(NamedTuple):
    """The limits that read one selection of points, gathered once."""

    at: Array
    """Position of each limit's point in the selection."""
    ids: Array
    sign: Array
    reach: Array


class Limits:
    """All limits of the box: columns for the quiet path, one object each for the rest."""

    def __init__(self, limits: Sequence[Limit]) -> None:
        self._limits = list(limits)
        self._point = np.array([x.point for x in limits], np.int64)
        self._sign = np.array([x.sign for x in limits], np.float64)
        self._reach = np.array([x.reach for x in limits], np.float64)
        self._busy = np.zeros(len(limits), bool)
        self._pending: set[int] = set()
        self._any_busy = False
        self.due_s = float("inf")

    def table(self, indices: Sequence[int]) -> LimitTable | None:
        """Gather the limits of a selection of points; None when it has none."""
        where = {point: at for at, point in enumerate(indices)}
        ids = np.array([i for i, x in enumerate(self._limits) if x.point in where], np.int64)
        if not len(ids):
            return None
        at = np.array([where[int(p)] for p in self._point[ids]], np.int64)
        return LimitTable(at, ids, self._sign[ids], self._reach[ids])

    def read(self, table: LimitTable, judged: Array, t_s: float, flags: Array | None, doubtful: Array | None,
             values: Array) -> tuple[list[Limit], list[Limit]]:
        """Let the limits read a Scan.

        Args:
            table: the limits of the Scan's points.
            judged: what rules read, NaN where the flag is 4 or 9.
            t_s: arrival, monotonic seconds.
            flags: None when all are good.
            doubtful: flag 3 and not by saturation; None with `flags`.
            values: what people are shown.

        Returns:
            (limits that switched off, limits that ask for a confirming read). Switching on is `fire`'s.
        """
        x = judged[table.at] * table.sign
        hot = x >= table.reach
        if self._any_busy:
            hot |= self._busy[table.ids]
        if not np.count_nonzero(hot):
            return [], []
        off, ask = [], []
        for k in np.flatnonzero(hot).tolist():
            i = int(table.ids[k])
            limit, at = self._limits[i], int(table.at[k])
            if flags is not None and flags[at] >= _FAIL:
                limit.hold()
            else:
                was_on = limit.on
                shown = float(values[at])
                if shown != shown:  # off the scale without a number
                    shown = float(judged[at])
                if limit.read(float(x[k]), shown, t_s, doubtful=doubtful is not None and bool(doubtful[at])):
                    ask.append(limit)
                if was_on and not limit.on:
                    off.append(limit)
            self._mark(i)
        self._settle()
        return off, ask

    def fire(self, t_s: float) -> list[Limit]:
        """Switch on every limit whose delay is over at `t_s`; return them."""
        on = []
        for i in sorted(self._pending):
            limit = self._limits[i]
            if limit.due_s <= t_s:
                limit.on = True
                limit.since_s = limit.doubt_s = None
                self._mark(i)
                on.append(limit)
        self._settle()
        return on

    def put(self, chosen: Iterable[Limit], *, on: bool) -> None:
        """Set limits by decree: after a restart, or when an object leaves or enters service."""
        wanted = {id(x) for x in chosen}
        for i, limit in enumerate(self._limits):
            if id(limit) in wanted:
                limit.forget()
                limit.on = on
                self._mark(i)
        self._settle()

    def _mark(self, i: int) -> None:
        limit = self._limits[i]
        self._busy[i] = limit.on or limit.since_s is not None
        if limit.since_s is not None:
            self._pending.add(i)
        else:
            self._pending.discard(i)

    def _settle(self) -> None:
        self._any_busy = bool(self._busy.any())
        self.due_s = min((self._limits[i].due_s for i in self._pending), default=float("inf"))


def limits_of(config: Watched, owner: int, start: int, units: Sequence[tuple[str, float]]) -> list[Limit]:
    """Spell out an object's rules.

    Args:
        config: the object.
        owner: its number.
        start: index of its first point in the inventory.
        units: (unit, resolution) of each of its points.
    """
    places = {p.id: k for k, p in enumerate(config.points)}
    made = []
    for rule in config.rules:
        k = places[rule.point]
        for levels, sign in ((rule.above, 1), (rule.below, -1)):
            for level in range(1, len(LEVELS)):
                value = None if levels is None else getattr(levels, LEVELS[level].value)
                if value is not None:
                    made.append(Limit(owner, start + k, config.points[k].name, *units[k], rule, level, value, sign))
    return made
