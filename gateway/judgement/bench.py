"""What one (device, points) tuple of Scans looks like to the judgement, worked out once.

Owns: the map from a device's points to the inventory, and the index arrays every part reads with.
Promises: the second Scan of a kind costs one dictionary look-up; a bounded number is kept.
Never: holds state of the judgement: benches can be thrown away at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gateway.judgement.alarms import Watch
from gateway.judgement.limits import Limits, LimitTable
from gateway.judgement.quality import Quality, Select, Table
from gateway.judgement.report import Thinning
from gateway.model import SAMPLE, STATUSES, Flag, Samples

Array = np.ndarray[Any, np.dtype[Any]]

MOST = 1024


class PoisonError(ValueError):
    """A Scan that cannot be judged."""


class Bench(NamedTuple):
    """One selection of points, ready to be judged. Arrays run over the selection."""

    width: int
    """Points in the Scan."""
    cols: Array | None
    """Which columns of the Scan are wanted; None = all, in order."""
    indices: Array
    """Where they are in the inventory."""
    sel: Select
    table: Table
    limits: LimitTable | None
    by_change: bool
    entering: Array | None
    """Points whose readings enter detector state (not in maintenance); None = all."""
    feed: Array
    """Their indices."""
    proto: Samples
    watches: tuple[int, ...]
    buttons: tuple[tuple[int, int], ...]
    """(column of the Scan, index of the button)."""
    strangers: int
    """Points of the Scan that nobody configured."""


class Benches:
    """Makes and keeps benches. `clear` after a change of service state, which they have baked in."""

    def __init__(self, reads: Sequence[str], watches: Sequence[Watch], buttons: Sequence[str], devices: Iterable[str],
                 quality: Quality, limits: Limits, thinning: Thinning) -> None:
        """`reads`: device.point of every point of the inventory; `buttons`: of every button."""
        self._watches, self._quality, self._limits, self._thinning = watches, quality, limits, thinning
        self._points = _by_device(reads)
        self._buttons = _by_device(buttons)
        self._devices = {*devices, *self._points, *self._buttons}
        self._watch_of = [k for k, w in enumerate(watches) for _ in w.points]
        self._kept: dict[tuple[str, tuple[str, ...]], Bench] = {}

    def clear(self) -> None:
        """Forget all: they are made again when wanted."""
        self._kept.clear()

    def find(self, device: str, points: tuple[str, ...]) -> Bench:
        """Return the bench of a Scan.

        Raises:
            PoisonError: a device nobody configured, or a point twice.
        """
        bench = self._kept.get((device, points))
        if bench is None:
            bench = self._make(device, points)
            if len(self._kept) >= MOST:
                self._kept.clear()
            self._kept[device, points] = bench
        return bench

    def points_of(self, device: str) -> tuple[str, ...]:
        """Return a device's configured points, by the device's names."""
        return tuple(self._points.get(device, ()))

    def _make(self, device: str, points: tuple[str, ...]) -> Bench:
        if device not in self._devices:
            raise PoisonError(f"no device is called {device!r}")
        if len(set(points)) != len(points):
            raise PoisonError("a point comes twice in one Scan")
        mine, pressed = self._points.get(device, {}), self._buttons.get(device, {})
        pairs = [(col, i) for col, name in enumerate(points) for i in mine.get(name, ())]
        buttons = tuple((col, b) for col, name in enumerate(points) for b in pressed.get(name, ()))
        strangers = sum(name not in mine and name not in pressed for name in points)
        cols = [col for col, _ in pairs]
        bench = self.over([i for _, i in pairs])
        return bench._replace(width=len(points), buttons=buttons, strangers=strangers,
                              cols=None if cols == list(range(len(points))) else np.array(cols, np.int64))

    def over(self, indices: Sequence[int]) -> Bench:
        """Return a bench over any points of the inventory, in this order, as if one Scan held just them."""
        n = len(indices)
        idx = np.array(indices, np.int64)
        row = n > 0 and list(indices) == list(range(indices[0], indices[0] + n))
        sel: Select = slice(indices[0], indices[0] + n) if row else idx
        watches = [self._watches[self._watch_of[i]] for i in indices]
        entering = np.array([w.service != "maintenance" for w in watches], bool)
        proto = np.zeros(n, SAMPLE)
        proto["point"] = idx
        proto["flag"] = Flag.GOOD
        proto["status"] = [STATUSES.index(w.status) for w in watches]
        return Bench(n, None, idx, sel, self._quality.table(sel, entering), self._limits.table(indices),
                     self._thinning.changes(sel), None if entering.all() else entering, idx[entering], proto,
                     tuple(dict.fromkeys(self._watch_of[i] for i in indices)), (), 0)


def _by_device(reads: Sequence[str]) -> Mapping[str, Mapping[str, list[int]]]:
    found: dict[str, dict[str, list[int]]] = {}
    for i, read in enumerate(reads):
        device, _, point = read.partition(".")
        found.setdefault(device, {}).setdefault(point, []).append(i)
    return found
