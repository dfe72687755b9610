"""The small state of a journal: all that is not a row.

Owns: its values, and under which key and in which bytes each is kept.
Promises: what `read` takes is what was written, or DamagedError: a flipped bit never becomes a latch or a number.
Never: does I/O.
"""

from __future__ import annotations

import sqlite3
import zlib
from typing import Any

import msgspec
from msgspec import Struct

from gateway.journal.cursors import Delivery, Saved, delivery
from gateway.journal.entries import Latch
from gateway.journal.gaps import Gap
from gateway.journal.rows import Stream
from gateway.journal.search import Search
from gateway.journal.wear import Worn
from gateway.model import LANES, Inventory


class DamagedError(sqlite3.DatabaseError):
    """The file is SQLite's, but not the journal that was written."""


class Extent(Struct, frozen=True, array_like=True, gc=False):
    """What the file holds of one stream: seqs oldest … next - 1, apart from reported gaps."""

    oldest: int = 1
    next: int = 1
    rows: int = 0
    bytes: int = 0
    total: int = 0
    """Records ever committed or given up in this stream."""
    thinned: int = 0
    """Rows up to this seq were thinned for want of room, as far as they were not told."""
    merged: int = 0
    """Rows up to this seq were aggregated."""
    inventories: tuple[tuple[int, int], ...] = ()
    """Inventory and the last row that names it, the latest last."""

    def naming(self, inventory: int, seq: int) -> tuple[tuple[int, int], ...]:
        """`inventories` when row `seq` names one more; those that only trimmed rows named are left out."""
        return (*((n, last) for n, last in self.inventories if n != inventory and last >= self.oldest),
                (inventory, seq))

    def named(self) -> set[int]:
        """The inventories that rows still kept may name."""
        return {n for n, last in self.inventories if self.rows and last >= self.oldest}


class Epoch(Struct, frozen=True, array_like=True):
    """One run of numbering. `number` ascends with age."""

    number: int
    reason: str


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
    confirms: tuple[str, ...] = ()
    """Platforms that have ever confirmed storage."""
    worn: Worn = Worn()
    """What was written to the card."""


class Dating(Struct, frozen=True, array_like=True):
    """What a boot's clock was worth once it was known. `number` ascends with age."""

    number: int
    offset_ms: int
    """UTC ms = monotonic ms + offset_ms."""
    error_ms: float


STATE, SEARCH = "state", "search"


def epoch_key(name: str) -> str:
    """Where an Epoch is kept."""
    return f"epoch/{name}"


def extent_key(stream: Stream) -> str:
    """Where an Extent is kept."""
    return f"extent/{stream[0]}/{stream[1]}"


def cursor_key(platform: str, stream: Stream) -> str:
    """Where a Cursor is kept."""
    return f"cursor/{stream[0]}/{stream[1]}/{platform}"


def boot_key(boot: str) -> str:
    """Where a Dating is kept."""
    return f"boot/{boot}"


def ranges_of(name: str) -> tuple[tuple[str, str], ...]:
    """Keys of everything below an epoch, both ends excluded: '0' is the character after '/'."""
    return tuple((f"{kind}/{name}/", f"{kind}/{name}0") for kind in ("extent", "cursor"))


def pack(key: str, value: Any) -> bytes:
    """A value as it is kept: CRC-32 over key and value, then msgpack."""
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


def _stream(epoch: str, lane: str) -> Stream:
    for known in LANES:
        if known == lane:
            return epoch, known
    raise DamagedError(f"lane {lane!r} does not exist")


class Kept:
    """All of it together, as one file has it."""

    def __init__(self) -> None:
        self.state = State()
        self.epochs: dict[str, Epoch] = {}
        self.streams: dict[Stream, Extent] = {}
        self.cursors: dict[tuple[str, Stream], Delivery] = {}
        self.boots: dict[str, Dating] = {}
        self.inventories: dict[int, Inventory] = {}
        self.search: Search | None = None

    def wall(self, stream: Stream) -> int:
        """Rows of the stream below this seq may still lie in a wreck; 1 when none do."""
        epoch = self.epochs.get(stream[0])
        return self.search.wall(stream, epoch.number) if self.search is not None and epoch is not None else 1

    def draft(self) -> Kept:
        """A copy to change; cursors are shared, they move without the file."""
        out = Kept()
        out.state, out.cursors = self.state, self.cursors
        out.epochs, out.streams, out.inventories = dict(self.epochs), dict(self.streams), dict(self.inventories)
        out.boots, out.search = dict(self.boots), self.search
        return out

    def read(self, key: str, value: Any) -> None:
        """Take one pair from the table `state`.

        Raises:
            DamagedError, ValueError: not what was written.
        """
        kind, _, rest = key.partition("/")
        if kind == STATE:
            self.state = unpack(key, value, State)
        elif kind == SEARCH:
            self.search = unpack(key, value, Search | None)
        elif kind == "epoch":
            self.epochs[rest] = unpack(key, value, Epoch)
        elif kind == "extent":
            epoch, lane = rest.split("/")
            self.streams[_stream(epoch, lane)] = unpack(key, value, Extent)
        elif kind == "cursor":
            epoch, lane, platform = rest.split("/", 2)
            self.cursors[platform, _stream(epoch, lane)] = delivery(unpack(key, value, Saved))
        elif kind == "boot":
            self.boots[rest] = unpack(key, value, Dating)

    def read_inventory(self, n: int, body: Any) -> None:
        """Take one pair from the table `inventories`.

        Raises:
            DamagedError: not what was written.
        """
        self.inventories[n] = unpack(str(n), body, Inventory)

    def pairs(self) -> list[tuple[str, bytes]]:
        """For the table `state`."""
        values: list[tuple[str, Any]] = [(STATE, self.state)]
        values += [(SEARCH, self.search)] if self.search is not None else []
        values += [(epoch_key(name), epoch) for name, epoch in self.epochs.items()]
        values += [(extent_key(stream), extent) for stream, extent in self.streams.items()]
        values += [(cursor_key(*name), cursor.saved()) for name, cursor in self.cursors.items()]
        values += [(boot_key(boot), dating) for boot, dating in self.boots.items()]
        return [(key, pack(key, value)) for key, value in values]
