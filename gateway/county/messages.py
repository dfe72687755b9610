"""Messages of the contract as plain structs.

Owns: reading payloads: plain, compact and compressed. Promises: what does not fit the contract is a ValueError that
says why; nothing larger than `MOST_BYTES` is unpacked. Never: does I/O.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from msgspec import DecodeError, Meta, Struct, ValidationError, json, structs

MOST_BYTES = 4 << 20
KINDS = ("data", "backlog", "event")

Seq = Annotated[int, Meta(ge=0, lt=1 << 40)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Ms = Annotated[int, Meta(ge=-(1 << 53), lt=1 << 53)]


class Reading(Struct, kw_only=True, gc=False):
    """One reading, dated as its row was."""

    point: Name
    t: Ms
    value: float | None
    quality: int
    status: str = "Actual"
    reason: str = ""
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    since: Ms | None = None
    """An aggregate's first reading; `t` is its last."""


class Event(Struct, kw_only=True):
    """Something happened, once."""

    id: Name
    kind: Name
    t: Ms
    status: str = "Actual"
    object: str = ""
    point: str = ""
    alarm: str = ""
    colour: str = ""
    was: str = ""
    who: str = ""
    text_zh: str = ""
    text_en: str = ""
    why: dict[str, Any] = {}
    past: bool = False


class Thinned(Struct):
    """What the box did to a row when its room ran out."""

    step: Literal["thin", "aggregate"]
    of: int


class Row(Struct, kw_only=True):
    """The unit of everything: identity is (gateway, epoch, lane, seq)."""

    seq: Seq
    offset_ms: Ms
    readings: list[Reading] = []
    events: list[Event] = []
    t0: Ms = 0
    scans: list[tuple[int, Annotated[int, Meta(ge=0)], list[float | None]]] = []
    marks: list[tuple[int, int, int, str, str]] = []
    thinned: Thinned | None = None


class Clock(Struct):
    """What the box's clock was worth."""

    trust: Literal["synced", "holdover", "unset"]


class Rows(Struct, kw_only=True):
    """A message of `data`, `backlog` or `event`."""

    v: Literal[1]
    gateway: Name
    epoch: Name
    lane: Literal["alarm", "event", "data"]
    covers: tuple[Seq, Seq]
    inventory: int
    boot: Name
    clock: Clock
    rows: list[Row]
    compact: bool = False


Points = Callable[[int], Sequence[str | None] | None]
"""Number of an inventory → its point ids by position; None = not known (yet)."""


class UnknownInventoryError(ValueError):
    """A compact message came before the inventory that explains it."""


_rows = json.Decoder(Rows)
_any = json.Decoder(dict[str, Any])


def unpacked(payload: bytes) -> bytes:
    """The JSON of a payload.

    Raises:
        ValueError: it is not zlib, or too large.
    """
    if payload[:1] != b"\x78":
        return payload
    unpacker = zlib.decompressobj()
    try:
        out = unpacker.decompress(payload, MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"not zlib: {error}") from error
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise ValueError(f"cut off, or more than {MOST_BYTES} bytes")
    return out


def body(payload: bytes) -> dict[str, Any]:
    """A message that is kept as it is.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        return _any.decode(unpacked(payload))
    except (DecodeError, ValidationError) as error:
        raise ValueError(str(error)) from error


def rows(payload: bytes, points: Points) -> Rows:
    """A message of rows, readings by name whatever form it came in.

    Raises:
        UnknownInventoryError: it is compact and its inventory is not known.
        ValueError: it is not what the contract says.
    """
    try:
        message = _rows.decode(unpacked(payload))
    except (DecodeError, ValidationError) as error:
        raise ValueError(str(error)) from error
    first, last = message.covers
    if first > last or any(not first <= row.seq <= last for row in message.rows):
        raise ValueError(f"covers {first} to {last}, and holds rows outside")
    names = points(message.inventory)
    if names is None and any(row.scans for row in message.rows):
        raise UnknownInventoryError(f"inventory {message.inventory} of {message.gateway} is not known")
    message.rows = [structs.replace(row, readings=[*_known(row, names or (), f"{message.inventory}#"),
                                                   *_named(row, names or ())], scans=[], marks=[])
                    for row in message.rows]
    return message


def _known(row: Row, names: Sequence[str | None], unnamed: str) -> list[Reading]:
    """Readings by name; of one that the box had lost the name of (`inventory#position`) we may know it."""
    for reading in row.readings:
        if reading.point.startswith(unnamed) and (position := reading.point[len(unnamed):]).isdecimal():
            reading.point = next(iter(names[int(position):][:1]), None) or reading.point
    return row.readings


def _named(row: Row, names: Sequence[str | None]) -> list[Reading]:
    marks = {k: mark[2:] for mark in row.marks for k in range(mark[0], mark[0] + min(mark[1], 1 << 16))}
    out: list[Reading] = []
    for dt, first, values in row.scans:
        for position, value in enumerate(values, first):
            name = names[position] if position < len(names) else None
            if name is None:
                raise ValueError(f"position {position} is not in the inventory")
            quality, reason, status = marks.get(len(out), (1, "", "Actual"))
            out.append(Reading(point=name, t=row.t0 + dt, value=value, quality=quality, reason=reason, status=status))
    return out
