"""Seepage or pore pressure behind a dam, against what level and season explain: the rest is the dam's own.

Owns: one regression (hydrostatic, season, time) and the evidence in its residuals; one a measuring point.
Promises: constant memory; silent until it has seen enough; gaps, NaN and irregular times are normal; what looks wrong
is not learnt, however long it lasts, until a person accepts it; the same readings give the same state bit for bit.
Never: says that a dam fails.

Model (Willm & Beaujoint 1967; Ferry & Willm 1958; SL 551-2012 has the same terms):
y = a0 + a1 h + a2 h² + a3 h³ + b1 sin + b2 cos (year) + b3 sin + b4 cos (half year) + c1 t + c2 ln(1 + t) + residual,
fitted by recursive least squares (Ljung & Söderström 1983). Each prediction is made before its reading is learnt.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct

from gateway.judgement.detect.finding import Finding
from gateway.judgement.detect.kept import pack, unpack

Array = np.ndarray[Any, np.dtype[Any]]
VERSION = 1
Positive = Annotated[float, Meta(gt=0)]
YEAR_S = 365.25 * 86400
HUNDRED_DAYS_S = 8.64e6
TERMS = 10
_PRIOR = 1e4
"""Variance of a coefficient nothing is known of, in units of `scale`²."""
EFFECTIVE = 2 * TERMS
"""Independent readings that it takes to speak. Residuals that hang together with correlation r from one to the next
are worth (1 - r) / (1 + r) of as many independent ones."""
_MOST_R = 0.98
_HUBER = 3.0
"""One residual enters the scale with no more standard deviations than this."""


class SeepageSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One point and its reservoir."""

    name: str
    unit: str
    middle_m: float
    """A level in the middle of the usual range, and half that range: they keep h between -1 and 1."""
    half_range_m: Positive
    scale: Positive
    """How large the quantity usually is: the prior's unit."""
    resolution: Positive
    """Of the instrument: a residual below it is nothing."""
    season: bool = True
    time: bool = True
    step_s: Positive = 3600.0
    """One reading in each step is learnt and judged, the first: nearer ones repeat each other's errors."""
    least_d: Annotated[float, Meta(ge=0)] = 365.0
    least: Annotated[int, Meta(ge=TERMS)] = 60
    """Days and readings before it speaks: a season never seen cannot be told from a leak."""
    memory_d: Positive | None = None
    """Older readings fade with this time; None: all count alike."""
    z: Positive = 5.0
    votes: Annotated[int, Meta(ge=1)] = 3
    """That many residuals in a row beyond z, on one side."""
    drift_z: Positive = 1.0
    drift_level: Positive = 25.0
    """CUSUM of the residuals: allowance and level, in standard deviations; the level is for independent residuals, and
    rises as they hang together."""


class Residual(Struct, frozen=True, kw_only=True):
    """One reading against its prediction."""

    value: float
    expected: float
    z: float
    """Of the residual, in standard deviations of predictions; NaN while it is silent."""
    learnt: bool


