"""Where a county keeps what it gets: SQLite in a file, or PostgreSQL.

Owns: connections, transactions and the difference between the two. Promises: `within` commits all or nothing; several
processes may share one database. Never: knows what a reading is.

SQL is written once, in what both understand, with `?` for values.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from sqlite_utils import Database as SqliteUtils

Values = Sequence[Any]


class Database(Protocol):
    """One connection; one thread."""

    def run(self, sql: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        ...

    def many(self, sql: str, values: Sequence[Values]) -> None:
        """Run one statement for each of many values."""
        ...

    def within(self) -> contextlib.AbstractContextManager[None]:
        """A transaction that nobody else writes beside."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class Sqlite:
    """A file, by sqlite-utils."""

    def __init__(self, path: str) -> None:
        self.utils = SqliteUtils(sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False))
        self._run = self.utils.conn.execute
        self._run("PRAGMA journal_mode = WAL")
        # A receipt says "stored": it must survive a power cut of the county, too.
        self._run("PRAGMA synchronous = FULL")

    def run(self, sql: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        return self._run(sql, tuple(values)).fetchall()

    def many(self, sql: str, values: Sequence[Values]) -> None:
        """Run one statement for each of many values."""
        self.utils.conn.executemany(sql, values)

    @contextlib.contextmanager
    def within(self) -> Iterator[None]:
        """A transaction that nobody else writes beside."""
        self._run("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._run("ROLLBACK")
            raise
        self._run("COMMIT")

    def close(self) -> None:
        """Let go."""
        self.utils.conn.close()


class Postgres:
    """A server, by psycopg (`pip install 'mingluo[county]'`)."""

    def __init__(self, url: str) -> None:
        import psycopg  # an office on SQLite does without it

        self._connection = psycopg.connect(url, autocommit=True)

    def run(self, sql: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        cursor = self._connection.execute(_psycopg(sql), tuple(values))
        return cursor.fetchall() if cursor.description else []

    def many(self, sql: str, values: Sequence[Values]) -> None:
        """Run one statement for each of many values."""
        with self._connection.cursor() as cursor:
            cursor.executemany(_psycopg(sql), values)

    @contextlib.contextmanager
    def within(self) -> Iterator[None]:
        """A transaction that nobody else writes beside."""
        with self._connection.transaction():
            self.run("SELECT pg_advisory_xact_lock(7264617)")
            yield

    def close(self) -> None:
        """Let go."""
        self._connection.close()


def _psycopg(sql: str) -> str:
    return sql.replace("%", "%%").replace("?", "%s")


def connect(where: str) -> Database:
    """Open a database: ``postgresql://…``, or the path of an SQLite file."""
    return Postgres(where) if where.startswith(("postgresql://", "postgres://")) else Sqlite(where)
