"""Levels that hold from a day of the year on, and what a command may raise for a while.

Owns: the calendar and the standing order. Promises: without a trusted date the strictest period holds; an order ends
at its time, with or without a network; it only raises, and never to the first level with a colour. Never: reads a
clock.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class Period(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From a day of the year on, a limit level; until the next period, the last one over the new year."""

    begins: Annotated[str, Meta(pattern=r"^(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$", description="MM-DD")]
    level_m: float


class Order(Struct, frozen=True, kw_only=True):
    """A raised flood-limit level: who ordered it, until when."""

    id: str
    who: str
    level_m: float
    until_s: float


def month_day(utc_s: float, utc_offset_s: float) -> str:
    """Local month and day as MM-DD (days to civil: Hinnant 2014, "chrono-compatible low-level date algorithms")."""
    days = int((utc_s + utc_offset_s) // 86400) + 719468
    of_era = days % 146097
    year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    day = of_year - (153 * month + 2) // 5 + 1
    return f"{month + 3 if month < 10 else month - 9:02d}-{day:02d}"


def limit_m(periods: tuple[Period, ...], date: str | None) -> float | None:
    """The level that holds on `date` (MM-DD); the lowest of all when the date is unknown; None: there are none."""
    if not periods:
        return None
    if date is None:
        return min(p.level_m for p in periods)
    begun = [p for p in periods if p.begins <= date]
    return max(begun or periods, key=lambda p: p.begins).level_m