class Seepage:
    """One point. Times are seconds of one axis that goes on over restarts; the season needs it to be UTC."""

    def __init__(self, settings: SeepageSettings) -> None:
        self.settings = settings
        self._theta = np.zeros(TERMS)
        self._p = np.eye(TERMS) * _PRIOR * settings.scale ** 2
        self._n = np.array([np.nan, np.nan, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0])
        """First time, last learnt, readings learnt, variance, CUSUM up, CUSUM down, signed votes, step; the last
        residual learnt, mean product of neighbours."""
        self._told = np.full(4, np.nan)
        """Last value, expected, z, time."""

    def _row(self, t_s: float, level_m: float) -> Array:
        s = self.settings
        h = (level_m - s.middle_m) / s.half_range_m
        year = 2 * math.pi * (t_s % YEAR_S) / YEAR_S
        t = (t_s - float(self._n[0])) / HUNDRED_DAYS_S
        season, time = float(s.season), float(s.time)
        return np.array([1.0, h, h * h, h * h * h, season * math.sin(year), season * math.cos(year),
                         season * math.sin(2 * year), season * math.cos(2 * year), time * t, time * math.log1p(t)])

    @property
    def _worth(self) -> float:
        """How many readings are worth one independent one."""
        r = min(max(0.0, float(self._n[9]) / max(float(self._n[3]), self.settings.resolution ** 2 / 12)), _MOST_R)
        return (1 + r) / (1 - r)

    def update(self, t_s: float, value: float, level_m: float) -> Residual | None:
        """Take a reading with the reservoir's level of that time.

        Returns:
            None: NaN, not later than the last, or not the first of its step.
        """
        s, n = self.settings, self._n
        step = float(math.floor(t_s / s.step_s))
        if not (math.isfinite(value) and math.isfinite(level_m)) or step <= n[7]:
            return None
        n[7] = step
        if math.isnan(n[0]):
            n[0] = t_s
        row = self._row(t_s, level_m)
        gain = (self._p * row).sum(axis=1)
        expected = float((row * self._theta).sum())
        error, leverage = value - expected, float((row * gain).sum())
        spread = math.sqrt(max(float(n[3]), s.resolution ** 2 / 12))
        worth = self._worth
        speaks = n[2] >= max(s.least, EFFECTIVE * worth) and t_s - n[0] >= s.least_d * 86400
        z = error / (spread * math.sqrt(1 + worth * leverage)) if speaks else math.nan
        learn = not abs(z) >= s.z and not self._suspect()
        self._told[:] = value, expected, z, t_s
        if speaks:
            self._weigh(z)
        if learn:
            self._learn(t_s, gain, error, leverage)
        return Residual(value=value, expected=expected, z=z, learnt=learn)

    def _weigh(self, z: float) -> None:
        s, n = self.settings, self._n
        most = 2 * s.drift_level * self._worth
        n[4] = min(max(0.0, n[4] + z - s.drift_z), most)
        n[5] = min(max(0.0, n[5] - z - s.drift_z), most)
        side = 0 if abs(z) < s.z else 1 if z > 0 else -1
        same = side * n[6] > 0
        n[6] = 0.0 if not side else n[6] + side if same else side

    def _learn(self, t_s: float, gain: Array, error: float, leverage: float) -> None:
        """The recursion with unit weights; the variance apart, so that its start does not matter to the fit."""
        s, n = self.settings, self._n
        keep = 1.0
        if s.memory_d is not None and not math.isnan(n[1]):
            keep = 1.0 / (1.0 + (t_s - float(n[1])) / (s.memory_d * 86400))
        self._theta = self._theta + gain * (error / (keep + leverage))
        p = (self._p - np.outer(gain, gain) / (keep + leverage)) / keep
        self._p = (p + p.T) / 2
        n[1] = t_s
        n[2] += 1
        if n[2] > TERMS:  # before that the fit follows every reading
            square = error * error / (1 + leverage)
            known = n[2] - TERMS
            if known > s.least / 2:
                square = min(square, _HUBER ** 2 * max(float(n[3]), s.resolution ** 2 / 12))
            n[3] += (square - n[3]) / min(known, 500.0)
            bounded = math.copysign(math.sqrt(square), error)
            n[9] += (bounded * n[8] - n[9]) / min(known, 500.0)
            n[8] = bounded

    def _suspect(self) -> bool:
        s, n = self.settings, self._n
        return bool(max(n[4], n[5]) >= s.drift_level * self._worth / 2 or abs(n[6]) >= 1)

    def accept(self) -> None:
        """A person has looked: what is now is ordinary. Learn again, the constant anew."""
        self._n[4:7] = 0.0
        self._p[0, 0] += _PRIOR * self.settings.scale ** 2

    def findings(self) -> tuple[Finding, ...]:
        """What the residuals say; until they are ordinary again or accepted."""
        s, n = self.settings, self._n
        value, expected, z, t_s = self._told.tolist()
        facts = {"expected": expected, "z": z, "spread": math.sqrt(float(n[3])), "t_s": t_s, "cusum_up": float(n[4]),
                 "cusum_down": float(n[5]), "readings": float(n[2]), "readings_an_independent_one": self._worth}
        up_zh, up_en = ("偏高", "above") if value > expected else ("偏低", "below")
        if abs(n[6]) >= s.votes:
            kind, zh, en = "reservoir.seepage", f"连续 {abs(n[6]):.0f} 次明显{up_zh}", f"{abs(n[6]):.0f} times in a row"
        elif max(n[4], n[5]) >= s.drift_level * self._worth:
            kind, zh, en = "reservoir.seepage_drift", f"持续{up_zh}", "for a long time a little"
        else:
            return ()
        return (Finding(
            kind=kind, tell=("officer", "county"), value=value, limit=expected, unit=s.unit, facts=facts,
            text_zh=f"{s.name} {value:.4g} {s.unit}，按库水位和季节应为 {expected:.4g}，{zh}，请到现场检查坝体和渗水",
            text_en=f"{s.name} {value:.4g} {s.unit}, {en} {up_en} the {expected:.4g} that level and season explain: "
                    "look at the dam and at the water that seeps"),)

    def _columns(self) -> dict[str, Array]:
        return {"theta": self._theta, "p": self._p, "n": self._n, "told": self._told}

    def state(self) -> bytes:
        """Everything learnt, for `restore`."""
        return pack("seepage", VERSION, self._columns())

    def restore(self, state: bytes) -> None:
        """Go on where `state` was taken.

        Raises:
            ValueError: damaged, or of another version; nothing was changed.
        """
        kept = unpack("seepage", VERSION, state, self._columns())
        self._theta, self._p, self._n, self._told = (kept[k] for k in ("theta", "p", "n", "told"))
