"""Is this slope about to go? Rate, acceleration, tangent angle, stage and colour of every point, reading by reading.

Owns: what is remembered of each point, and how a stage and a colour follow from it.
Promises: constant memory; the same readings give the same state bit for bit, however they were cut into calls; gaps,
NaN and irregular times are normal; a broken wire is told by the reading that says so; state is saved and restored bit
for bit under a version.
Never: colours without the site's table; lets an angle count without a rate, or a rate below 3 x accuracy; gives yellow
from less than 24 h unless the readings are free of temperature; takes one sudden step for a movement.

Use: `slope = Slope(points)`; per tick `verdicts = slope.update(channels, t_s, values)` with flags 4 and 9 as NaN.
A verdict comes whenever a reading opens a new bin of 5 min (a contact: with every reading); between them the last one
stands. `t_s` are seconds on one scale that goes on over restarts (not the monotonic clock, which begins anew).
`slope_vote.vote` makes one colour of a slope's points. `moved_datum` after an instrument was changed.

Colour of a point: improved tangent angle (Xu et al. 2011) arctan(v / v1), v1 the frozen rate of steady creep, at or
above 45, 80, 85 degrees *and* v at or above the site's rate for that colour, both in the same window, a window whose
displacement counts; yellow also needs an onset of acceleration. While v1 is unknown there is no angle: rates of 24 h
and more then give at most yellow. A rate counts from 3 x accuracy and, once learned, 5 x the change that is usual in
that window (temperature).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from gateway.judgement.detect.anomaly import rounds
from gateway.judgement.detect.slope_bins import Bins, Series
from gateway.judgement.detect.slope_failure import forecast
from gateway.judgement.detect.slope_rate import DAY_S, Motion, motion, onset_s, steady_rate
from gateway.judgement.detect.slope_settings import SlopePoint, Verdict
from gateway.model import LEVELS, Colour

Array = np.ndarray[Any, np.dtype[Any]]

VERSION = 1
ANGLES_DEG = (0.0, 0.0, 45.0, 80.0, 85.0)
"""Least angle of none, blue, yellow, orange, red."""
USUAL_D = 14.0
"""Time in which the usual change is learned and forgotten."""
USUAL_TIMES = 5.0
"""Of noise, the mean change x 5 is four standard deviations; of a day's cycle, three times its highest."""
CALM_S = DAY_S
"""Acceleration has ended when for so long no window saw it."""
BACKWARD_MOST = 8
"""So many readings in a row before the last one's time: the scale of time was set back, the point starts afresh."""
FIELDS = ("_before", "_last_s", "_first_s", "_shift", "_level", "_backward", "_steady", "_usual", "_learned",
          "_seen", "_bin", "_onset", "_excess_s", "_fit_bin", "_failure", "_why")
REFUSALS = ("", "few", "poor", "slow", "wide", "no_end", "recedes", "steady")


class _State(msgspec.Struct, frozen=True):
    version: int
    channels: int
    arrays: list[bytes]


