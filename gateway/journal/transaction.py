"""One commit group.

Owns: what a group changes, in the file and in a draft of the small state.
Promises: the draft says what the file will hold once the transaction is committed; memory is untouched until then.
Never: begins or commits (the Store does both around it).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from gateway.journal.cursors import Saved
from gateway.journal.gaps import Gap
from gateway.journal.quota import Had, Shares, pages_of
from gateway.journal.records import INSERT, Record, Stored, key_of, record_of
from gateway.journal.rows import Identity, Stream
from gateway.journal.search import UNNAMED
from gateway.journal.state import (
    STATE,
    Dating,
    Epoch,
    Extent,
    Kept,
    State,
    boot_key,
    cursor_key,
    epoch_key,
    extent_key,
    pack,
    ranges_of,
)
from gateway.journal.trim import Trim
from gateway.model import LANES, Inventory, Lane

PUT = "INSERT OR REPLACE INTO state VALUES (?, ?)"
PUT_INVENTORY = "INSERT OR REPLACE INTO inventories VALUES (?, ?)"
_BOOTS_KEPT = 64
"""Boots whose clock offset is remembered."""
_EPOCHS_KEPT = 16
"""Closed epochs without rows that birth still names, so that the county can count what it missed."""


class NoRoomError(sqlite3.OperationalError):
    """The quota is used up, and nothing that may go is left."""


class Changes(Struct):
    """One commit group."""

    state: State
    """Its commit number is filled in, and the gaps that making room for this group leaves are added."""
    rows: list[Stored] = []
    """Alarms, then events, then data."""
    had: Had | None = None
    """Who has had what when the group was taken; None: as the file has it."""
    cursors: list[tuple[str, Stream]] = []
    """Which of the cursors below to write."""
    marks: Mapping[tuple[str, Stream], Saved] = {}
    inventories: list[Inventory] = []
    reason: str = ""
    """Why the current epoch began."""
    damaged: list[tuple[str, Lane, int]] = []
    boots: Mapping[str, tuple[int, float]] = {}
    """Boot → offset and error in ms of its clock, as they became known."""
    inventory: int = 0
    """The one that rows to come will name."""
    telling: Mapping[Identity, Sequence[Gap]] = {}
    """Gaps whose event is in a row of this group or of a later one."""


class Transaction:
    """Writes one group. Then `kept` is what the file will hold.

    `taken` says how many of its rows there was room for, `trim` what went for them, `forgotten` the epochs that nothing
    refers to any more.
    """

    def __init__(self, connection: sqlite3.Connection, kept: Kept, changes: Changes, platforms: Sequence[str],
                 given: Shares, held: int = 0) -> None:
        """`held`: pages of the log beyond its share, because somebody reads."""
        self.kept = kept.draft()
        self.taken = 0
        self.forgotten: frozenset[str] = frozenset()
        self._connection, self._run = connection, connection.execute
        self._changes, self._held = changes, held
        self.trim = Trim(connection, self.kept, kept.cursors if changes.had is None else changes.had, platforms,
                         changes.state.confirms, given)
        self._touched = self.trim.touched

    def write(self) -> None:
        """All of it.

        Raises:
            sqlite3.Error: roll back; the draft is worthless.
        """
        kept, changes = self.kept, self._changes
        rows = self._with_room(changes.rows)
        for inventory in changes.inventories:
            self._run(PUT_INVENTORY, (inventory.n, pack(str(inventory.n), inventory)))
            kept.inventories[inventory.n] = inventory
        for identity in changes.damaged:
            self._take_out(*identity)
        records = [self._record(stored) for stored in rows]
        if records:
            self._connection.executemany(INSERT, records)
        for stream in self._touched:
            self._put(extent_key(stream), kept.streams[stream])
        for key in changes.cursors:
            self._put(cursor_key(*key), changes.marks[key])
        self._date(changes.boots)
        self._forget_epochs()
        self._forget_inventories()
        # What was given up is told after the group; a cut in between must not keep it from being told.
        told = {(stored.row.epoch, stored.row.lane, stored.row.seq) for stored in rows} if changes.telling else ()
        waiting = (gap for row, gaps in changes.telling.items() if row not in told for gap in gaps)
        kept.state = msgspec.structs.replace(changes.state, commit=kept.state.commit + 1,
                                             gaps=(*changes.state.gaps, *waiting, *self.trim.gaps))
        self._put(STATE, kept.state)

    def _with_room(self, rows: Sequence[Stored]) -> Sequence[Stored]:
        """The rows that may be written, after trimming; the others are left to a later group."""
        coming: dict[Lane, int] = {}
        for stored in rows:
            coming[stored.row.lane] = coming.get(stored.row.lane, 0) + pages_of(stored)
        self.trim.make_room(coming)
        room = self.trim.room(self._held)
        for stored in rows:
            if not room.fits(stored.row.lane, pages := pages_of(stored)):
                break
            room.take(stored.row.lane, pages)
            self.taken += 1
        if rows and not self.taken and not self.trim.work.done():
            raise NoRoomError(f"no room is left: somebody's reading of the file keeps {self._held} pages of its log"
                              if self._held else "no room is left")
        return rows[:self.taken]

    def _put(self, key: str, value: Any) -> None:
        self._run(PUT, (key, pack(key, value)))

    def _date(self, boots: Mapping[str, tuple[int, float]]) -> None:
        if not boots:
            return
        known = self.kept.boots
        for boot, (offset_ms, error_ms) in boots.items():
            number = known[boot].number if boot in known else 1 + max((d.number for d in known.values()), default=0)
            known[boot] = Dating(number, offset_ms, error_ms)
            self._put(boot_key(boot), known[boot])
        for boot in sorted(known, key=lambda b: known[b].number)[:-_BOOTS_KEPT]:
            del known[boot]
            self._run("DELETE FROM state WHERE key = ?", (boot_key(boot),))

    def _grow(self, stream: Stream, extent: Extent) -> None:
        self.kept.streams[stream] = extent
        self._touched.add(stream)

    def _take_out(self, epoch: str, lane: Lane, seq: int) -> None:
        if epoch not in self.kept.epochs:
            return
        if self._run("DELETE FROM rows WHERE id = ?", (key_of(self.kept.epochs[epoch].number, lane, seq),)).rowcount:
            old = self.kept.streams[epoch, lane]
            self._grow((epoch, lane), msgspec.structs.replace(old, rows=old.rows - 1))

    def _record(self, stored: Stored) -> Record:
        row, stream = stored.row, (stored.row.epoch, stored.row.lane)
        epoch = self._epoch(row.epoch)
        old = self.kept.streams.get(stream, Extent())
        wall = self.kept.wall(stream)
        # What is there already stays: the first content of an identity.
        if row.seq >= old.next or (row.seq < wall and not self._has(key_of(epoch.number, row.lane, row.seq))):
            first = not old.rows and wall <= old.oldest
            self._grow(stream, msgspec.structs.replace(
                old, oldest=row.seq if first else old.oldest, next=max(old.next, row.seq + 1), rows=old.rows + 1,
                bytes=old.bytes + len(row.body), total=max(old.total, stored.total),
                inventories=old.naming(row.inventory, row.seq) if row.inventory else old.inventories))
        return record_of(stored, epoch.number)

    def _has(self, key: int) -> bool:
        return self._run("SELECT 1 FROM rows WHERE id = ?", (key,)).fetchone() is not None

    def _epoch(self, name: str) -> Epoch:
        epochs = self.kept.epochs
        if name not in epochs:
            search, numbers = self.kept.search, [e.number for e in epochs.values()]
            reason, number = self._changes.reason, 1 + max([*numbers, search.top if search is not None else 0])
            if name != self._changes.state.epoch:
                reason = "replayed"
                if search is not None:   # a wreck may have rows of it: a number that says so, and that no other has
                    number = min(n for n in (*numbers, search.top + 1) if n > search.top - UNNAMED // 2) - 1
            epochs[name] = Epoch(number, reason)
            self._put(epoch_key(name), epochs[name])
        return epochs[name]

    def _forget_epochs(self) -> None:
        """Drop what nothing refers to any more: old empty epochs with their cursors."""
        kept, changes = self.kept, self._changes
        if kept.search is not None:
            return   # what is empty may not be found yet
        empty = sorted((e.number, name) for name, e in kept.epochs.items() if name != changes.state.epoch
                       and not any(kept.streams[name, lane].rows for lane in LANES if (name, lane) in kept.streams))
        gone = [name for _, name in empty[:-_EPOCHS_KEPT]]
        for name in gone:
            for lane in LANES:
                kept.streams.pop((name, lane), None)
            del kept.epochs[name]
            self._run("DELETE FROM state WHERE key = ?", (epoch_key(name),))
            for bounds in ranges_of(name):
                self._run("DELETE FROM state WHERE key > ? AND key < ?", bounds)
        self.forgotten = frozenset(gone)

    def _forget_inventories(self) -> None:
        """Drop those that no row names."""
        known = self.kept.inventories
        if len(known) > 1 and self.kept.search is None:
            used = {self._changes.inventory}.union(*(extent.named() for extent in self.kept.streams.values()))
            for n in known.keys() - used:
                del known[n]
                self._run("DELETE FROM inventories WHERE n = ?", (n,))
