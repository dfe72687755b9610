"""Readings and events in plain words, one after another.

Owns: which rows, readings and events a person asked for (`Wanted`), and the columns they are shown in. Promises: one
page of rows is in memory at a time; a reading carries everything needed to judge it: quality, reason, status, what its
clock was worth, and the identity of its row. Never: writes a file, hides a row it cannot read (it is counted).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from functools import cache
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from gateway.journal.archive import Archive, Unusable
from gateway.journal.rows import AGGREGATE, decode, decode_events
from gateway.model import LANES, REASONS, STATUSES, Flag, Inventory, InventoryPoint, Lane, Row, Samples

READING = ("utc", "local", "t_ms", "point", "name", "object", "value", "unit", "quality", "reason", "status", "epoch",
           "lane", "seq", "n", "boot", "trust", "thinned", "of", "since_utc", "min", "max", "mean", "readings")
"""Columns of a reading. `t_ms`: UTC. `n`: its place in the row. The last five: of what was thinned or aggregated."""
EVENT = ("utc", "local", "t_ms", "kind", "object", "point", "alarm", "colour", "was", "status", "who", "text_zh",
         "text_en", "why", "id", "epoch", "lane", "seq", "n", "boot", "trust")
QUALITY = {Flag.GOOD: "good", Flag.NOT_EVALUATED: "not_evaluated", Flag.SUSPECT: "suspect", Flag.FAIL: "fail",
           Flag.MISSING: "missing"}
_HOUR_QUARTER_MS = 900_000

Line = dict[str, Any]


class Wanted(Struct, frozen=True, kw_only=True):
    """What somebody asked for."""

    points: tuple[str, ...] = ()
    """Empty: all."""
    lanes: tuple[Lane, ...] = LANES
    since_ms: int = -(1 << 62)
    until_ms: int = 1 << 62
    """UTC ms, both included."""


class Words:
    """Turns rows of one archive into lines; counts what it cannot read."""

    def __init__(self, archive: Archive, wanted: Wanted, zone: tzinfo | None = None) -> None:
        """`zone` of the column `local`; None is this machine's.

        Raises:
            Unusable: no inventory knows a point of that name, or the archive is damaged.
        """
        self.archive, self.wanted = archive.whole(), wanted
        self.damaged = 0
        """Rows that are not what was written."""
        known = {p.point for i in archive.kept.inventories.values() for p in i.points}
        if unknown := [point for point in wanted.points if point not in known]:
            shown = ", ".join(sorted(known)[:40]) + (" …" if len(known) > 40 else "")
            raise Unusable(f"{archive.path}: no point {', '.join(unknown)}; there are {shown or 'none'}",
                           f"{archive.path}：没有测点 {', '.join(unknown)}；可用：{shown or '无'}")
        self._clock = Clock(zone)

    def readings(self) -> Iterator[Line]:
        """Readings as READING, oldest epoch first, in order of arrival."""
        for row in self._rows("data"):
            yield from self._readings(row)

    def events(self) -> Iterator[Line]:
        """Events as EVENT: alarm lane, then event lane of each epoch."""
        for lane in ("alarm", "event"):
            for row in self._rows(lane):
                yield from self._events(row)

    def _rows(self, lane: Any) -> Iterator[Row]:
        if lane not in self.wanted.lanes:
            return
        for stream in self.archive.streams((lane,)):
            for page in self.archive.rows(*self.archive.span(stream)):
                for _, stored in page:
                    if stored is None:
                        self.damaged += 1
                    else:
                        yield stored.row

    def _readings(self, row: Row) -> Iterator[Line]:
        try:
            samples = decode(row.body)
        except ValueError:
            self.damaged += 1
            return
        offset = self.archive.offset(row)
        utc = samples["t_ms"] + offset
        chosen = np.flatnonzero((utc >= self.wanted.since_ms) & (utc <= self.wanted.until_ms)
                                & self._asked(samples, row))
        if not len(chosen):
            return
        points = self._points(row.inventory)
        place = {"epoch": row.epoch, "lane": row.lane, "seq": row.seq}
        clock = {"boot": row.door.boot, "trust": self.archive.trust(row)}
        less = {"thinned": row.thinned, "of": row.of or None}
        for n, t, sample in zip(chosen.tolist(), utc[chosen].tolist(), samples[chosen].tolist(), strict=True):
            _, index, flag, reason, status, value, *more = sample
            known = points[index] if index < len(points) else _nameless(index)
            yield (self._clock.says(t) | _point(known, value) |
                   {"quality": QUALITY.get(flag, str(flag)), "reason": word(REASONS, reason),
                    "status": word(STATUSES, status)} | place | {"n": n} | clock | less |
                   (_merged(more, offset, self._clock) if samples.dtype == AGGREGATE else _SINGLE))

    def _asked(self, samples: Samples, row: Row) -> Any:
        if not self.wanted.points:
            return np.True_
        names = {point: n for n, point in enumerate(p.point for p in self._points(row.inventory))}
        return np.isin(samples["point"], [names[p] for p in self.wanted.points if p in names])

    def _points(self, n: int) -> tuple[InventoryPoint, ...]:
        return self.archive.kept.inventories.get(n, Inventory(n, ())).points

    def _events(self, row: Row) -> Iterator[Line]:
        try:
            events = decode_events(row.body)
        except ValueError:
            self.damaged += 1
            return
        offset, trust = self.archive.offset(row), self.archive.trust(row)
        for n, event in enumerate(events):
            t = event.t_ms + offset
            if not self.wanted.since_ms <= t <= self.wanted.until_ms or (
                    self.wanted.points and event.point not in self.wanted.points):
                continue
            yield self._clock.says(t) | {
                "kind": event.kind, "object": event.object, "point": event.point, "alarm": event.alarm,
                "colour": event.colour and event.colour.value, "was": event.was and event.was.value,
                "status": event.status, "who": event.who, "text_zh": event.text_zh, "text_en": event.text_en,
                "why": msgspec.json.encode(event.why).decode() if event.why else "", "id": event.id,
                "epoch": row.epoch, "lane": row.lane, "seq": row.seq, "n": n, "boot": row.door.boot, "trust": trust}


_SINGLE: Line = dict.fromkeys(("since_utc", "min", "max", "mean", "readings"))


def _merged(more: list[Any], offset: int, clock: Clock) -> Line:
    since, low, high, mean, n = more
    return {"since_utc": clock.utc(since + offset), "min": _real(low), "max": _real(high), "mean": _real(mean),
            "readings": n}


def _point(known: InventoryPoint, value: float) -> Line:
    return {"point": known.point, "name": known.name, "object": known.object, "value": _real(value), "unit": known.unit}


def _nameless(index: int) -> InventoryPoint:
    """A reading whose inventory is gone keeps its place in it."""
    return InventoryPoint(point=f"#{index}", name="", object="", unit="", resolution=0, poll_s=0, report_every_s=0)


def _real(value: float) -> float | None:
    return value if value == value else None   # NaN is "no value"


def word(words: tuple[Any, ...], at: int) -> str:
    """The word at a place; of a newer program's its number."""
    return str(words[at]) if at < len(words) else f"#{at}"


