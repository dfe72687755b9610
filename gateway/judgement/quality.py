"""Quality of every reading: a QARTOD flag and a reason, and which points are lost.

Owns: range, rate, flat-line and stale tests, and their state: a fixed number of columns over the inventory.
Promises: constant memory; a quiet Scan costs a few numpy calls, whatever its width; a reading taken in
maintenance enters no rate or flat-line state.
Never: changes a believable value, clears an alarm, reads a clock.

Order of the tests, the strongest first: remark of the driver; not a number; beyond the instrument's range (4, or 3
`saturated` where the template says that the quantity really is off the scale); beyond the site's range (3, as in
QARTOD's gross range test: the instrument can say it, the site doubts it); rate (3); flat line (3).

Lost: a point is lost at the second failed reading in a row (one damaged answer on a noisy bus is not a lost sensor),
at once when the remark leaves no doubt (quarantined, link down, the instrument disowns the value), and when nothing
has arrived for `stale_s`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from drivers import DEVICE_NOTES, WIRE_NOTES, Note, PointInfo
from gateway.config import Point
from gateway.model import REASONS, Flag, Reason

Array = np.ndarray[Any, np.dtype[Any]]
Select = slice | Array

HUGE = 1e30
"""No instrument says more than this; it is what a misread float looks like."""
STALE_POLLS = 3.0
STALE_MIN_S = 10.0
MISSES = 2
SUSPECT_HOLD_S = 600.0
"""A point that is suspect again and again is told once in this time."""

# plain integers: looking a member up on the enum class costs more than the numpy call it is for
_GOOD, _SUSPECT, _FAIL, _MISSING = int(Flag.GOOD), int(Flag.SUSPECT), int(Flag.FAIL), int(Flag.MISSING)
_CODE = {reason: i for i, reason in enumerate(REASONS)}
_NOTES: dict[str, tuple[int, int]] = {
    **{n.value: (int(Flag.MISSING), _CODE[Reason(n.value)]) for n in WIRE_NOTES},
    **{n.value: (int(Flag.FAIL), _CODE[Reason(n.value)]) for n in DEVICE_NOTES},
    Reason.STALE.value: (int(Flag.MISSING), _CODE[Reason.STALE]),
}
_BEYOND = {Note.OVER_RANGE.value: True, Note.UNDER_RANGE.value: False}
KNOWN_NOTES = frozenset(n.value for n in Note) | {""}
_SURE = np.array([r in {Reason.QUARANTINED, Reason.LINK, Reason.NO_DATA, Reason.WARM_UP, Reason.SENSOR_FAULT,
                        Reason.UNIT_MISMATCH, Reason.STALE} for r in REASONS])


class Tested(NamedTuple):
    """Those points of a selection that have a test of how they move; both index the same points."""

    at: Select
    """In the selection."""
    points: Select
    """In the inventory."""


class Table(NamedTuple):
    """The tests' limits for one selection of points, gathered once; `n` = number of points."""

    sel: Select
    n: int
    low: Array
    high: Array
    rated: Tested | None
    """Points with a rate test; None = no point has one."""
    watched: Tested | None
    """Points with a flat-line test."""
    enter: Array | None
    """Which points' readings enter rate and flat-line state; None = all."""


class Still(NamedTuple):
    """What the flat-line test says of the points that have it."""

    flat: Array
    v: Array
    """The value since when unchanged."""
    t_s: Array
    """That time."""


class Verdict(NamedTuple):
    """What a Scan with remarks, doubts or changes came to. All arrays have the shape of the selection."""

    flags: Array
    reasons: Array
    judged: Array
    """What rules read: the value; ±inf where saturated; NaN where the flag is 4 or 9."""
    changed: Array
    """The flag is another than last time."""
    lost: Array
    """Newly lost, to be told."""
    returned: Array
    suspect: Array
    """Newly suspect, to be told."""


