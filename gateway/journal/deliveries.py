"""Who has had what.

Owns: the cursors of all platforms, and which of them moved since they were saved. Promises: what was trimmed or lost
is settled, so that nobody waits for it; whoever missed it is named. Never: does I/O, saves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from gateway.journal.cursors import Cursor, Saved
from gateway.journal.gaps import Gap
from gateway.journal.rows import Stream
from gateway.journal.state import Extent


class Deliveries:
    """Cursors by platform and stream. One thread at a time (the journal's lock)."""

    def __init__(self, platforms: Iterable[str]) -> None:
        self.platforms = tuple(platforms)
        self.moved: set[tuple[str, Stream]] = set()
        self._cursors: dict[tuple[str, Stream], Cursor] = {}
        self._streams: Mapping[Stream, Extent] = {}

    def follow(self, cursors: dict[tuple[str, Stream], Cursor], streams: Mapping[Stream, Extent]) -> None:
        """Go on with the cursors of a file, and with what it holds; what memory knows is newer."""
        if cursors is not self._cursors:
            cursors.update(self._cursors)
            self.moved.update(self._cursors)
            self._cursors = cursors
        self._streams = streams

    def know(self, platform: str) -> None:
        """A platform; one never seen before begins with the oldest row kept."""
        if platform not in self.platforms:
            self.platforms = (*self.platforms, platform)

    def _of(self, platform: str, stream: Stream) -> Cursor:
        cursor = self._cursors.get((platform, stream))
        if cursor is None:
            cursor = self._cursors[platform, stream] = Cursor()
        extent = self._streams.get(stream)
        if extent is not None and cursor.low < extent.oldest - 1:
            cursor.add(cursor.low + 1, extent.oldest - 1)  # trimmed: gone or told as a gap
        return cursor

    def settle(self, platform: str, stream: Stream, seqs: Iterable[int]) -> None:
        """The platform has these rows."""
        cursor = self._of(platform, stream)
        for seq in seqs:
            cursor.add(seq, seq)
        self.moved.add((platform, stream))

    def missing(self, platform: str, stream: Stream, first: int, last: int) -> list[tuple[int, int]]:
        """Spans of first…last that the platform has not settled."""
        return list(self._of(platform, stream).missing(first, last))

    def backlog(self, platform: str) -> int:
        """Rows the platform has not settled."""
        return sum(self._of(platform, s).lacking(e.oldest, e.next - 1) for s, e in self._streams.items())

    def addressed(self, gap: Gap) -> Gap:
        """The gap, naming who misses it."""
        return msgspec.structs.replace(gap, platforms=tuple(
            p for p in self.platforms if self._of(p, (gap.epoch, gap.lane)).lacking(gap.first, gap.last)))

    def write_off(self, gap: Gap) -> None:
        """Nobody waits for these rows any more."""
        for platform in self.platforms:
            self._of(platform, (gap.epoch, gap.lane)).add(gap.first, gap.last)
            self.moved.add((platform, (gap.epoch, gap.lane)))

    def trimmed(self) -> list[Gap]:
        """Unsettled rows below the oldest one: trimmed in the very last group, whose gap had no time to be written."""
        lost: dict[Stream, tuple[int, tuple[str, ...]]] = {}
        for (platform, stream), cursor in self._cursors.items():
            extent = self._streams.get(stream)
            if extent is not None and platform in self.platforms and cursor.lacking(1, extent.oldest - 1):
                first, who = lost.get(stream, (cursor.low + 1, ()))
                lost[stream] = (min(cursor.low + 1, first), (*who, platform))
        return [Gap(stream[0], stream[1], first, self._streams[stream].oldest - 1, None, "quota", who)
                for stream, (first, who) in lost.items()]

    def take_moved(self) -> dict[tuple[str, Stream], Saved]:
        """What is to be saved. A cursor whose epoch was forgotten meanwhile is not."""
        moved, self.moved = self.moved, set()
        return {key: cursor.saved() for key in sorted(moved) if (cursor := self._cursors.get(key))}
