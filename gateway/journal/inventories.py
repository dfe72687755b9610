"""The lists of points that rows name.

Owns: their numbers, and how many readings of each make a row. Promises: a number follows from the content alone, so
the same content has the same number on any card, for ever; two contents never share one on one box. Never: forgets one
while the process lives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

import msgspec

from gateway.journal.intake import most_readings
from gateway.model import Inventory


class Inventories:
    """By number. One thread at a time (the journal's lock)."""

    def __init__(self) -> None:
        self.current = 0
        """The one that was named last."""
        self._known: dict[int, Inventory] = {}
        self._limits: dict[int, int] = {}

    def adopt(self, inventory: Inventory) -> tuple[Inventory, bool]:
        """Make it the current one. Returns it under its number, and whether it is new here."""
        content = msgspec.msgpack.encode(inventory.points)
        n = int.from_bytes(hashlib.blake2b(content, digest_size=4).digest(), "big") or 1
        while n in self._known and self._known[n].points != inventory.points:
            n += 1
        self.current = n
        new = n not in self._known
        return self._known.setdefault(n, Inventory(n, inventory.points)), new

    def learn(self, inventories: Iterable[Inventory]) -> None:
        """Take over what a file has; what is known already stays."""
        for inventory in inventories:
            self._known.setdefault(inventory.n, inventory)

    def limit(self, n: int) -> int:
        """How many readings of that inventory make a row."""
        if n not in self._limits:
            if n not in self._known:
                return most_readings(Inventory(n, ()))
            self._limits[n] = most_readings(self._known[n])
        return self._limits[n]

    def get(self, n: int) -> Inventory | None:
        """The inventory of that number."""
        return self._known.get(n)

    def among(self, numbers: Collection[int]) -> list[Inventory]:
        """Those of the given numbers that are known, and the current one."""
        return [i for n, i in self._known.items() if n in numbers or n == self.current]
