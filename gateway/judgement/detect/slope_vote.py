"""One colour of a slope from its points, and the sentences people read.

Owns: the vote, rain as a gate, the wording.
Promises: pure; lost points and lost rain never lower what is asked; one witness alone still counts, one colour less.
Never: delays or latches (the alarm does).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

from gateway.judgement.detect.slope_settings import STAGES, STAGES_ZH, SlopePoint, Verdict
from gateway.judgement.words import COLOURS_EN, COLOURS_ZH
from gateway.model import LEVELS, Colour

HELD_S = 3600.0
"""Two points that step within that time saw the slope, not a knock."""
YELLOW = LEVELS.index(Colour.YELLOW)
_REFUSED = {"few": ("数据太少", "too few readings"), "poor": ("拟合差", "the fit is poor"),
            "slow": ("加速不明显", "it has hardly sped up"), "wide": ("不确定度过大", "too uncertain"),
            "no_end": ("无收敛趋势", "growth without an end fits as well"),
            "recedes": ("预测时间后移，趋于稳定", "the forecast recedes: it is calming down")}


class VoteSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a slope's points are heard together."""

    votes: int = 1
    """Points that must agree on a colour; with fewer alive, all of them."""
    stale_s: float = 6 * 3600.0
    """A verdict older than that is a lost point."""
    rain_gate_mm: float | None = None
    """Rain from which one point's yellow counts alone; None: no gate. Orange and red are never gated."""


class SlopeVerdict(Struct, frozen=True, kw_only=True):
    """What the points say together."""

    colour: Colour
    """UNKNOWN when no point can be heard."""
    deciding: tuple[int, ...] = ()
    """Channels that carried it."""
    alive: int = 0
    lost: int = 0
    gated: bool = False
    """Yellow was held back for want of rain or of a second point."""
    text_zh: str = ""
    text_en: str = ""


def vote(latest: Sequence[Verdict | None], points: Sequence[SlopePoint], settings: VoteSettings, now_s: float,
         rain_mm: float = math.nan) -> SlopeVerdict:
    """Hear the points of one slope.

    Args:
        latest: last verdict of each point, None when there was none; same order as `points`.
        points: their settings.
        settings: of the slope.
        now_s: on the scale of the verdicts.
        rain_mm: of the site's window; NaN: not known, the gate stands open.
    """
    heard = [(k, v) for k, v in enumerate(latest)
             if v is not None and (now_s - v.t_s <= settings.stale_s or LEVELS.index(v.colour) >= YELLOW)]
    lost = len(points) - len(heard)
    if not heard:
        return SlopeVerdict(colour=Colour.UNKNOWN, lost=lost, text_zh="无有效测点", text_en="no point can be heard")
    steps = [k for k, v in heard if v.held is not Colour.NONE and now_s - v.t_s <= HELD_S]
    level = {k: max(LEVELS.index(v.colour), LEVELS.index(v.held) if len(steps) > 1 and k in steps else 0)
             for k, v in heard}
    broken = [k for k, v in heard if v.stage == "broken" and level[k]]
    moving = [k for k in level if k not in broken and not points[k].contact]
    needed = max(1, min(settings.votes, len(moving)))
    ranked = sorted((level[k] for k in moving), reverse=True)
    agreed = ranked[needed - 1] if ranked else 0
    alone = max(ranked[0] - 1, 0) if ranked and needed > 1 else 0
    best = max(agreed, alone)
    dry = settings.rain_gate_mm is not None and rain_mm < settings.rain_gate_mm
    gated = best == YELLOW and dry and sum(x >= YELLOW for x in ranked) < 2
    best = YELLOW - 1 if gated else best
    wires = max((level[k] for k in broken), default=0)
    deciding = tuple(k for k in level if best and k in moving and level[k] >= best) if best >= wires else ()
    deciding += tuple(k for k in broken if level[k] >= best)
    best = max(best, wires)
    told = [sentences(v, points[k]) for k, v in heard if k in deciding] or [
        sentences(v, points[k]) for k, v in heard][:1]
    rain_zh = "" if math.isnan(rain_mm) else f"；雨量 {rain_mm:.0f} mm"
    rain_en = "" if math.isnan(rain_mm) else f"; rain {rain_mm:.0f} mm"
    return SlopeVerdict(colour=LEVELS[best], deciding=deciding, alive=len(heard), lost=lost, gated=gated,
                        text_zh="；".join(zh for zh, _ in told) + rain_zh,
                        text_en="; ".join(en for _, en in told) + rain_en)


def sentences(v: Verdict, point: SlopePoint) -> tuple[str, str]:
    """Return what a verdict says in Chinese and English, with the numbers that decided."""
    stage_zh = STAGES_ZH[STAGES.index(v.stage)]
    if point.contact:
        zh, en = f"{point.name} 断线传感器{stage_zh}", f"{point.name}: the wire is {v.stage}"
    elif math.isnan(v.rate_per_d):
        zh, en = f"{point.name} 数据尚不足", f"{point.name}: not enough readings yet"
    else:
        window_zh, window_en = _span(v.window_s)
        zh = f"{point.name} {window_zh}位移 {v.moved:.3g} {point.unit}，速率 {v.rate_per_d:.3g} {point.unit}/d"
        en = f"{point.name}: {v.moved:.3g} {point.unit} in {window_en}, {v.rate_per_d:.3g} {point.unit}/d"
        if not v.counts:
            zh += (f"，未达有效位移 {v.counts_from:.3g} {point.unit}" if v.stage != "step" else
                   "，突变，请核查仪器与现场")
            en += (f", below the {v.counts_from:.3g} {point.unit} that count" if v.stage != "step" else
                   ", one sudden step: check instrument and slope")
        if not math.isnan(v.angle_deg):
            zh += f"，切线角 {v.angle_deg:.1f}°（匀速速率 {v.steady_rate_per_d:.3g} {point.unit}/d），{stage_zh}阶段"
            en += f", tangent angle {v.angle_deg:.1f}° (steady {v.steady_rate_per_d:.3g} {point.unit}/d), {v.stage}"
        if v.failure_s is not None:
            least, lead, most = ((x - v.t_s) for x in v.failure_s)
            zh += f"，预计 {_span(lead)[0]}后破坏（{_span(least)[0]}至{_span(most)[0]}）"
            en += f", failure in about {_span(lead)[1]} ({_span(least)[1]} to {_span(most)[1]})"
        elif v.refused in _REFUSED:
            zh += f"，不作破坏时间预测：{_REFUSED[v.refused][0]}"
            en += f", no forecast of failure: {_REFUSED[v.refused][1]}"
    if v.monitor_only:
        return zh + "（仅监测，未设阈值）", en + " (monitor only: no thresholds set)"
    level = LEVELS.index(v.colour)
    return (zh, en) if not level else (f"{zh}：{COLOURS_ZH[level]}", f"{en}: {COLOURS_EN[level]}")


def _span(seconds: float) -> tuple[str, str]:
    if seconds < 0:
        return "0 小时", "0 h"
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:.1f} 天", f"{seconds / 86400:.1f} d"
    return f"{seconds / 3600:.1f} 小时", f"{seconds / 3600:.1f} h"
