"""What is still to be looked for in damaged journals, as the new journal's small state keeps it.

Owns: which files, and where each stream's wall is: rows below it may still lie in a wreck. Promises: nobody reads below
a wall, so that a row which is only not found yet is not taken for lost. Never: does I/O.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from gateway.journal.records import LAST_SEQ
from gateway.journal.rows import Stream
from gateway.model import Lane

UNNAMED = 1000
"""So many epochs more may a file hold than its damaged state names."""
_WRECKS = 2
"""Files at most: more than one when the new journal was damaged before the old one was searched."""


class Search(Struct, frozen=True, array_like=True):
    """One search, until all is carried over."""

    wrecks: tuple[str, ...]
    """Names of files beside the journal, the newest first."""
    top: int
    """The highest epoch number they may hold."""
    walls: tuple[tuple[str, Lane, int], ...] = ()
    """Rows of the stream below this seq may lie in a wreck; 1 when it was searched."""

    def wall(self, stream: Stream, number: int) -> int:
        """Where the rows that are the new journal's own begin, for a stream of epoch `number`."""
        for epoch, lane, seq in self.walls:
            if (epoch, lane) == stream:
                return seq
        return LAST_SEQ + 1 if number <= self.top else 1

    def without(self, streams: Iterable[Stream]) -> Search:
        """The same when these streams were searched."""
        gone = frozenset(streams)
        walls = (*(w for w in self.walls if (w[0], w[1]) not in gone), *((*s, 1) for s in sorted(gone)))
        return msgspec.structs.replace(self, walls=walls)

    def after(self, wreck: str, top: int, walls: Iterable[tuple[str, Lane, int]]) -> Search:
        """The same when one more journal became a wreck."""
        return Search((wreck, *self.wrecks)[:_WRECKS], max(top, self.top), tuple(walls))
