"""Rain at one gauge: what the windows, the day and the event mean at this site.

Owns: the site's prepare and evacuate table, the intensity-duration curve, the names of the rainstorm classes.
Promises: a colour comes only from the site's own table; a rainstorm class is a label that warns nobody (those signals
are the weather bureau's to publish); every verdict carries its sums.
Never: sounds a siren by itself, forecasts rain.

Curves: mean intensity I (mm/h) over duration D (h) that has triggered landslides or debris flows, I = c + a D^-b.
Antecedent index: Kohler & Linsley 1951, "Predicting the runoff from storm rainfall".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct

from gateway.judgement.detect.finding import WORDS_ZH, Finding, Warned, worst
from gateway.judgement.detect.kept import pack, unpack
from gateway.judgement.detect.windows import UNITS, WINDOWS_MIN, Gauge, Windows
from gateway.model import Colour

VERSION = 1
Positive = Annotated[float, Meta(gt=0)]

CLASSES = ((50.0, 720, "blue", "蓝色"), (50.0, 360, "yellow", "黄色"), (50.0, 180, "orange", "橙色"),
           (100.0, 180, "red", "红色"))
"""Rainstorm signals of the China Meteorological Administration: mm, minutes, class. Provinces vary."""


class Curve(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An intensity-duration threshold: I = c + a D^-b, in mm/h and h, for durations within its range."""

    name: str
    a: Positive
    b: Positive
    c: Annotated[float, Meta(ge=0)] = 0.0
    from_h: Positive
    to_h: Positive

    def __post_init__(self) -> None:
        if self.to_h <= self.from_h:
            raise ValueError(f"curve {self.name}: to_h must be above from_h, found {self.to_h:g} and {self.from_h:g}")

    def intensity(self, hours: float) -> float:
        """The threshold in mm/h."""
        return float(self.c + self.a * hours ** -self.b)


CURVES: Mapping[str, Curve] = {
    "caine": Curve(name="Caine 1980", a=14.82, b=0.39, from_h=0.167, to_h=500),
    "guzzetti": Curve(name="Guzzetti 2008", a=2.20, b=0.44, from_h=0.1, to_h=1000),
    "seattle": Curve(name="USGS Seattle", a=82.73, b=1.13, from_h=20, to_h=55),
}
"""Examples, not defaults: worldwide lower bounds of shallow slides and debris flows (Caine 1980, Geografiska Annaler
62A; Guzzetti et al. 2008, Landslides 5) and of many slides at once in Seattle (Chleborad, Baum & Godt 2006, USGS
OFR 2006-1064; Baum & Godt 2010, Landslides 7). A site's own slides make its own curve."""


class Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row of the site's table: so much rain in so long means to prepare, so much to go (准备转移, 立即转移)."""

    window_min: int
    prepare_mm: Positive
    evacuate_mm: Positive

    def __post_init__(self) -> None:
        if self.window_min not in WINDOWS_MIN:
            raise ValueError(f"rain table: expected a window of {', '.join(map(str, WINDOWS_MIN))} min, "
                             f"found {self.window_min}")
        if self.evacuate_mm <= self.prepare_mm:
            raise ValueError(f"rain table, {self.window_min} min: evacuate_mm must be above prepare_mm, found "
                             f"{self.evacuate_mm:g} and {self.prepare_mm:g}")


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The site's table and the colours it stands for; who made it is the site's to say."""

    prepare: Warned
    evacuate: Warned
    steps: Annotated[tuple[Step, ...], Meta(min_length=1)]


class RainSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A gauge and what its rain means here. Without a table rain has no colour."""

    gauge: Gauge = Gauge()
    table: Table | None = None
    siren: tuple[Warned, ...] = ()
    """Colours of the table at which the site lets rain alone ask for its siren."""
    curve: Curve | None = None
    least_mm: Annotated[float, Meta(ge=0)] = 5.0
    """The curve is not asked about less rain: its short end would be reached by a shower."""


class RainVerdict(Struct, frozen=True, kw_only=True):
    """What it came to at one moment."""

    colour: Colour
    """From the site's table alone."""
    label: str
    """Highest rainstorm class reached, a label: ``""``, blue, yellow, orange, red."""
    growth_mm: float
    """What this reading added: for who counts on, like `reservoir.Reservoir.update`."""
    totals_mm: tuple[float, ...]
    """In each of `windows.WINDOWS_MIN`."""
    day_mm: float
    """Since 08:00 local time."""
    day_sure: bool
    """False while the wall clock is not to be trusted: the total then goes on over 08:00, never too small."""
    before_mm: float
    """In the hydrological day before."""
    event_h: float
    event_mm: float
    antecedent_mm: float
    curve_ratio: float
    """Largest mean intensity ÷ the curve's, over windows and event; 0 without a curve. From 1 it is reached."""
    jumps: int
    resets: int
    findings: tuple[Finding, ...]


