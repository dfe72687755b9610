"""Rows between the pipeline and the disk.

Owns: the next numbers, the row that is still growing, the queues, the rows in the writer's hands (`flight`).
Promises: a number is handed out once; a lane's rows leave in order of seq; bounded memory: past the bound the oldest
data rows are given up, exactly counted, alarms and events never.
Never: does I/O, locks (the journal does both around it).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress

from msgspec import structs

from gateway.journal.gaps import Gap
from gateway.journal.records import Stored
from gateway.journal.rows import SAMPLE_BYTES, Identity, Part, encode, pack_events, unpack_events
from gateway.model import LANES, Door, Event, Inventory, Lane, Row, Samples

ROW_BYTES = 4096
"""What a row's body stays within: one flash page."""
EVENT_BYTES = 32_000
"""What a single event may take; a longer one is cut."""
SURE = 190
"""So many readings fit ROW_BYTES whatever they are."""
MESSAGE_BYTES = 32_000
"""What a row stays within when each reading is told by its name in plain JSON."""
_READING_BYTES = 105
"""Of a reading in plain JSON, without the name."""
MOST = 256
"""More readings than that do not make a row much cheaper."""
WORST_BYTES = 21
"""Of a reading that does not compress."""
SLACK_BYTES = 64
"""Of ROW_BYTES: how much worse than nothing zlib may do."""
_OFFSET_MS = 1000
"""A wall clock that moved further than this is another header."""


