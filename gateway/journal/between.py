"""Which rows may hold readings of a stretch of time.

Owns: the search. Promises: a few dozen rows of each epoch are looked at, whatever the file holds, each in a read
transaction of its own; no row that may hold a wanted reading is left out while the clock of a boot moved one way.
Never: decides what of a row is wanted.

Rows have no index by time, for it would cost flash with every commit. In one boot they ascend in monotonic time, so a
stretch of rows lies between the times of its two ends. *Limit:* where the clock was set away and back again within a
stretch whose ends lie elsewhere, the rows between, dated with the wrong time, are found only if the search comes by.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from gateway.journal.archive import Archive
from gateway.journal.lessened import BLOCK
from gateway.journal.records import Stored
from gateway.journal.rows import AGGREGATE, decode

Keys = tuple[int, int]
"""First and last primary key."""
SLACK_MS = 60_000
"""By so much rows may be out of order: wires meet in one queue, and merged readings stand in the last row of theirs."""
_LEAF = 128
"""Fewer rows than that are read instead of searched; two blocks at least."""


class Look(Struct, frozen=True):
    """One row that can be read, and when it was."""

    key: int
    boot: str
    low_ms: int
    high_ms: int
    """UTC."""


def between(archive: Archive, since_ms: int, until_ms: int) -> list[Keys]:
    """Stretches of data rows that may hold readings of since…until (UTC ms), in order of time.

    Raises:
        Unusable: a page of the file cannot be read.
    """
    found: list[tuple[int, list[Keys]]] = []
    for stream in archive.streams(("data",)):
        first, last = archive.span(stream)
        low, high = look(archive, first, last), look(archive, first, last, down=True)
        if low is None or high is None:
            continue
        if spans := _joined(_search(archive, low, high, since_ms - SLACK_MS, until_ms + SLACK_MS)):
            found.append((low.low_ms, spans))
    return [keys for _, spans in sorted(found) for keys in spans]


def newest_ms(archive: Archive) -> int | None:
    """UTC of the last reading that is committed: what is younger is not known yet."""
    for stream in reversed(archive.streams(("data",))):
        if (high := look(archive, *archive.span(stream), down=True)) is not None:
            return high.high_ms
    return None


def look(archive: Archive, first: int, last: int, *, down: bool = False) -> Look | None:
    """The first row with readings from one end; None when there is none."""
    for page in archive.rows(first, last, down=down, page=BLOCK):
        for key, stored in page:
            if stored is not None and (found := _seen(archive, key, stored)) is not None:
                return found
    return None


def _seen(archive: Archive, key: int, stored: Stored) -> Look | None:
    try:
        samples = decode(stored.row.body)
    except ValueError:
        return None
    if not len(samples):
        return None
    offset = archive.offset(stored.row)
    begin = samples["since_ms" if samples.dtype == AGGREGATE else "t_ms"]
    return Look(key, stored.row.door.boot, int(begin.min()) + offset, int(samples["t_ms"].max()) + offset)


def _search(archive: Archive, low: Look, high: Look, since_ms: int, until_ms: int) -> Iterator[Keys]:
    if low.boot == high.boot and (max(low.high_ms, high.high_ms) < since_ms or min(low.low_ms, high.low_ms) > until_ms):
        return
    if high.key - low.key < _LEAF:
        yield low.key, high.key
        return
    middle = (low.key + high.key) // 2 // BLOCK * BLOCK
    # Both are there: at worst they are the ends themselves.
    before, after = look(archive, low.key, middle - 1, down=True), look(archive, middle, high.key)
    yield from _search(archive, low, before or low, since_ms, until_ms)
    yield from _search(archive, after or high, high, since_ms, until_ms)


def _joined(spans: Iterator[Keys]) -> list[Keys]:
    """Neighbours as one, with whatever cannot be read between them."""
    out: list[Keys] = []
    for first, last in spans:
        if out and first - out[-1][1] <= _LEAF:
            out[-1] = out[-1][0], last
        else:
            out.append((first, last))
    return out
