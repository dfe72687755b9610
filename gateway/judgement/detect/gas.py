"""Combustible gas: two set points a channel, and what else its readings say.

Owns: the switches of the set points, the mute after power-on, the hold after over-range, the line through the last
readings; one entry a channel.
Promises: over-range is danger, never a fault; the warm-up and a failed read are never gas and never clear anything;
only a reading clears; delays end by the clock at their moment; the same readings give the same state bit for bit,
however they are cut into calls.
Never: shuts a valve, lowers an alarm because of a hint.

Set points: GB/T 50493-2019, 5.5.2: low at most 25 %LEL, high at most 50 %LEL. Catalytic sensors burn the gas they
measure: in rich mixtures, and where oxygen is short, they read low (fold-back; IEC 60079-29-2), so a catalytic channel
that was over its range stays high until a person clears it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from msgspec import Meta, Struct

from gateway.judgement.detect.anomaly import rounds
from gateway.judgement.detect.finding import Finding
from gateway.judgement.detect.gaswords import findings
from gateway.judgement.detect.kept import pack, unpack
from gateway.judgement.detect.trend import Line, Trend

Array = np.ndarray[Any, np.dtype[Any]]
VERSION = 1
Positive = Annotated[float, Meta(gt=0)]
_FLOATS = ("t_s", "lel", "low_since_s", "high_since_s", "negative_since_s", "mute_until_s")
_BOOLS = ("low", "high", "folded")


class GasSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One channel."""

    name: str
    place: Literal["room", "gallery", "manhole", "open"]
    principle: Literal["catalytic", "infrared", "laser", "semiconductor"]
    unit: Literal["%LEL", "%VOL", "ppm"] = "%LEL"
    """Of the reading."""
    lel_vol_pct: Annotated[float, Meta(gt=0, le=100)] = 5.0
    """100 %LEL here: of methane 5.0 %VOL, 4.4 in IEC 60079-20-1."""
    device_lel_vol_pct: Annotated[float, Meta(gt=0, le=100)] | None = None
    """The basis a device that reads %LEL was made for; None: the same."""
    low_lel: Annotated[float, Meta(gt=0, le=25)] = 25.0
    high_lel: Annotated[float, Meta(gt=0, le=50)] = 50.0
    reset_lel: Annotated[float, Meta(gt=0)] = 5.0
    """Below its set point by this much an alarm resets."""
    on_delay_s: Annotated[float, Meta(ge=0, le=60)] = 3.0
    warm_up_s: Annotated[float, Meta(ge=0)] = 60.0
    low_colour: Literal["blue", "yellow", "orange", "red"] = "yellow"
    high_colour: Literal["blue", "yellow", "orange", "red"] = "red"
    siren: bool | None = None
    """Whether the high set point may ask for a siren; None: yes, but not from a manhole."""
    rise_lel_per_min: Positive | None = None
    """A rise this fast, once above `rise_from_lel`, tells the gas company before the set point; None: not judged."""
    rise_from_lel: Positive = 5.0
    rise_tau_s: Positive = 60.0
    negative_lel: Annotated[float, Meta(lt=0)] = -1.0
    negative_s: Positive = 3600.0
    """Below `negative_lel` for this long: calibration is due."""
    oxygen_poor_vol_pct: Positive = 19.5
    """A sibling's reading below it is oxygen-poor air (GB/T 50493-2019)."""
    sewer_h2s_ppm: Positive = 5.0
    """Pipeline gas brings less than 1 ppm even at its LEL (GB 17820-2018: at most 20 mg/m³ of H₂S in the gas)."""
    sewer_co2_ratio: Positive = 0.1
    """CO₂ beyond the air's ÷ methane. Pipeline gas has at most 0.04 (GB 17820-2018), digester gas some 0.5."""

    def __post_init__(self) -> None:
        if not self.reset_lel < self.low_lel < self.high_lel:
            raise ValueError(f"gas channel {self.name}: expected reset_lel < low_lel < high_lel, found "
                             f"{self.reset_lel:g}, {self.low_lel:g}, {self.high_lel:g}")

    @property
    def factor(self) -> float:
        """%LEL of this site in one unit of the reading."""
        if self.unit == "%LEL":
            return (self.device_lel_vol_pct or self.lel_vol_pct) / self.lel_vol_pct
        return (100.0 if self.unit == "%VOL" else 0.01) / self.lel_vol_pct

    @property
    def may_sound(self) -> bool:
        """Whether the high set point asks for a siren here."""
        return self.place != "manhole" if self.siren is None else self.siren


class Siblings(NamedTuple):
    """What stands beside each channel, NaN where nothing does; arrays, one entry a channel."""

    oxygen_vol_pct: Array
    h2s_ppm: Array
    co2_ppm: Array


class Columns(NamedTuple):
    """How every channel stands; arrays, one entry a channel."""

    t_s: Array
    """Of the last reading that counted; NaN before the first."""
    lel: Array
    """%LEL; inf: over its range."""
    low: Array
    high: Array
    folded: Array
    """Held high since it was over its range: a catalytic reading cannot be believed after that."""
    muted: Array
    """Warming up."""
    negative_s: Array
    """How long it has been below its `negative_lel`; 0 when it is not."""
    line: Line
    """%LEL and %LEL per second."""


