"""The rows of one platform on their way out: which go next, and what became of them.

Owns: the four walks, the words rows were put into, refusals and rows set aside. Promises: a row is settled only by an
acknowledgement that says success, or because it is not this platform's business; alarms go before events, events before
live readings, live before backlog, and none of them can starve the next; an undated row is not told to a platform that
files by time. Never: touches a socket but through Connection, deletes a row.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from msgspec import structs

from gateway.config import Platform
from gateway.model import Door, Row
from gateway.uplink.budget import Bucket, Budget, Kind
from gateway.uplink.hints import of_code
from gateway.uplink.message import Message, squeezed
from gateway.uplink.mqtt import MESSAGE_BYTES, WINDOW, Ack, Connection
from gateway.uplink.profile import Part, Profile
from gateway.uplink.reader import Decoded, Reader, Stream
from gateway.uplink.selection import Selection
from gateway.uplink.walk import Batch, NotYetError, Walk

log = logging.getLogger(__name__)

_LOOK_S = 1.0
"""Rows are looked for this often even when nothing seems new."""
_MEANINGS = 8
_TOLD_MOST = 64


class Feed:
    """One platform's rows; used by the uplink's thread."""

    def __init__(self, platform: Platform, profile: Profile, reader: Reader, selection: Selection, budget: Budget, *,
                 decode: Callable[[Row], Decoded], door: Callable[[], Door],
                 report: Callable[[str, dict[str, Any]], None], now: Callable[[], float]) -> None:
        self.platform, self.profile, self.reader, self.selection = platform, profile, reader, selection
        self._budget = budget
        self._decode, self._door, self._report, self._now = decode, door, report, now
        self._alarms, self._events = Walk("alarm", "event", WINDOW), Walk("event", "event", 16)
        self._live, self._backlog = Walk("data", "data", 18), Walk("data", "backlog", 8)
        self._walks = tuple(w for w in (self._alarms, self._events, self._live, self._backlog)
                            if w.lane in selection.lanes)
        self._kinds: dict[Walk, Kind] = {self._alarms: "alarm", self._events: "event", self._live: "live",
                                         self._backlog: "backlog"}
        self._pace = Bucket(platform.backlog_messages_per_s, platform.backlog_bytes_per_s, now())
        self._meanings: dict[int, Any] = {}
        self._told: set[int] = set()
        self._complained: set[str] = set()
        self._skipped: dict[Stream, int] = {}
        self._look_at_s = 0.0
        self.counts: dict[str, int] = defaultdict(int)

    def restart(self) -> None:
        """A new connection: backlog is what is committed by now, live what comes."""
        self._complained.clear()
        self._told.clear()
        self._look_at_s = self._now()
        split = {stream: seq for stream, seq in self.reader.heads().items() if stream[1] == "data"}
        self._alarms.restart({})
        self._events.restart({})
        self._live.restart(split)
        self._backlog.restart({}, split)

    def again(self) -> None:
        """Rows that were passed are wanted once more: as backlog, up to where the live readings are."""
        self._alarms.again()
        self._events.again()
        self._backlog.again(self._live.begun())
        self._skipped.clear()
        self._look_at_s = 0.0

    def look(self, news: bool) -> None:
        """Notice what is committed; `news` says that something may be."""
        now = self._now()
        anyway = now >= self._look_at_s
        if anyway:
            self._look_at_s = now + _LOOK_S
        if anyway or news:
            self.reader.pending(())  # from here on `wait` reports; the heads come after it, so nothing falls in between
            heads = self.reader.heads()
            for walk in self._walks:
                walk.look(heads, anyway)
            for stream, seq in heads.items():
                if stream[1] not in self.selection.lanes and seq > self._skipped.get(stream, 0):
                    self.reader.skip(*stream, self._skipped.get(stream, 0) + 1, seq)
                    self._skipped[stream] = seq

    def idle(self) -> bool:
        """Nothing to send and nothing to be answered."""
        return all(walk.idle() for walk in self._walks)

    def blocked(self) -> bool:
        """There are rows, but it is not their time yet."""
        return any(walk.blocked for walk in self._walks)

    def drained(self) -> bool:
        """Nothing is left but backlog."""
        return all(w.idle() or w.blocked for w in self._walks if w is not self._backlog)

    def wait_s(self) -> float:
        """Seconds until the backlog may go on; infinite when there is none, or no money for it."""
        now = self._now()
        if self._backlog.idle() or not self._budget.allows("backlog", MESSAGE_BYTES, now):
            return float("inf")
        return self._pace.wait_s(now)

    def send(self, connection: Connection) -> int:
        """Fill the window, the most urgent walk first. Returns the number of messages."""
        sent, now = 0, self._now()
        for walk in self._walks:
            while connection.room > 0 and walk.ready(self.reader, now):
                if walk is self._backlog and self._pace.wait_s(now) > 0:
                    break
                if not self._budget.allows(self._kinds[walk], connection.flying_bytes + MESSAGE_BYTES, now):
                    break
                if walk is self._live and self._budget.mode == "saver":
                    self._leap()
                batch = walk.take(self.reader, self._encode, MESSAGE_BYTES, now)
                if batch is None:
                    break
                size = self._post(connection, batch)
                if walk is self._backlog:
                    self._pace.take(size)
                sent += 1
        return sent

    def _leap(self) -> None:
        """Let the one message of a minute tell the newest readings; those it passes over are backlog from now on."""
        begun = self._live.begun()
        after = {stream: seq - 1 for stream, seq in self.reader.heads().items()
                 if stream[1] == "data" and seq - 1 > begun.get(stream, 0)}
        if after and not self._live.flying:
            self._live.leap(after)
            self._backlog.again(self._live.begun())

    def _post(self, connection: Connection, batch: Batch) -> int:
        if batch.fault:
            batch.walk.drop(batch)
            self._set_aside(batch.rows[0], batch.fault)
            return 0
        message = self.profile.message(batch.walk.topic, batch.rows, batch.parts)
        if message is None:   # nothing of it is this platform's business
            batch.walk.accept(batch)
            self.reader.skip(batch.rows[0].epoch, batch.walk.lane, batch.rows[0].seq, batch.rows[-1].seq)
            return 0
        self._tell_inventory(connection, batch.rows[0].inventory)
        message = squeezed(message, self.platform.compress)
        size = len(message.payload)
        if size > connection.payload_bytes:
            self._on_refusal(batch, 0x95, "Packet too large")
            return 0
        connection.publish(message, batch)
        self.counts["rows"] += len(batch.rows)
        self.counts["messages"] += 1
        return size

    def _dated(self, row: Row) -> Row:
        """The row with the best dating there is, for a platform that files by time."""
        if not self.profile.keyed_by_time or row.door.trust != "unset":
            return row
        known = self.reader.offset(row.door.boot)
        if known is not None:
            return structs.replace(row, door=Door(row.door.boot, known[0], "holdover"))
        if row.lane == "alarm":
            return row   # nobody withholds an alarm because it has no date
        if row.door.boot == self._door().boot:
            raise NotYetError
        raise ValueError("undated: the clock was not set in that run of the box, and nobody knows its offset")

    def _encode(self, row: Row) -> Part | None:
        row = self._dated(row)
        inventory = self.reader.inventory(row.inventory) if row.lane == "data" else None
        meaning = self._meanings.get(row.inventory) if inventory is not None else None
        if meaning is None:
            meaning = self.profile.meaning(inventory, row.inventory)
            if inventory is not None:
                if len(self._meanings) >= _MEANINGS:
                    del self._meanings[next(iter(self._meanings))]
                self._meanings[row.inventory] = meaning
        boot = self._door().boot
        young_ms = self._now() * 1000 - 3000 * self.platform.warn_every_s
        decoded = self.selection.row(self._decode(row), inventory)
        return self.profile.row(row, decoded, meaning, lambda t_ms: row.door.boot != boot or t_ms < young_ms)

    def _tell_inventory(self, connection: Connection, n: int) -> None:
        if n in self._told:
            return
        if len(self._told) >= _TOLD_MOST:
            self._told.clear()
        self._told.add(n)
        inventory = self.reader.inventory(n)
        if inventory is not None:
            for message in self.profile.inventory(inventory, self.selection.points(inventory)):
                connection.publish(squeezed(message, self.platform.compress), message)

    # answers

    def settle(self, acks: list[Ack]) -> None:
        """Take what the broker said to messages."""
        for ack in acks:
            batch = ack.token
            if isinstance(batch, Batch) and ack.code < 0x80:
                batch.walk.accept(batch)
                self._complained.discard(batch.walk.topic)
                self._settle(batch)
                self.counts["acked"] += len(batch.rows)
            elif isinstance(batch, Batch):
                self._on_refusal(batch, ack.code, ack.name)
            elif ack.code >= 0x80 and isinstance(batch, Message):
                self.counts["refused"] += 1
                self._complain(batch.topic, ack.code, ack.name)

    def _settle(self, batch: Batch) -> None:
        self.reader.settle(batch.rows[0].epoch, batch.walk.lane, [row.seq for row in batch.rows])

    def _on_refusal(self, batch: Batch, code: int, name: str) -> None:
        self.counts["refused"] += 1
        self._complain(batch.walk.topic, code, name)
        guilty = batch.walk.refuse(batch, code, self._now())
        if guilty is not None:
            self._set_aside(guilty, of_code(code, name).en)

    def _complain(self, name: str, code: int, said: str) -> None:
        if name in self._complained:
            return
        self._complained.add(name)
        problem = of_code(code, said)
        log.error("publish refused, data is kept platform=%s topic=%s code=%#04x hint=%s", self.platform.id, name, code,
                  problem.en)
        self._report("uplink.refused", {"topic": name, "code": code, "text_en": problem.en, "text_zh": problem.zh})

    def _set_aside(self, row: Row, reason: str) -> None:
        self.counts["set_aside"] += 1
        log.error("row set aside platform=%s epoch=%s lane=%s seq=%d reason=%s", self.platform.id, row.epoch, row.lane,
                  row.seq, reason)
        self._report("uplink.set_aside", {"epoch": row.epoch, "lane": row.lane, "from": row.seq, "to": row.seq,
                                          "count": row.count, "reason": reason})
        self.reader.skip(row.epoch, row.lane, row.seq, row.seq)
