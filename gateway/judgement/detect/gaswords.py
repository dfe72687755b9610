"""What gas channels have to say: alarms with whom to call, hints with what to doubt.

Owns: which findings follow from how the channels stand. Promises: quiet channels cost one comparison each, in numpy;
every finding says its numbers. Never: keeps state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gateway.judgement.detect.finding import WORDS_ZH, Finding, in_words
from gateway.judgement.detect.trend import SURE, reach
from gateway.model import Colour

if TYPE_CHECKING:
    from gateway.judgement.detect.gas import Columns, GasSettings, Siblings

AIR_CO2_PPM = 420.0
_KIND = ("low", "high")


def findings(settings: Sequence[GasSettings], now: Columns, beside: Siblings) -> list[Finding]:
    """Return what holds, by channel."""
    rising = np.array([s.rise_lel_per_min or np.inf for s in settings]) / 60
    poor = np.array([s.oxygen_poor_vol_pct if s.principle == "catalytic" else -np.inf for s in settings])
    loud = (now.low | now.high | now.muted | (now.negative_s > 0) | (now.line.rate >= rising)
            | (beside.oxygen_vol_pct < poor))
    return [f for c in np.flatnonzero(loud).tolist() for f in _channel(c, settings[c], now, beside)]


def _channel(c: int, s: GasSettings, now: Columns, beside: Siblings) -> Iterator[Finding]:
    lel, low, high = float(now.lel[c]), bool(now.low[c]), bool(now.high[c])
    shown_zh, shown_en = ("超量程", "over its range") if math.isinf(lel) else (f"{lel:.1f} %LEL",) * 2
    value = lel if math.isfinite(lel) else None
    if low or high:
        kind = _KIND[high]
        limit, colour = (s.high_lel, s.high_colour) if high else (s.low_lel, s.low_colour)
        held = lel < limit
        zh, en = ("高限", "high") if high else ("低限", "low")
        verb_zh, verb_en = ("已回落，尚未复位，", "not reset since the") if held else ("达到", "at or above the")
        yield Finding(
            kind=f"gas.{kind}", colour=Colour(colour), tell=("gas_company", "officer"), siren=high and s.may_sound,
            channel=c, value=value, limit=limit, unit="%LEL",
            facts={"reset_below": limit - s.reset_lel, "lel_vol_pct": s.lel_vol_pct, "t_s": float(now.t_s[c])},
            text_zh=f"{s.name} 可燃气体 {shown_zh}，{verb_zh}{zh} {limit:g} %LEL（{WORDS_ZH[Colour(colour)]}），"
                    "请通知燃气公司和责任人，禁止明火和开关电器",
            text_en=f"{s.name}: combustible gas {shown_en}, {verb_en} {en} set point {limit:g} %LEL ({colour}): call "
                    "the gas company and the officer; no flames, no switches")
    yield from _hints(c, s, now, beside, value)


def _hints(c: int, s: GasSettings, now: Columns, beside: Siblings, value: float | None) -> Iterator[Finding]:
    lel = float(now.lel[c])
    if now.folded[c]:
        yield Finding(
            kind="gas.fold_back", channel=c, value=value, unit="%LEL", tell=("gas_company",),
            text_zh=f"{s.name} 催化传感器曾超量程，浓气中读数会回落，读数降低不代表安全，须人工确认",
            text_en=f"{s.name}: the catalytic sensor was over its range and reads low in rich gas: a falling reading "
                    "means no safety, a person must check")
    oxygen = float(beside.oxygen_vol_pct[c])
    if s.principle == "catalytic" and oxygen < s.oxygen_poor_vol_pct:
        yield Finding(
            kind="gas.oxygen_poor", channel=c, value=oxygen, limit=s.oxygen_poor_vol_pct, unit="%VOL",
            text_zh=f"{s.name} 氧气 {oxygen:.1f} %VOL，缺氧时催化传感器读数偏低",
            text_en=f"{s.name}: oxygen {oxygen:.1f} %VOL; a catalytic sensor reads low in oxygen-poor air")
    rate, error = float(now.line.rate[c]), float(now.line.rate_error[c])
    if (s.rise_lel_per_min is not None and rate * 60 >= s.rise_lel_per_min and rate >= SURE * error
            and lel >= s.rise_from_lel and not now.high[c]):
        limit = s.high_lel if now.low[c] else s.low_lel
        when = reach(float(now.line.level[c]), rate, error, float(now.line.spread[c]), limit)
        zh, en = ("", "") if when is None else (f"，约 {in_words(when.in_s)[0]}后达到 {limit:g} %LEL",
                                                f", {limit:g} %LEL in {in_words(when.in_s)[1]}")
        yield Finding(
            kind="gas.rising", tell=("gas_company", "officer"), channel=c, value=rate * 60, limit=s.rise_lel_per_min,
            unit="%LEL/min", facts={"lel": lel, "error_lel_per_min": error * 60},
            text_zh=f"{s.name} 可燃气体每分钟上升 {rate * 60:.1f} %LEL{zh}",
            text_en=f"{s.name}: combustible gas rises by {rate * 60:.1f} %LEL a minute{en}")
    if now.low[c] or now.high[c]:
        yield from _sewer(c, s, beside, lel)
    if now.negative_s[c] >= s.negative_s:
        yield Finding(
            kind="gas.calibration_due", channel=c, value=value, limit=s.negative_lel, unit="%LEL",
            facts={"for_s": float(now.negative_s[c])},
            text_zh=f"{s.name} 读数长时间略低于零（{lel:.1f} %LEL），零点漂移，应标定",
            text_en=f"{s.name}: slightly below nought for long ({lel:.1f} %LEL): its zero has drifted, calibrate it")
    if now.muted[c]:
        yield Finding(kind="gas.warm_up", channel=c, text_zh=f"{s.name} 预热中，暂不判断",
                      text_en=f"{s.name} is warming up and not judged")


def _sewer(c: int, s: GasSettings, beside: Siblings, lel: float) -> Iterator[Finding]:
    """A sibling that pipeline gas cannot explain. A hint only: both gases may be there."""
    h2s, co2 = float(beside.h2s_ppm[c]), float(beside.co2_ppm[c])
    methane_ppm = lel * s.lel_vol_pct * 100
    if h2s >= s.sewer_h2s_ppm:
        seen, value, limit, unit = "H₂S", h2s, s.sewer_h2s_ppm, "ppm"
    elif co2 - AIR_CO2_PPM >= s.sewer_co2_ratio * methane_ppm:
        seen, value, limit, unit = "CO₂", co2, AIR_CO2_PPM + s.sewer_co2_ratio * methane_ppm, "ppm"
    else:
        return
    yield Finding(
        kind="gas.sewer", channel=c, value=value, limit=limit, unit=unit, facts={"methane_ppm": methane_ppm},
        text_zh=f"{s.name} 疑似沼气：同处 {seen} {value:.0f} {unit}，管道燃气难以解释；报警不变，仍须现场核实",
        text_en=f"{s.name}: probably sewer gas: {seen} beside it {value:.0f} {unit}, more than pipeline gas explains; "
                "the alarm stands until somebody has looked")
