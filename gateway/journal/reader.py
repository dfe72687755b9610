"""The journal as one platform sees it.

Owns: a reading connection, opened in the thread that uses it. Promises: shows committed rows only, in the order of
epochs and seqs; every read ends its transaction at once, so the write-ahead log can shrink; a damaged row is never
given out. Never: writes, blocks the writer.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from gateway.journal.committed import Committed
from gateway.journal.connection import look_into
from gateway.journal.cursors import Spans
from gateway.journal.deliveries import Receipt
from gateway.journal.disk import Disk, Suspect
from gateway.journal.ledger import Ledger
from gateway.journal.records import COLUMNS, in_order, key_of, lane_seq, row_of
from gateway.journal.rows import Stream
from gateway.journal.store import is_damage
from gateway.model import LANES, Inventory, Lane, Row

log = logging.getLogger(__name__)

_SPAN = f"SELECT {COLUMNS} FROM rows WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"  # noqa: S608
_TOTAL = "SELECT id, total, coalesce(nullif(was, 0), count) FROM rows WHERE id = ?"
_FETCH = 32


class Backlog(Struct, frozen=True):
    """What a platform has not settled."""

    rows: int
    records: int
    """Readings and events in those rows."""
    data_rows: int
    oldest: tuple[str, Lane, int] | None


class Reader:
    """One per platform and thread. Get it from `Journal.reader`."""

    def __init__(self, ledger: Ledger, disk: Disk, platform: str) -> None:
        self.platform = platform
        self._ledger, self._disk = ledger, disk
        self._connection: sqlite3.Connection | None = None
        self._generation = -1
        self._seen = -1

    def heads(self) -> dict[Stream, int]:
        """Last committed seq of every stream that has rows."""
        return {stream: extent.next - 1 for stream, extent in self._ledger.committed.streams.items()}

    def pending(self, lanes: Sequence[Lane] = LANES, *, after: Mapping[Stream, int] | None = None,
                until: Mapping[Stream, int] | None = None, max_bytes: int = 1 << 20, limit: int = 100) -> list[Row]:
        """Committed rows this platform has not settled: lane by lane as asked, then oldest epoch first, seq ascending.

        Args:
            lanes: which lanes, in which order.
            after: of these streams only rows above the given seq (what is in flight already).
            until: of these streams only rows up to the given seq (where backlog ends and live begins).
            max_bytes: stop when the bodies exceed this; at least one row is given.
            limit: at most this many rows.
        """
        self._seen = self._ledger.commits
        out = self._find(lanes, after or {}, until or {}, max_bytes, limit)
        if out:
            self._ledger.offer(self.platform, {(row.epoch, row.lane): row.seq for row in out})
        return out

    def _find(self, lanes: Sequence[Lane], after: Mapping[Stream, int], until: Mapping[Stream, int], room: int,
              limit: int) -> list[Row]:
        out: list[Row] = []
        committed = self._ledger.committed
        for lane in lanes:
            for stream in committed.aged(lane):
                extent = committed.streams[stream]
                first = max(committed.first(stream), after.get(stream, 0) + 1)
                last = min(extent.next - 1, until.get(stream, extent.next))
                for row in self._unsettled(stream, first, last, limit - len(out), room):
                    out.append(row)
                    room -= len(row.body)
                if len(out) >= limit or room <= 0:
                    return out
        return out

    def _unsettled(self, stream: Stream, first: int, last: int, limit: int, room: int) -> list[Row]:
        out: list[Row] = []
        for a, b in self._ledger.missing(self.platform, stream, first, last):
            at = a
            while at <= b and len(out) < limit and room > 0:
                most = min(_FETCH, limit - len(out))
                found = self._span(stream, at, b, most)
                if found is None:
                    return out
                self._tell_holes(stream, at, b if len(found) < most else found[-1][0], found)
                for seq, row in found:
                    at = seq + 1
                    if row is None:
                        self._ledger.rotten(stream, seq)
                    elif room > 0:
                        out.append(row)
                        room -= len(row.body)
                if len(found) < most:
                    break
            if len(out) >= limit or room <= 0:
                break
        return out

    def _tell_holes(self, stream: Stream, first: int, last: int, found: list[tuple[int, Row | None]]) -> None:
        """Rows below the head that are not in the file will never come: nobody must wait for them, or not know."""
        for seq, _ in [*found, (last + 1, None)]:
            if first < seq <= last + 1:
                self._ledger.absent(stream, first, seq - 1)
            first = max(first, seq + 1)

    def _span(self, stream: Stream, first: int, last: int, limit: int) -> list[tuple[int, Row | None]] | None:
        number = self._ledger.committed.ages.get(stream[0])
        if number is None:
            return None
        low, high = key_of(number, stream[1], first), key_of(number, stream[1], last)
        records = self._query(_SPAN, (low, high, limit))
        if records is None:
            return None
        if not in_order(records, low, high):
            self._suspect(_SPAN, (low, high, limit), "rows come in no order")   # nothing of such a tree is believed
            return None
        out: list[tuple[int, Row | None]] = []
        for record in records:
            stored = row_of(record)
            out.append((lane_seq(record[0])[2], stored.row if stored else None))
        return out

    def _query(self, query: str, values: tuple[int, ...]) -> list[Any] | None:
        generation = self._disk.generation
        try:
            if self._connection is None or self._generation != generation:
                self.close()
                path = self._disk.path
                if not path.exists():
                    return None
                self._connection = look_into(path, timeout=1.0, check_same_thread=False)
                self._connection.execute("PRAGMA query_only = ON")
                self._connection.execute("PRAGMA cache_size = -256")
                self._generation = generation
            # All rows at once: a cursor left half read would hold the write-ahead log.
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            log.warning("journal read failed platform=%s error=%s", self.platform, error)
            self.close()
            if is_damage(error):
                self._suspect(query, values, str(error))
            return None

    def _suspect(self, query: str, values: tuple[int, ...], error: str) -> None:
        self._disk.suspect = Suspect(query, values, error)  # the writer looks for itself
        self._ledger.nudge()

    def row(self, epoch: str, lane: Lane, seq: int) -> Row | None:
        """One committed row, settled or not; None when it is not kept (any more)."""
        found = self._span((epoch, lane), seq, seq, 1)
        return found[0][1] if found else None

    def wait(self, timeout_s: float) -> bool:
        """Sleep until something was committed since the last `pending`, or for `timeout_s`."""
        return self._ledger.wait_commit(self._seen, timeout_s)

    def settle(self, epoch: str, lane: Lane, seqs: Iterable[int]) -> None:
        """The platform was sent these rows."""
        self._ledger.settle(self.platform, (epoch, lane), seqs)

    def skip(self, epoch: str, lane: Lane, first: int, last: int) -> None:
        """The platform will not be sent rows first…last, and no receipt of them is waited for."""
        self._ledger.skip(self.platform, (epoch, lane), first, last)

    def stored(self, epoch: str, lane: Lane, up_to: int, ranges: Sequence[tuple[int, int]]) -> Receipt:
        """The platform's database holds the stream up to and including `up_to`, and the ranges above."""
        return self._ledger.stored(self.platform, (epoch, lane), up_to, ranges)

    def replay(self, epoch: str, lane: Lane, ranges: Sequence[tuple[int, int]]) -> tuple[Spans, Spans]:
        """Let rows be pending again; returns what will come and what is not kept. Seqs to be given yet are neither."""
        return self._ledger.replay(self.platform, (epoch, lane), ranges)

    def rewind(self) -> bool:
        """What was sent and not confirmed is pending again, if the platform confirms; whether there is any."""
        return self._ledger.rewind(self.platform)

    @property
    def confirms(self) -> bool:
        """Whether the platform has ever confirmed storage."""
        return self.platform in self._ledger.deliveries.confirms

    def offset(self, boot: str) -> tuple[int, float] | None:
        """Clock offset of a boot and its error in ms, once they are known."""
        return self._ledger.offset(boot)

    def inventory(self, n: int) -> Inventory | None:
        """The inventory a row names."""
        return self._ledger.inventory(n)

    def backlog(self) -> Backlog:
        """Count what is not settled; the number of Records is exact up to rows that were lost."""
        rows = records = data = 0
        oldest: tuple[str, Lane, int] | None = None
        committed = self._ledger.committed
        for lane in reversed(LANES):
            for stream in committed.aged(lane):
                extent = committed.streams[stream]
                for a, b in self._ledger.missing(self.platform, stream, committed.first(stream), extent.next - 1):
                    oldest = oldest or (stream[0], lane, a)
                    rows += b - a + 1
                    data += (b - a + 1) * (lane == "data")
                    records += self._between(committed, stream, a, b)
        return Backlog(rows, records, data, oldest)

    def _between(self, committed: Committed, stream: Stream, first: int, last: int) -> int:
        number, extent = committed.ages[stream[0]], committed.streams[stream]
        begin = self._query(_TOTAL, (key_of(number, stream[1], first),))
        end = [(0, extent.total, 0)]
        if last < extent.next - 1:
            end = self._query(_TOTAL, (key_of(number, stream[1], last),)) or []
        return int(end[0][1] - begin[0][1] + begin[0][2]) if begin and end else 0

    def close(self) -> None:
        """Close the reading connection; the next read opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
