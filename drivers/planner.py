"""Points → the cheapest list of block reads, in milliseconds of bus time.

Owns: the choice of blocks, what an exchange costs, how a refused block is taken apart. Promises: the exact optimum
(dynamic programming over sorted spans); every span lies whole inside one block, so what belongs together is read
together; holes are read over only where that is cheaper, and never where the device refused. Never: knows devices,
values or time of day; does I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise

from msgspec import Struct

COILS = (1, 2)
"""Functions whose counts are bits."""


class Span(Struct, frozen=True, order=True):
    """Registers (functions 3, 4) or coils (1, 2) that must be read in one request."""

    function: int
    first: int
    count: int

    @property
    def end(self) -> int:
        """One past the last."""
        return self.first + self.count


class Hole(Struct, frozen=True, order=True):
    """A stretch a device would not be read over: no block crosses it. ``count`` 0 is a bare border before `first`.

    One that is just as long as a span says that this span is to be asked for alone.
    """

    function: int
    first: int
    count: int


class Block(Struct, frozen=True):
    """One read request and the spans (by their index) it answers."""

    function: int
    first: int
    count: int
    spans: tuple[int, ...]

    @property
    def end(self) -> int:
        """One past the last."""
        return self.first + self.count


class Cost(Struct, frozen=True):
    """What an exchange costs on this wire."""

    char_ms: float
    """One character on the wire; 0 on a network."""
    turnaround_ms: float
    """From the last byte of a request to the first of its answer; on a serial line at least the silence."""
    gap_ms: float
    """Silence owed before a request, and by the device before its answer."""
    rest_ms: float = 0.0
    """Rest the device wants before a request; only where nobody else can use the wire meanwhile."""
    framing_chars: int = 13
    """Characters of request and answer without the data: RTU 8 + 5; ASCII 17 + 11."""
    byte_chars: int = 1
    """Characters of one byte of data: RTU 1, ASCII 2."""

    def exchange_ms(self, function: int, count: int) -> float:
        """Bus time of one read: silence, request, turnaround, answer.

        With a turnaround of 0 this is the least the standard allows: 30 reads of 10 registers, 8N2, take 1.3750 s at
        9600 baud and 0.1995 s at 115200. Source: Modbus over Serial Line V1.02, 2.5.1.1.
        """
        data = (count + 7) // 8 if function in COILS else 2 * count
        return (max(self.gap_ms, self.rest_ms) + max(self.turnaround_ms, self.gap_ms)
                + self.char_ms * (self.framing_chars + self.byte_chars * data))


def characters(baud: int, parity: str = "none", stop_bits: int = 1) -> float:
    """Milliseconds of one character: start bit, 8 data bits, parity, stop bits."""
    return 1000.0 * (9 + (parity != "none") + stop_bits) / baud


def silence_ms(char_ms: float, baud: int) -> float:
    """Silence owed between frames: 3.5 characters, fixed at 1.75 ms above 19200 baud.

    Source: Modbus over Serial Line V1.02, 2.5.1.1.
    """
    return 1.75 if baud > 19200 else 3.5 * char_ms


def limit(function: int) -> int:
    """Most registers or coils one request may ask for (Modbus Application Protocol V1.1b3, 6.1-6.4)."""
    return 2000 if function in COILS else 125


def plan(spans: Sequence[Span], cost: Cost, max_registers: int = 125, contiguous: bool = True,
         apart: Collection[Hole] = ()) -> list[Block]:
    """Choose the block reads that cover all spans in the least bus time; among equals, the fewest.

    Args:
        spans: what must be read; may repeat, touch and overlap.
        cost: of an exchange on this wire.
        max_registers: most registers the device gives in one answer (coils have only the standard's limit).
        contiguous: False when the device wants each span asked for alone.
        apart: where no block may run over (see `refused`).

    Raises:
        ValueError: a span is longer than one answer may be.
    """
    blocks: list[Block] = []
    for function in sorted({span.function for span in spans}):
        most = limit(function) if function in COILS else min(max_registers, limit(function))
        members = _members(range(len(spans)), spans, function)
        for span in members:
            if not 1 <= span.count <= most:
                raise ValueError(f"{span.count} registers from {span.first} must be read together, "
                                 f"but one answer carries 1 to {most}")
        scars = {(hole.first, hole.count) for hole in apart if hole.function == function}
        alone = [span for span in sorted(members) if not contiguous or (span.first, span.count) in scars]
        blocks += [Block(function, span.first, span.count, tuple(members.pop(span))) for span in alone]
        outer = _outer(members)
        # Where the walk from one span to the next must end the block.
        barred = [any(first <= high and low <= first + count for first, count in scars)
                  for low, high in (_between(a, b) for a, b in pairwise(outer))]
        # The rest have rising starts and rising ends, so the best cover is a cut of that list into runs.
        best: list[tuple[float, int]] = [(0.0, 0)]
        cut: list[int] = [0]
        for last in range(1, len(outer) + 1):
            choices: list[tuple[float, int, int]] = []
            for first in range(last - 1, -1, -1):
                count = outer[last - 1].end - outer[first].first
                if count > most:
                    break
                ms, asked = best[first]
                choices.append((ms + cost.exchange_ms(function, count), asked + 1, first))
                if first and barred[first - 1]:
                    break
            ms, asked, first = min(choices)
            best.append((ms, asked))
            cut.append(first)
        runs: list[Sequence[Span]] = []
        last = len(outer)
        while last:
            runs.append(outer[cut[last]:last])
            last = cut[last]
        blocks += _blocks(reversed(runs), members)
    return blocks


def split(block: Block, spans: Sequence[Span]) -> list[Block]:
    """Take a refused block apart: at its holes; without holes in halves, at a border of spans.

    Ask the parts at once, each refused one split again: every span that can be read alone is read in the end. What to
    remember for the next plan is `refused(parts)`.

    Args:
        block: as planned from `spans`, or a part of such a block.
        spans: what the block's indices count in.

    Returns:
        Two parts or more, in rising order; none when there is only one span left to ask for.
    """
    members = _members(block.spans, spans, block.function)
    outer = _outer(members)
    runs = _pieces(outer)
    if len(runs) == 1 and len(outer) > 1:
        middle = len(outer) // 2
        runs = [outer[:middle], outer[middle:]]
    if len(outer) == 1:
        # What lies inside came along for nothing; without the long one it may still be read.
        inner = {span: found for span, found in members.items() if span != outer[0]}
        return [Block(block.function, outer[0].first, outer[0].count, tuple(members[outer[0]])),
                *_blocks(_pieces(_outer(inner)), inner)] if inner else []
    return _blocks(runs, members)


def refused(parts: Sequence[Block]) -> frozenset[Hole]:
    """What the refusal of a block teaches: between which of its parts (from `split`) no block may run any more."""
    found = set()
    for before, after in pairwise(parts):
        if after.end <= before.end:   # it held the other: it must be asked for alone
            found.add(Hole(before.function, before.first, before.count))
        else:
            low, high = _between(before, after)
            found.add(Hole(before.function, low, high - low))
    return frozenset(found)


def _members(indices: Iterable[int], spans: Sequence[Span], function: int) -> dict[Span, list[int]]:
    """Each different span of a function, with its indices."""
    members: dict[Span, list[int]] = {}
    for n in indices:
        if spans[n].function == function:
            members.setdefault(spans[n], []).append(n)
    return members


def _outer(spans: Iterable[Span]) -> list[Span]:
    """Those that lie in no other: a span inside another comes along for nothing."""
    outer: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.first, -s.count)):
        if not outer or span.end > outer[-1].end:
            outer.append(span)
    return outer


def _pieces(outer: Sequence[Span]) -> list[Sequence[Span]]:
    """Cut at every hole."""
    cuts = [n for n, (a, b) in enumerate(pairwise(outer), 1) if b.first > a.end]
    return [outer[a:b] for a, b in pairwise([0, *cuts, len(outer)])] if outer else []


def _between(before: Span | Block, after: Span | Block) -> tuple[int, int]:
    """The stretch from one to the next: a hole, a bare border, or what they share."""
    return min(before.end, after.first), max(before.end, after.first)


def _blocks(runs: Iterable[Sequence[Span]], members: dict[Span, list[int]]) -> list[Block]:
    """A block a run; each span goes into the first that holds it whole."""
    left, blocks = dict(sorted(members.items())), []
    for run in runs:
        start, end = run[0].first, run[-1].end
        inside = [span for span in left if start <= span.first and span.end <= end]
        blocks.append(Block(run[0].function, start, end - start, tuple(n for span in inside for n in left.pop(span))))
    return blocks
