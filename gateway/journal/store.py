"""The SQLite file.

Owns: its schema, pragmas and connection, what somebody else did to it, and what memory knows of it (`kept`).
Promises: `commit` is durable when it returns (WAL, synchronous=FULL) or raises and changed nothing; memory moves only
after the disk did; the file stays under its page cap.
Never: starts threads, waits for anything but the disk, hides an error.

Rows live in one b-tree keyed by (epoch number, lane, seq) packed into the integer primary key, so that a commit
appends to one leaf a lane; all small state shares one key/value table, so that it costs one page a commit.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from gateway.journal import migrations
from gateway.journal.carry import Carry, Step
from gateway.journal.cursors import Delivery
from gateway.journal.gaps import Gap
from gateway.journal.quota import Had, shares
from gateway.journal.records import CREATE, PAGE_BYTES
from gateway.journal.rows import Stream
from gateway.journal.state import DamagedError, Epoch, Extent, Kept, State, pack
from gateway.journal.transaction import PUT, PUT_INVENTORY, Changes, Transaction
from gateway.journal.trim import Work
from gateway.model import Inventory

SCHEMA = 2
_CREATE = (
    CREATE,
    "CREATE TABLE state (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE inventories (n INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    f"PRAGMA user_version = {SCHEMA}",
)


_BUSY_MS = 1000
_NEWEST = 100
"""Beyond any version that will be: a flipped bit, not a newer program."""


class NewerError(sqlite3.DatabaseError):
    """The journal was written by a newer program: whole, but not for us."""


def is_damage(error: Exception) -> bool:
    """Whether the file is not what was written (rather than full, locked, unreachable)."""
    if isinstance(error, DamagedError):
        return True
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Done(Struct, frozen=True):
    """What became of a group."""

    taken: int
    """So many of its rows, from the first, are in the file; the others found no room yet."""
    gaps: list[Gap]
    """What trimming took from a platform that misses it."""
    work: Work


class Carried(Struct, frozen=True):
    """What became of a search's step."""

    gaps: list[Gap]
    whole: bool
    """Whether all of it is in the file."""


