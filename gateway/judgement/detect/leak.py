"""A pipe between two meters: does what goes in come out, did its pressure drop, and where.

Owns: the balance's evidence, the drop's two averages. Promises: constant memory; gaps, NaN and irregular times are
normal; the same readings give the same state bit for bit; no evidence comes from a step in which a meter is missing.
Never: shuts a valve, learns a leak as ordinary.

Balance: Page's CUSUM of the log likelihood ratio of a leak of `leak_m3h` against none (Page 1954); its mean time
between false alarms is at least exp(h) steps for independent errors (Lorden 1971), from which h follows. With `miss`
it is Wald's repeated sequential test instead, which begins again at ln(miss) instead of at 0.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, NamedTuple

import numpy as np
from msgspec import Meta, Struct

from gateway.judgement.detect.finding import Finding, Whom
from gateway.judgement.detect.kept import pack, unpack

Array = np.ndarray[Any, np.dtype[Any]]
VERSION = 1
Positive = Annotated[float, Meta(gt=0)]
ATMOSPHERE_KPA = 101.325
TELL: tuple[Whom, ...] = ("gas_company", "officer")


class BalanceSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section between meters; `bias_m3h` and `sigma_m3h` come from `baseline` over days without a leak."""

    name: str
    leak_m3h: Positive
    """Worth finding, in m³/h at standard conditions."""
    sigma_m3h: Positive
    """Of a step's imbalance without a leak."""
    bias_m3h: float = 0.0
    step_s: Positive = 60.0
    pipe_m3: Annotated[float, Meta(ge=0)] = 0.0
    """Volume of the section, for what it stores when its pressure moves (isothermal, ideal gas); 0: not counted."""
    quiet_d: Positive = 3650.0
    """Mean days between false alarms, at least."""
    miss: Annotated[float, Meta(gt=0, lt=0.5)] | None = None


