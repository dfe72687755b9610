"""The search through damaged journals, in steps, beside the box's work.

Owns: in which order the rows of a wreck are looked for, and which are believed. Promises: alarms first, then events,
then data; gives out only rows whose checksum holds and whose key is theirs, each once; a step takes some milliseconds
and a search comes to an end, whatever the files contain; a stream that was searched names every row it should have had
and that was not found. Never: writes, changes the state of the journal, deletes a wreck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from gateway.journal.carry import Step
from gateway.journal.cursors import Cursor, Delivery
from gateway.journal.gaps import Gap
from gateway.journal.records import LAST_SEQ, Record, Stored, key_of, lane_seq, row_of
from gateway.journal.rows import Stream
from gateway.journal.search import UNNAMED, Search
from gateway.journal.state import Epoch, Extent, Kept
from gateway.journal.wreck import Wreck
from gateway.model import LANES

_STEP_ROWS, _STEP_S = 128, 0.01
_PROBES = 2_000_000
"""Single look-ups at most: bounds the time spent on a file whose marks are nonsense."""



class Salvage:
    """One search. Lost with the process; the next one begins it anew, and finds what is carried over already."""

    def __init__(self, folder: Path, kept: Kept, search: Search) -> None:
        """`kept`: the new journal's, as it is now; it names what the wrecks should have held."""
        self._search = search
        self._epochs = dict(kept.epochs)
        self._claimed = dict(kept.streams)
        self._seen: dict[Stream, Cursor] = {}
        self._wrecks = [Wreck(folder / name) for name in search.wrecks]
        self._probes = _PROBES
        self._stopped = False
        self._found = self._look()
        self.rows = self.holes = 0
        """Found and missing so far."""

    def stop(self) -> None:
        """Look for nothing more: what was not found yet is named as missing."""
        self._stopped = True

    def step(self, now: Callable[[], float]) -> Step:
        """Go on for some milliseconds."""
        out, until = Step(), now() + _STEP_S
        while len(out.rows) < _STEP_ROWS and now() < until:
            try:
                found = next(self._found)
            except StopIteration:
                out.done = True
                break
            if isinstance(found, list):
                out.rows += self._believed(found, out)
            else:
                out.finished.append(found)
                out.holes += self._missing(found)
        self.rows += len(out.rows)
        self.holes += len(out.holes)
        return out

    def close(self) -> None:
        """Let go of the files."""
        for wreck in self._wrecks:
            wreck.close()

    # ---- where to look

    def _look(self) -> Iterator[list[Record] | Stream]:
        """Records, and each stream when it is through."""
        known = sorted((s for s in self._claimed if self._wall(s) > 1),
                       key=lambda s: (LANES.index(s[1]), self._epochs[s[0]].number))
        for stream in known:
            yield from self._through(stream)
            yield stream
        for low, high in self._between_blocks():
            for wreck in self._wrecks:
                yield from self._unless_stopped(wreck.ends(low, high))
        for stream in [s for s in self._seen if s not in self._claimed]:
            yield from self._through(stream)
            yield stream

    def _wall(self, stream: Stream) -> int:
        epoch = self._epochs.get(stream[0])
        return self._search.wall(stream, epoch.number) if epoch is not None else 0

    def _range(self, stream: Stream) -> tuple[int, int]:
        """First and last row the stream should have in the wrecks."""
        claimed, seen = self._claimed.get(stream), self._seen.get(stream, Cursor())
        first = claimed.oldest if claimed is not None else 1
        last = max(seen.last, claimed.next - 1 if claimed is not None else 0)
        return first, min(last, self._wall(stream) - 1)

    def _through(self, stream: Stream) -> Iterator[list[Record]]:
        number, seen = self._epochs[stream[0]].number, self._seen.setdefault(stream, Cursor())
        first, wall = self._claimed.get(stream, Extent()).oldest, self._wall(stream)
        for wreck in self._wrecks:
            if stream in self._claimed and any(seen.missing(*self._range(stream))):
                yield from self._unless_stopped(
                    wreck.ends(key_of(number, stream[1], first), key_of(number, stream[1], wall - 1)))
            keys = (key_of(number, stream[1], seq) for a, b in list(seen.missing(*self._range(stream)))
                    for seq in range(a, b + 1))
            yield from self._unless_stopped(wreck.among(self._few(keys)))

    def _few(self, keys: Iterable[int]) -> Iterator[int]:
        for key in keys:
            self._probes -= 1
            if self._probes < 0:
                return
            yield key

    def _unless_stopped(self, found: Iterator[list[Record]]) -> Iterator[list[Record]]:
        for records in found:
            if self._stopped:
                return
            yield records

    def _between_blocks(self) -> Iterator[tuple[int, int]]:
        """Spans of keys that belong to no stream the small state knew."""
        at = 0
        blocks = sorted(key_of(self._epochs[s[0]].number, s[1], 0) for s in self._claimed if s[0] in self._epochs)
        for block in [*blocks, key_of(self._search.top + 1, LANES[0], 0)]:
            if at < block:
                yield at, block - 1
            at = max(at, block + LAST_SEQ + 1)

    # ---- what to believe

    def _believed(self, records: Sequence[Record], out: Step) -> Iterator[Stored]:
        for record in records:
            if (stored := row_of(record)) is None:
                continue
            row, stream, number = stored.row, (stored.row.epoch, stored.row.lane), lane_seq(record[0])[0]
            if row.epoch not in self._epochs and number <= self._search.top:
                self._epochs[row.epoch] = out.epochs[row.epoch] = Epoch(number, "salvaged")
            epoch, seen = self._epochs.get(row.epoch), self._seen.setdefault(stream, Cursor())
            if epoch is None or row.seq >= self._wall(stream) or seen.has(row.seq):
                continue
            seen.add(row.seq, row.seq)
            yield stored

    def _missing(self, stream: Stream) -> list[Gap]:
        spans = self._seen.get(stream, Cursor()).missing(*self._range(stream))
        return [Gap(*stream, a, b, None, "damaged") for a, b in spans]


def inherited(aside: Path, known: Kept | None) -> Kept:
    """The small state of what lies aside, with all its rows still to be found.

    `known`: what memory has of it, better than the file itself; None at a start.
    """
    wreck = Wreck(aside)
    try:
        old, top = (known or wreck.state()), wreck.top()
        if known is None:
            for stored, number in wreck.firsts():
                old.epochs.setdefault(stored.row.epoch, Epoch(number, "salvaged"))
    finally:
        wreck.close()
    new = old.draft()
    new.cursors = {key: Delivery(d.sent.copy(), d.stored.copy()) for key, d in list(old.cursors.items())}
    new.streams = {stream: msgspec.structs.replace(e, rows=0, bytes=0) for stream, e in old.streams.items()
                   if stream[0] in old.epochs}
    top = max([top, *(epoch.number for epoch in old.epochs.values())]) + (UNNAMED if known is None else 0)
    # At a start the file may know less than it holds; numbering begins anew then, and what is found is the wreck's.
    walls = [(name, lane, max(new.streams.get((name, lane), Extent()).next, old.wall((name, lane))))
             for name in (old.epochs if known is not None else ()) for lane in LANES]
    before = old.search if old.search is not None else Search((), 0)
    new.search = before.after(aside.name, top, walls)
    return new