class Clock:
    """UTC ms → ISO 8601 in UTC and in one zone, whose offset is looked up once a quarter of an hour."""

    def __init__(self, zone: tzinfo | None) -> None:
        self._zone = zone
        self._ahead = cache(self._ahead_of)

    def utc(self, t_ms: int) -> str:
        """2026-01-31T08:00:00.125Z; beyond the calendar, the number of ms."""
        try:
            return datetime.fromtimestamp(t_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{t_ms % 1000:03d}Z"
        except (ValueError, OverflowError, OSError):
            return str(t_ms)

    def says(self, t_ms: int) -> Line:
        """The columns utc, local and t_ms."""
        ahead_ms, suffix = self._ahead(t_ms // _HOUR_QUARTER_MS)
        return {"utc": self.utc(t_ms), "local": self.utc(t_ms + ahead_ms).removesuffix("Z") + suffix, "t_ms": t_ms}

    def _ahead_of(self, quarter: int) -> tuple[int, str]:
        try:
            there = datetime.fromtimestamp(quarter * _HOUR_QUARTER_MS // 1000, UTC).astimezone(self._zone)
        except (ValueError, OverflowError, OSError):
            return 0, "Z"
        ahead = there.utcoffset()
        return (round(ahead.total_seconds() * 1000) if ahead else 0), there.strftime("%z")
