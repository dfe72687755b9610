"""The SQLite file.

Owns: schema, pragmas, transactions, what is in the file and in memory about it.
Promises: `commit` is durable when it returns (WAL, synchronous=FULL) or raises and changed nothing; memory (`streams`,
`cursors` …) moves only after the disk did; the file stays under its page cap.
Never: starts threads, waits for anything but the disk, hides an error.

Rows live in one b-tree keyed by (epoch number, lane, seq) packed into the integer primary key, so that a commit
appends to one leaf a lane; all small state shares one key/value table, so that it costs one page a commit.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from gateway.journal.cursors import Cursor
from gateway.journal.rows import checksum
from gateway.journal.staging import Latch
from gateway.model import LANES, Door, Inventory, Lane, Row, Trust

SCHEMA = 1
PAGE_BYTES = 4096
_CREATE = (
    ("CREATE TABLE rows (id INTEGER PRIMARY KEY, epoch TEXT NOT NULL, inventory INTEGER NOT NULL, boot TEXT NOT NULL,"
     " offset_ms INTEGER NOT NULL, trust TEXT NOT NULL, count INTEGER NOT NULL, total INTEGER NOT NULL,"
     " crc INTEGER NOT NULL, body BLOB NOT NULL)"),
    "CREATE TABLE state (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE inventories (n INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    f"PRAGMA user_version = {SCHEMA}",
)
COLUMNS = "id, epoch, inventory, boot, offset_ms, trust, count, total, crc, body"
_INSERT = f"INSERT OR IGNORE INTO rows ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)"  # noqa: S608
_SEQ_BITS = 40
_EPOCHS_KEPT = 16
"""Closed epochs without rows that birth still names, so that the county can count what it missed."""

Stream = tuple[str, Lane]
"""(epoch, lane): the thing sequence numbers run in."""


class Extent(Struct, frozen=True, array_like=True, gc=False):
    """What the file holds of one stream: seqs oldest … next - 1, apart from reported gaps."""

    oldest: int = 1
    next: int = 1
    rows: int = 0
    bytes: int = 0
    total: int = 0
    """Records ever committed or given up in this stream."""


class Epoch(Struct, frozen=True, array_like=True):
    """One run of numbering. `number` ascends with age."""

    number: int
    reason: str
    inventories: tuple[int, ...] = ()


class Stored(Struct, frozen=True):
    """A row with the running count of Records in its stream, itself included."""

    row: Row
    total: int


class Gap(Struct, frozen=True, array_like=True):
    """Rows that will never come: first … last of a stream, `count` Records (None: nobody knows)."""

    epoch: str
    lane: Lane
    first: int
    last: int
    count: int | None
    reason: str
    platforms: tuple[str, ...] = ()
    """Who misses them."""


class State(Struct, frozen=True, array_like=True):
    """The box as of the last commit."""

    gateway: str = ""
    boot: str = ""
    epoch: str = ""
    commit: int = 0
    latch: Latch | None = None
    alive_utc_ms: int | None = None
    gaps: tuple[Gap, ...] = ()
    """Known, settled, not yet told in an event."""


class Changes(Struct):
    """One commit group."""

    state: State
    """Its commit number is filled in."""
    rows: list[Stored] = []
    cursors: list[tuple[str, Stream]] = []
    """Which of the cursors below to write."""
    marks: Mapping[tuple[str, Stream], tuple[int, list[tuple[int, int]]]] = {}
    inventories: list[Inventory] = []
    reason: str = ""
    """Why the current epoch began."""
    damaged: list[tuple[str, Lane, int]] = []


Mark = tuple[int, list[tuple[int, int]]]
"""A cursor as it is saved: low mark and ranges."""


class DamagedError(sqlite3.DatabaseError):
    """The file is SQLite's, but not the journal that was written."""


def pack(key: str, value: Any) -> bytes:
    """Small state as it is kept: CRC-32 over key and value, then msgpack. A flipped bit must not become a latch."""
    body = msgspec.msgpack.encode(value)
    return zlib.crc32(body, zlib.crc32(key.encode())).to_bytes(4, "little") + body


def unpack(key: str, raw: Any, kind: Any) -> Any:
    """The value that `pack` was given.

    Raises:
        DamagedError: these are not the bytes that were written.
    """
    if not isinstance(raw, bytes) or zlib.crc32(raw[4:], zlib.crc32(key.encode())).to_bytes(4, "little") != raw[:4]:
        raise DamagedError(f"state {key!r} is not what was written")
    try:
        return msgspec.msgpack.decode(raw[4:], type=kind)
    except msgspec.MsgspecError as error:
        raise DamagedError(f"state {key!r} cannot be read: {error}") from error


