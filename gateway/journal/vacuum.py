"""A journal without its empty pages.

Owns: making it. Promises: only while no gateway has the folder; nothing is begun without room for it, and no more room
is used than `needs` says; a cut at any moment leaves the old file or the new one, whole. Never: drops a row.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from gateway.journal.archive import Archive, Unusable, told
from gateway.journal.claim import claim
from gateway.journal.connection import look_into
from gateway.journal.store import family

_SLACK_BYTES = 1 << 20


class Vacuumed(Struct, frozen=True):
    """Bytes of database and log."""

    before: int
    after: int


def free_bytes(folder: Path) -> int:
    """Room for an ordinary user."""
    return shutil.disk_usage(folder).free


def needs(archive: Archive) -> int:
    """Bytes that a second copy takes at most, the log's copy into the old file included."""
    run = archive.connection.execute
    used, size = (int(run(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "page_size"))
    wal = family(archive.path)[1]
    return used * size + (wal.stat().st_size if wal.exists() else 0) + _SLACK_BYTES


def vacuum(path: Path, free: Callable[[Path], int] = free_bytes) -> Vacuumed:
    """Compact the file at `path`.

    Raises:
        Unusable: a gateway runs on it, no room, damaged.
        OSError: not now; the file is as it was.
    """
    with Archive(path) as archive:
        path = archive.path
    try:
        claimed = claim(path.parent)
    except BlockingIOError as error:
        raise Unusable(f"{path}: a gateway is running on it; stop it first (systemctl stop mingluo) or work on a copy",
                       f"{path}：网关正在使用它；请先停止网关（systemctl stop mingluo）或对副本操作") from error
    new = Path(f"{path}.compact")
    try:
        with Archive(path) as archive:   # once more: nobody writes from here on
            before, room, has = archive.file_bytes(), needs(archive), free(path.parent)
        if has < room:
            raise Unusable(f"{path}: {room} bytes must be free beside it for the compact copy, {has} are; make room, "
                           "or work on a copy elsewhere",
                           f"{path}：压缩副本需要 {room} 字节空间，现有 {has} 字节；请腾出空间，或复制到别处再压缩")
        _remove(new)
        with told(path):
            _copy(path, new)
        _adopt(path, new)
    finally:
        _remove(new)
        os.close(claimed)
    return Vacuumed(before, path.stat().st_size)


def _copy(path: Path, new: Path) -> None:
    with closing(look_into(path, timeout=1.0)) as old:
        rows = old.execute("SELECT count(*), total(length(body)) FROM rows").fetchone()
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        old.execute("VACUUM INTO ?", (str(new),))
    with closing(sqlite3.connect(new, isolation_level=None)) as made:
        if made.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok" or rows != made.execute(
                "SELECT count(*), total(length(body)) FROM rows").fetchone():
            raise sqlite3.DatabaseError("the compact copy is not what was copied")


def _adopt(path: Path, new: Path) -> None:
    """Put the copy in the file's place, with its owner and rights."""
    was = path.stat()
    new.chmod(was.st_mode & 0o7777)
    if (was.st_uid, was.st_gid) != (new.stat().st_uid, new.stat().st_gid):
        os.chown(new, was.st_uid, was.st_gid)
    _sync(new)
    for beside in family(path)[1:]:   # the log is empty: all of it was copied into the file
        beside.unlink(missing_ok=True)
    _sync(path.parent)
    new.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    for part in family(path):
        part.unlink(missing_ok=True)
