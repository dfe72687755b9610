"""How a Row lies in SQLite.

Owns: the columns of the table `rows` and its integer primary key, into which epoch number, lane and seq are packed.
Promises: `row_of` gives a row whose checksum holds, or None. Never: runs a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from msgspec import Struct

from gateway.journal.rows import checksum
from gateway.model import LANES, Door, Lane, Row, Trust

PAGE_BYTES = 4096
COLUMNS = "id, epoch, inventory, boot, offset_ms, trust, count, total, crc, body, step, was"
CREATE = ("CREATE TABLE rows (id INTEGER PRIMARY KEY, epoch TEXT NOT NULL, inventory INTEGER NOT NULL,"
          " boot TEXT NOT NULL, offset_ms INTEGER NOT NULL, trust TEXT NOT NULL, count INTEGER NOT NULL,"
          " total INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL,"
          " step INTEGER NOT NULL DEFAULT 0, was INTEGER NOT NULL DEFAULT 0)")
INSERT = f"INSERT OR IGNORE INTO rows ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)"  # noqa: S608
_SEQ_BITS = 40
LAST_SEQ = (1 << _SEQ_BITS) - 1
STEPS: tuple[Literal["", "thin", "aggregate"], ...] = ("", "thin", "aggregate")
"""Row.thinned by the column `step`."""

Record = tuple[Any, ...]
"""A row as SQLite gives it, in the order of COLUMNS."""


class Stored(Struct, frozen=True):
    """A row with the running count of Records in its stream, itself included."""

    row: Row
    total: int


def key_of(number: int, lane: Lane, seq: int) -> int:
    """The primary key of a row."""
    return ((number * 4 + LANES.index(lane)) << _SEQ_BITS) + seq


def lane_seq(key: int) -> tuple[int, Lane, int]:
    """(epoch number, lane, seq) of a primary key."""
    block, seq = key >> _SEQ_BITS, key & ((1 << _SEQ_BITS) - 1)
    return block >> 2, LANES[block & 3], seq


def record_of(stored: Stored, number: int) -> Record:
    """A row of epoch `number` as it is inserted."""
    row, door = stored.row, stored.row.door
    return (key_of(number, row.lane, row.seq), row.epoch, row.inventory, door.boot, door.offset_ms, door.trust,
            row.count, stored.total, checksum(row, stored.total), row.body, STEPS.index(row.thinned), row.of)


def row_of(record: Record) -> Stored | None:
    """A row as read with COLUMNS, or None when its checksum says that it is not what was written."""
    key, epoch, inventory, boot, offset_ms, trust, count, total, crc, body, step, was = record
    try:
        _, lane, seq = lane_seq(key)
        known: Trust = trust
        row = Row(epoch=epoch, lane=lane, seq=seq, inventory=inventory, door=Door(boot, offset_ms, known), count=count,
                  body=body, thinned=STEPS[step], of=was)
        return Stored(row, total) if checksum(row, total) == crc else None
    except (TypeError, IndexError, AttributeError, ValueError):
        return None


def in_order(records: Sequence[Record], first: int, last: int | None = None) -> bool:
    """Whether the keys ascend from `first` to `last`: in a damaged tree they need not."""
    keys = [record[0] for record in records]
    return all(a < b for a, b in pairwise([first - 1, *keys, (first if last is None else last) + 1]))
