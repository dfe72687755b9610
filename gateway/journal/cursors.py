"""What a platform has had of one stream: a low mark and the ranges above it.

Owns: interval arithmetic over sequence numbers. Promises: exact for any order of arrival. Never: does I/O.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

Saved = tuple[int, list[tuple[int, int]]]
"""A cursor as it is saved: low mark and ranges."""


class Cursor:
    """Everything up to and including `low` is settled, and so is every closed range in `ranges` (ascending, apart)."""

    __slots__ = ("low", "ranges")

    def __init__(self, low: int = 0, ranges: list[tuple[int, int]] | None = None) -> None:
        self.low = low
        self.ranges = ranges if ranges is not None else []

    def saved(self) -> Saved:
        """A copy that nobody changes."""
        return self.low, list(self.ranges)

    def add(self, first: int, last: int) -> None:
        """Settle first…last, both included."""
        if last <= self.low or first > last:
            return
        first = max(first, self.low + 1)
        ranges = self.ranges
        begin = bisect_left(ranges, first - 1, key=lambda r: r[1])
        end = begin
        while end < len(ranges) and ranges[end][0] <= last + 1:
            first, last = min(first, ranges[end][0]), max(last, ranges[end][1])
            end += 1
        if first <= self.low + 1:
            self.low = last
            del ranges[:end]
        else:
            ranges[begin:end] = [(first, last)]

    def has(self, seq: int) -> bool:
        """Whether seq is settled."""
        if seq <= self.low:
            return True
        at = bisect_left(self.ranges, seq, key=lambda r: r[1])
        return at < len(self.ranges) and self.ranges[at][0] <= seq

    def missing(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The parts of first…last that are not settled, ascending."""
        at = max(first, self.low + 1)
        for a, b in self.ranges:
            if b < at:
                continue
            if a > last:
                break
            if at < a:
                yield at, a - 1
            at = b + 1
        if at <= last:
            yield at, last

    def lacking(self, first: int, last: int) -> int:
        """How many of first…last are not settled."""
        return sum(b - a + 1 for a, b in self.missing(first, last))