class Slope:
    """All points of all slopes of a box."""

    def __init__(self, points: Sequence[SlopePoint]) -> None:
        self.points = list(points)
        n = len(self.points)
        self._bins = Bins(n)
        k = len(self._bins.width_s)
        self._contact = np.array([p.contact for p in points], bool)
        self._accuracy = np.array([p.accuracy for p in points], np.float64)
        self._towards = np.array([p.towards for p in points], np.int64)
        self._before = np.full((n, 2, 2), np.nan)   # the last two readings: (time, value) each
        self._last_s = np.full(n, -np.inf)
        self._first_s = np.full(n, np.nan)
        self._shift = np.zeros(n)                   # what a change of instrument added to the datum
        self._level = np.full(n, np.nan)            # the level the next reading stands for, after such a change
        self._backward = np.zeros(n, np.int64)
        self._steady = np.full(n, np.nan)           # unit a second
        self._usual = np.zeros((n, k))
        self._learned = np.zeros((n, k))            # samples, at most what USUAL_D holds
        self._seen = np.full((n, k), -1, np.int64)
        self._bin = np.full(n, -1, np.int64)
        self._onset = np.full(n, np.nan)
        self._excess_s = np.full(n, -np.inf)        # when a window last saw acceleration
        self._fit_bin = np.full(n, -1, np.int64)
        self._failure = np.full((n, 3), np.nan)
        self._why = np.full(n, REFUSALS.index("steady"), np.int64)
        self._given()

    def _given(self) -> None:
        for i, p in enumerate(self.points):
            if p.steady_rate_per_d is not None:
                self._steady[i] = p.steady_rate_per_d / DAY_S

    def update(self, channels: Array, t_s: Array | float, values: Array) -> list[Verdict]:
        """Learn from a batch and judge what can be judged anew.

        Args:
            channels: int, may repeat; a channel's readings in order of time.
            t_s: seconds, one for all or one each.
            values: in each point's unit; NaN is skipped.
        """
        channels = np.asarray(channels, np.int64)
        values = np.asarray(values, np.float64)
        times = np.broadcast_to(np.asarray(t_s, np.float64), channels.shape)
        told: list[Verdict] = []
        usable = np.flatnonzero(np.isfinite(values) & np.isfinite(times))
        for at in rounds(channels[usable]):
            where = usable[at]
            told += self._round(channels[where], times[where], values[where])
        return told

    def moved_datum(self, channel: int) -> None:
        """The instrument was changed: what it reads next stands for the level of what it read last."""
        self._level[channel] = self._before[channel, 1, 1]
        self._before[channel] = np.nan

    def _round(self, c: Array, t_s: Array, x: Array) -> list[Verdict]:
        wires = self._contact[c]
        told = [self._wire(int(i), float(t), float(v)) for i, t, v in zip(c[wires], t_s[wires], x[wires], strict=True)]
        c, t_s, x = c[~wires], t_s[~wires], x[~wires]
        late = t_s <= self._last_s[c]
        self._backward[c] = np.where(late, self._backward[c] + 1, 0)
        if len(reset := c[self._backward[c] >= BACKWARD_MOST]):
            self._forget(reset)
        c, t_s, x = c[~late], t_s[~late], x[~late]
        self._last_s[c] = t_s
        self._first_s[c] = np.where(np.isnan(self._first_s[c]), t_s, self._first_s[c])
        anew = ~np.isnan(self._level[c])
        self._shift[c] = np.where(anew, self._level[c] - x, self._shift[c])
        self._level[c] = np.nan
        x = x + self._shift[c]
        two = self._before[c]
        middle = np.median(np.column_stack([two[:, :, 1], x]), axis=1)
        when = two[:, 1, 0]
        self._before[c, 0] = two[:, 1]
        self._before[c, 1] = np.column_stack([t_s, x])
        full = ~np.isnan(middle)
        c, when, middle = c[full], when[full], middle[full]
        self._bins.add(c, when, middle)
        ids = np.floor(when / self._bins.width_s[0]).astype(np.int64)
        opened = ids != self._bin[c]
        self._bin[c] = ids
        if opened.any():
            told += self._judge(c[opened], when[opened], x[full][opened])
        return told

    def _wire(self, i: int, t_s: float, value: float) -> Verdict:
        table = self.points[i].thresholds
        broken = value != 0
        return Verdict(channel=i, t_s=t_s, stage="broken" if broken else "intact", value=value, counts=broken,
                       colour=table.broken if broken and table is not None else Colour.NONE, monitor_only=table is None)

    def _judge(self, c: Array, t_s: Array, x: Array) -> list[Verdict]:
        move = motion(self._bins, c, t_s)
        day_old = (t_s - self._first_s[c] >= DAY_S)[:, None]
        usual = np.where(day_old & (self._learned[c] >= 4), self._usual[c], 0.0)
        need = np.maximum(3 * self._accuracy[c][:, None], USUAL_TIMES * usual)
        signed = np.where(self._towards[c] == 0, np.sign(move.change.T), self._towards[c]).T * move.change
        with np.errstate(invalid="ignore"):
            enough = signed >= need
            for j in np.flatnonzero(np.isnan(self._steady[c])):
                self._freeze(int(c[j]), float(t_s[j]))
            counts = enough & ~move.stepped
            faster = counts & (signed - self._steady[c][:, None] * move.lag_s >= need)
        self._excess_s[c] = np.where(faster.any(axis=1), t_s, self._excess_s[c])
        ended = t_s - self._excess_s[c] > CALM_S
        self._onset[c] = np.where(ended, np.nan, self._onset[c])
        self._failure[c] = np.where(ended[:, None], np.nan, self._failure[c])
        self._why[c] = np.where(ended, REFUSALS.index("steady"), self._why[c])
        self._learn(c, t_s, move)
        for j in np.flatnonzero(~ended):
            self._accelerating(int(c[j]), float(t_s[j]), move.change[j], faster[j])
        return [self._verdict(int(i), float(t_s[j]), float(x[j]), Motion(*(a[j] for a in move)), signed[j], need[j],
                              enough[j], counts[j]) for j, i in enumerate(c)]

    def _freeze(self, i: int, t_s: float) -> None:
        rate = steady_rate(self._bins, i, t_s, self.points[i].steady_d * DAY_S, float(self._accuracy[i]))
        if rate is not None:
            self._steady[i] = rate

    def _learn(self, c: Array, t_s: Array, move: Motion) -> None:
        """Learn the usual change of each window from its bends, a sample in 6 bins; not while a slope accelerates."""
        ids = np.floor(t_s[:, None] / (6 * self._bins.width_s)).astype(np.int64)
        fresh = (ids != self._seen[c]) & ~np.isnan(move.bend) & np.isnan(self._onset[c])[:, None]
        most = USUAL_D * DAY_S / (6 * self._bins.width_s)
        n = np.minimum(self._learned[c] + 1, np.maximum(most, 8.0))
        usual = self._usual[c]
        # short windows: what the trend of four days leaves; long ones: the bend, of noise 1.5 times a change
        trend = (move.change[:, 3] / move.lag_s[:, 3])[:, None]
        sample = np.abs(move.bend) / 1.5
        sample[:, :3] = np.abs(move.change - trend * move.lag_s)[:, :3]
        fresh &= ~np.isnan(sample)
        # one wild sample counts as three usual ones
        sample = np.where(n > 4, np.minimum(sample, 3 * np.maximum(usual, self._accuracy[c][:, None] / 3)), sample)
        self._usual[c] = np.where(fresh, usual + (sample - usual) / n, usual)
        self._learned[c] = np.where(fresh, n, self._learned[c])
        self._seen[c] = np.where(fresh, ids, self._seen[c])

    def _accelerating(self, i: int, t_s: float, change: Array, faster: Array) -> None:
        first = np.isnan(self._onset[i])
        # a fit costs milliseconds: every 80 min, within two days of the end every 20
        near = self._failure[i, 1] - t_s < 2 * DAY_S
        fit_bin = int(t_s // self._bins.width_s[1 if near else 2])
        if not first and fit_bin == self._fit_bin[i]:
            return
        self._fit_bin[i] = fit_bin
        series = self._towards_failure(i, t_s, change, faster)
        if first:
            earliest_s = t_s - 2 * self.points[i].steady_d * DAY_S
            self._onset[i] = onset_s(series, float(np.nan_to_num(self._steady[i])), earliest_s)
        found = forecast(series, float(self._accuracy[i]))
        self._why[i] = REFUSALS.index(found.refused)
        days = np.array([found.least_d, found.lead_d, found.most_d])
        self._failure[i] = series.t_s[-1] + DAY_S * days

    def _towards_failure(self, i: int, t_s: float, change: Array, faster: Array) -> Series:
        sign = int(self._towards[i])
        if sign == 0:
            seen = change[faster] if faster.any() else change[~np.isnan(change)]
            sign = -1 if len(seen) and seen[0] < 0 else 1
        series = self._bins.series(i, t_s)
        return series._replace(values=sign * series.values)

    def _verdict(self, i: int, t_s: float, x: float, move: Motion, signed: Array, need: Array, enough: Array,
                 counts: Array) -> Verdict:
        point, steady = self.points[i], float(self._steady[i])
        with np.errstate(invalid="ignore"):
            rate = signed / move.lag_s
        onset = not np.isnan(self._onset[i])
        colour = self._colour(i, rate, counts, onset=onset)
        held = self._colour(i, rate, enough, onset=True) if (enough & move.stepped).any() else Colour.NONE
        ranked = np.where(counts, rate, -np.inf)
        # the fastest window that counts; without one, the longest that is known
        known = np.flatnonzero(~np.isnan(rate))
        k = int(np.argmax(ranked)) if counts.any() else int(known[-1]) if len(known) else -1
        angle = float(np.degrees(np.arctan2(rate[k], steady))) if counts.any() and steady > 0 else np.nan
        stage = ("step" if (enough & move.stepped).any() and not counts.any() else "learning" if np.isnan(steady) else
                 "steady" if not onset or not angle > ANGLES_DEG[2] else "initial" if angle < ANGLES_DEG[3] else
                 "medium" if angle < ANGLES_DEG[4] else "imminent")
        span = float(move.lag_s[k]) if k >= 0 else np.nan
        failing = onset and self._why[i] == 0
        return Verdict(
            channel=i, t_s=t_s, stage=stage, colour=colour, monitor_only=point.thresholds is None, value=x,
            rate_per_d=float(np.sign(move.change[k]) * abs(rate[k])) * DAY_S if k >= 0 else np.nan, window_s=span,
            moved=float(move.change[k]) if k >= 0 else np.nan, counts_from=float(need[k]) if k >= 0 else np.nan,
            counts=bool(counts.any()), steady_rate_per_d=steady * DAY_S, angle_deg=angle, held=held,
            acceleration_per_d2=float(move.bend[k]) / (span / DAY_S) ** 2 if k >= 0 else np.nan,
            onset_s=float(self._onset[i]),
            failure_s=tuple(self._failure[i].tolist()) if failing else None, refused=REFUSALS[int(self._why[i])])

    def _colour(self, i: int, rate: Array, counts: Array, *, onset: bool) -> Colour:
        point, steady = self.points[i], float(self._steady[i])
        table = point.thresholds
        if table is None:
            return Colour.NONE
        limits = (table.blue_per_d, table.yellow_per_d, table.orange_per_d, table.red_per_d)
        lengths = np.arange(len(rate)) >= 2   # 24 h and more
        best = 0
        for level, limit in enumerate(limits, 1):
            if limit is None:
                continue
            fast = counts & (rate * DAY_S >= limit)
            if level <= 2 and not point.compensated:
                fast = fast & lengths
            if np.isnan(steady):
                reached = level <= 2 and bool((fast & lengths).any())
            else:
                turned = np.degrees(np.arctan2(rate, steady)) >= ANGLES_DEG[level] if level > 1 else True
                reached = bool((fast & turned).any()) and (level != 2 or onset)
            if reached:
                best = level
        return LEVELS[best]

    def _forget(self, c: Array) -> None:
        afresh = Slope([self.points[int(i)] for i in c])
        for name in FIELDS:
            getattr(self, name)[c] = getattr(afresh, name)
        self._bins.forget(c)

    def state(self) -> bytes:
        """Everything learned, for `restore`."""
        arrays = [*self._bins.arrays, *(getattr(self, name) for name in FIELDS)]
        return msgspec.msgpack.encode(_State(VERSION, len(self.points), [a.tobytes() for a in arrays]))

    def restore(self, state: bytes) -> None:
        """Go on where `state` was taken; rates a professional gave since then hold.

        Raises:
            ValueError: damaged, of another version or of other points; nothing was changed, learning starts afresh.
        """
        try:
            kept = msgspec.msgpack.decode(state, type=_State)
        except msgspec.DecodeError as error:
            raise ValueError(f"slope state: cannot be read ({error}); start afresh") from error
        arrays = [*self._bins.arrays, *(getattr(self, name) for name in FIELDS)]
        if (kept.version, kept.channels, [len(x) for x in kept.arrays]) != (
                VERSION, len(self.points), [a.nbytes for a in arrays]):
            raise ValueError(f"slope state: of version {kept.version} and {kept.channels} points, expected version "
                             f"{VERSION} and {len(self.points)}; start afresh")
        for array, saved in zip(arrays, kept.arrays, strict=True):
            array[...] = np.frombuffer(saved, array.dtype).reshape(array.shape)
        self._given()