class Quality:
    """Tests over all points of the inventory; state is columns, one entry a point."""

    def __init__(self, points: Sequence[tuple[Point, PointInfo]], now_s: float) -> None:
        def column(values: list[float | None], absent: float) -> Array:
            return np.array([absent if v is None else v for v in values], np.float64)

        n = len(points)
        self._low = column([i.low for _, i in points], -HUGE)
        self._high = column([i.high for _, i in points], HUGE)
        self._site_low = column([p.quality.low for p, _ in points], -HUGE)
        self._site_high = column([p.quality.high for p, _ in points], HUGE)
        self._sat_low = np.array([i.beyond_low == "saturated" for _, i in points], bool)
        self._sat_high = np.array([i.beyond_high == "saturated" for _, i in points], bool)
        self._rate = column([p.quality.rate_per_s for p, _ in points], HUGE)
        self._flat_s = column([p.quality.flat_s for p, _ in points], HUGE)
        self._half = np.array([i.resolution / 2 for _, i in points], np.float64)
        self._rest = column([i.rest for _, i in points], np.nan)
        self._counter = np.array([i.counter for _, i in points], bool)
        self._stale_s = np.array([p.quality.stale_s or max(STALE_POLLS * p.poll_s, STALE_MIN_S) for p, _ in points])
        self._last_v = np.full(n, np.nan)
        self._last_t = np.full(n, np.nan)
        self._still_v = np.full(n, np.nan)
        self._still_t = np.full(n, np.nan)
        self._heard = np.full(n, now_s)
        self._told_suspect = np.full(n, -np.inf)
        self._misses = np.zeros(n, np.int64)
        self._uneven = np.ones(n, bool)
        self.flag = np.full(n, int(Flag.NOT_EVALUATED), np.uint8)
        self.reason = np.zeros(n, np.uint8)
        self.lost = np.ones(n, bool)
        """No believable value; also before the first reading."""
        self.told = np.zeros(n, bool)
        """Lost, and an event has said so."""

    def table(self, sel: Select, enter: Array) -> Table:
        """Gather the limits for a selection. `enter` (bool, one a point): its readings enter rate and flat state."""
        def tested(limits: Array) -> Tested | None:
            at = np.flatnonzero(limits[sel] < HUGE)
            if len(at) == len(enter):
                return Tested(slice(None), sel) if len(at) else None
            return Tested(at, np.arange(len(limits))[sel][at]) if len(at) else None

        return Table(sel, len(enter), np.maximum(self._low[sel], self._site_low[sel]),
                     np.minimum(self._high[sel], self._site_high[sel]), tested(self._rate), tested(self._flat_s),
                     None if enter.all() else enter)

    def judge(self, table: Table, v: Array, notes: Sequence[str], t_s: float, *, heard: bool = True) -> Verdict | None:
        """Flag one Scan.

        Args:
            table: the Scan's points.
            v: values, float64, NaN where there is none; entries of failed reads are set to NaN in place.
            notes: remarks side by side with `v`, or empty.
            t_s: arrival, monotonic seconds.
            heard: False when the clock, not the wire, says it.

        Returns:
            None when every reading is good and was good before, which is the quiet path; else a Verdict.
        """
        sel = table.sel
        if heard:
            self._heard[sel] = t_s
        # count_nonzero is a third of the price of any() and all(), and this is most of what a quiet Scan costs
        quiet = (not notes and np.count_nonzero((v >= table.low) & (v <= table.high)) == table.n
                 and not np.count_nonzero(self._uneven[sel]))
        rated, watched = table.rated, table.watched
        if rated is None and watched is None:
            return None if quiet else self._weigh(table, v, notes, t_s, None, None)
        fast = None if rated is None else self._too_fast(rated, v[rated.at], t_s)
        still = None if watched is None else self._still(watched, v[watched.at], t_s)
        if (not quiet or table.enter is not None or (fast is not None and np.count_nonzero(fast))
                or (still is not None and np.count_nonzero(still.flat))):
            return self._weigh(table, v, notes, t_s, fast, still)
        if rated is not None:
            self._last_v[rated.points] = v[rated.at]
            self._last_t[rated.points] = t_s
        if watched is not None and still is not None:
            self._still_v[watched.points], self._still_t[watched.points] = still.v, still.t_s
        return None

    def _too_fast(self, rated: Tested, v: Array, t_s: float) -> Array:
        """Which of the points with a rate test moved too fast since their last reading."""
        points = rated.points
        gap = t_s - self._last_t[points]
        step = v - self._last_v[points]
        fast: Array = (np.abs(step) > self._rate[points] * gap) & (gap > 0)
        # a counter that wraps or restarts is not a collapse
        return fast & ~(self._counter[points] & (step < 0)) if np.count_nonzero(fast) else fast

    def _still(self, watched: Tested, v: Array, t_s: float) -> Still:
        """How long the points with a flat-line test have not moved."""
        points = watched.points
        half, still_v = self._half[points], self._still_v[points]
        still = np.abs(v - still_v) <= half
        since = np.where(still, self._still_t[points], t_s)
        flat = (t_s - since >= self._flat_s[points]) & ~(np.abs(v - self._rest[points]) <= half)
        return Still(flat, np.where(still, still_v, v), since)

    def _weigh(self, table: Table, v: Array, notes: Sequence[str], t_s: float, fast: Array | None,
               still: Still | None) -> Verdict:
        sel = table.sel
        flags = np.full(table.n, _GOOD, np.uint8)
        reasons = np.zeros(table.n, np.uint8)
        judged = v.copy()
        enter = table.enter if table.enter is not None else np.ones(table.n, bool)

        def put(where: Array, flag: int, reason: Reason) -> None:
            flags[where] = flag
            reasons[where] = _CODE[reason]

        for tested, moved, reason in ((table.watched, None if still is None else still.flat, Reason.FLAT_LINE),
                                      (table.rated, fast, Reason.RATE)):
            if tested is not None and moved is not None:
                where = np.zeros(table.n, bool)
                where[tested.at] = moved
                put(where & enter, _SUSPECT, reason)
        put((v > self._site_high[sel]) | (v < self._site_low[sel]), _SUSPECT, Reason.OUT_OF_RANGE)
        for beyond, saturates, end in ((v > self._high[sel], self._sat_high[sel], np.inf),
                                       (v < self._low[sel], self._sat_low[sel], -np.inf)):
            put(beyond & ~saturates, _FAIL, Reason.OUT_OF_RANGE)
            put(beyond & saturates, _SUSPECT, Reason.SATURATED)
            judged[beyond & saturates] = end
        put(~(np.abs(v) <= HUGE), _FAIL, Reason.NOT_A_NUMBER)
        for i, note in enumerate(notes):
            if not note:
                continue
            if note in _BEYOND:
                over = _BEYOND[note]
                saturated = bool((self._sat_high if over else self._sat_low)[sel][i])
                flags[i] = _SUSPECT if saturated else _FAIL
                reasons[i] = _CODE[Reason(note)]
                judged[i] = np.inf if over else -np.inf
            elif note in _NOTES:
                flags[i], reasons[i] = _NOTES[note]
        judged[flags >= _FAIL] = np.nan
        v[(flags == _MISSING) | ~(np.abs(v) <= HUGE)] = np.nan
        use = enter & (flags <= _SUSPECT) & ~np.isnan(v)
        if table.rated is not None:
            at, points = table.rated
            self._last_v[points] = np.where(use[at], v[at], self._last_v[points])
            self._last_t[points] = np.where(use[at], t_s, self._last_t[points])
        if table.watched is not None and still is not None:
            at, points = table.watched
            self._still_v[points] = np.where(use[at], still.v, self._still_v[points])
            self._still_t[points] = np.where(use[at], still.t_s, self._still_t[points])
        return self._follow(sel, flags, reasons, judged, t_s)

    def _follow(self, sel: Select, flags: Array, reasons: Array, judged: Array, t_s: float) -> Verdict:
        """Compare with the last reading: what changed, was lost, came back."""
        miss = flags >= _FAIL
        misses = np.where(miss, self._misses[sel] + 1, 0)
        was_lost, was_told, was = self.lost[sel], self.told[sel], self.flag[sel]
        sure = miss & (_SURE[reasons] | (misses >= MISSES))
        now_lost = miss & (sure | was_lost)
        told = miss & (sure | was_told)
        suspect = (flags == _SUSPECT) & (was != _SUSPECT) & (t_s - self._told_suspect[sel] >= SUSPECT_HOLD_S)
        changed = flags != was
        verdict = Verdict(flags, reasons, judged, changed, told & ~was_told, was_told & ~told, suspect)
        # only now: what was read above may be views of these columns
        self._told_suspect[sel] = np.where(suspect, t_s, self._told_suspect[sel])
        self._misses[sel] = misses
        self.lost[sel] = now_lost
        self.told[sel] = told
        self.flag[sel] = flags
        self.reason[sel] = reasons
        self._uneven[sel] = flags != _GOOD
        return verdict

    def next_stale_s(self) -> float:
        """When the next point goes stale if nothing arrives; +inf when all that can be are."""
        waiting = ~(self.told & (self.flag == _MISSING))
        return float((self._heard + self._stale_s)[waiting].min(initial=np.inf))

    def silent(self, t_s: float) -> Array:
        """Indices of the points from which nothing has come for their `stale_s` at `t_s`."""
        waiting = ~(self.told & (self.flag == _MISSING))
        return np.flatnonzero(waiting & (self._heard + self._stale_s <= t_s))

    def forget_motion(self, sel: Select) -> None:
        """Start rate and flat-line tests afresh: the readings before are not the ones to compare with."""
        for column in (self._last_v, self._last_t, self._still_v, self._still_t):
            column[sel] = np.nan

    def remember_lost(self, sel: Select) -> None:
        """After a restart: these points were lost and told before it."""
        self.told[sel] = True
