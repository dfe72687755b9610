"""A journal file as somebody else sees it: on a running box beside its gateway, or copied to an office PC.

Owns: a connection that only reads, the file's small state, and when a row happened. Promises: every read transaction
ends after one page of rows, so a running gateway's write-ahead log can shrink; a row whose checksum does not hold is
given out as None, never as a reading; a journal of an older program is read through a migrated copy. Never: writes into
the file, leaves one behind, asks the gateway.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from gateway.journal import migrations
from gateway.journal.connection import look_into
from gateway.journal.records import COLUMNS, LAST_SEQ, Stored, key_of, lane_seq, row_of
from gateway.journal.rows import Stream
from gateway.journal.state import DamagedError, Kept
from gateway.journal.store import SCHEMA, family, is_damage
from gateway.model import LANES, Lane, Row

FILE = "journal.sqlite"
PAGE = 128
"""Rows a read transaction takes: half a megabyte, some milliseconds."""
_UP = f"SELECT {COLUMNS} FROM rows WHERE id >= ? AND id <= ? ORDER BY id LIMIT ?"  # noqa: S608
_DOWN = f"SELECT {COLUMNS} FROM rows WHERE id >= ? AND id <= ? ORDER BY id DESC LIMIT ?"  # noqa: S608
_NEWEST = 100


class Unusable(OSError):  # noqa: N818 (a state of the file, not of this program)
    """The file cannot be used as asked. Says what, where and what to do in both languages."""

    def __init__(self, text_en: str, text_zh: str) -> None:
        super().__init__(text_en)
        self.text_en, self.text_zh = text_en, text_zh


class Archive:
    """One file, open for reading; a context manager. One thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open it; a folder means the journal in it.

        Raises:
            Unusable: no such file, no journal, a newer one, damaged beyond its first pages, no permission.
        """
        self.path = path = path / FILE if path.is_dir() else path
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        if not path.is_file():
            raise Unusable(f"{path}: no such file; --folder is where journal.sqlite lies (journal.folder of the "
                           "configuration)",
                           f"{path}：没有这个文件；--folder 应为 journal.sqlite 所在文件夹（配置中的 journal.folder）")
        with told(path):
            self.connection = _connect(path)
            try:
                self.schema = self._known()
                if self.schema < SCHEMA:
                    self._migrate()
                self.kept, self.unread = _kept(self.connection)
            except BaseException:
                self.close()
                raise

    def _known(self) -> int:
        version = int(self.connection.execute("PRAGMA user_version").fetchone()[0])
        tables = {name for (name,) in self.connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        if not 0 < version < _NEWEST or not {"rows", "state", "inventories"} <= tables:
            raise Unusable(f"{self.path}: an SQLite file, but not a journal of mingluo (schema {version}, tables "
                           f"{', '.join(sorted(tables)) or 'none'}); expected a copy of journal.sqlite",
                           f"{self.path}：是 SQLite 文件，但不是鸣锣日志库；应为 journal.sqlite 的副本")
        if version > SCHEMA:
            raise Unusable(f"{self.path}: schema {version}, this program knows up to {SCHEMA}; use a newer mingluo",
                           f"{self.path}：结构版本 {version}，本程序只认到 {SCHEMA}；请使用更新版本的 mingluo")
        return version

    def _migrate(self) -> None:
        """Go on with a copy that has this program's schema; the file stays as it is."""
        self._copy = tempfile.TemporaryDirectory(prefix="mingluo-")
        copy = sqlite3.connect(Path(self._copy.name) / FILE, isolation_level=None)
        self.connection.backup(copy, pages=256)
        self.connection.close()
        self.connection = copy
        migrations.bring(copy, self.schema, SCHEMA)
        copy.execute("PRAGMA query_only = ON")

    def span(self, stream: Stream) -> tuple[int, int]:
        """First and last primary key the rows of a stream may have.

        Raises:
            KeyError: no such epoch.
        """
        number = self.kept.epochs[stream[0]].number
        return key_of(number, stream[1], 0), key_of(number, stream[1], LAST_SEQ)

    def streams(self, lanes: tuple[Lane, ...] = LANES) -> list[Stream]:
        """The streams of these lanes, oldest epoch first."""
        ages = {name: epoch.number for name, epoch in self.kept.epochs.items()}
        return sorted((s for s in self.kept.streams if s[1] in lanes and s[0] in ages),
                      key=lambda s: (ages[s[0]], lanes.index(s[1])))

    def rows(self, first: int, last: int, *, down: bool = False, page: int = PAGE
             ) -> Iterator[list[tuple[int, Stored | None]]]:
        """Pages of (primary key, row) with keys first…last; the row is None when its checksum does not hold.

        Raises:
            Unusable: a page of the file cannot be read.
        """
        query = _DOWN if down else _UP
        while first <= last:
            with told(self.path):
                records = self.connection.execute(query, (first, last, page)).fetchall()
            if records:
                yield [(record[0], row_of(record)) for record in records]
            if len(records) < page:
                return
            if down:
                last = records[-1][0] - 1
            else:
                first = records[-1][0] + 1

    def whole(self) -> Self:
        """Itself, when its small state can be read: without that nobody knows which rows there are.

        Raises:
            Unusable: it cannot.
        """
        if self.unread:
            raise Unusable(f"{self.path}: damaged: {self.unread[0]}; `mingluo journal verify` says all, and the "
                           "gateway keeps what can be read when it starts on it",
                           f"{self.path}：已损坏：{self.unread[0]}；用 mingluo journal verify 查看，"
                           "网关启动时会抢救可读部分")
        return self

    def file_bytes(self) -> int:
        """Database and write-ahead log together."""
        return sum(part.stat().st_size for part in family(self.path)[:2] if part.exists())

    def offset(self, row: Row) -> int:
        """UTC ms - monotonic ms, the best that is known: of a boot whose clock was unset, what was learnt later."""
        dating = self.kept.boots.get(row.door.boot) if row.door.trust == "unset" else None
        return dating.offset_ms if dating is not None else row.door.offset_ms

    def trust(self, row: Row) -> str:
        """``synced``, ``holdover``, ``unset``, or ``dated``: unset then, known since."""
        return "dated" if row.door.trust == "unset" and row.door.boot in self.kept.boots else row.door.trust

    def close(self) -> None:
        """Let go of it."""
        self.connection.close()
        if self._copy is not None:
            self._copy.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def name_of(archive: Archive, key: int) -> str:
    """A row as a person finds it again."""
    number, lane, seq = lane_seq(key)
    epoch = next((name for name, epoch in archive.kept.epochs.items() if epoch.number == number), f"#{number}")
    return f"{epoch} {lane} {seq}"


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn what SQLite says of a file into what a person can act on."""
    try:
        yield
    except DamagedError as error:
        raise Unusable(f"{path}: damaged: {error}", f"{path}：已损坏：{error}") from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_NOTADB:
            raise Unusable(f"{path}: not an SQLite file; expected a copy of journal.sqlite",
                           f"{path}：不是 SQLite 文件；应为 journal.sqlite 的副本") from error
        if code == sqlite3.SQLITE_CORRUPT:
            raise Unusable(f"{path}: damaged ({error}); `mingluo journal verify` says where, and the gateway keeps "
                           "what can be read when it starts on it",
                           f"{path}：已损坏（{error}）；用 mingluo journal verify 查看位置，网关启动时会抢救可读部分"
                           ) from error
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            raise Unusable(f"{path}: cannot be opened ({error}); use sudo on the box, or copy journal.sqlite with its "
                           "-wal file into a folder of your own",
                           f"{path}：无法打开（{error}）；在设备上请用 sudo，或把 journal.sqlite "
                           "连同 -wal 文件复制到自己的文件夹"
                           ) from error
        raise Unusable(f"{path}: {error}; try again", f"{path}：{error}；请重试") from error


def _connect(path: Path) -> sqlite3.Connection:
    """Open for reading. Without a log beside it nobody has it open, and nothing needs to be made beside it either."""
    mode = "mode=ro" if family(path)[1].exists() else "mode=ro&immutable=1"
    connection = look_into(f"file:{quote(str(path.absolute()))}?{mode}", uri=True, timeout=1.0, check_same_thread=False)
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA cache_size = -1024")
    return connection


def _kept(connection: sqlite3.Connection) -> tuple[Kept, list[str]]:
    """The small state, and what of it is not what was written."""
    kept, unread = Kept(), list[str]()

    def take(take_it: Any, key: Any, value: Any) -> None:
        try:
            take_it(key, value)
        except (DamagedError, ValueError, AttributeError) as error:
            unread.append(str(error))

    for query, read in (("SELECT key, value FROM state", kept.read),
                        ("SELECT n, body FROM inventories", kept.read_inventory)):
        try:
            pairs = connection.execute(query).fetchall()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            unread.append(str(error))
            continue
        for key, value in pairs:
            take(read, key, value)
    return kept, unread
