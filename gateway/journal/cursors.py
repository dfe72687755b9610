"""What a platform has had of one stream: a low mark and the ranges above it, once as sent and once as stored.

Owns: interval arithmetic over sequence numbers. Promises: exact for any order of arrival; as many steps as there are
ranges. Never: does I/O.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

Spans = list[tuple[int, int]]
"""Closed ranges of seqs, ascending, apart."""
Saved = tuple[int, Spans, int, Spans]
"""A Delivery as it is saved: low mark and ranges, of what was sent and of what is stored."""


def joined(ranges: Iterable[tuple[int, int]]) -> Spans:
    """The seqs of any ranges; one that ends before it begins has none."""
    out: Spans = []
    for first, last in sorted(ranges):
        if first > last:
            continue
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], last))
        else:
            out.append((first, last))
    return out


def minus(one: Iterable[tuple[int, int]], other: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What `one` has and `other` has not; both ascending and apart."""
    others = iter(other)
    hole = next(others, None)
    for first, last in one:
        at = first
        while hole is not None and hole[0] <= last:
            if hole[1] >= at:
                if at < hole[0]:
                    yield at, hole[0] - 1
                at = hole[1] + 1
            if hole[1] > last:
                break   # it may reach into the next one
            hole = next(others, None)
        if at <= last:
            yield at, last


def within(spans: Iterable[tuple[int, int]], first: int, last: int) -> Iterator[tuple[int, int]]:
    """The parts of the spans between first and last, both included."""
    for a, b in spans:
        if (x := max(a, first)) <= (y := min(b, last)):
            yield x, y


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

    @property
    def last(self) -> int:
        """The highest seq that is settled; 0 for none."""
        return self.ranges[-1][1] if self.ranges else self.low

    def add_all(self, spans: Iterable[tuple[int, int]]) -> None:
        """Settle each of them."""
        self._become(joined([*self.spans(), *spans]))

    def remove_all(self, spans: Iterable[tuple[int, int]]) -> None:
        """Unsettle each of them."""
        self._become(list(minus(self.spans(), joined(spans))))

    def _become(self, spans: Spans) -> None:
        begins = bool(spans) and spans[0][0] == 1
        self.low, self.ranges = (spans[0][1], spans[1:]) if begins else (0, spans)

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
        first = max(first, self.low + 1)
        begin = bisect_left(self.ranges, first, key=lambda r: r[1])
        return minus([(first, last)] if first <= last else [], self.ranges[begin:])

    def within(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The parts of first…last that are settled, ascending."""
        return within(self.spans(), first, last)

    def lacking(self, first: int, last: int) -> int:
        """How many of first…last are not settled."""
        return sum(b - a + 1 for a, b in self.missing(first, last))


class Delivery:
    """What one platform has had of one stream. What is stored was sent."""

    __slots__ = ("asked", "doubt", "offered", "sent", "stored")

    def __init__(self, sent: Cursor | None = None, stored: Cursor | None = None) -> None:
        self.sent = sent if sent is not None else Cursor()
        self.stored = stored if stored is not None else Cursor()
        # What follows is of this process only.
        self.offered = 0
        """Rows up to this one may have reached the platform, acknowledged or not."""
        self.asked = Cursor()
        """Rows the platform asked for again, and was not sent since."""
        self.doubt: Cursor | None = None
        """What the last receipt said, if it fell short of what was confirmed before."""

    def add(self, first: int, last: int) -> None:
        """Nobody waits for these any more: neither for their sending nor for a receipt."""
        self.sent.add(first, last)
        self.stored.add(first, last)
        self.asked.remove_all([(first, last)])

    def unsettle(self, spans: Spans) -> None:
        """These are to be sent."""
        self.sent.remove_all(spans)
        self.stored.remove_all(spans)

    def saved(self) -> Saved:
        """A copy that nobody changes."""
        return self.sent.low, list(self.sent.ranges), self.stored.low, list(self.stored.ranges)


def delivery(saved: Saved) -> Delivery:
    """What `Delivery.saved` gave."""
    return Delivery(Cursor(saved[0], list(saved[1])), Cursor(saved[2], list(saved[3])))
