"""What goes when the journal is full.

Owns: how the room is shared between the lanes, and the order in which rows go.
Promises: first goes what every platform has stored, then what each was sent, then data that somebody misses: thinned,
then aggregated, then dropped, the oldest first. A quarter is kept for alarms and events, half of that for alarms alone:
data never fills it, and events never fill the alarms' part. Never: does I/O, deletes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from gateway.journal.cursors import Cursor, Delivery, Spans
from gateway.journal.records import PAGE_BYTES, Stored
from gateway.journal.rows import Stream
from gateway.journal.state import Epoch, Extent
from gateway.model import Lane

STEPS: tuple[Literal["thin", "aggregate", "drop"], ...] = ("thin", "aggregate", "drop")
"""What is done to data that somebody misses, the mildest first."""
_SPANS = 64
"""Of rows that nobody misses, so many separate spans of a stream are looked at in one group."""
_HELD_LOGS = 8
"""A log that is held back may grow to so many times its share before data waits: it is worked off in one go."""
_ROW_BYTES = 100
"""What SQLite and the columns beside the body take of a row."""

Had = Mapping[tuple[str, Stream], Delivery]
"""Who has had what, as one moment had it."""


class Shares(Struct, frozen=True):
    """How `max_bytes` is divided, in pages."""

    cap: int
    """Of the database itself."""
    log: int
    """Of the write-ahead log when it is worked off."""
    group: int
    """What one commit group may add to it."""


def shares(max_bytes: int) -> Shares:
    """The database, its log, and one group more always stay below `max_bytes` together."""
    total = max_bytes // PAGE_BYTES
    log, group = max(24, min(256, total // 10)), max(24, min(128, total // 10))
    return Shares(max(64, total - log - group), log, group)


class Room(Struct):
    """Pages in use, of the data lane and of the others, and what may be."""

    shares: Shares
    data: int
    events: int
    alarms: int
    held: int = 0
    """Pages of a log that somebody's reading keeps from being worked off: no trimming makes room there."""

    def _limits(self, lane: Lane) -> Iterator[tuple[int, int]]:
        """(in use, may be) for each share that a row of `lane` counts against."""
        cap = self.shares.cap
        if lane == "data":
            yield self.data, cap * 6 // 8
        if lane != "alarm":
            yield self.data + self.events, cap * 7 // 8
        yield self.data + self.events + self.alarms, cap

    def over(self, coming: Mapping[Lane, int]) -> int:
        """How many pages should go before `coming` pages a lane are written: one group's worth stays free."""
        data, both = coming.get("data", 0), coming.get("data", 0) + coming.get("event", 0)
        more: dict[Lane, int] = {"data": data, "event": both, "alarm": both + coming.get("alarm", 0)}
        tightest = {lane: next(self._limits(lane)) for lane in more}
        return max(used + more[lane] + self.shares.group - most for lane, (used, most) in tightest.items())

    def fits(self, lane: Lane, pages: int) -> bool:
        """Whether a row of `lane` may be written."""
        if lane == "data" and self.held > _HELD_LOGS * self.shares.log:
            return False
        return all(used + pages + self.held <= most for used, most in self._limits(lane))

    def take(self, lane: Lane, pages: int) -> None:
        """Count a row."""
        if lane == "data":
            self.data += pages
        elif lane == "event":
            self.events += pages
        else:
            self.alarms += pages


def pages_of(row: Stored) -> int:
    """What a row takes at most."""
    return 1 + len(row.row.body) // (PAGE_BYTES - _ROW_BYTES)


def room(used_pages: int, streams: Mapping[Stream, Extent], given: Shares, held: int = 0) -> Room:
    """What is in use: measured as a whole, and estimated for the small lanes."""
    lanes = {"event": 0, "alarm": 0}
    for (_, lane), extent in streams.items():
        if lane in lanes:
            lanes[lane] += extent.bytes + _ROW_BYTES * extent.rows
    events, alarms = lanes["event"] // PAGE_BYTES, lanes["alarm"] // PAGE_BYTES
    return Room(given, max(0, used_pages - events - alarms), events, alarms, held)


class Cut(Struct, frozen=True):
    """Rows that may go: first … last of a stream."""

    stream: Stream
    first: int
    last: int
    missed: bool
    """Whether a platform may still want them."""
    step: Literal["thin", "aggregate", "drop"] = "drop"


def _settled(had: Iterable[Cursor], first: int, last: int, turn: int) -> Spans:
    """What of first … last nobody waits for; of very many spans some, others the next time."""
    spans: Spans = [(first, last)] if first <= last else []
    for cursor in had:
        spans = [part for a, b in spans for part in cursor.within(a, b)]
    if len(spans) > _SPANS:
        at = turn * _SPANS % len(spans)
        spans = [spans[0], *(spans[1:] * 2)[at:at + _SPANS - 1]]
    return spans


def cuts(streams: Mapping[Stream, Extent], epochs: Mapping[str, Epoch], had: Had, platforms: Sequence[str],
         confirms: frozenset[str], cap_pages: int, turn: int = 0) -> Iterator[Cut]:
    """Where to take rows from, first choice first; `streams` may shrink between one cut and the next.

    `confirms`: the platforms that confirm storage; of the others what was sent counts as stored. `turn` ascends.
    """
    def settled(stream: Stream, stored: bool = False) -> Iterator[Cut]:
        mine = [(p, had.get((p, stream)) or Delivery()) for p in platforms]
        cursors = [d.stored if stored and p in confirms else d.sent for p, d in mine]
        extent = streams[stream]
        for first, last in _settled(cursors, extent.oldest, extent.next - 1, turn):
            yield Cut(stream, first, last, False)

    def missed(stream: Stream, step: Literal["thin", "aggregate", "drop"] = "drop") -> Cut:
        return Cut(stream, streams[stream].oldest, streams[stream].next - 1, bool(platforms), step)

    aged = sorted((s for s in streams if s[0] in epochs and streams[s].rows), key=lambda s: epochs[s[0]].number)
    data = [s for s in aged if s[1] == "data"]
    rest = [s for s in aged if s[1] != "data"]
    for stream in data if confirms else ():
        yield from settled(stream, stored=True)
    for stream in data:
        yield from settled(stream)
    if sum(streams[s].bytes for s in rest) > cap_pages * PAGE_BYTES // 4:
        for stream in rest:
            yield from settled(stream)
    for step in STEPS if platforms else ():
        yield from (missed(stream, step) for stream in data)
    for stream in rest:
        yield from settled(stream)
    for lane in ("event", "alarm"):   # nothing else is left
        yield from (missed(stream) for stream in rest if stream[1] == lane)
