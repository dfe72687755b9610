"""Disks after a cut: what was synced, and any part of what was not.

Owns: the model of a disk. Promises: whatever a `Disk` gives could have been left by a cut at that call. Never: opens a
database.

The model, as of ext4 with its defaults and an honest drive: a sync of a file makes its bytes, its length and its name
durable; of what was written since, every 512-byte sector may have arrived or not, each for itself, in any order; a
truncation since may have happened or not. A name that was removed or changed may still be the old one until the next
sync of anything in the folder, because a sync flushes the file system's own journal in order. A drive that forgets
what it said was synced cannot be beaten by software and is not modelled.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Literal

from hil.powercut.recording import Call

SECTOR = 512
Mode = Literal["none", "all", "half", "most", "few", "last", "first"]
MODES: tuple[Mode, ...] = ("none", "all", "half", "most", "few", "last", "first")
"""How much of what was not synced arrived: nothing, all, about so much of it, only the latest calls or the earliest."""
_SHARE = {"none": 0.0, "all": 1.0, "half": 0.5, "most": 0.95, "few": 0.05}
Image = dict[str, bytes]


class Disk:
    """Walks along a recording; `after(rng, mode)` gives a disk as a cut could leave it here."""

    def __init__(self) -> None:
        self._durable: dict[str, bytearray] = {}
        self._waiting: dict[str, list[Call]] = {}
        self._names: list[Call] = []
        """Unlinks and renames since the last sync."""
        self._live: dict[str, str] = {}
        """Name now → the name its durable bytes have."""

    def take(self, call: Call) -> None:
        """The call returned."""
        name = call.path
        if call.kind in "WT":
            self._waiting.setdefault(name, []).append(call)
        elif call.kind == "S":
            self._settle_names()
            if name in self._waiting or name in self._durable:   # not a folder
                image = self._durable.setdefault(name, bytearray())
                for waiting in self._waiting.pop(name, ()):
                    _apply(image, waiting)
        elif call.kind in "UR":
            self._names.append(call)
            if call.kind == "R":   # what is still to be written to it goes on under the new name
                self._waiting[_new(call)] = self._waiting.pop(name, [])

    def _settle_names(self) -> None:
        for call in self._names:
            _move(self._durable, call)
        self._names.clear()

    def after(self, rng: random.Random, mode: Mode) -> Image:
        """Give one disk."""
        names = rng.randrange(len(self._names) + 1) if self._names else 0
        images = {name: bytearray(image) for name, image in self._durable.items()}
        for call in self._names[:names]:
            _move(images, call)
        for name, waiting in self._waiting.items():
            if not waiting:
                continue
            image = images.setdefault(name, bytearray())
            for call in _arrived(waiting, rng, mode):
                _apply(image, call)
        return {name: bytes(image) for name, image in images.items()}


def _new(call: Call) -> str:
    return call.data.decode().rsplit("/", 1)[-1]


def _move(images: dict[str, bytearray], call: Call) -> None:
    image = images.pop(call.path, None)
    if call.kind == "R" and image is not None:
        images[_new(call)] = image


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
