"""Disks after a cut: what was synced, and any part of what was not.

Owns: the model of a disk. Promises: whatever a `Disk` gives could have been left by a cut at that call. Never: opens a
database.

The model, as of ext4 with its defaults and an honest drive: a sync of a file makes its bytes and its length durable,
and all names; of what was written since, every 512-byte sector may have arrived or not, each for itself, in any order;
a truncation since may have happened or not. Names that were made, removed or changed since may be the old ones, in the
order in which they changed, because a sync flushes the file system's own journal in order. A drive that forgets what it
said was synced cannot be beaten by software and is not modelled.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from hil.powercut.recording import Call

SECTOR = 512
Mode = Literal["none", "all", "half", "most", "few", "last", "first"]
MODES: tuple[Mode, ...] = ("none", "all", "half", "most", "few", "last", "first")
"""How much of what was not synced arrived: nothing, all, about so much of it, only the latest calls or the earliest."""
_SHARE = {"none": 0.0, "all": 1.0, "half": 0.5, "most": 0.95, "few": 0.05}
Image = dict[str, bytes]
"""A folder: path below it → content."""


class _File:
    """One file, whatever it is called."""

    def __init__(self, durable: bytes = b"") -> None:
        self.durable = bytearray(durable)
        self.waiting: list[Call] = []

    def sync(self) -> None:
        for call in self.waiting:
            _apply(self.durable, call)
        self.waiting.clear()

    def image(self, arrived: Iterator[Call]) -> bytes:
        image = bytearray(self.durable)
        for call in arrived:
            _apply(image, call)
        return bytes(image)


_Names = dict[str, _File]


class Disk:
    """Walks along a recording; `after(rng, mode)` gives a disk as a cut could leave it here.

    Args:
        image: what lies there at the beginning, all of it durable.
    """

    def __init__(self, image: Mapping[str, bytes] | None = None) -> None:
        self._durable: _Names = {name: _File(raw) for name, raw in (image or {}).items()}
        self._live: _Names = dict(self._durable)
        self._changes: list[dict[str, _File | None]] = []
        """To names, since the last sync, each in one step: what a name is from then on."""

    def _change(self, names: dict[str, _File | None]) -> None:
        self._changes.append(names)
        _rename(self._live, names)

    def take(self, call: Call) -> None:
        """The call returned."""
        file = self._live.get(call.path)
        if call.kind in "WT":
            if file is None:
                self._change({call.path: (file := _File())})
            file.waiting.append(call)
        elif call.kind == "S":
            self._durable = dict(self._live)
            self._changes.clear()
            if file is not None:   # not a folder
                file.sync()
        elif call.kind == "U":
            self._change({call.path: None})
        elif call.kind == "R":
            self._change({call.path: None, call.data.decode(): file or _File()})

    def live(self) -> Image:
        """What whoever comes after a dead process finds: all of it."""
        return {name: file.image(iter(file.waiting)) for name, file in self._live.items()}

    def after(self, rng: random.Random, mode: Mode) -> Image:
        """Give one disk."""
        names = dict(self._durable)
        for change in self._changes[:rng.randrange(len(self._changes) + 1) if self._changes else 0]:
            _rename(names, change)
        return {name: file.image(_arrived(file.waiting, rng, mode)) for name, file in names.items()}


def _rename(names: _Names, change: Mapping[str, _File | None]) -> None:
    for name, file in change.items():
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


def _apply(image: bytearray, call: Call) -> None:
    if call.kind == "T":
        del image[call.at:]
        image.extend(bytes(call.at - len(image)))
        return
    image.extend(bytes(max(0, call.at - len(image))))
    image[call.at:call.at + len(call.data)] = call.data


def _arrived(waiting: Sequence[Call], rng: random.Random, mode: Mode) -> Iterator[Call]:
    """The sectors that arrived, in an order that makes no difference: a later write of a sector replaces an earlier."""
    if mode in ("last", "first"):
        cut = rng.randrange(len(waiting) + 1)
        yield from waiting[cut:] if mode == "last" else waiting[:cut]
        return
    share = _SHARE[mode]
    for call in waiting:
        if share in (0.0, 1.0) or call.kind == "T":
            if rng.random() < share:
                yield call
            continue
        at, end = call.at, call.at + len(call.data)
        while at < end:
            edge = min((at // SECTOR + 1) * SECTOR, end)
            if rng.random() < share:
                yield Call("W", call.path, at, call.data[at - call.at:edge - call.at])
            at = edge
