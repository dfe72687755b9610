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


def _to_2(connection: sqlite3.Connection) -> None:
    """Rows may be thinned; a cursor says besides what was sent what is stored (of which nobody had told yet)."""
    connection.execute("ALTER TABLE rows ADD COLUMN step INTEGER NOT NULL DEFAULT 0")
    connection.execute("ALTER TABLE rows ADD COLUMN was INTEGER NOT NULL DEFAULT 0")
    for key, value in connection.execute("SELECT key, value FROM state WHERE key > 'cursor/' AND key < 'cursor0'"
                                         ).fetchall():
        low, ranges = unpack(key, value, tuple[int, Spans])
        connection.execute("UPDATE state SET value = ? WHERE key = ?", (pack(key, (low, ranges, 0, [])), key))


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
