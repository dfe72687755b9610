"""A connection to a file that may be anything.

Owns: how a file is opened for reading when it may be damaged. Promises: what a damaged schema says is a DamagedError;
sqlite3 alone raises UnicodeDecodeError where its message quotes a name that is not UTF-8 any more. Never: writes.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from gateway.journal.state import DamagedError


class _Wary(sqlite3.Connection):
    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        try:
            return super().execute(*arguments)
        except UnicodeDecodeError as error:
            raise DamagedError(f"the schema is not what was written: {error}") from error


def look_into(path: Path | str, **options: Any) -> sqlite3.Connection:
    """Open `path` as `sqlite3.connect` does, outside any transaction.

    Raises:
        sqlite3.Error: here or by any statement, whatever the file contains.
    """
    return sqlite3.connect(path, isolation_level=None, factory=_Wary, **options)
