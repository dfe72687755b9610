"""What can still be read of a damaged journal.

Owns: the search through a broken file. Promises: returns only rows whose checksum holds; reads around damaged pages
from both ends and by single look-ups between; replaces an unreadable first page by that of an empty journal (same
schema, same root pages). Never: refuses, raises for what the file contains.
"""

from __future__ import annotations

import logging
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from gateway.journal.cursors import Cursor
from gateway.journal.gaps import Gap
from gateway.journal.records import COLUMNS, PAGE_BYTES, Record, key_of, lane_seq, row_of
from gateway.journal.rows import Stream
from gateway.journal.state import DamagedError, Epoch, Extent, Kept
from gateway.journal.store import Store

log = logging.getLogger(__name__)

_ONE = "SELECT {columns} FROM rows WHERE id = ?"
_UP = "SELECT {columns} FROM rows WHERE id > ? AND id < ? ORDER BY id LIMIT ?"
_DOWN = "SELECT {columns} FROM rows WHERE id > ? AND id < ? ORDER BY id DESC LIMIT ?"
_CHUNK = 100
_PROBES = 2_000_000
"""Single look-ups at most: bounds the time spent on a file whose marks are nonsense."""


class _Wreck:
    """What was found: the small state as far as it could be read, and which rows."""

    def __init__(self, expected: Mapping[Stream, Extent]) -> None:
        self.kept = Kept()
        self.claimed: dict[Stream, Extent] = dict(expected)
        """What the caller, or else the file itself, says it held; `kept` has what was found."""
        self.seen: dict[Stream, Cursor] = {}
        self.rows = 0

    def read_state(self, connection: sqlite3.Connection) -> None:
        """Before any row."""
        for key, value in _each(connection, "SELECT key, value FROM state"):
            with suppress(DamagedError, ValueError):
                self.kept.read(str(key), value)
        for n, body in _each(connection, "SELECT n, body FROM inventories"):
            with suppress(DamagedError):
                self.kept.read_inventory(n, body)
        self.claimed = {**self.kept.streams, **self.claimed}
        self.kept.streams = {}

    def take(self, record: Record) -> bool:
        """Whether the row is whole and new."""
        stored = row_of(record)
        if stored is None:
            return False
        row, stream = stored.row, (stored.row.epoch, stored.row.lane)
        if self.seen.setdefault(stream, Cursor()).has(row.seq):
            return False
        self.seen[stream].add(row.seq, row.seq)
        number = lane_seq(record[0])[0]
        if self.kept.epochs.setdefault(row.epoch, Epoch(number, "salvaged")).number != number:
            return False
        claimed = self.claimed.get(stream, Extent())
        old = self.kept.streams.get(stream, Extent(row.seq, claimed.next, 0, 0, claimed.total))
        named = old.inventories
        if row.inventory and all(n != row.inventory or last < row.seq for n, last in named):
            named = old.naming(row.inventory, row.seq)
        self.kept.streams[stream] = Extent(
            min(old.oldest, row.seq), max(old.next, row.seq + 1), old.rows + 1, old.bytes + len(row.body),
            max(old.total, stored.total), claimed.thinned, claimed.merged, named)
        self.rows += 1
        return True

    def expected(self) -> dict[Stream, tuple[int, int]]:
        """First and last row each stream should have."""
        out = {}
        for stream in {*self.seen, *self.claimed}:
            found, claimed = self.kept.streams.get(stream), self.claimed.get(stream)
            last = max(found.next if found else 1, claimed.next if claimed else 1) - 1
            first = claimed.oldest if claimed and 0 < claimed.oldest <= last else found.oldest if found else 1
            out[stream] = (first, last)
        return out

    def holes(self) -> list[Gap]:
        """What should have been there and was not found."""
        out: list[Gap] = []
        for (epoch, lane), (first, last) in sorted(self.expected().items()):
            missing = self.seen.get((epoch, lane), Cursor()).missing(first, last)
            out += [Gap(epoch, lane, a, b, None, "damaged") for a, b in missing]
        return out


def _each(connection: sqlite3.Connection, query: str) -> Iterator[tuple[Any, Any]]:
    with suppress(sqlite3.Error):
        cursor = connection.execute(query)
        while (pair := cursor.fetchone()) is not None:
            yield pair


