"""Rows of a wreck, put into the new journal.

Owns: what one step of a search changes in the file and in a draft of the small state. Promises: a row is there once,
however often it is found; the oldest rows leave when there is no room for what comes, told like any other; a stream
that was searched has no wall any more once the transaction is committed. Never: begins or commits, moves the commit
number: no group was written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Struct

from gateway.journal.cursors import joined, minus
from gateway.journal.gaps import Gap
from gateway.journal.quota import Had, Shares, pages_of
from gateway.journal.records import INSERT, Stored, key_of, lane_seq, record_of
from gateway.journal.rows import Stream
from gateway.journal.state import SEARCH, STATE, Epoch, Extent, Kept, epoch_key, extent_key, pack
from gateway.journal.transaction import PUT
from gateway.journal.trim import Trim
from gateway.model import Lane

_THERE = "SELECT id FROM rows WHERE id BETWEEN ? AND ?"


class Step(Struct):
    """What one step brought: to be carried over as a whole, in this order."""

    rows: list[Stored] = []
    epochs: dict[str, Epoch] = {}
    """Those that the small state did not know."""
    finished: list[Stream] = []
    """Nothing more of these will be found."""
    holes: list[Gap] = []
    """What they should have held besides."""
    done: bool = False


class Carry:
    """Writes one step.

    Then `kept` is what the file will hold, `taken` how many of the step's rows are dealt with, and `gaps` what is given
    up, and what is known to be missing when all of them are.
    """

    def __init__(self, connection: sqlite3.Connection, kept: Kept, step: Step, had: Had, platforms: Sequence[str],
                 given: Shares, held: int) -> None:
        """`held`: pages of the log beyond its share, because somebody reads."""
        self.kept = kept.draft()
        self.taken = 0
        self.gaps: list[Gap] = []
        self.trim = Trim(connection, self.kept, had, platforms, kept.state.confirms, given)
        self._step, self._held = step, held
        self._run = connection.execute

    def write(self) -> None:
        """All of it, or its first rows.

        Raises:
            sqlite3.Error: roll back; the draft is worthless.
        """
        step, kept = self._step, self.kept
        for name, epoch in step.epochs.items():
            if name not in kept.epochs:   # else staging brought rows of it back meanwhile
                kept.epochs[name] = epoch
                self._run(PUT, (epoch_key(name), pack(epoch_key(name), epoch)))
        self._rows(step.rows)
        for stream in self.trim.touched:
            self._run(PUT, (extent_key(stream), pack(extent_key(stream), kept.streams[stream])))
        self.gaps += self.trim.gaps
        if self.taken == len(step.rows) and kept.search is not None:
            self.gaps += [gap for hole in step.holes for gap in self._missing(hole)]
            if step.finished or step.done:
                kept.search = None if step.done else kept.search.without(step.finished)
                self._run(PUT, (SEARCH, pack(SEARCH, kept.search)))
        if self.gaps:   # as in a group: what is given up is known from here on, whatever happens before it is told
            kept.state = msgspec.structs.replace(kept.state, gaps=(*kept.state.gaps, *self.gaps))
            self._run(PUT, (STATE, pack(STATE, kept.state)))

    def _rows(self, rows: Sequence[Stored]) -> None:
        coming: dict[Lane, int] = {}
        for stored in rows:
            coming[stored.row.lane] = coming.get(stored.row.lane, 0) + pages_of(stored)
        self.trim.make_room(coming)
        room = self.trim.room(self._held)
        for stored in rows:
            stream, pages = (stored.row.epoch, stored.row.lane), pages_of(stored)
            fits = room.fits(stored.row.lane, pages)
            if not fits and (self._held or self.trim.work.done()):
                return   # there will be room
            if fits and stored.row.seq >= self.kept.streams.get(stream, Extent()).oldest:
                self._insert(stream, stored)
                room.take(stored.row.lane, pages)
            else:
                self.trim.refuse(stored)
            self.taken += 1

    def _missing(self, hole: Gap) -> Iterator[Gap]:
        """What of a hole is not in the file either: staging may have brought it back."""
        number = self.kept.epochs[hole.epoch].number
        keys = (key_of(number, hole.lane, hole.first), key_of(number, hole.lane, hole.last))
        there = joined((seq, seq) for (key,) in self._run(_THERE, keys).fetchall() for seq in [lane_seq(key)[2]])
        for first, last in minus([(hole.first, hole.last)], there):
            yield msgspec.structs.replace(hole, first=first, last=last)

    def _insert(self, stream: Stream, stored: Stored) -> None:
        row = stored.row
        if not self._run(INSERT, record_of(stored, self.kept.epochs[row.epoch].number)).rowcount:
            return   # carried over before
        old = self.kept.streams.get(stream)
        if old is None:
            old = Extent()   # whatever came before this row was lost with the small state, and is to be told
        named = old.inventories
        if row.inventory and all(n != row.inventory or last < row.seq for n, last in named):
            named = old.naming(row.inventory, row.seq)
        self.kept.streams[stream] = msgspec.structs.replace(
            old, oldest=min(old.oldest, row.seq), next=max(old.next, row.seq + 1), rows=old.rows + 1,
            bytes=old.bytes + len(row.body), total=max(old.total, stored.total), inventories=named)
        self.trim.touched.add(stream)
