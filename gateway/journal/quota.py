"""What goes when the journal is full.

Owns: how much has to go, and the order in which streams are cut.
Promises: first goes what every platform has stored, then what each was sent, then data that somebody misses: thinned,
then aggregated, then dropped, the oldest first. Alarms and events have a quarter to themselves: data goes before them,
and events before alarms. Never: does I/O, deletes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from gateway.journal.cursors import Delivery
from gateway.journal.records import PAGE_BYTES, Stored
from gateway.journal.rows import Stream
from gateway.journal.state import Epoch, Extent

STEPS: tuple[Literal["thin", "aggregate", "drop"], ...] = ("thin", "aggregate", "drop")
"""What is done to data that somebody misses, the mildest first."""
SCARCE = 19 / 20
"""Share of the room beyond which there is no time for the milder steps."""


class Cut(Struct, frozen=True):
    """Rows that may go: from the oldest of a stream up to `last`."""

    stream: Stream
    last: int
    missed: bool
    """Whether a platform may still want them."""
    step: Literal["thin", "aggregate", "drop"] = "drop"


def rows_to_go(used_pages: int, cap_pages: int, coming: Sequence[Stored]) -> int:
    """How many rows must make room; a little more go than come, so that a lowered quota is reached in steps."""
    need = 4 + sum(1 + len(stored.row.body) // PAGE_BYTES for stored in coming)
    over = used_pages + need - cap_pages * 17 // 20
    return min(over + 8, need + 64) if over > 0 else 0


def cuts(streams: Mapping[Stream, Extent], epochs: Mapping[str, Epoch], cursors: Mapping[tuple[str, Stream], Delivery],
         platforms: Sequence[str], cap_pages: int, confirms: frozenset[str] = frozenset()) -> Iterator[Cut]:
    """Where to take rows from, first choice first; `streams` may shrink between one cut and the next.

    `confirms`: the platforms that confirm storage; of the others what was sent counts as stored.
    """

    def settled(stream: Stream, stored: bool = False) -> Cut:
        had = [(p, cursors.get((p, stream))) for p in platforms]
        lows = [0 if d is None else (d.stored if stored and p in confirms else d.sent).low for p, d in had]
        return Cut(stream, min([streams[stream].next - 1, *lows]), False)

    aged = sorted((s for s in streams if s[0] in epochs), key=lambda s: epochs[s[0]].number)
    data = [s for s in aged if s[1] == "data"]
    rest = [s for s in aged if s[1] != "data"]
    if confirms:
        yield from (settled(stream, stored=True) for stream in data)
    yield from map(settled, data)
    if sum(streams[s].bytes for s in rest) > cap_pages * PAGE_BYTES // 4:
        yield from map(settled, rest)
    for step in STEPS if platforms else ("drop",):
        for stream in data:
            yield Cut(stream, streams[stream].next - 1, True, step)
    yield from map(settled, rest)
    for lane in ("event", "alarm"):   # nothing else is left
        for stream in rest:
            if stream[1] == lane:
                yield Cut(stream, streams[stream].next - 1, True)
