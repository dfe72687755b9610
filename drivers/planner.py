"""Points → the cheapest list of block reads, in milliseconds of bus time.

Owns: the choice of blocks. Promises: the exact optimum (dynamic programming over sorted spans); every span lies
whole inside one block, so what belongs together is read together; holes are read over only where that is cheaper.
Never: knows devices, values or time of day; does I/O.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct


class Span(Struct, frozen=True, order=True):
    """Registers (functions 3, 4) or coils (1, 2) that must be read in one request."""

    function: int
    first: int
    count: int

    @property
    def end(self) -> int:
        """One past the last."""
        return self.first + self.count


class Block(Struct, frozen=True):
    """One read request and the spans (by their index) it answers."""

    function: int
    first: int
    count: int
    spans: tuple[int, ...]


class Cost(Struct, frozen=True):
    """What an exchange costs on this wire."""

    char_ms: float
    """One character on the wire; 0 on a network."""
    turnaround_ms: float
    """From the last byte of a request to the first of its answer."""
    gap_ms: float
    """Silence owed before a request."""

    def exchange_ms(self, function: int, count: int) -> float:
        """Bus time of one read: silence, 8 characters asked, turnaround, 5 characters and the data answered."""
        data = (count + 7) // 8 if function in (1, 2) else 2 * count
        return self.gap_ms + self.turnaround_ms + self.char_ms * (8 + 5 + data)


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
    return 2000 if function in (1, 2) else 125


def plan(spans: Sequence[Span], cost: Cost, max_registers: int = 125, contiguous: bool = True) -> list[Block]:
    """Choose the block reads that cover all spans in the least bus time.

    Args:
        spans: what must be read; may repeat, touch and overlap.
        cost: of an exchange on this wire.
        max_registers: most registers the device gives in one answer (coils have only the standard's limit).
        contiguous: False when the device wants each span asked for alone.

    Raises:
        ValueError: a span is longer than one answer may be.
    """
    blocks: list[Block] = []
    for function in sorted({span.function for span in spans}):
        most = limit(function) if function in (1, 2) else min(max_registers, limit(function))
        members: dict[Span, list[int]] = {}
        for n, span in enumerate(spans):
            if span.function == function:
                members.setdefault(span, []).append(n)
        for span in members:
            if not 1 <= span.count <= most:
                raise ValueError(f"{span.count} registers from {span.first} must be read together, "
                                 f"but one answer carries 1 to {most}")
        if not contiguous:
            blocks += [Block(function, span.first, span.count, tuple(members[span])) for span in sorted(members)]
            continue
        # A span inside another comes along for nothing; the rest have rising starts and rising ends,
        # so the best cover is a cut of that list into runs.
        outer: list[Span] = []
        for span in sorted(members, key=lambda s: (s.first, -s.count)):
            if not outer or span.end > outer[-1].end:
                outer.append(span)
        best = [0.0] + [float("inf")] * len(outer)
        cut = [0] * (len(outer) + 1)
        for last in range(1, len(outer) + 1):
            for first in range(last - 1, -1, -1):
                count = outer[last - 1].end - outer[first].first
                if count > most:
                    break
                total = best[first] + cost.exchange_ms(function, count)
                if total < best[last]:
                    best[last], cut[last] = total, first
        runs: list[tuple[int, int]] = []
        last = len(outer)
        while last:
            runs.append((outer[cut[last]].first, outer[last - 1].end))
            last = cut[last]
        for start, end in reversed(runs):
            inside = [span for span in sorted(members) if start <= span.first and span.end <= end]
            taken = tuple(n for span in inside for n in members.pop(span))
            blocks.append(Block(function, start, end - start, taken))
    return blocks
