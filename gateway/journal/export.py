"""What a journal holds, for a spreadsheet, a program or a database.

Owns: the three forms (.csv, .json, .sqlite). Promises: memory stays the same whatever the size; a file that is there
under its name is whole (written beside it, then renamed), and none is overwritten unasked. Never: is imported by the
service.

A .csv has one kind of line, so events go to a second file beside it, ``out.events.csv``; both open in a Chinese
spreadsheet as they are (UTF-8 with a mark, RFC 4180).
"""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

import msgspec
import sqlite_utils

from gateway.journal.archive import Unusable
from gateway.journal.readings import EVENT, READING, Line, Words

_BATCH = 1000


class Exported(msgspec.Struct, frozen=True):
    """What became of it."""

    files: tuple[Path, ...]
    readings: int
    events: int
    damaged: int
    """Rows that could not be read and are not in the files."""


def forms() -> tuple[str, ...]:
    """Suffixes of the files that can be made."""
    return tuple(_FORMS)


def export(words: Words, to: Path, *, overwrite: bool = False) -> Exported:
    """Write all that `words` gives to a file whose suffix names the form.

    Raises:
        Unusable: another suffix, a file that is there already, the journal cannot be read.
        OSError: the file cannot be written; nothing is left of it.
    """
    form = _FORMS.get(to.suffix.lower())
    if form is None:
        raise Unusable(f"{to}: expected a name ending in {', '.join(_FORMS)}",
                       f"{to}：文件名应以 {'、'.join(_FORMS)} 结尾")
    counts = {"readings": 0, "events": 0}

    def counted(kind: str, lines: Iterable[Line]) -> Iterator[Line]:
        for line in lines:
            counts[kind] += 1
            yield line

    tables = {kind: counted(kind, lines) for kind, lines, wanted in (
        ("readings", words.readings(), "data" in words.wanted.lanes),
        ("events", words.events(), {"alarm", "event"} & set(words.wanted.lanes))) if wanted}
    targets = _targets(to, tuple(tables))
    for target in targets.values():
        if target.exists() and not overwrite:
            raise Unusable(f"{target}: exists already; name another file, or add --overwrite",
                           f"{target}：文件已存在；请换一个名字，或加 --overwrite")
    parts = {target: target.with_name(target.name + ".part") for target in targets.values()}
    try:
        for part in parts.values():
            part.unlink(missing_ok=True)
        form({kind: parts[targets[kind]] for kind in tables}, tables)
        for target, part in parts.items():
            part.replace(target)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
            Path(f"{part}-journal").unlink(missing_ok=True)
    return Exported(tuple(dict.fromkeys(targets.values())), counts["readings"], counts["events"], words.damaged)


def _targets(to: Path, kinds: tuple[str, ...]) -> Mapping[str, Path]:
    """Which file each kind of line goes to."""
    if to.suffix.lower() != ".csv" or len(kinds) == 1:
        return dict.fromkeys(kinds, to)
    return {"readings": to, "events": to.with_suffix(".events" + to.suffix)}


def _csv(files: Mapping[str, Path], tables: Mapping[str, Iterator[Line]]) -> None:
    for kind, lines in tables.items():
        with files[kind].open("w", encoding="utf-8-sig", newline="") as file:
            out = csv.writer(file)
            out.writerow(_COLUMNS[kind])
            out.writerows(line.values() for line in lines)


def _json(files: Mapping[str, Path], tables: Mapping[str, Iterator[Line]]) -> None:
    """One object, a line of it for each reading and event."""
    with next(iter(files.values())).open("wb") as file:
        for n, (kind, lines) in enumerate(tables.items()):
            file.write(b'%s\n"%s": [' % (b"," if n else b"{", kind.encode()))
            _array(file, lines)
        file.write(b"}\n")


def _array(file: IO[bytes], lines: Iterator[Line]) -> None:
    encode = msgspec.json.Encoder().encode
    before = b"\n"
    for line in lines:
        file.write(before + encode(line))
        before = b",\n"
    file.write(b"\n]")


def _sqlite(files: Mapping[str, Path], tables: Mapping[str, Iterator[Line]]) -> None:
    path = next(iter(files.values()))
    database = sqlite_utils.Database(path)
    try:
        for kind, lines in tables.items():
            table = database.table(kind)
            table.create(_COLUMNS[kind], pk=("epoch", "lane", "seq", "n"))
            table.insert_all(lines, batch_size=_BATCH)
            table.create_index(["point", "t_ms"] if kind == "readings" else ["t_ms"])
    except sqlite3.Error as error:
        raise OSError(f"{path}: cannot be written: {error}; is there room?") from error
    finally:
        database.conn.close()


_COLUMNS: Mapping[str, dict[str, type]] = {
    "readings": dict.fromkeys(READING, str) | {"t_ms": int, "value": float, "seq": int, "n": int, "of": int,
                                                    "min": float, "max": float, "mean": float, "readings": int},
    "events": dict.fromkeys(EVENT, str) | {"t_ms": int, "seq": int, "n": int}}
_FORMS: Mapping[str, Callable[[Mapping[str, Path], Mapping[str, Iterator[Line]]], None]] = {
    ".csv": _csv, ".json": _json, ".sqlite": _sqlite}
