"""One commit group.

Owns: what a group changes, in the file and in a draft of the small state.
Promises: the draft says what the file will hold once the transaction is committed; memory is untouched until then.
Never: begins or commits (the Store does both around it).
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from gateway.journal import lessened, quota
from gateway.journal.cursors import Saved
from gateway.journal.gaps import Gap
from gateway.journal.quota import Cut
from gateway.journal.records import COLUMNS, INSERT, PAGE_BYTES, Record, Stored, key_of, lane_seq, record_of, row_of
from gateway.journal.rows import Stream
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
from gateway.model import LANES, Inventory, Lane

PUT = "INSERT OR REPLACE INTO state VALUES (?, ?)"
PUT_INVENTORY = "INSERT OR REPLACE INTO inventories VALUES (?, ?)"
_OLDEST = "SELECT id, count, length(body) FROM rows WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
_WHOLE = f"SELECT {COLUMNS} FROM rows WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"  # noqa: S608
_REPLACE = "UPDATE rows SET count = ?, total = ?, crc = ?, body = ?, step = ?, was = ? WHERE id = ?"
_DELETE = "DELETE FROM rows WHERE id BETWEEN ? AND ?"
_BOOTS_KEPT = 64
"""Boots whose clock offset is remembered."""
_EPOCHS_KEPT = 16
"""Closed epochs without rows that birth still names, so that the county can count what it missed."""


class Changes(Struct):
    """One commit group."""

    state: State
    """Its commit number is filled in."""
    rows: list[Stored] = []
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


class Transaction:
    """Writes one group. Then `kept` is what the file will hold.

    `gaps` is what trimming took from somebody, `forgotten` the epochs that nothing refers to any more.
    """

    def __init__(self, connection: sqlite3.Connection, kept: Kept, changes: Changes, platforms: Sequence[str],
                 cap_pages: int, most_thinned: int = 32) -> None:
        """`most_thinned`: rows that are thinned or aggregated at most; each takes some tenths of a millisecond."""
        self.kept = kept.draft()
        self.gaps: list[Gap] = []
        self.forgotten: frozenset[str] = frozenset()
        self._connection, self._run = connection, connection.execute
        self._changes, self._platforms, self._cap = changes, platforms, cap_pages
        self._most_thinned = most_thinned
        self._touched: set[Stream] = set()

    def write(self) -> None:
        """All of it.

        Raises:
            sqlite3.Error: roll back; the draft is worthless.
        """
        kept, changes = self.kept, self._changes
        self._trim()
        for inventory in changes.inventories:
            self._run(PUT_INVENTORY, (inventory.n, pack(str(inventory.n), inventory)))
            kept.inventories[inventory.n] = inventory
        for identity in changes.damaged:
            self._take_out(*identity)
        records = [self._record(stored) for stored in changes.rows]
        if records:
            self._connection.executemany(INSERT, records)
        for stream in self._touched:
            self._put(extent_key(stream), kept.streams[stream])
        for key in changes.cursors:
            self._put(cursor_key(*key), changes.marks[key])
        self._date(changes.boots)
        self._forget_epochs()
        self._forget_inventories()
        kept.state = msgspec.structs.replace(changes.state, commit=kept.state.commit + 1)
        self._put(STATE, kept.state)

    def _put(self, key: str, value: Any) -> None:
        self._run(PUT, (key, pack(key, value)))

    def _date(self, boots: Mapping[str, tuple[int, float]]) -> None:
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
        if row.seq >= old.next:  # otherwise it is there already: the first content of an identity stays
            self._grow(stream, msgspec.structs.replace(
                old, oldest=old.oldest if old.rows else row.seq, next=row.seq + 1, rows=old.rows + 1,
                bytes=old.bytes + len(row.body), total=max(old.total, stored.total),
                inventories=old.naming(row.inventory, row.seq) if row.inventory else old.inventories))
        return record_of(stored, epoch.number)

    def _epoch(self, name: str) -> Epoch:
        epochs = self.kept.epochs
        if name not in epochs:
            reason = self._changes.reason if name == self._changes.state.epoch else "replayed"
            epochs[name] = Epoch(1 + max((e.number for e in epochs.values()), default=0), reason)
            self._put(epoch_key(name), epochs[name])
        return epochs[name]

    def _used_pages(self) -> int:
        return int(self._run("PRAGMA page_count").fetchone()[0]) - int(self._run("PRAGMA freelist_count").fetchone()[0])

    def _trim(self) -> None:
        used = self._used_pages()
        left: float = quota.rows_to_go(used, self._cap, self._changes.rows)
        if left <= 0:
            return
        kept, scarce = self.kept, used > quota.SCARCE * self._cap
        work = self._most_thinned
        for cut in quota.cuts(kept.streams, kept.epochs, kept.cursors, self._platforms, self._cap,
                              frozenset(self._changes.state.confirms)):
            if cut.step == "drop":
                left -= self._cut(cut, math.ceil(left))
            elif not scarce:
                freed_bytes, rows = self._lessen(cut, work)
                left, work = left - freed_bytes / PAGE_BYTES, work - rows
                if work <= 0:
                    return   # there is slack, and another group soon
            if left <= 0:
                return

    def _lessen(self, cut: Cut, most: int) -> tuple[int, int]:
        """Thin or aggregate up to `most` rows that were not yet; returns bytes freed and rows looked at."""
        epoch, old = self.kept.epochs[cut.stream[0]], self.kept.streams[cut.stream]
        thins = cut.step == "thin"
        begin = max(old.oldest, (old.thinned if thins else old.merged) + 1)
        if begin > cut.last:
            return 0, 0
        records = self._run(_WHOLE, (key_of(epoch.number, cut.stream[1], begin), key_of(epoch.number, cut.stream[1],
                                                                                    cut.last),
                                    most if thins else max(most, lessened.BLOCK))).fetchall()
        found = [stored for record in records if (stored := row_of(record)) is not None]
        lessen = lessened.thinned if thins else lessened.merged
        changed = lessen(found, self.kept.inventories)
        end = lane_seq(records[-1][0])[2] if records else cut.last
        self._connection.executemany(_REPLACE, [(*record_of(new, epoch.number)[6:], key_of(
            epoch.number, cut.stream[1], new.row.seq)) for _, new in changed])
        freed = sum(len(was.row.body) - len(new.row.body) for was, new in changed)
        self._grow(cut.stream, msgspec.structs.replace(
            old, bytes=old.bytes - freed, **{"thinned" if thins else "merged": end}))
        self.gaps += lessened.gaps(changed, "thinned" if thins else "aggregated")
        return freed, len(records)

    def _cut(self, cut: Cut, most: int) -> int:
        """Delete up to `most` rows; returns how many it were."""
        epoch, lane = cut.stream
        number, old = self.kept.epochs[epoch].number, self.kept.streams[cut.stream]
        if not old.rows or cut.last < old.oldest:
            return 0
        rows = self._run(_OLDEST, (key_of(number, lane, old.oldest), key_of(number, lane, cut.last), most)).fetchall()
        if not rows:
            return 0
        self._run(_DELETE, (rows[0][0], rows[-1][0]))
        first, last = lane_seq(rows[0][0])[2], lane_seq(rows[-1][0])[2]
        kept = old.rows - len(rows)
        self._grow(cut.stream, msgspec.structs.replace(
            old, oldest=last + 1 if kept else old.next, rows=kept, bytes=old.bytes - sum(row[2] for row in rows)))
        if cut.missed and self._platforms:
            self.gaps.append(Gap(epoch, lane, first, last, sum(row[1] for row in rows), "quota"))
        return len(rows)

    def _forget_epochs(self) -> None:
        """Drop what nothing refers to any more: old empty epochs with their cursors."""
        kept, changes = self.kept, self._changes
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
        if len(known) > 1:
            used = {self._changes.inventory}.union(*(extent.named() for extent in self.kept.streams.values()))
            for n in known.keys() - used:
                del known[n]
                self._run("DELETE FROM inventories WHERE n = ?", (n,))
