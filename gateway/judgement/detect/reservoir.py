"""A reservoir's level: which of its levels it has reached, how fast it moves, when it reaches the next.

Owns: the switches of the levels, the standing order, the line through the last readings.
Promises: one transition a crossing, waves inside the hysteresis make none; only a reading clears; saturation at the
top counts as above every level; the flood-limit level only tells the county; every colour is from the site's table.
Never: routes a flood, decides what is let out of the reservoir.

Names of levels: 汛限水位 flood limit, 设计洪水位 design, 校核洪水位 check, 坝顶高程 crest (SL 551-2012).
Level = datum + reading.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta, Struct

from gateway.judgement.detect.calendar import Order, Period, limit_m, month_day
from gateway.judgement.detect.finding import WORDS_ZH, Finding, Warned, Whom, in_words, worst
from gateway.judgement.detect.kept import Array, pack, unpack
from gateway.judgement.detect.pace import Pace, Reporter, Reporting
from gateway.judgement.detect.storage import Storage
from gateway.judgement.detect.trend import SURE, Reach, Trend, reach
from gateway.model import Colour

VERSION = 1
Positive = Annotated[float, Meta(gt=0)]
FLOOD_LIMIT = "flood_limit"
NAMES = {FLOOD_LIMIT: ("汛限水位", "flood-limit level"), "design": ("设计洪水位", "design flood level"),
         "check": ("校核洪水位", "check flood level"), "crest": ("坝顶高程", "dam crest"),
         "warning": ("警戒水位", "warning level"), "spillway": ("溢洪道底高程", "spillway sill")}
_ALL = np.zeros(1, np.int64)


class Mark(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One level of the site's table and its colour."""

    name: Literal["spillway", "warning", "design", "check", "crest"]
    level_m: float
    colour: Warned
    siren: bool = False
    """Whether the site lets it ask for its siren."""


class ReservoirSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A reservoir. Rates without a limit are shown and judged by nobody."""

    datum_m: float = 0.0
    """Added to the reading; 1985 national height datum (1985 国家高程基准) or the dam's own."""
    marks: tuple[Mark, ...] = ()
    flood_limits: tuple[Period, ...] = ()
    hysteresis_m: Positive = 0.05
    storage: Storage | None = None
    rate_tau_s: Positive = 1800.0
    rise_m_per_h: Positive | None = None
    rise_colour: Warned | None = None
    """Without it a fast rise only tells."""
    fall_m_per_d: Positive | None = None
    """A fast fall lets the upstream face slide (rapid drawdown)."""
    fall_colour: Warned | None = None
    horizon_h: Positive = 24.0
    utc_offset_s: Annotated[int, Meta(ge=-50400, le=50400)] = 8 * 3600
    reporting: Reporting = Reporting()

    def __post_init__(self) -> None:
        if len({m.name for m in self.marks}) != len(self.marks):
            raise ValueError("reservoir: a level is named twice")
        for before, after in pairwise(self.marks):
            if not before.level_m < after.level_m:
                raise ValueError(f"reservoir: levels must ascend, found {before.name} {before.level_m:g} m before "
                                 f"{after.name} {after.level_m:g} m")
        for p in self.flood_limits:
            if self.marks and p.level_m >= self.marks[0].level_m:
                raise ValueError(f"reservoir: the flood-limit level of {p.begins}, {p.level_m:g} m, must be below "
                                 f"{self.marks[0].name}, {self.marks[0].level_m:g} m")


class Crossing(Struct, frozen=True, kw_only=True):
    """A level was reached or left, once."""

    name: str
    up: bool
    level_m: float
    limit_m: float


class Ahead(Struct, frozen=True, kw_only=True):
    """When the level will reach a limit if it goes on like this."""

    name: str
    limit_m: float
    reach: Reach
    text_zh: str
    text_en: str


class ReservoirVerdict(Struct, frozen=True, kw_only=True):
    """What it came to at one moment."""

    colour: Colour
    level_m: float
    """The last level; NaN before the first, inf when the instrument is off its scale."""
    volume_1e4_m3: float | None
    """None: no curve, or beyond its ends."""
    rate_m_per_h: float
    """Rising is above 0; NaN before there are readings enough."""
    rate_error_m_per_h: float
    flood_limit_m: float | None
    """In force now, an order included."""
    crossings: tuple[Crossing, ...]
    """Made by this reading."""
    ahead: tuple[Ahead, ...]
    """Next limits above, nearest first; none while the level falls."""
    pace: Pace
    findings: tuple[Finding, ...]