class Gas:
    """All gas channels of a box. Times are seconds of one axis that goes on over restarts."""

    def __init__(self, settings: Sequence[GasSettings]) -> None:
        def column(name: str) -> Array:
            return np.array([getattr(s, name) for s in settings], np.float64)

        n = len(settings)
        self.settings = tuple(settings)
        self._factor, self._low_at, self._high_at = column("factor"), column("low_lel"), column("high_lel")
        self._reset, self._delay, self._warm_up = column("reset_lel"), column("on_delay_s"), column("warm_up_s")
        self._negative_at = column("negative_lel")
        self._catalytic = np.array([s.principle == "catalytic" for s in settings], bool)
        self._all = np.arange(n)
        self._trend = Trend(n, column("rise_tau_s"))
        self._f = {name: np.full(n, np.nan) for name in _FLOATS}
        self._b = {name: np.zeros(n, bool) for name in _BOOLS}

    def powered(self, indices: Array, t_s: float) -> None:
        """These channels were switched on at `t_s`: mute them while they warm up. Their alarms stand."""
        self._elapse(t_s, indices)
        self._f["mute_until_s"][indices] = t_s + self._warm_up[indices]
        for name in ("low_since_s", "high_since_s", "negative_since_s"):
            self._f[name][indices] = np.nan
        self._trend.forget(np.asarray(indices))

    def clear(self, indices: Array) -> None:
        """A person has seen to it: let go of what was held since over-range. The next reading decides."""
        self._b["folded"][indices] = False

    def update(self, indices: Array, t_s: Array | float, values: Array) -> None:
        """Take readings.

        Args:
            indices: channels, int; may repeat, in order of arrival.
            t_s: seconds, one for all or one each; not later than a channel's last one: ignored.
            values: in the channel's unit; inf: over its range; NaN (also of the device's own warm-up): no reading.
        """
        indices = np.asarray(indices, np.int64)
        values = np.asarray(values, np.float64)
        times = np.broadcast_to(np.asarray(t_s, np.float64), indices.shape)
        usable = np.flatnonzero(~np.isnan(values) & (values > -np.inf))
        for at in rounds(indices[usable]):
            where = usable[at]
            self._round(indices[where], times[where], values[where] * self._factor[indices[where]])

    def _round(self, c: Array, t_s: Array, x: Array) -> None:
        f, b = self._f, self._b
        use = ~(t_s <= f["t_s"][c]) & ~(t_s < f["mute_until_s"][c])
        c, t_s, x = c[use], t_s[use], x[use]
        self._elapse(t_s, c)
        f["t_s"][c], f["lel"][c] = t_s, x
        self._trend.learn(c, t_s, x)
        # 20 × 1.25 must reach 25: readings are scaled in floating point, set points written in decimals
        slack = 1e-9
        b["folded"][c] |= self._catalytic[c] & np.isinf(x)
        for name, at in (("low", self._low_at[c]), ("high", self._high_at[c])):
            since = f[f"{name}_since_s"]
            over = x >= at - slack
            since[c] = np.where(over, np.where(np.isnan(since[c]), t_s, since[c]), np.nan)
            now = over & (t_s - np.where(over, since[c], t_s) >= self._delay[c])
            held = b[name][c] & (x >= at - self._reset[c] - slack)
            b[name][c] = now | held | b["folded"][c]
        negative = x <= self._negative_at[c]
        began = f["negative_since_s"]
        began[c] = np.where(negative, np.where(np.isnan(began[c]), t_s, began[c]), np.nan)

    def _elapse(self, t_s: Array | float, c: Array) -> None:
        """Let delays end that were over by `t_s`."""
        for name in ("low", "high"):
            since = self._f[f"{name}_since_s"][c]
            self._b[name][c] |= t_s - np.where(np.isnan(since), np.inf, since) >= self._delay[c]

    def columns(self, t_s: float) -> Columns:
        """Let time pass until `t_s` and return how every channel stands."""
        self._elapse(t_s, self._all)
        f, b = self._f, self._b
        since = f["negative_since_s"]
        return Columns(f["t_s"], f["lel"], b["low"], b["high"], b["folded"], t_s < f["mute_until_s"],
                       np.where(np.isnan(since), 0.0, t_s - np.where(np.isnan(since), 0.0, since)),
                       self._trend.line(self._all))

    def findings(self, t_s: float, siblings: Siblings | None = None) -> list[Finding]:
        """Let time pass until `t_s` and say what holds then, alarms and hints, by channel."""
        nothing = np.full(len(self.settings), np.nan)
        return findings(self.settings, self.columns(t_s), siblings or Siblings(nothing, nothing, nothing))

    def _state(self) -> dict[str, Array]:
        return {**self._f, **self._b, **self._trend.columns()}

    def state(self) -> bytes:
        """Everything remembered, for `restore`."""
        return pack("gas", VERSION, self._state())

    def restore(self, state: bytes) -> None:
        """Go on where `state` was taken.

        Raises:
            ValueError: damaged, of another version, or of other channels; nothing was changed.
        """
        columns = unpack("gas", VERSION, state, self._state())
        self._f = {name: columns[name] for name in _FLOATS}
        self._b = {name: columns[name] for name in _BOOLS}
        self._trend.take(columns)
