"""The record of one run: building the recorder, running a process under it, reading what it wrote down.

Owns: the format of `recorder.c`. Promises: calls in the order in which they returned. Never: changes the process.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Literal, NamedTuple

SOURCE = Path(__file__).parent / "recorder.c"
_PATH, _REST = struct.Struct("<cI"), struct.Struct("<QI")


class Call(NamedTuple):
    """One call that returned."""

    kind: Literal["W", "T", "S", "U", "R", "M"]
    """Write, truncate, sync, unlink, rename; M is sent on a socket."""
    path: str
    """Below the recorded folder, empty for the folder itself; of M the descriptor."""
    at: int
    """Offset of a write, length of a truncation."""
    data: bytes
    """What was written or sent; of R the new path."""


def compiler() -> str | None:
    """A C compiler, if there is one."""
    return shutil.which("gcc") or shutil.which("cc")


def build(folder: Path) -> Path:
    """Compile the recorder into `folder`.

    Raises:
        RuntimeError: there is no compiler, or it refuses; with what it said.
    """
    gcc, library = compiler(), folder / "recorder.so"
    if gcc is None:
        raise RuntimeError("no C compiler: apt-get install gcc libc6-dev")
    made = subprocess.run([gcc, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, SOURCE, "-ldl"],
                          capture_output=True, text=True, check=False)
    if made.returncode:
        raise RuntimeError(f"{gcc} refused {SOURCE.name}: {made.stderr}")
    return library


def environment(library: Path, folder: Path, log: Path) -> dict[str, str]:
    """What a process needs in its environment to be recorded."""
    return {"LD_PRELOAD": str(library), "RECORD_DIR": f"{folder}/", "RECORD_LOG": str(log)}


def read(log: Path, folder: Path) -> list[Call]:
    """Every call of a record, paths relative to the folder; a record cut off by a kill ends there."""
    raw, at, out = log.read_bytes(), 0, list[Call]()
    base = f"{folder}/"

    def below(path: str) -> str:
        return path.removeprefix(base) if path != str(folder) else ""

    while at + _PATH.size <= len(raw):
        kind, path_len = _PATH.unpack_from(raw, at)
        at += _PATH.size
        path = raw[at:at + path_len].decode()
        at += path_len
        if at + _REST.size > len(raw):
            break
        where, data_len = _REST.unpack_from(raw, at)
        at += _REST.size
        if at + data_len > len(raw):
            break
        data = raw[at:at + data_len]
        at += data_len
        if kind == b"R":
            data = below(data.decode()).encode()
        out.append(Call(kind.decode(), below(path), where, data))   # type: ignore[arg-type]
    return out