class Reservoir:
    """One reservoir. Times are seconds of one axis that goes on over restarts."""

    def __init__(self, settings: ReservoirSettings) -> None:
        self.settings = settings
        self._trend = Trend(1, settings.rate_tau_s)
        self._reporter = Reporter(settings.reporting)
        self._on = np.zeros(len(settings.marks) + 1, bool)
        """The flood limit, then the marks."""
        self._n = np.array([np.nan, -np.inf])
        """Last level and its time."""
        self.order: Order | None = None

    def raise_limit(self, order: Order, t_s: float) -> None:
        """Let a command raise the flood-limit level until a time; it replaces an earlier order.

        Raises:
            ValueError: it is over already, does not raise, or reaches the first level with a colour; nothing changed.
        """
        marks, periods = self.settings.marks, self.settings.flood_limits
        strictest = limit_m(periods, None)
        if strictest is None:
            raise ValueError("the reservoir has no flood-limit level to raise")
        if not order.until_s > t_s:
            raise ValueError("the order's time is over")
        if not order.level_m > strictest:
            raise ValueError(f"an order only raises: {order.level_m:g} m is not above {strictest:g} m")
        if marks and order.level_m >= marks[0].level_m:
            raise ValueError(f"{order.level_m:g} m would reach {NAMES[marks[0].name][1]}, {marks[0].level_m:g} m")
        self.order = order

    def flood_limit_m(self, t_s: float, utc_s: float | None) -> float | None:
        """The flood-limit level in force; an order that is over is forgotten."""
        date = None if utc_s is None else month_day(utc_s, self.settings.utc_offset_s)
        limit = limit_m(self.settings.flood_limits, date)
        if self.order is not None and t_s >= self.order.until_s:
            self.order = None
        return limit if limit is None or self.order is None else max(limit, self.order.level_m)

    def update(self, t_s: float, reading_m: float | None = None, *, rain_mm: float = 0.0,
               utc_s: float | None = None) -> ReservoirVerdict:
        """Take a reading, or none to let time pass, and say what holds now.

        Args:
            t_s: seconds; a reading not later than the last one is ignored.
            reading_m: metres above the datum; NaN or None: there is none; inf: above its range.
            rain_mm: what fell since the last call, for the pace.
            utc_s: the same moment by the wall clock; None when that is not to be trusted.
        """
        s = self.settings
        crossings: list[Crossing] = []
        limit = self.flood_limit_m(t_s, utc_s)
        self._reporter.rain(t_s, rain_mm)
        if reading_m is not None and reading_m > -math.inf and t_s > self._n[1]:
            level = s.datum_m + reading_m
            self._n[:] = level, t_s
            self._trend.learn(_ALL, np.array([t_s]), np.array([level]))
            self._reporter.level(t_s, level)
            limits = [("flood_limit", math.nan if limit is None else limit)] + [(m.name, m.level_m) for m in s.marks]
            for k, (name, at) in enumerate(limits):
                # 0.1 + 0.2 must reach 0.3: readings are scaled in floating point, limits written in decimals
                slack = 1e-9 * max(1.0, abs(at))
                was = bool(self._on[k])
                now = level >= at - slack if not was else level >= at - s.hysteresis_m - slack
                if now != was:
                    self._on[k] = now
                    crossings.append(Crossing(name=name, up=now, level_m=level, limit_m=at))
        return self._verdict(t_s, limit, tuple(crossings))

    def _verdict(self, t_s: float, limit: float | None, crossings: tuple[Crossing, ...]) -> ReservoirVerdict:
        s, level = self.settings, float(self._n[0])
        line = self._trend.line(_ALL)
        rate, error = float(line.rate[0]), float(line.rate_error[0])
        ahead = self._ahead(float(line.level[0]), rate, error, float(line.spread[0]), limit, t_s)
        findings = (*self._marks(level, limit), *self._rates(rate, error))
        return ReservoirVerdict(
            colour=worst(findings), level_m=level, volume_1e4_m3=s.storage.volume(level) if s.storage else None,
            rate_m_per_h=rate * 3600, rate_error_m_per_h=error * 3600, flood_limit_m=limit, crossings=crossings,
            ahead=ahead, pace=self._reporter.pace(t_s), findings=findings)

    def _marks(self, level: float, limit: float | None) -> list[Finding]:
        found = []
        rows: list[tuple[str, float, Colour, tuple[Whom, ...], bool]] = []
        if limit is not None:
            rows.append((FLOOD_LIMIT, limit, Colour.NONE, ("county",), False))
        rows += [(m.name, m.level_m, Colour(m.colour), ("officer", "county"), m.siren) for m in self.settings.marks]
        on = self._on if limit is not None else self._on[1:]
        for (name, at, colour, tell, siren), is_on in zip(rows, on.tolist(), strict=True):
            if not is_on:
                continue
            zh, en = NAMES[name]
            shown_zh, shown_en = ("超上量程", "above its range") if math.isinf(level) else (f"{level:.2f} m",) * 2
            tail_zh, tail_en = ("", "") if colour is Colour.NONE else (f"（{WORDS_ZH[colour]}）", f" ({colour})")
            found.append(Finding(
                kind=f"reservoir.{name}", colour=colour, tell=tell, siren=siren,
                value=level if math.isfinite(level) else None, limit=at, unit="m",
                facts={"over_m": level - at} if math.isfinite(level) else {},
                text_zh=f"库水位 {shown_zh}，已回落，仍接近{zh} {at:.2f} m{tail_zh}" if level < at
                else f"库水位 {shown_zh}，达到{zh} {at:.2f} m{tail_zh}",
                text_en=f"reservoir {shown_en}, still within {at - level:.2f} m of the {en} {at:.2f} m{tail_en}"
                if level < at else f"reservoir {shown_en}, at or above the {en} {at:.2f} m{tail_en}"))
        return found

    def _rates(self, rate: float, error: float) -> list[Finding]:
        s, found = self.settings, []
        if not abs(rate) >= SURE * error:
            return []
        for kind, limit, colour, span_s, unit, zh, en in (
                ("rise", s.rise_m_per_h, s.rise_colour, 3600.0, "m/h", "上涨", "rises"),
                ("fall", s.fall_m_per_d, s.fall_colour, -86400.0, "m/d", "下降", "falls")):
            value = rate * span_s
            if limit is None or value < limit:
                continue
            found.append(Finding(
                kind=f"reservoir.{kind}", colour=Colour(colour or "none"), tell=("officer", "county"), value=value,
                limit=limit, unit=unit, facts={"error": abs(error * span_s), "tau_s": s.rate_tau_s},
                text_zh=f"库水位{zh} {value:.2f} {unit}，超过 {limit:g} {unit}"
                        + ("，注意上游坝坡稳定" if kind == "fall" else ""),
                text_en=f"the reservoir {en} by {value:.2f} {unit}, above {limit:g} {unit}"
                        + (": watch the upstream face" if kind == "fall" else "")))
        return found

    def _ahead(self, level: float, rate: float, error: float, spread: float, limit: float | None,
               t_s: float) -> tuple[Ahead, ...]:
        if not rate > 0 or t_s - self._trend.t_s[0] > self.settings.rate_tau_s:
            return ()
        rows = [(FLOOD_LIMIT, limit, bool(self._on[0]))] if limit is not None else []
        rows += [(m.name, m.level_m, on) for m, on in zip(self.settings.marks, self._on[1:].tolist(), strict=True)]
        found = []
        for name, at, on in rows:
            when = None if on else reach(level, rate, error, spread, at, self.settings.horizon_h * 3600)
            if when is None:
                continue
            (zh, en), (in_zh, in_en), (by_zh, by_en) = NAMES[name], in_words(when.in_s), in_words(when.error_s)
            found.append(Ahead(
                name=name, limit_m=at, reach=when,
                text_zh=f"按目前涨速 {rate * 3600:.2f} m/h，约 {in_zh}（±{by_zh}）后达到{zh} {at:.2f} m",
                text_en=f"at {rate * 3600:.2f} m/h the {en} {at:.2f} m is reached in {in_en}, ± {by_en}"))
        return tuple(found)

    def _columns(self) -> dict[str, Array]:
        order = self.order
        words = "" if order is None else f"{order.id}\x00{order.who}"
        kept = np.zeros(512, np.uint8)
        coded = words.encode()[:512]
        kept[:len(coded)] = np.frombuffer(coded, np.uint8)
        numbers = np.array([np.nan, np.nan] if order is None else [order.level_m, order.until_s])
        return {"on": self._on, "n": self._n, "order": numbers, "order_words": kept,
                **self._trend.columns(), **self._reporter.columns()}

    def state(self) -> bytes:
        """Everything remembered, for `restore`."""
        return pack("reservoir", VERSION, self._columns())

    def restore(self, state: bytes) -> None:
        """Go on where `state` was taken.

        Raises:
            ValueError: damaged, of another version, or of other levels; nothing was changed.
        """
        columns = unpack("reservoir", VERSION, state, self._columns())
        self._on, self._n = columns["on"], columns["n"]
        self._trend.take(columns)
        self._reporter.take(columns)
        level_m, until_s = columns["order"].tolist()
        identity, _, who = bytes(columns["order_words"]).rstrip(b"\0").decode(errors="replace").partition("\0")
        self.order = None if math.isnan(level_m) else Order(id=identity, who=who, level_m=level_m, until_s=until_s)
