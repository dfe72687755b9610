"""What rows are called, their bodies, and the parts they grow from.

Owns: the bytes inside a Row and inside one staged part. Promises: `decode` gives back exactly the bits that went
in, or raises ValueError; nothing half-right. Never: does I/O, reads a clock, keeps state.

A data body is zlib over: version, width of the time steps, count, first time, then one column after the other
(time steps, point, flag, reason, status, value; of aggregates also since, min, max, mean, n). Columns wider than a
byte are stored byte plane by byte plane: neighbouring readings share their high bytes, so this halves what plain zlib
leaves of a float64 column.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from gateway.model import SAMPLE, Door, Event, Lane, Row, Samples

_HEAD = struct.Struct("<BBIq")
AGGREGATE = np.dtype([*SAMPLE.descr, ("since_ms", "<i8"), ("min", "<f8"), ("max", "<f8"), ("mean", "<f8"),
                      ("n", "<u4")])
"""A Sample that stands for `n` good ones of its point, of which it is the last; `since_ms` is when the first was."""
_KINDS: dict[int, np.dtype[Any]] = {1: SAMPLE, 2: AGGREGATE}
"""What a data body holds, by its version."""
_LEVEL = 1  # level 6 saves 4 % and costs three times the CPU
_pack = msgspec.msgpack.Encoder()
_unpack_events = msgspec.msgpack.Decoder(list[Event])

SAMPLE_BYTES = SAMPLE.itemsize

Stream = tuple[str, Lane]
"""(epoch, lane): the thing sequence numbers run in."""
Identity = tuple[str, str, int]
"""(epoch, lane, seq)"""


class Part(Struct, frozen=True, array_like=True, gc=False):
    """What one `record` added to one row. All parts with one (epoch, lane, seq), in order of `part`, are the row."""

    epoch: str
    lane: Lane
    seq: int
    part: int
    """0 for the first; a row whose first part is missing was committed before its segment was deleted."""
    base: int
    """Records of this (epoch, lane) before the row: makes the size of a hole exact."""
    inventory: int
    door: Door
    count: int
    payload: bytes
    """SAMPLE bytes for the data lane, a msgpack list of Event for the others."""


def _planes(column: Samples) -> bytes:
    width = column.dtype.itemsize
    return np.ascontiguousarray(column).view(np.uint8).reshape(-1, width).T.tobytes()


def encode(payload: bytes, lane: Lane) -> bytes:
    """Turn the joined payloads of a row into its body."""
    return zlib.compress(payload, _LEVEL) if lane != "data" else encode_samples(np.frombuffer(payload, SAMPLE))


def encode_samples(a: Samples) -> bytes:
    """Turn SAMPLEs or AGGREGATEs into a data body."""
    n = len(a)
    t = a["t_ms"]
    first = int(t[0]) if n else 0
    steps = np.diff(t, prepend=t[:1])
    narrow = not n or (steps.min() >= -(1 << 31) and steps.max() < 1 << 31)
    version = next(number for number, kind in _KINDS.items() if kind == a.dtype)
    names = a.dtype.names or ()
    columns = (_HEAD.pack(version, 4 if narrow else 8, n, first), _planes(steps.astype("<i4" if narrow else "<i8")),
               *(_planes(a[name]) for name in names[1:]))
    return zlib.compress(b"".join(columns), _LEVEL)


def _inflate(body: bytes) -> bytes:
    try:
        return zlib.decompress(body)
    except zlib.error as error:
        raise ValueError(f"row body does not inflate: {error}; the row is damaged") from error


def decode(body: bytes) -> Samples:
    """Samples of a data body, in order of arrival; AGGREGATEs where it was merged.

    Raises:
        ValueError: damaged, or written by a newer version.
    """
    plain = _inflate(body)
    if len(plain) < _HEAD.size:
        raise ValueError(f"row body has {len(plain)} bytes: expected a head of {_HEAD.size}; the row is damaged")
    version, width, n, first = _HEAD.unpack_from(plain)
    kind = _KINDS.get(version)
    if kind is None or width not in (4, 8):
        raise ValueError(f"row body has version {version}, step width {width}: expected {list(_KINDS)} and 4 or 8")
    if len(plain) != _HEAD.size + n * (width + kind.itemsize - 8):
        raise ValueError(f"row body has {len(plain)} bytes for {n} readings; the row is damaged")
    planes = np.frombuffer(plain, np.uint8, offset=_HEAD.size).reshape(width + kind.itemsize - 8, n)
    steps = np.ascontiguousarray(planes[:width].T).view(f"<i{width}").reshape(n)
    out = np.empty(n, kind)   # packed, the time first: what follows it lies there as it was written
    out.view(np.uint8).reshape(n, kind.itemsize)[:, 8:] = planes[width:].T
    out["t_ms"] = np.cumsum(steps, dtype="<i8") + np.int64(first)
    return out


def pack_events(events: Sequence[Event]) -> bytes:
    """Events as a payload."""
    return _pack.encode(events)


def unpack_events(payload: bytes) -> list[Event]:
    """What `pack_events` was given.

    Raises:
        ValueError: damaged, or written by a newer version.
    """
    try:
        return _unpack_events.decode(payload)
    except msgspec.MsgspecError as error:
        raise ValueError(f"row body is not a list of events: {error}") from error


def decode_events(body: bytes) -> list[Event]:
    """Events of an alarm or event body.

    Raises:
        ValueError: damaged, or written by a newer version.
    """
    return unpack_events(_inflate(body))


def checksum(row: Row, total: int) -> int:
    """CRC-32 over everything a row says: SQLite itself does not notice a flipped bit inside a value."""
    door = row.door
    head = (f"{row.epoch}\0{row.lane}\0{row.seq}\0{row.inventory}\0{door.boot}\0{door.offset_ms}\0{door.trust}\0"
            f"{row.count}\0{total}\0")
    if row.thinned or row.of:
        head += f"{row.thinned}\0{row.of}\0"
    return zlib.crc32(row.body, zlib.crc32(head.encode()))