def _columns(connection: sqlite3.Connection) -> str:
    """What a row is read by; a wreck of schema 1 has no thinned rows."""
    try:
        connection.execute("SELECT step, was FROM rows LIMIT 0").fetchall()
    except sqlite3.Error as error:
        if "no such column" in str(error):
            return COLUMNS.replace("step, was", "0, 0")
    return COLUMNS


def _ends(connection: sqlite3.Connection, columns: str) -> Iterator[Record]:
    """Rows from the front until damage, then from the back until damage."""
    up, down = _UP.format(columns=columns), _DOWN.format(columns=columns)
    front, back = -1, 1 << 62
    for ascending in (True, False):
        size = _CHUNK
        while True:
            try:
                records = connection.execute(up if ascending else down, (front, back, size)).fetchall()
            except sqlite3.Error:
                if size == 1:
                    break
                size = 1  # up to the last row before the damage
                continue
            keys = [r[0] for r in records if front < r[0] < back]
            yield from records
            # In a damaged tree keys need not come in order: a search that does not advance has reached the damage.
            edge = max([front, *keys]) if ascending else min([back, *keys])
            if edge == (front if ascending else back):
                break
            if ascending:
                front = edge
            else:
                back = edge


def _between(connection: sqlite3.Connection, columns: str, wreck: _Wreck) -> Iterator[Record]:
    """Single look-ups for every row that should be there and was not found from the ends."""
    left, one = _PROBES, _ONE.format(columns=columns)
    for stream, (first, last) in wreck.expected().items():
        number = wreck.kept.epochs[stream[0]].number if stream[0] in wreck.kept.epochs else None
        if number is None:
            continue
        for a, b in list(wreck.seen.get(stream, Cursor()).missing(first, last)):
            for seq in range(a, b + 1):
                left -= 1
                if left < 0:
                    return
                with suppress(sqlite3.Error):
                    record = connection.execute(one, (key_of(number, stream[1], seq),)).fetchone()
                    if record:
                        yield record


def _readable(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("SELECT id FROM rows ORDER BY id LIMIT 1").fetchone()
            connection.execute("SELECT key FROM state LIMIT 1").fetchone()
    except sqlite3.Error:
        return False
    return True


def _lend_first_page(path: Path) -> None:
    """Put the first page of an empty journal on the file; SQLite then takes the page count from the file's length."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        empty = Path(folder) / "empty.sqlite"
        Store(empty, 1 << 20).close()
        page = bytearray(empty.read_bytes()[:PAGE_BYTES])
    page[28:32] = max(1, path.stat().st_size // PAGE_BYTES).to_bytes(4, "big")
    page[32:40] = bytes(8)  # no free list: what hung there is of no interest
    with path.open("r+b") as file:
        file.write(page)


def salvage(wreck_path: Path, new: Store, expected: Mapping[Stream, Extent]) -> tuple[int, list[Gap]]:
    """Carry over into the empty `new` what can be read of `wreck_path`.

    `expected` is what the caller knows to have been committed, better than the file itself; may be empty.

    Returns the number of rows kept, and what is known to be missing among the rows the file should have held.

    Raises:
        sqlite3.Error, OSError: only for what happens to the new file.
    """
    wreck = _Wreck(expected)
    if not wreck_path.exists():
        return 0, []
    if not _readable(wreck_path):
        try:
            _lend_first_page(wreck_path)
        except (OSError, sqlite3.Error) as error:
            log.warning("journal salvage path=%s first_page=not_replaced error=%s", wreck_path, error)
    with closing(sqlite3.connect(wreck_path, isolation_level=None)) as connection:
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        with suppress(sqlite3.Error):
            connection.execute("PRAGMA query_only = ON")
        wreck.read_state(connection)
        batch: list[Record] = []
        columns = _columns(connection)
        for record in chain(_ends(connection, columns), _between(connection, columns, wreck)):
            if wreck.take(record):
                batch.append(record)
                if len(batch) >= _CHUNK:
                    new.transplant(batch)
                    batch = []
        new.transplant(batch)
    new.graft(wreck.kept)
    return wreck.rows, wreck.holes()
