"""What one platform is told, and when.

Owns: one platform's connections, one after another, the order of sending, and what is settled.
Promises: a row is settled only by an acknowledgement that says success; alarms go before events, events before live
readings, live before backlog, and none of them can starve the next; present states are never older than they say.
Never: deletes a row, changes a time, knows files or SQLite.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from gateway.config import Platform
from gateway.model import Door, Lane, Present, Row
from gateway.uplink.hints import Problem, of_code
from gateway.uplink.lookout import Lookout
from gateway.uplink.message import Message
from gateway.uplink.mqtt import MESSAGE_BYTES, WINDOW, Ack, Connection, Refused
from gateway.uplink.outage import Outage
from gateway.uplink.profiles.default import Default, Meaning
from gateway.uplink.reader import Decoded, Reader
from gateway.uplink.route import Link, Route
from gateway.uplink.snapshots import Snapshots
from gateway.uplink.walk import Batch, Walk

log = logging.getLogger(__name__)

_PULSE_S = 0.02
"""How soon a commit is noticed while acknowledgements are awaited."""
_IDLE_S = 0.25
"""How soon the socket and the present states are looked at while nothing is to be sent; an alarm's commit wakes it."""
_LOOK_S = 1.0
"""Rows are looked for this often even when nothing seems new."""
_DRAIN_S = 2.0
"""How long a change of links waits for answers; what has none is sent again."""
_MEANINGS = 8


class Sources(Struct, frozen=True, kw_only=True):
    """What the composition root hands in; all called from the uplink's thread only."""

    reader: Reader
    decode: Callable[[Row], Decoded]
    """Raises ValueError for a row that cannot be read."""
    present: Callable[[], Present | None]
    """Replaced at every tick of the judgement, also when nothing changed: its `t_ms` is what `warn` vouches for."""
    door: Callable[[], Door]
    birth: Callable[[], Mapping[str, Any]]
    """Facts of the box, asked once a connection: name, objects, streams, promises in force, versions."""
    health: Callable[[], Mapping[str, Any]]
    """For `diag`."""
    report: Callable[[str, dict[str, Any]], None]
    """An event of this platform: `uplink.refused`, `uplink.set_aside`, `uplink.taken_over`, `uplink.flapping`. Must not
    block; `why` carries text_en and text_zh, or for `set_aside` what a gap carries."""


class Health(Struct, frozen=True, kw_only=True):
    """How this platform is doing; shown, never judged."""

    platform: str
    connected: bool
    since_s: float
    """Monotonic: when the present state (connected or not) began."""
    error: str = ""
    error_en: str = ""
    error_zh: str = ""
    sent_rows: int = 0
    sent_messages: int = 0
    acked_rows: int = 0
    refused: int = 0
    set_aside: int = 0
    connections: int = 0
    in_flight: int = 0
    backlog_rows: int = 0
    backlog_records: int = 0


