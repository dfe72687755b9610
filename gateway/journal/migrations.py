"""How a journal of an older program becomes one of this program.

Owns: one small function a version. Promises: all steps in one transaction, so that a cut leaves the old version or the
new one; nothing is lost on the way. Never: goes back, guesses at a newer version.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable

from gateway.journal.cursors import Spans
from gateway.journal.state import pack, unpack


def _below(connection: sqlite3.Connection, kind: str) -> list[tuple[str, bytes]]:
    return connection.execute("SELECT key, value FROM state WHERE key > ? AND key < ?",
                              (f"{kind}/", f"{kind}0")).fetchall()


def _to_2(connection: sqlite3.Connection) -> None:
    """Rows may be thinned; a cursor says besides what was sent what is stored (of which nobody had told yet).

    Which inventories are needed is known by stream and row instead of by epoch; all of an epoch's are, until the rows
    it has by now are gone.
    """
    connection.execute("ALTER TABLE rows ADD COLUMN step INTEGER NOT NULL DEFAULT 0")
    connection.execute("ALTER TABLE rows ADD COLUMN was INTEGER NOT NULL DEFAULT 0")
    new: dict[str, object] = {}
    for key, value in _below(connection, "cursor"):
        low, ranges = unpack(key, value, tuple[int, Spans])
        new[key] = (low, ranges, 0, [])
    named: dict[str, tuple[int, ...]] = {}
    for key, value in _below(connection, "epoch"):
        number, reason, named[key.partition("/")[2]] = unpack(key, value, tuple[int, str, tuple[int, ...]])
        new[key] = (number, reason)
    for key, value in _below(connection, "extent"):
        extent = unpack(key, value, tuple[int, int, int, int, int])
        new[key] = (*extent, 0, 0, [(n, extent[1] - 1) for n in named.get(key.split("/")[1], ())])
    connection.executemany("UPDATE state SET value = ? WHERE key = ?", [(pack(k, v), k) for k, v in new.items()])


_STEPS: dict[int, Callable[[sqlite3.Connection], None]] = {2: _to_2}
"""By the version they lead to."""


def bring(connection: sqlite3.Connection, version: int, schema: int) -> None:
    """Bring an open journal of `version` to `schema`.

    Raises:
        sqlite3.Error: not now; nothing was changed. DamagedError among them: it is not what was written.
    """
    if version == schema:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in range(version + 1, schema + 1):
            _STEPS[step](connection)
        connection.execute(f"PRAGMA user_version = {schema}")
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
