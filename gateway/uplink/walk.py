"""One ascending walk over the unsettled rows of a lane.

Owns: how far this connection has come in one topic's worth of rows, and what was refused on the way. Promises: rows
leave in ascending order, whole, each once a connection unless refused; a message covers consecutive seqs of one epoch,
inventory, boot and trust, so that `covers` never hides a gap. Never: does I/O but through the Reader, deletes a row.

A refusal stops the walk: then one message at a time, later and later, first the refused rows alone and new ones in
turn. Only a row that was refused alone three times while others passed is at fault itself; it is handed back to be set
aside. A refusal of everything (rights, quota) keeps everything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from msgspec import Struct

from gateway.model import Lane, Row
from gateway.uplink.profile import Part, Topic
from gateway.uplink.reader import Reader, Stream

PAGE = 64
TRIES = 3
_MOST_ROWS = 1000
"""In one message: rows of which a filter leaves nothing take no bytes."""
_RETRY_S = (1.0, 60.0)
_RIGHTS = frozenset({0x87, 0x97})
"""Not authorised, quota exceeded: never the row's fault."""

Key = tuple[str, Lane, int]
Encode = Callable[[Row], Part | None]


class NotYetError(Exception):
    """Raised by `encode` for a row that must wait, and with it all that follow."""


class Batch(Struct, frozen=True):
    """One message in the making. `fault`: why its only row cannot be told at all; empty as a rule."""

    walk: Walk
    rows: tuple[Row, ...]
    parts: tuple[Part | None, ...]
    fault: str = ""


class Verdict(Struct):
    """What is known against a row."""

    tries: int
    passed: int
    """How many messages of the walk had passed when it was last refused."""


