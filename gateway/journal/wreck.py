"""A damaged journal file, read as far as it can be.

Owns: a connection that only reads, and the ways around damage: from both ends, and by single look-ups between.
Promises: a search ends whatever the file contains; an unreadable first page is replaced by that of an empty journal
(same schema, same root pages). Never: raises for what the file contains, judges what it read.
"""

from __future__ import annotations

import logging
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from gateway.journal.connection import look_into
from gateway.journal.records import COLUMNS, LAST_SEQ, PAGE_BYTES, Record, Stored, lane_seq, row_of
from gateway.journal.state import DamagedError, Kept
from gateway.journal.store import Store

log = logging.getLogger(__name__)

_FIRST = "SELECT rowid IS id, {columns} FROM rows LIMIT 1"
_ONE = "SELECT {columns} FROM rows WHERE id = ?"
_UP = "SELECT {columns} FROM rows WHERE id > ? AND id < ? ORDER BY id LIMIT ?"
_DOWN = "SELECT {columns} FROM rows WHERE id > ? AND id < ? ORDER BY id DESC LIMIT ?"
_LAST = "SELECT id FROM rows ORDER BY id DESC LIMIT 1"
_CHUNK = 100
_STREAMS = 1000
"""So many are asked for at most, before anything else."""


class Wreck:
    """One file. One thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open it, whatever it is; a file that does not exist has nothing."""
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._columns = COLUMNS
        if not path.exists():
            return
        if not _readable(path):
            try:
                _lend_first_page(path)
            except (OSError, sqlite3.Error) as error:
                log.warning("journal salvage path=%s first_page=not_replaced error=%s", path, error)
        with suppress(sqlite3.Error):
            connection = look_into(path, check_same_thread=False)
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            self._connection = connection
            with suppress(sqlite3.Error):
                connection.execute("PRAGMA query_only = ON")
            self._columns = _columns(connection)

    def state(self) -> Kept:
        """Read the small state, as far as it is what was written."""
        kept = Kept()
        for key, value in self._each("SELECT key, value FROM state"):
            with suppress(DamagedError, ValueError):
                kept.read(str(key), value)
        for n, body in self._each("SELECT n, body FROM inventories"):
            with suppress(DamagedError):
                kept.read_inventory(n, body)
        return kept

    def top(self) -> int:
        """Number of the newest epoch that has a row, 0 if that cannot be read."""
        for (key,) in self._each(_LAST):
            if isinstance(key, int) and key >= 0:
                return lane_seq(key)[0]
        return 0

    def firsts(self) -> Iterator[tuple[Stored, int]]:
        """The first row of each stream with the number of its epoch, as far as one leads to the next."""
        query, at = _UP.format(columns=self._columns), -1
        for _ in range(_STREAMS):
            if not (records := self._records(query, (at, 1 << 62, 1))):
                return
            if (stored := row_of(records[0])) is not None:
                yield stored, lane_seq(records[0][0])[0]
            at = max(at + 1, records[0][0]) | LAST_SEQ

    def ends(self, low: int, high: int) -> Iterator[list[Record]]:
        """Rows with keys low…high, from the front until damage, then from the back until damage, some at a time."""
        front, back = low - 1, high + 1
        for ascending in (True, False):
            query = (_UP if ascending else _DOWN).format(columns=self._columns)
            size = _CHUNK
            while True:
                records = self._records(query, (front, back, size))
                if records is None:
                    if size == 1:
                        break
                    size = 1  # up to the last row before the damage
                    continue
                keys = [r[0] for r in records if front < r[0] < back]
                yield records
                # In a damaged tree keys need not come in order: a search that does not advance has reached the damage.
                edge = max([front, *keys]) if ascending else min([back, *keys])
                if edge == (front if ascending else back):
                    break
                if ascending:
                    front = edge
                else:
                    back = edge

    def among(self, keys: Iterable[int]) -> Iterator[list[Record]]:
        """Look for each of the keys."""
        query = _ONE.format(columns=self._columns)
        for key in keys:
            yield self._records(query, (key,)) or []

    def _records(self, query: str, values: tuple[int, ...]) -> list[Record] | None:
        if self._connection is None:
            return None
        try:
            return [r for r in self._connection.execute(query, values).fetchall() if isinstance(r[0], int)]
        except sqlite3.Error:
            return None

    def _each(self, query: str) -> Iterator[Any]:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                cursor = self._connection.execute(query)
                while (record := cursor.fetchone()) is not None:
                    yield record

    def close(self) -> None:
        """Let go of it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _columns(connection: sqlite3.Connection) -> str:
    """What a row is read by; a wreck of schema 1 has no thinned rows."""
    try:
        connection.execute("SELECT step, was FROM rows LIMIT 0").fetchall()
    except sqlite3.Error as error:
        if "no such column" in str(error):
            return COLUMNS.replace("step, was", "0, 0")
    return COLUMNS


def _readable(path: Path) -> bool:
    """Whether tables and columns are called what they should be, and the key of a row is its key."""
    try:
        with closing(look_into(path)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            columns = _columns(connection) if version == 1 else COLUMNS
            first = connection.execute(_FIRST.format(columns=columns)).fetchone()
            connection.execute("SELECT key, value FROM state LIMIT 1").fetchone()
            connection.execute("SELECT n, body FROM inventories LIMIT 1").fetchone()
    except sqlite3.Error:
        return False
    return first is None or bool(first[0])


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
