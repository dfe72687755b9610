"""Who has had what.

Owns: the deliveries of all platforms, and which of them moved since they were saved. Promises: what was trimmed or lost
is settled, so that nobody waits for it; whoever missed it is named; a receipt is believed only for rows that may have
reached the platform. Never: does I/O, saves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from gateway.journal.cursors import Cursor, Delivery, Saved, Spans, joined, minus, within
from gateway.journal.gaps import LESS, Gap
from gateway.journal.rows import Stream
from gateway.journal.state import Extent

_MOST_RANGES = 1000
_LAST_SEQ = (1 << 40) - 1


class Receipt(Struct, frozen=True):
    """What a platform's receipt led to."""

    refused: str = ""
    """Why it is not believed; empty when it is."""
    again: bool = False
    """Rows it had confirmed are gone from its database, and pending again."""
    stale: bool = False
    """It is of an epoch that is not kept here: known to the platform for good reason, and nothing to look into."""


class Deliveries:
    """Deliveries by platform and stream. One thread at a time (the journal's lock)."""

    def __init__(self, platforms: Iterable[str]) -> None:
        self.platforms = tuple(platforms)
        self.confirms: tuple[str, ...] = ()
        """Platforms that have ever confirmed storage."""
        self.moved: set[tuple[str, Stream]] = set()
        self._deliveries: dict[tuple[str, Stream], Delivery] = {}
        self._streams: Mapping[Stream, Extent] = {}
        self._gone: dict[Stream, Cursor] = {}
        """Lost while this process lives, or found to be lost."""

    def follow(self, deliveries: dict[tuple[str, Stream], Delivery], streams: Mapping[Stream, Extent],
               confirms: Iterable[str] = ()) -> None:
        """Go on with the deliveries of a file, and with what it holds; what memory knows is newer."""
        if deliveries is not self._deliveries:
            for (_, stream), known in deliveries.items():
                if known.sent.last and stream in streams:   # a dead process may have sent more than was noted
                    known.offered = streams[stream].next - 1
            deliveries.update(self._deliveries)
            self.moved.update(self._deliveries)
            self._deliveries = deliveries
            self.confirms = tuple(dict.fromkeys((*self.confirms, *confirms)))
        self._streams = streams

    def had(self) -> dict[tuple[str, Stream], Delivery]:
        """Who has had what at this moment; nobody changes it."""
        return {key: Delivery(d.sent.copy(), d.stored.copy()) for key, d in self._deliveries.items()}

    def know(self, platform: str) -> None:
        """A platform; one never seen before begins with the oldest row kept."""
        if platform not in self.platforms:
            self.platforms = (*self.platforms, platform)

    def _of(self, platform: str, stream: Stream) -> Delivery:
        delivery = self._deliveries.get((platform, stream))
        if delivery is None:
            delivery = self._deliveries[platform, stream] = Delivery()
        extent = self._streams.get(stream)
        if extent is not None and min(delivery.sent.low, delivery.stored.low) < extent.oldest - 1:
            delivery.add(1, extent.oldest - 1)  # trimmed: gone or told as a gap
        return delivery

    def offer(self, platform: str, lasts: Mapping[Stream, int]) -> None:
        """Rows up to these are about to be sent to the platform."""
        for stream, last in lasts.items():
            delivery = self._of(platform, stream)
            delivery.offered = max(delivery.offered, last)

    def settle(self, platform: str, stream: Stream, seqs: Iterable[int]) -> None:
        """The platform was sent these rows."""
        delivery, spans = self._of(platform, stream), joined((seq, seq) for seq in seqs)
        for first, last in spans:
            delivery.sent.add(first, last)
        if delivery.asked.last:
            delivery.asked.remove_all(spans)
        self.moved.add((platform, stream))

    def skip(self, platform: str, stream: Stream, first: int, last: int) -> None:
        """The platform will not be sent rows first…last, nor confirm them."""
        self._of(platform, stream).add(first, last)
        self.moved.add((platform, stream))

    def store(self, platform: str, stream: Stream, up_to: int, ranges: Sequence[tuple[int, int]]) -> Receipt:
        """Take a receipt: the platform's database holds the stream up to `up_to`, and the ranges above.

        It may be ahead of the acknowledgements, and then stands for them. Rows the platform asked for again come again
        whatever it says. Less than it once confirmed is a restored database, and counts when it is said twice in a row:
        of two consumers that share the work the slower one's receipt may arrive last.
        """
        if stream not in self._streams:
            return Receipt("no such epoch is kept here", stale=True) if up_to > 0 or ranges else Receipt()
        if len(ranges) > _MOST_RANGES or any(a > b for a, b in ranges):
            return Receipt(f"at most {_MOST_RANGES} ranges, each ascending, were expected")
        extent, delivery = self._streams[stream], self._of(platform, stream)
        claimed = Cursor()
        claimed.add_all([(1, up_to), *((max(1, a), b) for a, b in ranges)])
        if claimed.last > (last := max(delivery.offered, delivery.sent.last)):
            return Receipt(f"it confirms row {claimed.last}, and none after row {last} was ever sent")
        before = delivery.saved()
        believed = list(minus(claimed.spans(), delivery.asked.spans()))
        claimed.add(1, extent.oldest - 1)
        absent = list(minus(delivery.stored.spans(), claimed.spans()))
        lost = list(minus(absent, delivery.doubt.spans())) if delivery.doubt is not None else []
        delivery.doubt = claimed if absent != lost else None
        delivery.unsettle(lost)
        delivery.sent.add_all(believed)
        delivery.stored.add_all(believed)
        if platform not in self.confirms:
            self.confirms = (*self.confirms, platform)
            self.moved.add((platform, stream))
        if delivery.saved() != before:
            self.moved.add((platform, stream))
        return Receipt(again=bool(lost))

    def replay(self, platform: str, stream: Stream, ranges: Sequence[tuple[int, int]], ended: bool = False,
               ) -> tuple[Spans, Spans]:
        """Let rows be pending again. Returns what will come, and what is not kept.

        Seqs beyond the end are neither, unless the stream has `ended`: then a journal that was lost since had them.
        """
        asked = joined((max(1, a), b) for a, b in ranges[:_MOST_RANGES])
        extent = self._streams.get(stream)
        if extent is None:
            return [], asked
        delivery = self._of(platform, stream)
        again = list(within(asked, extent.oldest, extent.next - 1))
        gone = list(minus(asked, [(extent.oldest, extent.next - 1 if ended else _LAST_SEQ)]))
        if (lost := self._gone.get(stream)) is not None:
            gone = joined([*gone, *(part for a, b in again for part in lost.within(a, b))])
            again = list(minus(again, lost.spans()))
        delivery.unsettle(again)
        delivery.asked.add_all(again)
        self.moved.add((platform, stream))
        return again, gone

    def rewind(self, platform: str) -> bool:
        """What was sent and not stored is pending again, if the platform confirms. Whether there is any."""
        if platform not in self.confirms:
            return False
        again = False
        for stream, extent in self._streams.items():
            delivery = self._of(platform, stream)
            if delivery.stored.lacking(1, extent.next - 1) > delivery.sent.lacking(1, extent.next - 1):
                delivery.sent = delivery.stored.copy()
                self.moved.add((platform, stream))
                again = True
        return again

    def heard(self, platform: str, stream: Stream, seq: int) -> bool:
        """Whether the platform was sent a row, or is not to have it."""
        return self._of(platform, stream).sent.has(seq)

    def missing(self, platform: str, stream: Stream, first: int, last: int) -> Spans:
        """Spans of first…last that the platform was not sent."""
        return list(self._of(platform, stream).sent.missing(first, last))

    def backlog(self, platform: str) -> int:
        """Rows the platform was not sent."""
        return sum(self._of(platform, s).sent.lacking(e.oldest, e.next - 1) for s, e in self._streams.items())

    def addressed(self, gap: Gap) -> Gap:
        """The gap, naming who misses it: of those it names already, or of all."""
        stream = (gap.epoch, gap.lane)
        return msgspec.structs.replace(gap, platforms=tuple(
            p for p in gap.platforms or self.platforms if self._of(p, stream).sent.lacking(gap.first, gap.last)))

    def write_off(self, gap: Gap) -> None:
        """Nobody waits for these rows any more, unless they still come with fewer readings."""
        if gap.reason in LESS:
            return
        self._gone.setdefault((gap.epoch, gap.lane), Cursor()).add(gap.first, gap.last)
        for platform in self.platforms:
            self._of(platform, (gap.epoch, gap.lane)).add(gap.first, gap.last)
            self.moved.add((platform, (gap.epoch, gap.lane)))

    def take_moved(self) -> dict[tuple[str, Stream], Saved]:
        """What is to be saved. A delivery whose epoch was forgotten meanwhile is not."""
        moved, self.moved = self.moved, set()
        return {key: delivery.saved() for key in sorted(moved) if (delivery := self._deliveries.get(key))}