class Rain:
    """One gauge. Rain comes as readings of a counter or as tips; times as `windows.Windows` says."""

    def __init__(self, settings: RainSettings) -> None:
        self.settings = settings
        self._windows = Windows(settings.gauge)

    def update(self, t_s: float, *, counter_mm: float | None = None, tips_mm: float | None = None,
               utc_s: float | None = None) -> RainVerdict:
        """Take a reading, or neither to let time pass, and say what holds now.

        Args:
            t_s: seconds.
            counter_mm: an accumulator's reading; NaN: the read failed.
            tips_mm: rain counted at this moment.
            utc_s: the same moment by the wall clock; None when that is not to be trusted.
        """
        w, growth_mm = self._windows, 0.0
        if counter_mm is not None:
            growth_mm += w.counter(t_s, counter_mm, utc_s)
        if tips_mm is not None:
            growth_mm += w.tips(t_s, tips_mm, utc_s)
        if counter_mm is None and tips_mm is None:
            w.tick(t_s, utc_s)
        totals = w.totals_mm()
        by_minutes = dict(zip(WINDOWS_MIN, totals, strict=True))
        hours, mm = w.event(t_s)
        label, labelled = _classify(by_minutes)
        ratio, curved = self._curve(by_minutes, hours, mm, w.index(t_s))
        findings = (*self._colours(by_minutes), *curved, *labelled)
        return RainVerdict(
            colour=worst(findings), label=label, growth_mm=growth_mm, totals_mm=totals, day_mm=w.day_units / UNITS,
            day_sure=utc_s is not None, before_mm=w.before_units / UNITS, event_h=hours, event_mm=mm,
            antecedent_mm=w.index(t_s), curve_ratio=ratio, jumps=w.jumps, resets=w.resets, findings=findings)

    def _colours(self, totals: Mapping[int, float]) -> list[Finding]:
        """The worst row of each grade of the site's table."""
        table = self.settings.table
        if table is None:
            return []
        found = []
        for kind, colour, zh, en in (("evacuate", table.evacuate, "立即转移", "evacuate now"),
                                     ("prepare", table.prepare, "准备转移", "prepare to leave")):
            limits = [(getattr(step, f"{kind}_mm"), step.window_min) for step in table.steps]
            limit, window = max(limits, key=lambda row: totals[row[1]] / row[0])
            if totals[window] < limit:
                continue
            span_zh, span_en = _span(window)
            found.append(Finding(
                kind=f"rain.{kind}", colour=Colour(colour), tell=("officer", "county"),
                siren=colour in self.settings.siren, value=totals[window], limit=limit, unit="mm",
                facts={"window_min": float(window)},
                text_zh=f"{span_zh}降雨 {totals[window]:.1f} mm，达到本地{zh}雨量 {limit:g} mm"
                        f"（{WORDS_ZH[Colour(colour)]}）",
                text_en=f"{totals[window]:.1f} mm of rain in {span_en}, at this site's {limit:g} mm to {en} "
                        f"({colour})"))
        return found

    def _curve(self, totals: Mapping[int, float], hours: float, mm: float,
               antecedent_mm: float) -> tuple[float, list[Finding]]:
        curve = self.settings.curve
        if curve is None:
            return 0.0, []
        spans = [(window / 60, total) for window, total in totals.items()] + [(hours, mm)]
        asked = [(total / d / curve.intensity(d), d, total) for d, total in spans
                 if curve.from_h <= d <= curve.to_h and total >= self.settings.least_mm]
        if not asked:
            return 0.0, []
        ratio, d, total = max(asked)
        if ratio < 1:
            return ratio, []
        limit = curve.intensity(d)
        return ratio, [Finding(
            kind="rain.curve", tell=("officer", "county"), value=total / d, limit=limit, unit="mm/h",
            facts={"duration_h": d, "rain_mm": total, "antecedent_mm": antecedent_mm, "ratio": ratio},
            text_zh=f"{d:.3g} 小时平均雨强 {total / d:.1f} mm/h，超过 {curve.name} 雨强历时曲线 {limit:.1f} mm/h，"
                    "注意滑坡、泥石流",
            text_en=f"mean intensity {total / d:.1f} mm/h over {d:.3g} h, above the {limit:.1f} mm/h of the "
                    f"{curve.name} curve: watch for slides and debris flows")]

    def state(self) -> bytes:
        """Everything remembered, for `restore`."""
        return pack("rain", VERSION, self._windows.columns())

    def restore(self, state: bytes) -> None:
        """Go on where `state` was taken.

        Raises:
            ValueError: damaged, or of another version; nothing was changed.
        """
        self._windows.take(unpack("rain", VERSION, state, self._windows.columns()))


def _classify(totals: Mapping[int, float]) -> tuple[str, list[Finding]]:
    label, found = "", []
    for limit, window, name, zh in CLASSES:
        if totals[window] >= limit:
            label = name
            found = [Finding(
                kind=f"rain.storm_{name}", value=totals[window], limit=limit, unit="mm",
                facts={"window_min": float(window)},
                text_zh=f"{window // 60} 小时降雨 {totals[window]:.1f} mm，雨量相当于暴雨{zh}预警信号标准"
                        "（信号由气象部门发布）",
                text_en=f"{totals[window]:.1f} mm in {window // 60} h, as much as a {name} rainstorm signal stands for "
                        "(the weather bureau publishes those)")]
    return label, found


def _span(minutes: int) -> tuple[str, str]:
    if minutes < 60:
        return f"{minutes} 分钟", f"{minutes} min"
    return f"{minutes // 60} 小时", f"{minutes // 60} h"
