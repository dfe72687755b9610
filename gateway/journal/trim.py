"""Room for what comes, made inside a commit group.

Owns: which rows leave or become less, in the file and in the draft of what it holds. Promises: the work of one group is
bounded, whatever the file holds; room is measured in pages, not guessed; each reading that is given up is counted in
one gap, which names exactly the platforms that miss it.
Never: begins or commits, decides the order (quota does).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from gateway.journal import lessened, quota
from gateway.journal.gaps import Gap
from gateway.journal.quota import Cut, Had, Room, Shares
from gateway.journal.records import COLUMNS, INSERT, Stored, key_of, lane_seq, record_of, row_of
from gateway.journal.rows import Stream
from gateway.journal.state import Extent, Kept
from gateway.model import Lane

_OLDEST = "SELECT id, count, length(body) FROM rows WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
_WHOLE = f"SELECT {COLUMNS} FROM rows WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"  # noqa: S608
_DELETE = "DELETE FROM rows WHERE id BETWEEN ? AND ?"
DROPPED, LESSENED, LOOKS = 256, 32, 512
"""In one group at most: rows deleted, rows thinned or aggregated (some tenths of a millisecond each), queries."""


class Work(Struct):
    """What a group has done so far."""

    dropped: int = 0
    lessened: int = 0
    looks: int = 0

    def done(self) -> bool:
        """Whether the rest is left to the next group."""
        return self.dropped >= DROPPED or self.lessened >= LESSENED or self.looks >= LOOKS


class Trim:
    """One group's. Then `gaps` says what was given up, `touched` which extents of `kept` are others."""

    def __init__(self, connection: sqlite3.Connection, kept: Kept, had: Had, platforms: Sequence[str],
                 confirms: Iterable[str], given: Shares) -> None:
        self.kept = kept
        self.gaps: list[Gap] = []
        self.touched: set[Stream] = set()
        self.work = Work()
        self._connection, self._run = connection, connection.execute
        self._had, self._platforms, self._confirms, self._given = had, tuple(platforms), frozenset(confirms), given

    def room(self, held: int = 0) -> Room:
        """What is in use now."""
        return quota.room(self._used(), self.kept.streams, self._given, held)

    def _used(self) -> int:
        return int(self._run("PRAGMA page_count").fetchone()[0]) - int(self._run("PRAGMA freelist_count").fetchone()[0])

    def make_room(self, coming: Mapping[Lane, int]) -> None:
        """Let rows go until `coming` pages a lane fit, or the work of one group is done.

        Raises:
            sqlite3.Error: roll back.
        """
        if (over := self.room().over(coming)) <= 0:
            return
        for cut in quota.cuts(self.kept.streams, self.kept.epochs, self._had, self._platforms, self._confirms,
                              self._given.cap, self.kept.state.commit):
            step: Callable[[Cut, int], bool] = self._drop if cut.step == "drop" else self._lessen
            while step(cut, over):
                if (over := self.room().over(coming)) <= 0 or self.work.done():
                    return
            if self.work.done():
                return

    def _grow(self, stream: Stream, extent: Extent) -> None:
        self.kept.streams[stream] = extent
        self.touched.add(stream)

    def _missing(self, stream: Stream, seq: int) -> tuple[str, ...]:
        return tuple(p for p in self._platforms if (d := self._had.get((p, stream))) is None or not d.sent.has(seq))

    def _give_up(self, stream: Stream, reason: str, counts: Iterable[tuple[int, int]]) -> None:
        """Tell `(seq, readings)` in as few gaps as have one set of platforms each."""
        for seq, count in counts:
            if not (who := self._missing(stream, seq)):
                continue
            gap = Gap(*stream, seq, seq, count, reason, who)
            joined = self.gaps[-1].joined(gap) if self.gaps else None
            if joined is not None:
                self.gaps[-1] = joined
            else:
                self.gaps.append(gap)

    def refuse(self, stored: Stored) -> None:
        """Tell of a row that is not kept for want of room, if somebody misses it."""
        self._give_up((stored.row.epoch, stored.row.lane), "quota", [(stored.row.seq, stored.row.count)])

    def _keys(self, stream: Stream, first: int, last: int) -> tuple[int, int]:
        number = self.kept.epochs[stream[0]].number
        return key_of(number, stream[1], first), key_of(number, stream[1], last)

    def _drop(self, cut: Cut, over: int) -> bool:
        """Delete some rows; whether there were any."""
        old = self.kept.streams[cut.stream]
        first, most = max(cut.first, old.oldest), min(DROPPED - self.work.dropped, max(8, over))
        self.work.looks += 1
        rows = self._run(_OLDEST, (*self._keys(cut.stream, first, cut.last), most)).fetchall()
        if not rows:
            return False
        self.work.dropped += len(rows)
        self._run(_DELETE, (rows[0][0], rows[-1][0]))
        last, kept = lane_seq(rows[-1][0])[2], old.rows - len(rows)
        more = kept or self.kept.wall(cut.stream) > last + 1   # what was not found yet is not gone
        oldest = (last + 1 if more else old.next) if cut.first <= old.oldest else old.oldest
        self._grow(cut.stream, msgspec.structs.replace(old, oldest=oldest, rows=kept,
                                                       bytes=old.bytes - sum(row[2] for row in rows)))
        if cut.missed:
            self._give_up(cut.stream, "quota", ((lane_seq(key)[2], count) for key, count, _ in rows))
        return True

    def _lessen(self, cut: Cut, _over: int) -> bool:
        """Thin or aggregate some rows that were not yet; whether there were any."""
        stream, old, thins = cut.stream, self.kept.streams[cut.stream], cut.step == "thin"
        mark = old.thinned if thins else old.merged
        most = max(lessened.BLOCK, LESSENED - self.work.lessened)
        self.work.looks += 1
        begin, end = self._keys(stream, max(old.oldest, mark + 1), cut.last)
        records = self._run(_WHOLE, (begin, end, most)).fetchall() if begin <= end else []
        if not records:
            return False
        if not thins and len(records) == most:   # the last block may be incomplete
            records = records[:_whole_blocks([lane_seq(r[0])[2] for r in records])]
        self.work.lessened += len(records)
        found = [(stored, who) for record in records if (stored := row_of(record)) is not None
                 and (who := self._missing(stream, stored.row.seq))]
        changed = (lessened.thinned([stored for stored, _ in found], self.kept.inventories) if thins
                   else lessened.merged(found))
        self._replace(records, {new.row.seq: record_of(new, self.kept.epochs[stream[0]].number)
                                for _, new in changed})
        freed = sum(len(was.row.body) - len(new.row.body) for was, new in changed)
        mark = lane_seq(records[-1][0])[2]
        self._grow(stream, msgspec.structs.replace(old, bytes=old.bytes - freed,
                                                   **{"thinned" if thins else "merged": mark}))
        self._give_up(stream, "thinned" if thins else "aggregated",
                      ((was.row.seq, was.row.count - new.row.count) for was, new in changed))
        return True

    def _replace(self, records: Sequence[Any], by_seq: Mapping[int, Any]) -> None:
        """Write rows anew, some as they were. An UPDATE would leave each on its page and free nothing."""
        if by_seq:
            self._run(_DELETE, (records[0][0], records[-1][0]))
            self._connection.executemany(INSERT, [by_seq.get(lane_seq(r[0])[2], r) for r in records])


def _whole_blocks(seqs: Sequence[int]) -> int:
    """How many of them are in blocks that end within; all, when none does."""
    last = len(seqs)
    while last > 0 and seqs[last - 1] // lessened.BLOCK == seqs[-1] // lessened.BLOCK:
        last -= 1
    return last if last and (seqs[-1] + 1) % lessened.BLOCK else len(seqs)
