"""When will this channel reach its next limit? "At this rate in 3 h 20 min, ±25 min", for any channel with a limit.

Owns: the last `POINTS` bins of each channel and the line through them.
Promises: constant memory; the same readings give the same state bit for bit, however they were cut into calls; no
forecast for a channel that moves away from its limits, whose trend its own noise could make, or beyond `horizon_s`.
Never: raises an alarm; a forecast is a reminder.

The line is Theil and Sen's (Sen 1968), its error that of a least-squares slope with the robust residual spread; the
error of the crossing time follows from the errors of slope and level (delta method).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from gateway.judgement.detect.anomaly import rounds
from gateway.judgement.detect.slope_bins import Bins

Array = np.ndarray[Any, np.dtype[Any]]

VERSION = 1
POINTS = 32
LEAST = 8
SURE = 4.0
"""A slope must be so many of its standard errors: 2.5 would remind once a day by chance."""


class Ahead(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one channel's limits are."""

    limits: tuple[float, ...]
    """In the channel's unit."""
    rising: bool = True
    """Danger is above (a level); False: below (a pressure, a supply voltage)."""
    resolution: float = 0.0
    window_s: float = 3600.0
    """The trend is that of the last so many seconds."""
    horizon_s: float = 24 * 3600.0
    """Later than this nothing is said."""

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if not self.window_s > 0 or not self.horizon_s > 0:
            raise ValueError("window_s and horizon_s must be above 0")


class Crossing(Struct, frozen=True, kw_only=True):
    """A forecast."""

    channel: int
    t_s: float
    """When it was made."""
    limit: float
    in_s: float
    error_s: float
    """One standard error."""
    rate_per_h: float
    text_zh: str
    text_en: str


class _State(msgspec.Struct, frozen=True):
    version: int
    channels: int
    arrays: list[bytes]


class Forecast:
    """Trends of all channels that have limits."""

    def __init__(self, channels: Sequence[Ahead]) -> None:
        self._ahead = list(channels)
        n = len(self._ahead)
        self._pace_s = np.array([a.window_s / POINTS for a in channels], np.float64)
        # bins of one unit of the channel's own pace: a ring for all, whatever their windows
        self._bins = Bins(n, 1.0, levels=1, ring=POINTS)
        self._last_s = np.full(n, -np.inf)
        self._bin = np.full(n, -1, np.int64)

    def update(self, channels: Array, t_s: Array | float, values: Array) -> list[Crossing]:
        """Learn from a batch; return the forecasts of channels whose reading opened a new bin (1/32 window).

        Args:
            channels: int, may repeat; a channel's readings in order of time.
            t_s: seconds, one for all or one each; a reading not after the last one is left out.
            values: in each channel's unit; NaN is skipped.
        """
        channels = np.asarray(channels, np.int64)
        values = np.asarray(values, np.float64)
        times = np.broadcast_to(np.asarray(t_s, np.float64), channels.shape)
        told: list[Crossing] = []
        usable = np.flatnonzero(np.isfinite(values) & np.isfinite(times))
        for at in rounds(channels[usable]):
            where = usable[at]
            where = where[times[where] > self._last_s[channels[where]]]
            c, t, x = channels[where], times[where], values[where]
            self._last_s[c] = t
            own = t / self._pace_s[c]
            self._bins.add(c, own, x)
            ids = np.floor(own).astype(np.int64)
            opened = ids != self._bin[c]
            self._bin[c] = ids
            if opened.any():
                told += self._judge(c[opened], t[opened], own[opened])
        return told

    def _judge(self, c: Array, t_s: Array, own: Array) -> list[Crossing]:
        times, means, count = self._bins.last(c, own, 0)
        made = []
        for j, i in enumerate(c.tolist()):
            there = count[j] > 0
            ahead = self._ahead[i]
            if np.count_nonzero(there) < LEAST:
                continue
            sign = 1.0 if ahead.rising else -1.0
            found = _line((times[j, there] - own[j]) * self._pace_s[i], sign * means[j, there], ahead.resolution)
            if found is None:
                continue
            level, rate, level_error, rate_error = found
            above = [sign * x for x in ahead.limits if sign * x > level]
            if not above:
                continue
            in_s = (min(above) - level) / rate
            if in_s > ahead.horizon_s:
                continue
            error_s = float(np.hypot(level_error, in_s * rate_error)) / rate
            limit = sign * min(above)
            made.append(Crossing(channel=i, t_s=float(t_s[j]), limit=limit, in_s=in_s, error_s=error_s,
                                 rate_per_h=sign * rate * 3600,
                                 text_zh=f"按此速率，{_zh(in_s)}后达到 {limit:g}（±{_zh(error_s)}）",
                                 text_en=f"at this rate {limit:g} is reached in {_en(in_s)}, ±{_en(error_s)}"))
        return made

    def state(self) -> bytes:
        """Everything learned, for `restore`."""
        return msgspec.msgpack.encode(_State(VERSION, len(self._ahead), [a.tobytes() for a in self._arrays()]))

    def restore(self, state: bytes) -> None:
        """Go on where `state` was taken.

        Raises:
            ValueError: damaged, of another version or of other channels; nothing was changed, learning starts afresh.
        """
        try:
            kept = msgspec.msgpack.decode(state, type=_State)
        except msgspec.DecodeError as error:
            raise ValueError(f"forecast state: cannot be read ({error}); start afresh") from error
        arrays = self._arrays()
        if (kept.version, kept.channels, [len(x) for x in kept.arrays]) != (
                VERSION, len(self._ahead), [a.nbytes for a in arrays]) or (
                kept.arrays[-1] != self._pace_s.tobytes()):
            raise ValueError(f"forecast state: expected version {VERSION}, {len(self._ahead)} channels and their "
                             f"windows; start afresh")
        for array, saved in zip(arrays, kept.arrays, strict=True):
            array[...] = np.frombuffer(saved, array.dtype).reshape(array.shape)

    def _arrays(self) -> list[Array]:
        return [*self._bins.arrays, self._last_s, self._bin, self._pace_s]


def _line(t_s: Array, y: Array, resolution: float) -> tuple[float, float, float, float] | None:
    """Level now, rate, and their standard errors; None when it does not surely rise. `t_s` <= 0."""
    i, j = np.triu_indices(len(t_s), 1)
    rate = float(np.median((y[j] - y[i]) / (t_s[j] - t_s[i])))
    rest = y - rate * t_s
    level = float(np.median(rest))
    # what is written with a resolution is uncertain by its uniform rounding error at least
    spread = max(1.4826 * float(np.median(np.abs(rest - level))), resolution / 12**0.5, 1e-12 * max(1.0, abs(level)))
    centre = float(t_s.mean())
    square = float(((t_s - centre) ** 2).sum())
    rate_error = spread / square**0.5
    if rate <= SURE * rate_error or rate * float(t_s[-1] - t_s[0]) < 3 * resolution:
        return None
    return level, rate, spread * (1 / len(t_s) + centre**2 / square) ** 0.5, rate_error


def _zh(seconds: float) -> str:
    hours, minutes = divmod(max(1, round(seconds / 60)), 60)
    return f"{hours} 小时 {minutes} 分" if hours else f"{minutes} 分"


def _en(seconds: float) -> str:
    hours, minutes = divmod(max(1, round(seconds / 60)), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
