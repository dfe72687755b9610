"""Readings of some points between two times, from what is committed.

Owns: the answer to "these points, from then to then, at most so many values each". Promises: a reading is dated as
well as is known today; what differs in unit or status is a series of its own, so that no drill and no change of unit
bends a line; a stretch without readings is told as a gap, never bridged; thinned and aggregated rows count with what
they stand for. Reads in pages of some milliseconds each, from a running box too. Never: writes, guesses a value.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import Struct

from gateway.journal.archive import Archive, Unusable
from gateway.journal.between import between, newest_ms
from gateway.journal.readings import QUALITY, word
from gateway.journal.rows import AGGREGATE, decode
from gateway.journal.series import GAP, ITEM, Lines, items
from gateway.journal.thin import ONE_IN, intervals_ms
from gateway.model import REASONS, STATUSES, InventoryPoint, Row, Samples


class Asked(Struct, frozen=True, kw_only=True):
    """What somebody wants to see."""

    points: tuple[str, ...] = ()
    """Empty: all."""
    since_ms: int
    until_ms: int
    """UTC ms, both included. What was aggregated is of the range when any of it is."""
    most: int = 1000
    """Values a series; where there are more readings, buckets of equal length."""


class Series(Struct, frozen=True, kw_only=True):
    """One line of a chart. The last nine are columns, a place for each value, in order of time."""

    point: str
    name: str
    object: str
    unit: str
    status: str
    """Actual, Exercise or Test."""
    readings: int
    """In the range, those without a usable value too."""
    bad: int
    """Of them without one: missing or failed."""
    bucket_ms: int | None
    """None: each value is one that the journal holds."""
    gaps: list[tuple[int, int]]
    """Without any reading though one was due: last before, first after, UTC ms."""
    t_ms: list[int]
    """UTC of the last reading that a value stands for."""
    since_ms: list[int]
    """UTC of the first."""
    mean: list[float | None]
    """None where no reading may be used."""
    min: list[float | None]
    max: list[float | None]
    n: list[int]
    """Readings that may be used."""
    unusable: list[int]
    quality: list[str]
    """The worst."""
    reason: list[str]
    """Of it."""


class History(Struct, frozen=True, kw_only=True):
    """The answer."""

    since_ms: int
    until_ms: int
    as_of_ms: int | None
    """UTC of the last committed reading of any point; what is younger is not known yet."""
    undated: int
    """Readings of a boot whose clock was never set: their time is a guess."""
    unreadable: int
    """Rows met on the way that are not what was written."""
    series: list[Series]


def history(archive: Archive, asked: Asked) -> History:
    """Read it.

    Raises:
        Unusable: no such point, a range that ends before it begins, the file cannot be read.
    """
    if asked.until_ms < asked.since_ms or asked.most < 1:
        raise Unusable("the end lies before the beginning, or no value is asked for: expected --since before --until "
                       "and --max of at least 1",
                       "结束早于开始，或取值数为零：--since 应早于 --until，--max 至少为 1")
    return _Reading(archive.whole(), asked).answer()


class _Names:
    """Series by (point, unit) and status, and where a row's inventory has them."""

    def __init__(self, archive: Archive, asked: Asked) -> None:
        self.known: dict[tuple[str, str], InventoryPoint] = {}
        """The newest words for it last."""
        self.every: dict[tuple[str, str], int] = {}
        inventories = archive.kept.inventories
        aged = _aged(archive)
        known = list(dict.fromkeys(p.point for n in reversed(aged) for p in inventories[n].points))
        wanted = {point: n for n, point in enumerate(asked.points or known)}
        if unknown := set(wanted).difference(known):
            _refuse(archive, min(unknown), known)
        self.inventories: dict[int, tuple[Samples, Samples]] = {}
        for n in aged:
            for point, every in zip(inventories[n].points, intervals_ms(inventories[n]).tolist(), strict=False):
                if point.point in wanted:
                    self.known.pop((point.point, point.unit), None)
                    self.known[point.point, point.unit], self.every[point.point, point.unit] = point, every
        self.keys = sorted(self.known, key=lambda key: wanted[key[0]])
        places = {key: len(STATUSES) * n for n, key in enumerate(self.keys)}
        for n, inventory in inventories.items():
            series = [places.get((p.point, p.unit), -1) for p in inventory.points]
            self.inventories[n] = np.array([*series, -1], np.int64), intervals_ms(inventory)

    def place(self, inventory: int, samples: Samples) -> tuple[Samples, Samples]:
        """Series of each sample, negative where nobody asked, and the interval of its point."""
        series, every_ms = self.inventories[inventory]
        found = series[np.minimum(samples["point"], len(series) - 1)]
        return (np.where(found < 0, -1, found + np.minimum(samples["status"], len(STATUSES) - 1)),
                every_ms[np.minimum(samples["point"], len(every_ms) - 1)])


def _aged(archive: Archive) -> list[int]:
    """Inventories, that which the newest rows name last."""
    named = [n for stream in archive.streams(("data",)) for n, _ in archive.kept.streams[stream].inventories]
    order = {n: place for place, n in enumerate(named)}
    return sorted(archive.kept.inventories, key=lambda n: order.get(n, -1))


def _refuse(archive: Archive, point: str, known: list[str]) -> None:
    near = difflib.get_close_matches(point, known, 5, 0.5) or [p for p in known if point.lower() in p.lower()][:5]
    some = ", ".join(near or known[:20]) + (" …" if not near and len(known) > 20 else "")
    raise Unusable(f"{archive.path}: no point {point}; " + ("did you mean " if near else "there are ")
                   + f"{some or 'none'}",
                   f"{archive.path}：没有测点 {point}；" + ("相近的有：" if near else "可用：") + f"{some or '无'}")