class Walk:
    """`lane` says which rows, `topic` where they go, `share` how many messages may be in flight."""

    def __init__(self, lane: Lane, topic: Topic, share: int) -> None:
        self.lane, self.topic, self.share = lane, topic, share
        self.flying = 0
        self.blocked = False
        """The last answer was a refusal."""
        self.retry_s = 0.0
        self._after: dict[Stream, int] = {}
        self._until: Mapping[Stream, int] | None = None
        self._heads: Mapping[Stream, int] = {}
        self._page: deque[Row] = deque()
        self._next: tuple[Row, Part | None, str] | None = None
        self._held = False
        self._aloft: set[Key] = set()
        """In flight: never sent a second time on one connection, also not when the platform asks for them again."""
        self._fresh = True
        self._refused: deque[Row] = deque()
        self._delay_s = 0.0
        self._turn = False
        self._passed = 0
        self._verdicts: dict[Key, Verdict] = {}

    def restart(self, after: Mapping[Stream, int], until: Mapping[Stream, int] | None = None) -> None:
        """Begin again for a new connection, above `after`; with `until` only streams named there, up to their seq."""
        self._after, self._until = dict(after), until
        self._page.clear()
        self._refused.clear()
        self._aloft.clear()
        self._next, self._fresh, self._held, self.flying = None, True, False, 0
        self.blocked, self._delay_s = False, 0.0

    def again(self, until: Mapping[Stream, int] | None = None) -> None:
        """Begin again below what was passed already: some of it is wanted once more."""
        self._after, self._until = {}, until
        self._page.clear()
        self._refused.clear()   # not settled, so they come up again
        self._next, self._fresh, self._held = None, True, False

    def leap(self, after: Mapping[Stream, int]) -> None:
        """Go on above `after`; what is passed over is another walk's."""
        self._after = self.begun() | dict(after)
        self._page.clear()
        self._next, self._fresh, self._held = None, True, False

    def begun(self) -> dict[Stream, int]:
        """How far each stream was sent; what is below and comes up again is another walk's."""
        out = dict(self._after)
        for row in [*(() if self._next is None else self._next[:1]), *reversed(self._page)]:
            out[row.epoch, row.lane] = min(out.get((row.epoch, row.lane), row.seq), row.seq - 1)
        return out

    def look(self, heads: Mapping[Stream, int], anyway: bool) -> None:
        """Take note of what is committed by now; `anyway`: read again even if nothing seems new (a read may fail)."""
        mine = {stream: seq for stream, seq in heads.items() if stream[1] == self.lane}
        if anyway or mine != self._heads:
            self._heads, self._fresh, self._held = mine, True, False

    def idle(self) -> bool:
        """Whether nothing is left to send or to be answered, as far as this walk has looked."""
        return not (self.flying or self._refused) and (
            self._held or not (self._page or self._next or self._fresh))

    def ready(self, reader: Reader, now_s: float) -> bool:
        """Whether there is a row to send, and its time has come."""
        if self.flying >= (1 if self.blocked else self.share) or (self.blocked and now_s < self.retry_s):
            return False
        return bool(self._refused and now_s >= self.retry_s) or (not self._held and self._more(reader))

    def take(self, reader: Reader, encode: Encode, limit_bytes: int, now_s: float) -> Batch | None:
        """The next message, or None when it has nothing to say now.

        `encode` raises ValueError for a row that can never be told (it is handed out alone, with the `fault`), and
        NotYetError for one that has to wait.
        """
        if not self.ready(reader, now_s):
            return None
        if self._refused and now_s >= self.retry_s and (not self.blocked or self._turn or not self._more(reader)):
            self._turn = False
            row = self._refused.popleft()
            try:
                return self._batch([row], [encode(row)])
            except ValueError as error:
                return self._batch([row], [None], str(error))
        self._turn = True
        rows: list[Row] = []
        parts: list[Part | None] = []
        size = 0
        while not self._held and self._more(reader):
            try:
                row, part, fault = self._look(encode)
            except NotYetError:
                self._held = True
                break
            more = 0 if part is None else part.size_bytes + 1
            if rows and (fault or not _follows(rows[-1], row) or size + more > limit_bytes or len(rows) >= _MOST_ROWS):
                break
            self._next = None
            rows.append(row)
            parts.append(part)
            size += more
            if fault:
                return self._batch(rows, parts, fault)
        return self._batch(rows, parts) if rows else None

    def _batch(self, rows: list[Row], parts: list[Part | None], fault: str = "") -> Batch:
        self.flying += 1
        self._aloft.update(map(_key, rows))
        return Batch(self, tuple(rows), tuple(parts), fault)

    def _more(self, reader: Reader) -> bool:
        if self._next is not None or self._page:
            return True
        if not self._fresh:
            return False
        found = reader.pending((self.lane,), after=self._after, until=self._until, limit=PAGE)
        self._fresh = len(found) >= PAGE
        for row in found:
            stream = (row.epoch, row.lane)
            if self._until is not None and stream not in self._until:
                self._fresh = False  # an epoch born after `until` was drawn; the live walk has it
                break
            self._after[stream] = row.seq
            if _key(row) not in self._aloft:
                self._page.append(row)
        return bool(self._page)

    def _look(self, encode: Encode) -> tuple[Row, Part | None, str]:
        if self._next is None:
            row = self._page[0]
            try:
                self._next = (row, encode(row), "")
            except ValueError as error:
                self._next = (row, None, str(error) or "the row cannot be read")
            self._page.popleft()
        return self._next

    def accept(self, batch: Batch) -> None:
        """The platform has it."""
        self._landed(batch)
        self._passed += 1
        self.blocked, self._delay_s = False, 0.0
        for row in batch.rows if self._verdicts else ():
            self._verdicts.pop(_key(row), None)

    def refuse(self, batch: Batch, code: int, now_s: float) -> Row | None:
        """The platform said no. Returns the row when it alone is to blame and should be set aside."""
        self._landed(batch)
        self.blocked = True
        self._delay_s = min(_RETRY_S[1], max(_RETRY_S[0], self._delay_s * 2))
        self.retry_s = now_s + self._delay_s
        if len(batch.rows) == 1 and code not in _RIGHTS:
            row = batch.rows[0]
            verdict = self._verdicts.setdefault(_key(row), Verdict(0, -1))
            if self._passed > verdict.passed:
                verdict.tries, verdict.passed = verdict.tries + 1, self._passed
            if verdict.tries >= TRIES:
                del self._verdicts[_key(row)]
                return row
        self._refused.extend(batch.rows)
        return None

    def drop(self, batch: Batch) -> None:
        """A batch was dealt with without being sent."""
        self._landed(batch)

    def _landed(self, batch: Batch) -> None:
        self.flying -= 1
        self._aloft.difference_update(map(_key, batch.rows))


def _key(row: Row) -> Key:
    return row.epoch, row.lane, row.seq


def _follows(row: Row, after: Row) -> bool:
    return (after.seq == row.seq + 1 and after.epoch == row.epoch and after.inventory == row.inventory
            and after.door.boot == row.door.boot and after.door.trust == row.door.trust)
