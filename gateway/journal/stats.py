"""What a journal holds, in figures.

Owns: the figures of `mingluo journal stats`. Promises: rows and records are counted, not remembered; a time is the best
that is known and says when its clock was not set. Never: decodes more than the two ends of a stream, changes the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from gateway.journal.archive import Archive, told
from gateway.journal.cursors import Cursor
from gateway.journal.records import Stored
from gateway.journal.rows import Stream, decode, decode_events
from gateway.model import LANES, Lane

_SCAN = ("SELECT max(id), count(*), sum(count), sum(length(body)) FROM"
         " (SELECT id, count, body FROM rows WHERE id > ? AND id <= ? ORDER BY id LIMIT 512)")


class Lanes(Struct, frozen=True, kw_only=True):
    """One lane of all epochs."""

    lane: Lane
    rows: int
    records: int
    bytes: int
    """Of bodies."""
    oldest_ms: int | None
    newest_ms: int | None
    """UTC, as far as it is known."""
    trusted: bool
    """Whether the clock of both was set."""


class Mark(Struct, frozen=True, kw_only=True):
    """What one platform has had of one lane, all epochs together."""

    platform: str
    lane: Lane
    sent: int
    stored: int
    waiting: int
    """Rows held that it was not sent."""


class Stats(Struct, frozen=True, kw_only=True):
    """What a file holds."""

    path: str
    schema: int
    gateway: str
    file_bytes: int
    epochs: list[dict[str, Any]]
    lanes: list[Lanes]
    platforms: list[Mark]
    gaps: list[dict[str, Any]]
    """Known and not told in an event yet."""
    reading_bytes: float | None
    """Of the file, for each reading held."""


def stats(archive: Archive) -> Stats:
    """Reckon. Reads the head of every row.

    Raises:
        Unusable: the file cannot be read.
    """
    kept = archive.whole().kept
    lanes = [_lane(archive, lane) for lane in LANES]
    readings = lanes[LANES.index("data")].records
    size = archive.file_bytes()
    return Stats(
        path=str(archive.path), schema=archive.schema, gateway=kept.state.gateway, file_bytes=size,
        epochs=[{"epoch": name, "number": epoch.number, "reason": epoch.reason,
                 "current": name == kept.state.epoch,
                 "lanes": {lane: {"oldest_seq": e.oldest, "next_seq": e.next, "rows": e.rows}
                           for lane in LANES if (e := kept.streams.get((name, lane))) is not None}}
                for name, epoch in sorted(kept.epochs.items(), key=lambda item: item[1].number)],
        lanes=lanes, platforms=_marks(archive),
        gaps=[{"epoch": g.epoch, "lane": g.lane, "from": g.first, "to": g.last, "count": g.count, "reason": g.reason,
               "platforms": list(g.platforms)} for g in kept.state.gaps],
        reading_bytes=size / readings if readings else None)


def _lane(archive: Archive, lane: Lane) -> Lanes:
    rows = records = size = 0
    ends: list[tuple[int, str]] = []
    for stream in archive.streams((lane,)):
        first, last = archive.span(stream)
        before = rows
        at = first
        while True:
            with told(archive.path):
                found = archive.connection.execute(_SCAN, (at, last)).fetchone()
            if not found[1]:
                break
            at, rows, records, size = found[0], rows + found[1], records + (found[2] or 0), size + (found[3] or 0)
        if rows > before:
            ends += _ends(archive, stream)
    times = [t for t, _ in ends]
    return Lanes(lane=lane, rows=rows, records=records, bytes=size, oldest_ms=min(times, default=None),
                 newest_ms=max(times, default=None), trusted=all(trust != "unset" for _, trust in ends))


def _ends(archive: Archive, stream: Stream) -> Iterator[tuple[int, str]]:
    """UTC ms and trust of the first and the last record that can be read."""
    for down in (False, True):
        for page in archive.rows(*archive.span(stream), down=down, page=32):
            times = [(t, archive.trust(stored.row)) for _, stored in page if stored is not None
                     for t in _times(archive, stored)]
            if times:
                yield max(times) if down else min(times)
                break


def _times(archive: Archive, stored: Stored) -> list[int]:
    row = stored.row
    try:
        times = ([int(t) for t in decode(row.body)["t_ms"]] if row.lane == "data"
                 else [e.t_ms for e in decode_events(row.body)])
    except ValueError:
        return []
    return [t + archive.offset(row) for t in (min(times), max(times))] if times else []


def _marks(archive: Archive) -> list[Mark]:
    kept, out = archive.kept, []
    for platform in sorted({name for name, _ in kept.cursors}):
        for lane in LANES:
            sent = stored = waiting = 0
            for stream in archive.streams((lane,)):
                extent, had = kept.streams[stream], kept.cursors.get((platform, stream))
                settled = had.sent if had is not None else Cursor()
                sent += _had(settled)
                stored += _had(had.stored) if had is not None else 0
                waiting += settled.lacking(extent.oldest, extent.next - 1) if extent.rows else 0
            out.append(Mark(platform=platform, lane=lane, sent=sent, stored=stored, waiting=waiting))
    return out


def _had(cursor: Cursor) -> int:
    return sum(last - first + 1 for first, last in cursor.spans())
