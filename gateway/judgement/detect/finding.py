"""A finding: one thing the physics of a site say now, with the numbers that decided and a sentence for people.

Owns: the shape of what every hazard's verdict is made of, and how times to go are worded.
Promises: plain frozen data; a finding always says its sentence in Chinese and in English.
Never: decides, keeps state, calls anybody: whom to tell is a proposal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct

from gateway.model import LEVELS, Colour

Whom = Literal["county", "officer", "gas_company"]
Warned = Literal["blue", "yellow", "orange", "red"]
"""A colour a site's table may give."""
WORDS_ZH: Mapping[Colour, str] = {Colour.NONE: "无", Colour.BLUE: "蓝色", Colour.YELLOW: "黄色",
                                  Colour.ORANGE: "橙色", Colour.RED: "红色", Colour.UNKNOWN: "未知"}


class Finding(Struct, frozen=True, kw_only=True):
    """What was found."""

    kind: str
    """A dotted word of the hazard: ``reservoir.crest``, ``gas.low``, ``rain.evacuate``."""
    colour: Colour = Colour.NONE
    """NONE: a hint or a message; it warns nobody of danger."""
    tell: tuple[Whom, ...] = ()
    siren: bool = False
    """Whether the site lets this finding ask for a siren; the rule of authority stands behind it."""
    channel: int = 0
    """Of a detector with several channels: which."""
    value: float | None = None
    """What decided; None when there is no number (off the scale)."""
    limit: float | None = None
    unit: str = ""
    facts: Mapping[str, float] = {}
    """Everything else that decided, units in the names."""
    text_zh: str
    text_en: str


def worst(findings: Iterable[Finding]) -> Colour:
    """Return the highest colour among the findings; NONE when there is none."""
    return LEVELS[max((LEVELS.index(f.colour) for f in findings), default=0)]


def in_words(seconds: float) -> tuple[str, str]:
    """A time to go as people say it, in Chinese and English: 12000 → 3 小时 20 分, 3 h 20 min."""
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    if not hours:
        return f"{rest} 分钟", f"{rest} min"
    if hours >= 48:
        return f"{hours / 24:.1f} 天", f"{hours / 24:.1f} d"
    return f"{hours} 小时 {rest} 分", f"{hours} h {rest} min"
