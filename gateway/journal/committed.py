"""What the disk has, as everybody may see it.

Owns: the snapshot that a commit leaves behind. Promises: nobody changes it, so no lock is needed to look at it.
Never: touches the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from gateway.journal.rows import Stream
from gateway.journal.search import Search
from gateway.journal.state import Extent, State
from gateway.model import LANES, Lane


class Committed(Struct, frozen=True):
    """One commit's end; replaced whole by the next."""

    state: State = State()
    streams: Mapping[Stream, Extent] = {}
    ages: Mapping[str, int] = {}
    """Epoch → its number, 1 the oldest."""
    file_bytes: int = 0
    boots: Mapping[str, tuple[int, float]] = {}
    """Boot → clock offset and error in ms, where they became known."""
    search: Search | None = None
    """Damaged journals that are being searched."""

    def first(self, stream: Stream) -> int:
        """The first row that may be read: what lies before it may not be found yet."""
        oldest = self.streams[stream].oldest
        return oldest if self.search is None else max(oldest, self.search.wall(stream, self.ages[stream[0]]))

    def aged(self, lane: Lane) -> list[Stream]:
        """The streams of one lane, oldest epoch first."""
        return sorted((s for s in self.streams if s[1] == lane and s[0] in self.ages), key=lambda s: self.ages[s[0]])

    def births(self, current: str) -> list[dict[str, Any]]:
        """What each stream still holds and where it ends, oldest epoch first; the current epoch in any case."""
        out = [{"epoch": s[0], "lane": s[1], "oldest_seq": self.streams[s].oldest, "next_seq": self.streams[s].next,
                "closed": s[0] != current} for lane in LANES for s in self.aged(lane)]
        known = {(e["epoch"], e["lane"]) for e in out}
        return out + [{"epoch": current, "lane": lane, "oldest_seq": 1, "next_seq": 1, "closed": False}
                      for lane in LANES if (current, lane) not in known]