class Uplink:
    """One platform. `step` and `close` are called by one thread; `health` by any."""

    def __init__(self, platform: Platform, profile: Default, sources: Sources, password: str | None = None,
                 now: Callable[[], float] = time.monotonic, rng: random.Random | None = None,
                 links: Sequence[Link] = ()) -> None:
        self.platform, self.profile, self.sources = platform, profile, sources
        self._password, self._now, self._rng = password, now, rng or random.Random()
        self._alarms, self._events = Walk("alarm", "event", WINDOW), Walk("event", "event", 16)
        self._live, self._backlog = Walk("data", "data", 18), Walk("data", "backlog", 8)
        self._walks = (self._alarms, self._events, self._live, self._backlog)
        self._meanings: dict[int, Meaning] = {}
        self._connection: Connection | None = None
        self._outage, self._route = Outage(platform, self._rng, now()), Route(links, now())
        self._lookout = Lookout(self._route, platform.host, platform.port)
        self._snapshots = Snapshots(platform.warn_every_s)
        self._session = ""
        self._told: set[int] = set()
        self._complained: set[str] = set()
        self._left = (0, 0)
        self._count_at_s = self._diag_at_s = self._look_at_s = 0.0
        self._tokens, self._tokens_at_s = 1.0, now()
        self._counts: dict[str, int] = defaultdict(int)
        self._sound = True
        self._news = True
        """Something may have been committed since the walks were last shown the heads."""
        self._pause = threading.Event()

    # the thread

    def step(self, timeout_s: float) -> None:
        """Do what can be done, waiting up to `timeout_s` for something to do (a connect may take three times 5 s)."""
        self._sound = False
        self._count_backlog()
        try:
            if self._connection is None:
                wait_s = self._outage.retry_at_s - self._now()
                if wait_s > 0:
                    self._pause.wait(min(wait_s, timeout_s))
                else:
                    self._open()
            elif not self._connection.up:
                self._connection.pump(timeout_s)
            else:
                if not self._outage.connected:
                    self._begin()
                self._serve(timeout_s)
        except Refused as refused:
            self._lost(refused.problem)
        self._sound = True

    def close(self, patience_s: float = 2.5) -> None:
        """Stop in order: send what is committed, say goodbye; after a fault just let go. Twice is once."""
        connection = self._connection
        if connection is None:
            return
        until_s = self._now() + patience_s
        try:
            if self._sound and connection.up and self._outage.connected:
                self._look_at_s = 0.0
                self._serve(_PULSE_S)
                while self._now() < until_s - 0.3 * patience_s and not self._drained():
                    self._serve(_PULSE_S)
                self._retain("state", self.profile.state(False, self._session, t=self._utc_ms(), reason="stopped"))
                while connection.flying and self._now() < until_s:
                    connection.pump(_PULSE_S)
                    self._settle(connection.acks())
            connection.farewell() if self._sound else connection.abandon()
        except Refused as refused:
            log.info("connection ended while closing platform=%s error=%s", self.platform.id, refused.problem.kind)
            connection.abandon()
        self._connection = None
        self._outage.stopped(self._now())

    def health(self) -> Health:
        """Counted since the start of the process."""
        connection, outage, problem, counts = self._connection, self._outage, self._outage.problem, self._counts
        return Health(platform=self.platform.id, connected=outage.connected, since_s=outage.since_s,
                      error=problem.kind if problem else "", error_en=problem.en if problem else "",
                      error_zh=problem.zh if problem else "", sent_rows=counts["rows"],
                      sent_messages=counts["messages"], acked_rows=counts["acked"], refused=counts["refused"],
                      set_aside=counts["set_aside"], connections=counts["connections"],
                      in_flight=connection.flying if connection else 0, backlog_rows=self._left[0],
                      backlog_records=self._left[1])

    def _count_backlog(self) -> None:
        """Once a second, here: a reader's connection belongs to this thread, `health` is asked by others."""
        now = self._now()
        if now >= self._count_at_s:
            self._count_at_s = now + 1.0
            backlog = self.sources.reader.backlog()
            self._left = (backlog.rows, backlog.records)

    # coming and going

    def _open(self) -> None:
        platform = self.platform
        self._session = f"{self._rng.getrandbits(48):012x}"
        self._connection = Connection(
            platform, platform.client_id or self.profile.gateway, self._password,
            Message(self.profile.topic("state"), self.profile.state(False, self._session, reason="lost"), retain=True),
            self._now, bind=self._route.link.interface, patience_s=self._outage.patience_s)
        self._connection.open()

    def _begin(self) -> None:
        """First words of a connection: who we are, then what we see now."""
        reader, now = self.sources.reader, self._now()
        self._outage.ended(now)
        self._route.served(now)
        self._complained.clear()
        self._counts["connections"] += 1
        self._told.clear()
        self._snapshots.restart()
        self._diag_at_s = self._look_at_s = now
        split = {stream: seq for stream, seq in reader.heads().items() if stream[1] == "data"}
        self._alarms.restart({})
        self._events.restart({})
        self._live.restart(split)
        self._backlog.restart({}, split)
        t = self._utc_ms()
        self._retain("state", self.profile.state(True, self._session, since=t))
        self._retain("birth", self.profile.birth(self.sources.birth(), self._session, t, self.sources.door()))

    def _lost(self, problem: Problem) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        now, metered = self._now(), self._route.link.metered
        told = self._outage.lost(problem, now, metered=metered,
                                 answered=connection is not None and connection.answered_any)
        if not problem.code and self._route.failed(now):
            self._outage.retry_at_s = now
        if told is not None:
            self.sources.report(f"uplink.{told.kind}", {"platform": self.platform.id, "text_en": told.en,
                                                        "text_zh": told.zh})

    def _change_links(self, connection: Connection) -> None:
        until_s = self._now() + _DRAIN_S
        while connection.flying and self._now() < until_s:
            connection.pump(_PULSE_S)
            self._settle(connection.acks())
        connection.farewell()
        self._connection = None
        self._outage.stopped(self._now())

    # a turn of service

    def _serve(self, timeout_s: float) -> None:
        connection, reader = self._connection, self.sources.reader
        if connection is None:
            return
        now = self._now()
        if self._lookout.better(now):
            self._change_links(connection)
            return
        anyway = now >= self._look_at_s
        if anyway:
            self._look_at_s = now + _LOOK_S
        if anyway or self._news:
            reader.pending(())  # from here on `wait` reports; the heads come after it, so no commit falls in between
            heads = reader.heads()
            for walk in self._walks:
                walk.look(heads, anyway)
        self._publish_present(connection, now)
        sent = 0 if all(walk.idle() for walk in self._walks) else self._send(connection, now)
        self._news = True
        if connection.flying:
            connection.pump(min(timeout_s, _PULSE_S))
        elif not sent:
            # Nobody owes us an answer, so a commit is the likelier visitor; the socket is asked right after.
            if any(walk.blocked for walk in self._walks):  # there are rows, but it is not their time yet
                self._pause.wait(min(timeout_s, _IDLE_S))
            else:
                wait_s = _IDLE_S if self._backlog.idle() else max(0.002, self._next_token_s())
                self._news = reader.wait(min(timeout_s, _IDLE_S, wait_s))
            connection.pump(0.0)
        self._settle(connection.acks())

    def _publish_present(self, connection: Connection, now: float) -> None:
        present = self.sources.present()
        for o in self._snapshots.due(present, now):
            assert present is not None
            self._retain(f"warn/{o.object}", self.profile.warn(o, present.t_ms, self.sources.door(),
                                                               3 * self.platform.warn_every_s))
        if now >= self._diag_at_s:
            self._diag_at_s = now + self.platform.diag_every_s
            connection.mention(Message(self.profile.topic("diag"), self.profile.diag(
                self._utc_ms(), self.sources.door(), dict(self.sources.health()))))

    def _send(self, connection: Connection, now: float) -> int:
        """Fill the window, the most urgent walk first. Returns the number of messages."""
        sent = 0
        for walk in self._walks:
            while connection.room > 0:
                if walk is self._backlog and self._next_token_s() > 0:
                    break
                batch = walk.take(self.sources.reader, self._encode, MESSAGE_BYTES, now)
                if batch is None:
                    break
                if walk is self._backlog:
                    self._tokens -= 1
                self._post(connection, batch)
                sent += 1
        return sent

    def _post(self, connection: Connection, batch: Batch) -> None:
        first, last = batch.rows[0], batch.rows[-1]
        if not batch.parts[0]:
            batch.walk.drop()
            self._set_aside(first, "the row cannot be read")
            return
        self._tell_inventory(first.inventory)
        payload = self.profile.message(first, last.seq, batch.parts)
        if len(payload) > connection.payload_bytes:
            self._on_refusal(batch, 0x95, "Packet too large")
            return
        connection.publish(Message(self.profile.topic(batch.walk.topic), payload), batch)
        self._counts["rows"] += len(batch.rows)
        self._counts["messages"] += 1

    def _encode(self, row: Row) -> bytes:
        meaning = self._meanings.get(row.inventory)
        if meaning is None:
            inventory = self.sources.reader.inventory(row.inventory) if row.lane == "data" else None
            meaning = Meaning(inventory, row.inventory)
            if meaning.known:
                if len(self._meanings) >= _MEANINGS:
                    del self._meanings[next(iter(self._meanings))]
                self._meanings[row.inventory] = meaning
        boot = self.sources.door().boot
        young_ms = self._now() * 1000 - 3000 * self.platform.warn_every_s
        return self.profile.row(row, self.sources.decode(row), meaning,
                                lambda t_ms: row.door.boot != boot or t_ms < young_ms)

    def _tell_inventory(self, n: int) -> None:
        if n in self._told:
            return
        self._told.add(n)
        inventory = self.sources.reader.inventory(n)
        if inventory is not None:
            self._retain(f"inventory/{n}", self.profile.inventory(inventory))

    def _retain(self, name: str, payload: bytes) -> None:
        if self._connection is not None:
            self._connection.publish(Message(self.profile.topic(name), payload, retain=True), name)

    # answers

    def _settle(self, acks: list[Ack]) -> None:
        done: dict[tuple[str, Lane], list[int]] = defaultdict(list)
        for ack in acks:
            batch = ack.token
            if isinstance(batch, Batch) and ack.code < 0x80:
                batch.walk.accept(batch)
                self._complained.discard(batch.walk.topic)
                done[batch.rows[0].epoch, batch.walk.lane].extend(row.seq for row in batch.rows)
                self._counts["acked"] += len(batch.rows)
            elif isinstance(batch, Batch):
                self._on_refusal(batch, ack.code, ack.name)
            elif ack.code >= 0x80:
                self._counts["refused"] += 1
                self._complain(str(batch), ack.code, ack.name)
        for (epoch, lane), seqs in done.items():
            self.sources.reader.settle(epoch, lane, seqs)

    def _on_refusal(self, batch: Batch, code: int, name: str) -> None:
        self._counts["refused"] += 1
        self._complain(batch.walk.topic, code, name)
        guilty = batch.walk.refuse(batch, code, self._now())
        if guilty is not None:
            self._set_aside(guilty, of_code(code, name).en)

    def _complain(self, name: str, code: int, said: str) -> None:
        if name in self._complained:
            return
        self._complained.add(name)
        problem = of_code(code, said)
        log.error("publish refused, data is kept platform=%s topic=%s code=%#04x hint=%s", self.platform.id,
                  self.profile.topic(name), code, problem.en)
        self.sources.report("uplink.refused", {"platform": self.platform.id, "topic": name, "code": code,
                                               "text_en": problem.en, "text_zh": problem.zh})

    def _set_aside(self, row: Row, reason: str) -> None:
        self._counts["set_aside"] += 1
        log.error("row set aside platform=%s epoch=%s lane=%s seq=%d reason=%s", self.platform.id, row.epoch, row.lane,
                  row.seq, reason)
        self.sources.report("uplink.set_aside", {"platform": self.platform.id, "epoch": row.epoch, "lane": row.lane,
                                                 "from": row.seq, "to": row.seq, "count": row.count, "reason": reason})
        self.sources.reader.settle(row.epoch, row.lane, [row.seq])

    # small things

    def _next_token_s(self) -> float:
        """Seconds until the backlog may send its next message; fills the bucket."""
        now, rate = self._now(), self.platform.backlog_messages_per_s
        self._tokens = min(max(1.0, rate / 4), self._tokens + (now - self._tokens_at_s) * rate)
        self._tokens_at_s = now
        return max(0.0, (1.0 - self._tokens) / rate)

    def _utc_ms(self) -> int:
        return round(self._now() * 1000) + self.sources.door().offset_ms

    def _drained(self) -> bool:
        return not (self._connection and self._connection.flying) and all(
            w.idle() or w.blocked for w in (self._alarms, self._events, self._live))