def is_damage(error: Exception) -> bool:
    """Whether the file is not what was written (rather than full, locked, unreachable)."""
    if isinstance(error, DamagedError):
        return True
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def key_of(number: int, lane: Lane, seq: int) -> int:
    """The primary key of a row."""
    return ((number * 4 + LANES.index(lane)) << _SEQ_BITS) + seq


def lane_seq(key: int) -> tuple[int, Lane, int]:
    """(epoch number, lane, seq) of a primary key."""
    block, seq = key >> _SEQ_BITS, key & ((1 << _SEQ_BITS) - 1)
    return block >> 2, LANES[block & 3], seq


def row_of(record: tuple[Any, ...]) -> Stored | None:
    """A row as read with COLUMNS, or None when its checksum says that it is not what was written."""
    key, epoch, inventory, boot, offset_ms, trust, count, total, crc, body = record
    try:
        _, lane, seq = lane_seq(key)
        known: Trust = trust
        row = Row(epoch=epoch, lane=lane, seq=seq, inventory=inventory, door=Door(boot, offset_ms, known), count=count,
                  body=body)
        return Stored(row, total) if checksum(row, total) == crc else None
    except (TypeError, IndexError, AttributeError, ValueError):
        return None


class Store:
    """One connection that writes. One thread at a time."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Open or make the file.

        Raises:
            sqlite3.Error: cannot be opened, or is not a journal (see `is_damage`).
            OSError: the folder cannot be made.
        """
        self.path = path
        wal = max(32, min(256, max_bytes // PAGE_BYTES // 8))
        self.cap = max(64, max_bytes // PAGE_BYTES - wal)
        self.streams: dict[Stream, Extent] = {}
        self.epochs: dict[str, Epoch] = {}
        self.cursors: dict[tuple[str, Stream], Cursor] = {}
        self.inventories: dict[int, Inventory] = {}
        self.state = State()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        self.connection = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(wal)
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

    def _prepare(self, wal: int) -> None:
        run = self.connection.execute
        version = run("PRAGMA user_version").fetchone()[0]
        if not 0 <= version < 1000:
            raise DamagedError(f"{self.path}: schema {version} does not exist")
        if version > SCHEMA:
            raise sqlite3.DatabaseError(f"{self.path}: schema {version}, this program knows {SCHEMA}; use a newer one")
        mode = run("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise sqlite3.DatabaseError(f"{self.path}: journal mode is {mode}, expected wal; use a local disk")
        run("PRAGMA synchronous = FULL")
        run(f"PRAGMA wal_autocheckpoint = {wal}")
        run(f"PRAGMA journal_size_limit = {wal * PAGE_BYTES}")
        run(f"PRAGMA max_page_count = {self.cap}")
        run("PRAGMA cache_size = -1024")
        if version == 0:
            run("BEGIN IMMEDIATE")
            for statement in _CREATE:
                run(statement)
            run("COMMIT")
            self._sync_folder()

    def _sync_folder(self) -> None:
        # A new file is only as durable as its directory entry.
        fd = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _load(self) -> None:
        for key, value in self.connection.execute("SELECT key, value FROM state").fetchall():
            kind, _, rest = key.partition("/")
            if kind == "state":
                self.state = unpack(key, value, State)
            elif kind == "epoch":
                self.epochs[rest] = unpack(key, value, Epoch)
            elif kind == "extent":
                epoch, lane = rest.split("/")
                self.streams[epoch, lane] = unpack(key, value, Extent)
            elif kind == "cursor":
                epoch, lane, platform = rest.split("/", 2)
                low, ranges = unpack(key, value, Mark)
                self.cursors[platform, (epoch, lane)] = Cursor(low, ranges)
        for n, body in self.connection.execute("SELECT n, body FROM inventories").fetchall():
            self.inventories[n] = unpack(str(n), body, Inventory)

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

    def used_pages(self) -> int:
        """Pages that hold something."""
        run = self.connection.execute
        return int(run("PRAGMA page_count").fetchone()[0]) - int(run("PRAGMA freelist_count").fetchone()[0])

    def file_bytes(self) -> int:
        """Database and write-ahead log together."""
        total = 0
        for path in family(self.path)[:2]:
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def commit(self, changes: Changes, platforms: Iterable[str] = ()) -> list[Gap]:
        """Write one group, trimming the oldest rows where the quota asks for it.

        Returns the gaps that trimming made among rows that a platform still misses.

        Raises:
            sqlite3.Error: nothing was changed.
        """
        work = _Group(self, changes, tuple(platforms))
        run = self.connection.execute
        run("BEGIN IMMEDIATE")
        try:
            work.write()
            run("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    run("ROLLBACK")
            raise
        self._identity = self._stat()
        work.publish()
        return work.gaps

    def transplant(self, records: list[tuple[Any, ...]]) -> None:
        """Insert rows as another journal held them (COLUMNS), in a transaction of their own."""
        self.connection.execute("BEGIN IMMEDIATE")
        with self.connection:
            self.connection.executemany(_INSERT, records)

    def graft(self, state: State, epochs: Mapping[str, Epoch], extents: Mapping[Stream, Extent],
              cursors: Mapping[tuple[str, Stream], tuple[int, list[tuple[int, int]]]],
              inventories: Mapping[int, Inventory]) -> None:
        """Take over the small state of another journal, after its rows."""
        pairs: list[tuple[str, Any]] = [("state", state)]
        pairs += [(f"epoch/{name}", epoch) for name, epoch in epochs.items()]
        pairs += [(f"extent/{epoch}/{lane}", extent) for (epoch, lane), extent in extents.items()]
        pairs += [(f"cursor/{epoch}/{lane}/{platform}", mark) for (platform, (epoch, lane)), mark in cursors.items()]
        self.connection.execute("BEGIN IMMEDIATE")
        with self.connection:
            self.connection.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)",
                                        [(key, pack(key, value)) for key, value in pairs])
            self.connection.executemany("INSERT OR REPLACE INTO inventories VALUES (?, ?)",
                                        [(n, pack(str(n), inventory)) for n, inventory in inventories.items()])
        self._load()

    def close(self) -> None:
        """Close the connection; checkpoints when it is the last one."""
        self.connection.close()


class _Group:
    """One transaction: what it will change in memory once the disk has it."""

    def __init__(self, store: Store, changes: Changes, platforms: tuple[str, ...]) -> None:
        self.store = store
        self.changes = changes
        self.platforms = platforms
        self.streams = dict(store.streams)
        self.epochs = dict(store.epochs)
        self.inventories = dict(store.inventories)
        self.gaps: list[Gap] = []
        self.state = changes.state
        self._run = store.connection.execute
        self._touched: set[Stream] = set()
        self._gone: list[str] = []

    def _put(self, key: str, value: Any) -> None:
        self._run("INSERT OR REPLACE INTO state VALUES (?, ?)", (key, pack(key, value)))

    def write(self) -> None:
        changes = self.changes
        self._trim()
        for inventory in changes.inventories:
            self._run("INSERT OR REPLACE INTO inventories VALUES (?, ?)",
                      (inventory.n, pack(str(inventory.n), inventory)))
            self.inventories[inventory.n] = inventory
        for epoch, lane, seq in changes.damaged:
            if epoch in self.epochs and self._run("DELETE FROM rows WHERE id = ?", (
                    key_of(self.epochs[epoch].number, lane, seq),)).rowcount:
                old = self.streams[epoch, lane]
                self.streams[epoch, lane] = Extent(old.oldest, old.next, old.rows - 1, old.bytes, old.total)
                self._touched.add((epoch, lane))
        records = [self._row(stored) for stored in changes.rows]
        if records:
            self.store.connection.executemany(_INSERT, records)
        for stream in self._touched:
            self._put(f"extent/{stream[0]}/{stream[1]}", self.streams[stream])
        for key in changes.cursors:
            platform, (epoch, lane) = key
            self._put(f"cursor/{epoch}/{lane}/{platform}", changes.marks[key])
        self._forget()
        self.state = msgspec.structs.replace(changes.state, commit=self.store.state.commit + 1)
        self._put("state", self.state)

    def _row(self, stored: Stored) -> tuple[Any, ...]:
        row = stored.row
        epoch = self.epochs.get(row.epoch)
        if epoch is None or (row.inventory and row.inventory not in epoch.inventories):
            if epoch is None:
                reason = self.changes.reason if row.epoch == self.changes.state.epoch else "replayed"
                epoch = Epoch(1 + max((e.number for e in self.epochs.values()), default=0), reason)
            if row.inventory:
                epoch = Epoch(epoch.number, epoch.reason, (*epoch.inventories, row.inventory))
            self.epochs[row.epoch] = epoch
            self._put(f"epoch/{row.epoch}", epoch)
        stream = (row.epoch, row.lane)
        old = self.streams.get(stream, Extent())
        if row.seq >= old.next:  # otherwise it is there already: the first content of an identity stays
            self.streams[stream] = Extent(old.oldest if old.rows else row.seq, row.seq + 1, old.rows + 1,
                                          old.bytes + len(row.body), max(old.total, stored.total))
            self._touched.add(stream)
        return (key_of(epoch.number, row.lane, row.seq), row.epoch, row.inventory, row.door.boot, row.door.offset_ms,
                row.door.trust, row.count, stored.total, checksum(row, stored.total), row.body)

    def _trim(self) -> None:
        """Make room for this group: a little more goes than comes, so that a lowered quota is reached in steps."""
        cap = self.store.cap
        coming = 4 + sum(1 + len(s.row.body) // PAGE_BYTES for s in self.changes.rows)
        over = self.store.used_pages() + coming - cap * 17 // 20
        if over <= 0:
            return
        aged = sorted(self.streams, key=lambda s: self.epochs[s[0]].number if s[0] in self.epochs else 0)
        data = [s for s in aged if s[1] == "data"]
        rest = [s for s in aged if s[1] != "data"]
        rest_bytes = sum(self.streams[s].bytes for s in rest)
        left = min(over + 8, coming + 64)
        left = self._trim_from(data, left, settled=True)
        if left > 0 and rest_bytes > cap * PAGE_BYTES // 4:
            left = self._trim_from(rest, left, settled=True)
        if left > 0:
            left = self._trim_from(data, left, settled=False)
        if left > 0:
            self._trim_from(rest, left, settled=True)

    def _trim_from(self, streams: list[Stream], left: int, settled: bool) -> int:
        for stream in streams:
            extent = self.streams[stream]
            if not extent.rows or left <= 0:
                continue
            number = self.epochs[stream[0]].number
            upto = extent.next - 1
            if settled:
                cursors = [self.store.cursors.get((platform, stream)) for platform in self.platforms]
                upto = min([upto, *(cursor.low if cursor else 0 for cursor in cursors)])
            if upto < extent.oldest:
                continue
            rows = self._run("SELECT id, count, total, length(body) FROM rows WHERE id BETWEEN ? AND ? ORDER BY id"
                             " LIMIT ?", (key_of(number, stream[1], extent.oldest), key_of(number, stream[1], upto),
                                          left)).fetchall()
            if not rows:
                continue
            last = lane_seq(rows[-1][0])[2]
            self._run("DELETE FROM rows WHERE id BETWEEN ? AND ?", (rows[0][0], rows[-1][0]))
            freed = sum(r[3] for r in rows)
            kept = extent.rows - len(rows)
            self.streams[stream] = Extent(last + 1 if kept else extent.next, extent.next, kept, extent.bytes - freed,
                                          extent.total)
            self._touched.add(stream)
            left -= len(rows)
            if not settled and self.platforms:
                self.gaps.append(Gap(stream[0], stream[1], lane_seq(rows[0][0])[2], last, sum(r[1] for r in rows),
                                     "quota"))
        return left

    def _forget(self) -> None:
        """Drop what nothing refers to any more: old empty epochs with their cursors, unused inventories."""
        empty = sorted((e.number, name) for name, e in self.epochs.items() if name != self.changes.state.epoch
                       and not any(self.streams[name, lane].rows for lane in LANES if (name, lane) in self.streams))
        gone = [name for _, name in empty[:-_EPOCHS_KEPT]]
        for name in gone:
            for lane in LANES:
                self.streams.pop((name, lane), None)
            del self.epochs[name]
            # '0' is the character after '/': the range is everything below the name.
            self._run("DELETE FROM state WHERE key = ? OR (key > ? AND key < ?) OR (key > ? AND key < ?)",
                      (f"epoch/{name}", f"extent/{name}/", f"extent/{name}0", f"cursor/{name}/", f"cursor/{name}0"))
        self._gone = gone
        if not gone:
            return
        used = {n for e in self.epochs.values() for n in e.inventories} | {i.n for i in self.changes.inventories}
        for n in [n for n in self.inventories if n not in used]:
            del self.inventories[n]
            self._run("DELETE FROM inventories WHERE n = ?", (n,))

    def publish(self) -> None:
        store = self.store
        store.streams, store.epochs, store.inventories = self.streams, self.epochs, self.inventories
        store.state = self.state
        for name in self._gone:
            for key in [k for k in list(store.cursors) if k[1][0] == name]:
                del store.cursors[key]


def family(path: Path) -> tuple[Path, Path, Path]:
    """The database and the two files SQLite keeps beside it."""
    return path, Path(f"{path}-wal"), Path(f"{path}-shm")


def move_aside(path: Path, word: str) -> Path:
    """Rename a database with its log to `<path>.<word>`; only the newest of its kind is kept."""
    kind = word.split("-")[0]
    for old in path.parent.glob(f"{path.name}.{kind}-*"):
        old.unlink(missing_ok=True)
    aside = Path(f"{path}.{word}")
    for source, target in zip(family(path), family(aside), strict=True):
        with contextlib.suppress(FileNotFoundError):
            source.rename(target)
    return aside