class _Reading:
    """One answer in the making."""

    def __init__(self, archive: Archive, asked: Asked) -> None:
        self._archive, self._asked = archive, asked
        self._names = _Names(archive, asked)
        self._lines = Lines(len(STATUSES) * len(self._names.keys), asked.since_ms, asked.until_ms, asked.most)
        # A row that had nothing to give is not marked as thinned, but its neighbours are gone.
        self._thinned = {epoch: extent.thinned for (epoch, lane), extent in archive.kept.streams.items()
                         if lane == "data"}
        self._undated = self._unreadable = 0

    def answer(self) -> History:
        asked, as_of = self._asked, newest_ms(self._archive)
        for first, last in between(self._archive, asked.since_ms, asked.until_ms):
            for page in self._archive.rows(first, last):
                self._take([stored.row for _, stored in page if stored is not None])
                self._unreadable += sum(stored is None for _, stored in page)
        values = self._lines.values()
        return History(
            since_ms=asked.since_ms, until_ms=asked.until_ms, as_of_ms=as_of, undated=self._undated,
            unreadable=self._unreadable,
            series=[self._series(n, values.get(n), as_of) for n in self._shown(values)])

    def _take(self, rows: list[Row]) -> None:
        """A page of rows, those of one shape together: numpy costs by the call."""
        alike: dict[Any, list[tuple[Row, Samples]]] = {}
        for row in rows:
            try:
                samples = decode(row.body)
            except ValueError:
                self._unreadable += 1
                continue
            if row.inventory in self._names.inventories:
                alike.setdefault((samples.dtype, row.inventory), []).append((row, samples))
            else:
                self._unreadable += 1
        for (_, inventory), found in alike.items():
            self._add(inventory, [row for row, _ in found], [samples for _, samples in found])

    def _add(self, inventory: int, rows: list[Row], parts: list[Samples]) -> None:
        def each(values: list[int]) -> Samples:
            return np.repeat(np.array(values, np.int64), [len(samples) for samples in parts])

        samples = np.empty(sum(map(len, parts)), parts[0].dtype)   # concatenate would compare all the names first
        ends = np.cumsum([len(part) for part in parts]).tolist()
        for end, part in zip(ends, parts, strict=True):
            samples[end - len(part):end] = part
        series, every_ms = self._names.place(inventory, samples)
        offset_ms = each([self._archive.offset(row) for row in rows])
        begin = samples["since_ms" if samples.dtype == AGGREGATE else "t_ms"]
        wanted = np.flatnonzero((series >= 0) & (samples["t_ms"] + offset_ms >= self._asked.since_ms)
                                & (begin + offset_ms <= self._asked.until_ms))
        less = each([ONE_IN if row.thinned or row.seq <= self._thinned[row.epoch] else 1 for row in rows])
        unset = each([self._archive.trust(row) == "unset" for row in rows])
        found = items(samples.take(wanted), series[wanted], (every_ms * less)[wanted], offset_ms[wanted])
        self._undated += int((found["n"] + found["bad"])[unset[wanted] > 0].sum())
        self._lines.add(found)

    def _shown(self, values: Mapping[int, Any]) -> list[int]:
        """Series with readings; of a point without any its newest, empty."""
        out = list(values)
        have = {self._names.keys[n // len(STATUSES)][0] for n in values}
        last = {point: len(STATUSES) * n for n, (point, _) in enumerate(self._names.keys)}
        return sorted([*out, *(n for point, n in last.items() if point not in have)])

    def _gaps(self, n: int, found: Samples, as_of_ms: int | None) -> list[tuple[int, int]]:
        """Between readings, and before the first and after the last, as far as there may be any yet."""
        since, until = self._asked.since_ms, min(self._asked.until_ms, as_of_ms or self._asked.since_ms)
        out, every = list(self._lines.gaps(n)), self._names.every[self._names.keys[n // len(STATUSES)]]
        first, last = (int(found["since_ms"][0]), int(found["t_ms"][-1])) if len(found) else (until, until)
        if first - since > GAP * every:
            out.insert(0, (since, first))
        if until - last > GAP * every:
            out.append((last, until))
        return sorted(out)

    def _series(self, n: int, values: Samples | None, as_of_ms: int | None) -> Series:
        found = np.empty(0, ITEM) if values is None else values
        point = self._names.known[self._names.keys[n // len(STATUSES)]]
        flags, reasons = found["worst"] >> 8, found["worst"] & 255
        return Series(
            point=point.point, name=point.name, object=point.object, unit=point.unit,
            status=STATUSES[n % len(STATUSES)],
            readings=int(self._lines.readings[n]), bad=int(self._lines.bad[n]),
            bucket_ms=self._lines.bucket_ms if self._lines.folded[n] else None,
            gaps=self._gaps(n, found, as_of_ms),
            t_ms=found["t_ms"].tolist(), since_ms=found["since_ms"].tolist(), mean=_reals(found["mean"]),
            min=_reals(found["min"]), max=_reals(found["max"]), n=found["n"].tolist(), unusable=found["bad"].tolist(),
            quality=[QUALITY.get(flag, str(flag)) for flag in flags.tolist()],
            reason=[word(REASONS, reason) for reason in reasons.tolist()])


def _reals(column: Samples) -> list[float | None]:
    return [value if value == value else None for value in column.tolist()]   # NaN is "no value"