class Pending:
    """One row that is not committed."""

    __slots__ = ("base", "body", "count", "door", "epoch", "first_s", "inventory", "lane", "limit", "most", "parts",
                 "seq", "size")

    def __init__(self, epoch: str, lane: Lane, seq: int, base: int, inventory: int, door: Door, first_s: float,
                 limit: int = MOST) -> None:
        self.epoch, self.lane, self.seq, self.base = epoch, lane, seq, base
        self.inventory, self.door, self.first_s = inventory, door, first_s
        self.parts: list[bytes] = []
        self.count = 0
        self.size = 0
        self.limit = limit
        """Readings it may hold however well they compress."""
        self.most = min(SURE, limit)
        """Readings it may hold, as far as is known by now."""
        self.body: bytes | None = None

    @property
    def identity(self) -> Identity:
        """(epoch, lane, seq)."""
        return self.epoch, self.lane, self.seq

    def grow(self, payload: bytes, count: int) -> Part:
        """Add a payload; the part is what staging keeps of it."""
        part = Part(self.epoch, self.lane, self.seq, len(self.parts), self.base, self.inventory, self.door, count,
                    payload)
        self.parts.append(payload)
        self.body = None
        self.count += count
        self.size += len(payload)
        return part

    def full(self) -> bool:
        """Look how well a data row compresses, and let it grow into what is left; True when nothing is."""
        self.body = encode(b"".join(self.parts), self.lane)
        self.most = min(self.limit, self.count + max(0, ROW_BYTES - SLACK_BYTES - len(self.body)) // WORST_BYTES)
        return self.most <= self.count

    def events(self) -> Iterator[Event]:
        """What it says happened; nothing of a data row, or of one that another program staged in its own way."""
        for payload in self.parts if self.lane != "data" else ():
            with suppress(ValueError):
                yield from unpack_events(payload)

    def staged(self) -> tuple[Part, ...]:
        """All parts, to be staged again. Counts are only kept for the whole, so the first carries it."""
        return tuple(Part(self.epoch, self.lane, self.seq, n, self.base, self.inventory, self.door,
                          self.count if n == 0 else 0, payload) for n, payload in enumerate(self.parts))

    def stored(self) -> Stored:
        """The finished row; encoded once, also when the disk has to be asked again."""
        if self.body is None:
            self.body = encode(b"".join(self.parts), self.lane)
        row = Row(epoch=self.epoch, lane=self.lane, seq=self.seq, inventory=self.inventory, door=self.door,
                  count=self.count, body=self.body)
        return Stored(row, self.base + self.count)


def _payloads(events: Sequence[Event]) -> Iterator[tuple[bytes, int]]:
    """Packed events and how many they are, in pieces of ROW_BYTES; a long event has one of its own."""
    group: list[Event] = []
    size = 0
    for event in events:
        packed = len(pack_events([event]))
        if packed > EVENT_BYTES:
            event = _cut(event, packed)
            packed = len(pack_events([event]))
        if group and size + packed > ROW_BYTES - 100:
            yield pack_events(group), len(group)
            group, size = [], 0
        group.append(event)
        size += packed
    if group:
        yield pack_events(group), len(group)


def _cut(event: Event, size: int) -> Event:
    """What is left of an endless event; it says so."""
    texts = {name: text[:1000] for name, text in structs.asdict(event).items() if type(text) is str}
    keys = [key[:100] for key in sorted(event.why)[:20]]
    return structs.replace(event, **texts, why={"cut": f"reasons of {size} bytes were left out", "keys": keys})


def most_readings(inventory: Inventory) -> int:
    """How many readings of these points make a row."""
    longest = max((len(point.point) for point in inventory.points), default=0)
    return max(1, min(MOST, MESSAGE_BYTES // (_READING_BYTES + longest)))


def _differs(old: Door, new: Door) -> bool:
    return old.boot != new.boot or old.trust != new.trust or abs(old.offset_ms - new.offset_ms) > _OFFSET_MS


class Intake:
    """Numbers, the growing row, the queues."""

    def __init__(self, epoch: str, reason: str = "") -> None:
        self.epoch, self.reason = epoch, reason
        """What numbers run in, and why it began with this process; empty when an older one goes on."""
        self.next: dict[Lane, int] = dict.fromkeys(LANES, 1)
        self.total: dict[Lane, int] = dict.fromkeys(LANES, 0)
        self.growing: Pending | None = None
        self.queues: dict[Lane, deque[Pending]] = {lane: deque() for lane in LANES}
        self.flight: list[Pending] = []
        self.bytes = 0
        """Payload bytes of all of them."""
        self.dropped_rows = self.dropped_records = 0

    def _new(self, lane: Lane, inventory: int, door: Door, at_s: float, limit: int = MOST) -> Pending:
        row = Pending(self.epoch, lane, self.next[lane], self.total[lane], inventory, door, at_s, limit)
        self.next[lane] += 1
        return row

    def add_samples(self, door: Door, inventory: int, samples: Samples, at_s: float, limit: int = MOST) -> list[Part]:
        """Let the data row grow, up to `limit` readings; closes it where header or size ask for it."""
        parts = []
        row = self.growing
        if row is not None and (row.inventory != inventory or (row.door is not door and _differs(row.door, door))):
            self.close()
            row = None
        raw = samples.tobytes()
        at = 0
        while at < len(raw):
            if row is None:
                row = self.growing = self._new("data", inventory, door, at_s, limit)
            end = at + (row.most - row.count) * SAMPLE_BYTES
            piece = raw if at == 0 and end >= len(raw) else raw[at:end]
            count = len(piece) // SAMPLE_BYTES
            parts.append(row.grow(piece, count))
            self.total["data"] += count
            at += len(piece)
            if row.count >= row.most and row.full():
                self.close()
                row = None
        self.bytes += len(raw)
        return parts

    def add_events(self, door: Door, inventory: int, lane: Lane, events: Sequence[Event], at_s: float) -> list[Part]:
        """Closed rows of events, as many as their size asks for."""
        parts = []
        for payload, count in _payloads(events):
            row = self._new(lane, inventory, door, at_s)
            parts.append(row.grow(payload, count))
            self.total[lane] += count
            self.bytes += row.size
            self.queues[lane].append(row)
        return parts

    def close(self) -> None:
        """The growing row is full, old enough, or its header no longer holds."""
        if self.growing is not None:
            self.data.append(self.growing)
            self.growing = None

    @property
    def data(self) -> deque[Pending]:
        """Closed data rows, the oldest first."""
        return self.queues["data"]

    def urgent(self) -> bool:
        """Whether alarms or events wait."""
        return bool(self.queues["alarm"] or self.queues["event"])

    def oldest_s(self) -> float | None:
        """When the oldest uncommitted reading came."""
        row = self.data[0] if self.data else self.growing
        return row.first_s if row is not None else None

    def take(self, most_bytes: int, one_lane: bool = False) -> list[Pending]:
        """Into the writer's hands: alarms, then events, then data, up to `most_bytes` but at least one row.

        With `one_lane` only rows of the first lane that has any: where room is scarce nothing makes an alarm wait.
        """
        self.flight = []
        size = 0
        for queue in self.queues.values():
            while queue and (size < most_bytes or not self.flight):
                row = queue.popleft()
                size += row.size
                self.flight.append(row)
            if self.flight and one_lane:
                break
        return self.flight

    def put_back(self) -> None:
        """The disk did not take them: they are next again."""
        rows, self.flight = self.flight, []
        for row in reversed(rows):
            self.queues[row.lane].appendleft(row)

    def done(self, count: int) -> list[Pending]:
        """The first `count` rows in flight are committed; the others are next again."""
        rows, self.flight = self.flight[:count], self.flight[count:]
        for row in rows:
            self.bytes -= row.size
        self.put_back()
        return rows

    def shed(self, most_bytes: int) -> list[tuple[Pending, Gap]]:
        """Give up the oldest data rows that are not in the writer's hands, down to the bound."""
        out = []
        while self.bytes > most_bytes and self.data:
            row = self.data.popleft()
            self.bytes -= row.size
            self.dropped_rows += 1
            self.dropped_records += row.count
            out.append((row, Gap(row.epoch, row.lane, row.seq, row.seq, row.count, "overload")))
        return out

    def waiting(self) -> Iterator[Pending]:
        """Every row that is not in the writer's hands."""
        for queue in self.queues.values():
            yield from queue
        if self.growing is not None:
            yield self.growing

    def empty(self) -> bool:
        """Nothing waits."""
        return not (self.urgent() or self.data or self.growing)
