"""Climatology: what a season and a time of day allow.

Owns: QARTOD test 5, and how a moment is named (month, hour, week …). Promises: pure; both ends of every span belong to
it; a span whose first is after its last goes round the turn of the year or day. Never: reads a clock: the caller says
what time it is, in the site's own time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from gateway.judgement.qartod.flags import FAIL, GOOD, MISSING, SUSPECT, UNTESTED, Array, fresh
from gateway.judgement.qartod.ranges import Span

Period = Literal["time_s", "year", "quarter", "month", "week", "day_of_year", "weekday", "hour"]
DAY_S = 86400.0


class When(NamedTuple):
    """One condition on the time: `first` to `last` of a period, both included."""

    period: Period
    first: float
    last: float


class Season(NamedTuple):
    """What is believed while all of `when` hold."""

    when: tuple[When, ...]
    suspect: Span
    fail: Span | None = None
    depth: Span | None = None
    """Only for readings of these depths; without it only for readings that have none."""


def calendar(local_s: Array, period: Period) -> Array:
    """Return the number of the year, quarter (1-4), month (1-12), ISO week (1-53), day of the year (from 1), weekday
    (Monday 0) or hour (with its fraction) of each moment.

    Args:
        local_s: seconds since 1970-01-01 00:00 in the site's own time.
        period: which.
    """  # noqa: D205
    if period == "time_s":
        return local_s
    if period == "hour":
        hours: Array = np.mod(local_s, DAY_S) / 3600.0
        return hours
    days = np.floor(local_s / DAY_S).astype(np.int64)
    if period == "weekday":
        return np.asarray((days + 3) % 7)  # 1970-01-01 was a Thursday
    if period == "week":
        days = days - (days + 3) % 7 + 3  # the week belongs to the year of its Thursday
    dates = days.astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    years = dates.astype("datetime64[Y]")
    if period == "year":
        return np.asarray(years.astype(np.int64) + 1970)
    if period == "month":
        return np.asarray(months.astype(np.int64) % 12 + 1)
    if period == "quarter":
        return np.asarray(months.astype(np.int64) % 12 // 3 + 1)
    of_year = (dates - years.astype("datetime64[D]")).astype(np.int64)
    return np.asarray(of_year // 7 + 1 if period == "week" else of_year + 1)


def holds(when: When, local_s: Array) -> Array:
    """Return at which of the moments a condition holds (bool)."""
    now = calendar(local_s, when.period)
    if when.first <= when.last:
        return np.asarray((now >= when.first) & (now <= when.last))
    return np.asarray((now >= when.first) | (now <= when.last))


def climatology(v: Array, local_s: Array, seasons: Sequence[Season], depth: Array | None = None) -> Array:
    """Flag what its season does not know; not evaluated (2) where no season is meant.

    Args:
        v: values, float64, NaN where missing.
        local_s: their times, seconds since 1970-01-01 00:00 in the site's own time.
        seasons: of several that are meant for a reading the last one counts.
        depth: their depths, NaN = none; None = none at all.

    Returns:
        Flags, uint8, of the shape of `v`.
    """
    flags = fresh(v, UNTESTED)
    depth = np.full(v.shape, np.nan) if depth is None else depth
    for season in seasons:
        meant = np.isnan(depth) if season.depth is None else (
            (depth >= min(season.depth)) & (depth <= max(season.depth)))
        for when in season.when:
            meant &= holds(when, local_s)
        found = np.full(v.shape, GOOD, np.uint8)
        found[(v < min(season.suspect)) | (v > max(season.suspect))] = SUSPECT
        if season.fail is not None:
            found[(v < min(season.fail)) | (v > max(season.fail))] = FAIL
        flags[meant] = found[meant]
    flags[np.isnan(v)] = MISSING
    return flags
