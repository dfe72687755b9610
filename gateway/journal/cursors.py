"""What a platform has had of one stream: a low mark and the ranges above it, once as sent and once as stored.

Owns: interval arithmetic over sequence numbers. Promises: exact for any order of arrival. Never: does I/O.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

Spans = list[tuple[int, int]]
"""Closed ranges of seqs, ascending."""
Saved = tuple[int, Spans, int, Spans]
"""A Delivery as it is saved: low mark and ranges, of what was sent and of what is stored."""


class Cursor:
    """Everything up to and including `low` is settled, and so is every closed range in `ranges` (ascending, apart)."""

    __slots__ = ("low", "ranges")

    def __init__(self, low: int = 0, ranges: Spans | None = None) -> None:
        self.low = low
        self.ranges = ranges if ranges is not None else []

    def copy(self) -> Cursor:
        """One of its own."""
        return Cursor(self.low, list(self.ranges))

    def spans(self) -> Iterator[tuple[int, int]]:
        """What is settled, ascending."""
        if self.low > 0:
            yield 1, self.low
        yield from self.ranges

    def add_all(self, spans: Iterable[tuple[int, int]]) -> None:
        """Settle each of them."""
        for first, last in spans:
            self.add(first, last)

    def remove(self, first: int, last: int) -> None:
        """Unsettle first…last, both included."""
        left: Spans = []
        for a, b in self.spans():
            left += [(x, y) for x, y in ((a, min(b, first - 1)), (max(a, last + 1), b)) if x <= y]
        self.low, self.ranges = 0, []
        self.add_all(left)

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

    def within(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The parts of first…last that are settled, ascending."""
        for a, b in self.spans():
            if (x := max(a, first)) <= (y := min(b, last)):
                yield x, y

    def lacking(self, first: int, last: int) -> int:
        """How many of first…last are not settled."""
        return sum(b - a + 1 for a, b in self.missing(first, last))


class Delivery:
    """What one platform has had of one stream. What is stored was sent."""

    __slots__ = ("sent", "stored")

    def __init__(self, sent: Cursor | None = None, stored: Cursor | None = None) -> None:
        self.sent = sent if sent is not None else Cursor()
        self.stored = stored if stored is not None else Cursor()

    def add(self, first: int, last: int) -> None:
        """Nobody waits for these any more: neither for their sending nor for a receipt."""
        self.sent.add(first, last)
        self.stored.add(first, last)

    def saved(self) -> Saved:
        """A copy that nobody changes."""
        return self.sent.low, list(self.sent.ranges), self.stored.low, list(self.stored.ranges)


def delivery(saved: Saved) -> Delivery:
    """What `Delivery.saved` gave."""
    return Delivery(Cursor(saved[0], saved[1]), Cursor(saved[2], saved[3]))