class Balance:
    """The balance of one section. Times are seconds of one axis that goes on over restarts."""

    def __init__(self, settings: BalanceSettings) -> None:
        self.settings = s = settings
        self.level = math.log(s.quiet_d * 86400 / s.step_s)
        """The evidence that makes a leak."""
        self._floor = 0.0 if s.miss is None else math.log(s.miss)
        self._step = np.full(1, -1, np.int64)
        self._sums = np.zeros((3, 2))
        """This step's flow in, flow out, pressure: sum and count."""
        self._n = np.array([0.0, np.nan, 0.0, 0.0, np.nan, np.nan, 0.0])
        """Evidence, since when, sum and count of the imbalance since, last step's pressure, its time, told."""

    def update(self, t_s: float, in_m3h: float = math.nan, out_m3h: float = math.nan,
               pressure_kpa: float = math.nan) -> tuple[Finding, ...]:
        """Take what is known at `t_s`, NaN where nothing is; an earlier step's reading is ignored."""
        step = math.floor(t_s / self.settings.step_s)
        if step < self._step[0]:
            return self.findings()
        if step > self._step[0]:
            self._close()
            self._step[0] = step
        for k, value in enumerate((in_m3h, out_m3h, pressure_kpa)):
            if math.isfinite(value):
                self._sums[k] += (value, 1.0)
        return self.findings()

    def _close(self) -> None:
        """Weigh the step that is over."""
        s, n = self.settings, self._n
        sums, counts = self._sums[:, 0].tolist(), self._sums[:, 1].tolist()
        self._sums[:] = 0.0
        end_s = float(self._step[0] + 1) * s.step_s
        stored = 0.0 if s.pipe_m3 == 0 else math.nan
        if counts[2]:
            kpa = sums[2] / counts[2]
            if s.pipe_m3 and end_s - n[5] < 1.5 * s.step_s:
                stored = s.pipe_m3 / ATMOSPHERE_KPA * (kpa - n[4]) * 3600 / s.step_s
            n[4], n[5] = kpa, end_s
        if not (counts[0] and counts[1]) or math.isnan(stored):
            return
        x = sums[0] / counts[0] - sums[1] / counts[1] - stored - s.bias_m3h
        if n[0] == 0.0:
            n[1:4] = end_s - s.step_s, 0.0, 0.0
        n[0] += s.leak_m3h / s.sigma_m3h ** 2 * (x - s.leak_m3h / 2)
        n[2] += x
        n[3] += 1
        if n[0] <= self._floor:
            n[0] = n[6] = 0.0
        elif n[0] >= self.level:
            n[0], n[6] = min(n[0], 2 * self.level), 1.0  # bounded, so that it also ends when the leak does

    def findings(self) -> tuple[Finding, ...]:
        """What the steps so far say; from the evidence's level until it is used up."""
        s, n = self.settings, self._n
        if not n[6]:
            return ()
        size, error = float(n[2] / n[3]), s.sigma_m3h / math.sqrt(n[3])
        return (Finding(
            kind="gas.imbalance", tell=TELL, value=size, limit=s.leak_m3h, unit="m3/h",
            facts={"error_m3h": error, "evidence": float(n[0]), "level": self.level, "since_s": float(n[1]),
                   "steps": float(n[3])},
            text_zh=f"{s.name} 进出流量不平衡，少 {size:.1f} ± {error:.1f} m³/h，疑似泄漏，已持续 "
                    f"{n[3] * s.step_s / 60:.0f} 分钟",
            text_en=f"{s.name}: {size:.1f} ± {error:.1f} m³/h less comes out than goes in, for "
                    f"{n[3] * s.step_s / 60:.0f} min: probably a leak"),)

    def accept(self) -> None:
        """A person has found no leak: begin again."""
        self._n[:4], self._n[6] = (0.0, np.nan, 0.0, 0.0), 0.0

    def state(self) -> bytes:
        """Everything remembered, for `restore`."""
        return pack("balance", VERSION, {"step": self._step, "sums": self._sums, "n": self._n})

    def restore(self, state: bytes) -> None:
        """Go on where `state` was taken.

        Raises:
            ValueError: damaged, or of another version; nothing was changed.
        """
        kept = unpack("balance", VERSION, state, {"step": self._step, "sums": self._sums, "n": self._n})
        self._step, self._sums, self._n = kept["step"], kept["sums"], kept["n"]


def baseline(imbalance_m3h: Array) -> tuple[float, float]:
    """(bias, sigma) of the imbalance of steps without a leak: median and 1.4826 × median absolute deviation."""
    x = imbalance_m3h[np.isfinite(imbalance_m3h)]
    bias = float(np.median(x))
    return bias, 1.4826 * float(np.median(np.abs(x - bias)))


class DropSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One pressure tap, with a flow meter beside it or none."""

    name: str
    drop_kpa: Positive
    flow_m3h: Positive | None = None
    """A change of flow that tells a burst from a lost supply; None: no meter."""
    fast_s: Positive = 5.0
    slow_s: Positive = 600.0
    hold_s: Annotated[float, Meta(ge=0)] = 30.0
    """A demand that starts recovers sooner."""


class Drop:
    """A fast average against a slow one, which stands still while the pressure is down."""

    def __init__(self, settings: DropSettings) -> None:
        self.settings = settings
        self._n = np.full(7, np.nan)
        """Time, fast and slow pressure, fast and slow flow, when the drop began, ± how much."""

    def update(self, t_s: float, pressure_kpa: float, flow_m3h: float = math.nan) -> tuple[Finding, ...]:
        """Take a reading; one without a pressure, or not later than the last, changes nothing."""
        n, s = self._n, self.settings
        if math.isfinite(pressure_kpa) and not t_s <= n[0]:
            dt = 0.0 if math.isnan(n[0]) else t_s - n[0]
            down = not math.isnan(n[5])
            for k, value in ((1, pressure_kpa), (3, flow_m3h)):
                if not math.isfinite(value):
                    continue
                if math.isnan(n[k]):
                    n[k] = n[k + 1] = value
                    continue
                n[k] += (value - n[k]) * dt / (s.fast_s + dt)
                if not down:
                    n[k + 1] += (value - n[k + 1]) * dt / (s.slow_s + dt)
            n[0] = t_s
            if n[2] - n[1] < s.drop_kpa * (0.5 if down else 1.0):
                n[5] = n[6] = np.nan
            elif not down:
                n[5], n[6] = t_s - dt / 2, dt / 2
        return self.findings()

    def findings(self) -> tuple[Finding, ...]:
        """What the readings so far say."""
        n, s = self._n, self.settings
        if not n[0] - n[5] >= s.hold_s:
            return ()
        drop, more = float(n[2] - n[1]), float(n[3] - n[4])
        zh, en = "原因不明", "cause unknown"
        if s.flow_m3h is not None and more >= s.flow_m3h:
            zh, en = "流量上升，疑似下游泄漏", "flow is up: probably a leak downstream"
        elif s.flow_m3h is not None and more <= -s.flow_m3h:
            zh, en = "流量下降，疑似上游停供或阀门动作", "flow is down: probably the supply or a valve upstream"
        return (Finding(
            kind="gas.pressure_drop", tell=TELL, value=drop, limit=s.drop_kpa, unit="kPa",
            facts={"began_s": float(n[5]), "began_error_s": float(n[6]), "flow_change_m3h": more},
            text_zh=f"{s.name} 压力下降 {drop:.1f} kPa，{zh}", text_en=f"{s.name}: pressure is down by {drop:.1f} kPa, "
                                                                    f"{en}"),)

    def accept(self) -> None:
        """A person says that this is the ordinary pressure now."""
        self._n[2], self._n[4], self._n[5:] = self._n[1], self._n[3], np.nan

    def state(self) -> bytes:
        """Everything remembered, for `restore`."""
        return pack("drop", VERSION, {"n": self._n})

    def restore(self, state: bytes) -> None:
        """Go on where `state` was taken.

        Raises:
            ValueError: damaged, or of another version; nothing was changed.
        """
        self._n = unpack("drop", VERSION, state, {"n": self._n})["n"]


class Place(NamedTuple):
    """Where on a section."""

    from_a_m: float
    error_m: float
    """One standard error."""


def locate(t_a_s: float, t_b_s: float, length_m: float, wave_m_s: float, *, clock_a_s: float, clock_b_s: float,
           gas_m_s: float = 0.0, wave_error_m_s: float = 0.0, length_error_m: float = 0.0) -> Place | None:
    """Where a pressure wave began, from when it passed both ends A and B of a section.

    Args:
        t_a_s: arrival at A, the upstream end, UTC seconds.
        t_b_s: arrival at B.
        length_m: of the pipe between them.
        wave_m_s: speed of the wave in still gas (methane some 430 m/s); must exceed `gas_m_s`.
        clock_a_s: one standard error of `t_a_s`: its clock's and half its sampling interval.
        clock_b_s: of `t_b_s`.
        gas_m_s: speed of the gas from A to B.
        wave_error_m_s: one standard error of `wave_m_s`.
        length_error_m: one standard error of `length_m`.

    Returns:
        None when no point of the section explains the arrivals within three standard errors.

    Raises:
        ValueError: the gas is faster than the wave.
    """
    a, v = wave_m_s, gas_m_s
    if not abs(v) < a:
        raise ValueError(f"expected a wave faster than the gas, found {a:g} and {v:g} m/s")
    tau = t_a_s - t_b_s  # x / (a - v) - (length - x) / (a + v)
    x = (tau * (a * a - v * v) + length_m * (a - v)) / (2 * a)
    by_time = (a * a - v * v) / (2 * a)
    by_wave = tau * (a * a + v * v) / (2 * a * a) + length_m * v / (2 * a * a)
    by_length = (a - v) / (2 * a)
    error = math.sqrt(by_time ** 2 * (clock_a_s ** 2 + clock_b_s ** 2) + (by_wave * wave_error_m_s) ** 2
                      + (by_length * length_error_m) ** 2)
    if not -3 * error <= x <= length_m + 3 * error:
        return None
    return Place(min(max(x, 0.0), length_m), error)