class Store:
    """One connection that writes. One thread at a time."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Open or make the file.

        Raises:
            sqlite3.Error: cannot be opened, or is not a journal (see `is_damage`).
            OSError: the folder cannot be made.
        """
        self.path = path
        self.shares = shares(max_bytes)
        self.kept = Kept()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        self.connection = sqlite3.connect(path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
            self._sync_log()
            self._load()
        except (AttributeError, ValueError, KeyError) as error:
            self.connection.close()
            raise DamagedError(f"{path}: state cannot be read: {error}") from error
        except sqlite3.OperationalError as error:
            self.connection.close()
            # A missing table, or text that is not UTF-8: reached only when the file is not what was written.
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) == sqlite3.SQLITE_ERROR:
                raise DamagedError(f"{path}: {error}") from error
            raise
        except BaseException:
            self.connection.close()
            raise
        self._identity = self._stat()

    def _prepare(self) -> None:
        run, log = self.connection.execute, self.shares.log
        version = run("PRAGMA user_version").fetchone()[0]
        if not 0 <= version < _NEWEST:
            raise DamagedError(f"{self.path}: schema {version} does not exist")
        if version > SCHEMA:
            raise NewerError(f"{self.path}: schema {version}, this program knows {SCHEMA}; use a newer one")
        mode = run("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise sqlite3.DatabaseError(f"{self.path}: journal mode is {mode}, expected wal; use a local disk")
        run("PRAGMA synchronous = FULL")
        run(f"PRAGMA wal_autocheckpoint = {log}")
        run(f"PRAGMA journal_size_limit = {log * PAGE_BYTES}")
        run("PRAGMA cache_size = -1024")
        if version == 0:
            run("BEGIN IMMEDIATE")
            for statement in _CREATE:
                run(statement)
            run("COMMIT")
            self._sync_folder()
        else:
            migrations.bring(self.connection, version, SCHEMA)
        # Only now: a full journal must find room to become a newer one.
        run(f"PRAGMA max_page_count = {self.shares.cap}")

    def _sync_folder(self) -> None:
        # A new file is only as durable as its directory entry.
        _sync(self.path.parent)

    def _sync_log(self) -> None:
        # What a killed process had written and not synced reads as committed: nobody may be told of it before it is.
        log = family(self.path)[1]
        if log.exists():
            _sync(log)

    def _load(self) -> None:
        for key, value in self.connection.execute("SELECT key, value FROM state").fetchall():
            self.kept.read(key, value)
        for n, body in self.connection.execute("SELECT n, body FROM inventories").fetchall():
            self.kept.read_inventory(n, body)

    @property
    def state(self) -> State:
        """As of the last commit."""
        return self.kept.state

    @property
    def streams(self) -> dict[Stream, Extent]:
        """What is held of each stream; replaced by a commit, never changed."""
        return self.kept.streams

    @property
    def epochs(self) -> dict[str, Epoch]:
        """By name; replaced by a commit, never changed."""
        return self.kept.epochs

    @property
    def inventories(self) -> dict[int, Inventory]:
        """By number; replaced by a commit, never changed."""
        return self.kept.inventories

    @property
    def cursors(self) -> dict[tuple[str, Stream], Delivery]:
        """By platform and stream. The journal moves them; a group only says which to save."""
        return self.kept.cursors

    def _stat(self) -> list[tuple[int, ...]]:
        out: list[tuple[int, ...]] = []
        for path in family(self.path)[:2]:
            try:
                stat = path.stat()
                out.append((stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns))
            except FileNotFoundError:
                out.append(())
        return out

    def meddled(self) -> str:
        """Whether somebody touched the file since our last group.

        ``"moved"``: deleted or exchanged; our connection still has all of it. ``"overwritten"``: other bytes in the
        same file (only our own commits checkpoint into it). Empty when all is well.
        """
        (main, wal), (main_then, wal_then) = self._stat(), self._identity
        if main[:2] != main_then[:2] or wal[:2] != wal_then[:2]:
            return "moved"
        return "overwritten" if main != main_then else ""

    def rescue(self, aside: str) -> None:
        """Write what our connection sees back to the path; a foreign file there is moved aside. Then reopen.

        Raises:
            sqlite3.Error, OSError: not done; call again.
        """
        new = Path(f"{self.path}.new")
        for path in family(new):
            path.unlink(missing_ok=True)
        target = sqlite3.connect(new, isolation_level=None)
        try:
            self.connection.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")  # one file to rename, synced
        finally:
            target.close()
        move_aside(self.path, aside)
        new.rename(self.path)
        self._sync_folder()

    def _held(self) -> int:
        """Pages of the log beyond its share, because somebody's reading keeps it from being worked off."""
        def beyond() -> int:
            with contextlib.suppress(FileNotFoundError):
                pages = family(self.path)[1].stat().st_size // PAGE_BYTES
                return max(0, pages - self.shares.log - self.shares.group)
            return 0

        if beyond():
            run = self.connection.execute
            run("PRAGMA busy_timeout = 0")
            try:
                run("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()   # in case it is not held any more
            finally:
                run(f"PRAGMA busy_timeout = {_BUSY_MS}")
                self._identity = self._stat()
        return beyond()

    def file_bytes(self) -> int:
        """Database and write-ahead log together."""
        total = 0
        for path in family(self.path)[:2]:
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def commit(self, changes: Changes, platforms: Iterable[str] = ()) -> Done:
        """Write one group, trimming the oldest rows where the quota asks for it.

        Raises:
            sqlite3.Error: nothing was changed.
        """
        work = Transaction(self.connection, self.kept, changes, tuple(platforms), self.shares, self._held())
        with self._transaction():
            work.write()
        self.kept = work.kept
        for key in [key for key in list(self.cursors) if key[1][0] in work.forgotten]:
            del self.cursors[key]
        return Done(work.taken, work.trim.gaps, work.trim.work)

    def carry(self, step: Step, had: Had, platforms: Iterable[str]) -> Carried:
        """Write what a step of a search found; `step` is left with what there was no room for yet.

        Raises:
            sqlite3.Error: nothing was changed; the step is whole.
        """
        work = Carry(self.connection, self.kept, step, had, tuple(platforms), self.shares, self._held())
        with self._transaction():
            work.write()
        whole = work.taken == len(step.rows)
        step.rows = step.rows[work.taken:]
        self.kept = work.kept
        return Carried(work.gaps, whole)

    def inherit(self, kept: Kept) -> None:
        """Begin with the small state of a wreck, before its rows."""
        with self._transaction():
            run = self.connection.executemany
            run(PUT, kept.pairs())
            run(PUT_INVENTORY, [(n, pack(str(n), inventory)) for n, inventory in kept.inventories.items()])
        self.kept = kept

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        run = self.connection.execute
        run("BEGIN IMMEDIATE")
        try:
            yield
            run("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    run("ROLLBACK")
            raise
        finally:
            self._identity = self._stat()   # also a COMMIT that fails may have worked off some of the log

    def close(self) -> None:
        """Close the connection; checkpoints when it is the last one."""
        self.connection.close()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def family(path: Path) -> tuple[Path, Path, Path]:
    """The database and the two files SQLite keeps beside it."""
    return path, Path(f"{path}-wal"), Path(f"{path}-shm")


def move_aside(path: Path, word: str, keep: Iterable[str] = ()) -> Path:
    """Rename a database with its log to `<path>.<word>`; of its kind only the newest, and `keep`, stay."""
    kind, needed = word.split("-")[0], {file.name for name in keep for file in family(path.with_name(name))}
    for old in path.parent.glob(f"{path.name}.{kind}-*"):
        if old.name not in needed:
            old.unlink(missing_ok=True)
    aside = Path(f"{path}.{word}")
    for source, target in zip(family(path), family(aside), strict=True):
        with contextlib.suppress(FileNotFoundError):
            source.rename(target)
    return aside
