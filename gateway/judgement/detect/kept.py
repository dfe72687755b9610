"""A detector's state as bytes: named columns with the version and the make they belong to.

Owns: the envelope. Promises: what `unpack` returns is what `pack` was given, bit for bit; bytes that are damaged, of
another version, or of another make are refused and nothing is changed. Never: writes a file.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class _Column(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class _Kept(msgspec.Struct, frozen=True):
    kind: str
    version: int
    crc: int
    columns: bytes


_Columns = dict[str, _Column]


def pack(kind: str, version: int, columns: Mapping[str, Array]) -> bytes:
    """Return the columns as bytes.

    Args:
        kind: whose they are.
        version: of their meaning; another one is refused by `unpack`.
        columns: arrays of any shape and plain type.
    """
    body = msgspec.msgpack.encode({name: _Column(a.dtype.str, a.shape, np.ascontiguousarray(a).tobytes())
                                   for name, a in columns.items()})
    return msgspec.msgpack.encode(_Kept(kind, version, zlib.crc32(body), body))


def unpack(kind: str, version: int, state: bytes, like: Mapping[str, Array]) -> dict[str, Array]:
    """Return the columns of `state`, writable, of the shapes and types of `like`.

    Raises:
        ValueError: damaged, of another version, or of another make (kind, names, shapes, types); start afresh.
    """
    try:
        kept = msgspec.msgpack.decode(state, type=_Kept)
        if (kept.kind, kept.version) != (kind, version):
            raise ValueError(f"{kind} state: found {kept.kind} version {kept.version}, expected version {version}; "
                             "start afresh")
        if zlib.crc32(kept.columns) != kept.crc:
            raise ValueError(f"{kind} state: damaged; start afresh")
        columns = msgspec.msgpack.decode(kept.columns, type=_Columns)
    except msgspec.DecodeError as error:
        raise ValueError(f"{kind} state: cannot be read ({error}); start afresh") from error
    made = {name: (c.dtype, c.shape, len(c.data)) for name, c in columns.items()}
    expected = {name: (a.dtype.str, a.shape, math.prod(a.shape) * a.itemsize) for name, a in like.items()}
    if made != expected:
        raise ValueError(f"{kind} state: made for other channels or settings; start afresh")
    return {name: np.frombuffer(c.data, c.dtype).reshape(c.shape).copy() for name, c in columns.items()}
