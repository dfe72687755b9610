"""What stands in a staging segment.

Owns: the entries and their frame: length (u32), CRC-32 (u32), msgpack. The first entry of a segment is a Head.
Promises: `entries` gives back whole entries only and stops at the first byte that is not what was written.
Never: opens a file, knows which rows are committed.
"""

from __future__ import annotations

import struct
import zlib

import msgspec
from msgspec import Struct

from gateway.journal.rows import Part
from gateway.model import Inventory

_FRAME = struct.Struct("<II")
_LONGEST = 64 << 20
FORMAT = 1


class Latch(Struct, frozen=True, array_like=True):
    """What must sound again after a restart, and when it was said."""

    state: bytes
    boot: str
    t_ms: int
    """Monotonic ms of that boot."""
    utc_ms: int | None
    """None when nobody could vouch for the clock."""


class Head(Struct, frozen=True, array_like=True, tag=1):
    """What a segment stands on; carries over all that older segments said and that is still true."""

    format: int
    gateway: str
    boot: str
    epoch: str
    commit: int
    """Number of the journal's last commit as far as this process knows."""
    latch: Latch | None
    inventories: tuple[Inventory, ...]


class Group(Struct, frozen=True, array_like=True, tag=2, gc=False):
    """What one `record` handed over: parts and latch in one step."""

    t_ms: int
    parts: tuple[Part, ...]
    latch: Latch | None


class Mark(Struct, frozen=True, array_like=True, tag=3):
    """The journal committed."""

    commit: int


class Adopted(Struct, frozen=True, array_like=True, tag=4):
    """An inventory that rows may name from now on."""

    inventory: Inventory


Entry = Head | Group | Mark | Adopted


class Found(Struct):
    """What a dead process left behind."""

    head: Head | None = None
    commit: int = 0
    t_ms: int = 0
    latch: Latch | None = None
    parts: list[tuple[int, Part]] = []
    """(segment, part) in the order they were handed over."""
    inventories: dict[int, Inventory] = {}
    torn: int = 0
    """Segments whose tail was cut."""


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)


def frame(entry: Entry) -> bytes:
    """The bytes of one entry."""
    body = _encoder.encode(entry)
    return _FRAME.pack(len(body), zlib.crc32(body)) + body


def entries(raw: bytes) -> tuple[list[Entry], int]:
    """The whole entries at the front of a segment, and how many bytes they take."""
    out: list[Entry] = []
    at = 0
    while at + _FRAME.size <= len(raw):
        length, crc = _FRAME.unpack_from(raw, at)
        body = raw[at + _FRAME.size:at + _FRAME.size + length]
        if length > _LONGEST or len(body) != length or zlib.crc32(body) != crc:
            break
        try:
            out.append(_decoder.decode(body))
        except msgspec.MsgspecError:
            break
        at += _FRAME.size + length
    return out, at
