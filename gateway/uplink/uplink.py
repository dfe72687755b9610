"""What one platform is told, and when.

Owns: one platform's connections, one after another, and the order of what is said on them: who we are, what we see now,
then rows. Promises: present states are never older than they say; what the platform asks is answered; a failing
connection costs nothing but time. Never: deletes a row, changes a time, knows files or SQLite.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from gateway.config import Platform
from gateway.model import Door, Present, Row
from gateway.uplink import grace
from gateway.uplink.budget import Budget
from gateway.uplink.feed import Feed
from gateway.uplink.hints import Problem, of_error
from gateway.uplink.inbound import Inbound
from gateway.uplink.lookout import Lookout
from gateway.uplink.message import Message, squeezed
from gateway.uplink.mqtt import Connection, Refused
from gateway.uplink.outage import Outage
from gateway.uplink.profile import Order, Outcome, Profile, Talk, TimeAnswer
from gateway.uplink.reader import Decoded, Reader
from gateway.uplink.route import Route
from gateway.uplink.selection import Selection
from gateway.uplink.snapshots import Snapshots
from gateway.uplink.spent import Count

log = logging.getLogger(__name__)

_PULSE_S = 0.02
"""How soon a commit is noticed while acknowledgements are awaited."""
_IDLE_S = 0.25
"""How soon the socket and the present states are looked at while nothing is to be sent; an alarm's commit wakes it."""
_DIAG_BYTES = 4000
"""About what a `diag` takes."""
_KEEP_S = 600.0
"""How often the day's bytes are written down: a card has better things to do."""
_DRAIN_S = 2.0
"""How long a change of links waits for answers; what has none is sent again."""


class Sources(Struct, frozen=True, kw_only=True):
    """What the composition root hands in; all called from the uplink's thread only."""

    reader: Reader
    decode: Callable[[Row], Decoded]
    """Raises ValueError for a row that cannot be read."""
    present: Callable[[], Present | None]
    """Replaced at every tick of the judgement, also when nothing changed: its `t_ms` is what `warn` vouches for."""
    door: Callable[[], Door]
    birth: Callable[[], Mapping[str, Any]]
    """Facts of the box, asked at a connection and each second: name, objects, streams, promises in force, versions."""
    health: Callable[[], Mapping[str, Any]]
    """For `diag`."""
    report: Callable[[str, dict[str, Any]], None]
    """An event of this platform: `uplink.refused`, `uplink.set_aside`, `uplink.taken_over`, `uplink.flapping`. Must not
    block; `why` carries text_en and text_zh, or for `set_aside` what a gap carries."""
    hazards: Mapping[str, str] = {}
    """Object → its hazard, for filters."""
    command: Callable[[Order, Callable[[Outcome], None]], None] = lambda order, answer: answer(Outcome(
        ok=False, text_en=f"this box takes no {order.name}", text_zh=f"本网关不接受 {order.name}"))
    """Judge and do; the answer comes later, from any thread, once."""
    certificate_time: Callable[[], grace.Span | None] = lambda: None
    """By what to judge the dates of certificates, where the system's clock cannot; else None."""
    time_question: Callable[[], str | None] = lambda: None
    """The name of a question to ask this platform's clock now, or None. Asked each second."""
    time_answered: Callable[[TimeAnswer], None] = lambda _: None
    spent: Count = (None, 0)
    """What the day had cost before a restart."""
    keep_spent: Callable[[Count], None] = lambda _: None
    """Remember what it costs. Called each ten minutes at most, and at the end; only with `cap_mb_day`."""


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
    unreadable: int = 0
    """Messages of the platform that could not be read."""
    mode: str = "normal"
    """Of the link budget."""
    tls_time_unchecked: bool = False
    """The clock is unset: the platform's certificate was checked without today's date."""


class Uplink:
    """One platform. `step` and `close` are called by one thread; `health` by any."""

    def __init__(self, platform: Platform, profile: Profile, sources: Sources, password: str | None = None,
                 now: Callable[[], float] = time.monotonic, rng: random.Random | None = None) -> None:
        self.platform, self.profile, self.sources = platform, profile, sources
        self._password, self._now, self._rng = password, now, rng or random.Random()
        self._selection = Selection(platform.id, platform.filter, sources.hazards)
        self._budget = Budget(None if platform.cap_mb_day is None else 1e6 * platform.cap_mb_day, *sources.spent)
        self._counted_bytes = 0
        """Of the present connection, as told to the budget."""
        self._feed = Feed(platform, profile, sources.reader, self._selection, self._budget, decode=sources.decode,
                          door=sources.door, report=self._report, now=now)
        self._inbound = Inbound(platform.id, profile, sources.reader, allowed=platform.commands,
                                command=sources.command, time_answered=sources.time_answered, report=self._report)
        self._connection: Connection | None = None
        self._outage, self._route = Outage(platform, self._rng, now()), Route(platform.links, now())
        self._lookout = Lookout(self._route, platform.host, platform.port)
        self._snapshots = Snapshots(platform.warn_every_s)
        self._session = ""
        self._unchecked = self._told_unchecked = False
        """This connection's certificate was checked without today's date."""
        self._facts: Mapping[str, Any] = {}
        self._left = (0, 0)
        self._second_at_s = self._diag_at_s = self._kept_at_s = 0.0
        self._sound = True
        self._news = True
        """Something may have been committed since the walks were last shown the heads."""
        self._pause = threading.Event()

    # the thread

    def step(self, timeout_s: float) -> None:
        """Do what can be done, waiting up to `timeout_s` for something to do (a connect may take three times 5 s)."""
        self._sound = False
        try:
            self._each_second()
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
                    self._begin(self._connection)
                self._serve(self._connection, timeout_s)
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
                self._feed.look(True)
                self._serve(connection, _PULSE_S)
                while self._now() < until_s - 0.3 * patience_s and (connection.flying or not self._feed.drained()):
                    self._serve(connection, _PULSE_S)
                for message in self.profile.bye(self._talk()):
                    self._say(connection, message)
                while connection.flying and self._now() < until_s:
                    connection.pump(_PULSE_S)
                    self._feed.settle(connection.acks())
            connection.farewell() if self._sound else connection.abandon()
        except Refused as refused:
            log.info("connection ended while closing platform=%s error=%s", self.platform.id, refused.problem.kind)
            connection.abandon()
        self._count_bytes(connection)
        self._keep_spent(self._now())
        self._connection = None
        self._outage.stopped(self._now())

    def health(self) -> Health:
        """Counted since the start of the process."""
        connection, outage, problem, counts = self._connection, self._outage, self._outage.problem, self._feed.counts
        return Health(platform=self.platform.id, connected=outage.connected, since_s=outage.since_s,
                      error=problem.kind if problem else "", error_en=problem.en if problem else "",
                      error_zh=problem.zh if problem else "", sent_rows=counts["rows"],
                      sent_messages=counts["messages"], acked_rows=counts["acked"], refused=counts["refused"],
                      set_aside=counts["set_aside"], connections=counts["connections"],
                      in_flight=connection.flying if connection else 0, backlog_rows=self._left[0],
                      backlog_records=self._left[1], unreadable=self._inbound.unreadable, mode=self._budget.mode,
                      tls_time_unchecked=self._unchecked)

    def _each_second(self) -> None:
        """Here, because a reader's connection belongs to this thread, while `health` is asked by others."""
        now = self._now()
        if now < self._second_at_s:
            return
        self._second_at_s = now + 1.0
        door = self.sources.door()
        self._budget.turn(now, None if door.trust == "unset" else now + door.offset_ms / 1000)
        if now >= self._kept_at_s + _KEEP_S:
            self._keep_spent(now)
        backlog = self.sources.reader.backlog()
        self._left = (backlog.rows, backlog.records)
        if self._connection is None or not self._outage.connected:
            return
        if (name := self.sources.time_question()) is not None:
            self._say(self._connection, self.profile.ask_time(name, self.sources.door()))
        if self._unchecked and not ((when := self.sources.certificate_time()) and when.unchecked):
            self._change_links(self._connection)   # the time is known, or the grace is over: check it in full
            return
        birth = self.sources.birth()
        if self._promises(birth) != self._facts:
            self._greet(self._connection, birth)

    def _keep_spent(self, now_s: float) -> None:
        self._kept_at_s = now_s
        if self.platform.cap_mb_day is not None:
            self.sources.keep_spent(self._budget.kept)

    def _count_bytes(self, connection: Connection) -> None:
        self._budget.spent(connection.wire_bytes - self._counted_bytes)
        self._counted_bytes = connection.wire_bytes

    # coming and going

    def _open(self) -> None:
        platform = self.platform
        self._session = f"{self._rng.getrandbits(48):012x}"
        self._connection = Connection(
            platform, platform.client_id or self.profile.gateway, self._password, squeezed(
                self.profile.will(self._session), platform.compress), self._now,
            subscriptions=self.profile.subscriptions if self._outage.subscribes else (),
            bind=self._route.link.interface, patience_s=self._outage.patience_s, **self._tls())
        self._counted_bytes = 0
        # Bytes cost money on a metered link, and everywhere where nobody said which links there are.
        self._budget.metered = self._route.link.metered or not platform.links
        self._connection.open()

    def _tls(self) -> dict[str, Any]:
        """As a rule nothing special; where the system's clock is not the time, what judges dates without it."""
        tls, when = self.platform.tls, self.sources.certificate_time()
        self._unchecked = tls is not None and when is not None and when.unchecked
        if tls is None or when is None:
            return {}
        try:
            context = grace.lenient(tls)
        except OSError as error:
            raise Refused(of_error(error, self.platform.host, self.platform.port, tls=True)) from None
        if self._unchecked and not self._told_unchecked:
            self._told_unchecked = True
            self._report("uplink.tls_time_unchecked", {
                "text_en": "the clock is unset: certificates are checked without today's date",
                "text_zh": "本机未校时：证书校验暂不检查日期"})
        return {"context": context, "judge": lambda sock: grace.judge(grace.certificates(sock), when)}

    def _begin(self, connection: Connection) -> None:
        """First words of a connection: who we are, then what we see now."""
        now = self._now()
        self._outage.ended(now)
        self._route.served(now)
        self._feed.counts["connections"] += 1
        self._snapshots.restart()
        self._diag_at_s = now
        if not connection.session_present:
            self.sources.reader.rewind()
        self._feed.restart()
        self._greet(connection, self.sources.birth())

    def _greet(self, connection: Connection, birth: Mapping[str, Any]) -> None:
        self._facts = self._promises(birth)
        facts = self._selection.facts(birth) | self._facts
        for message in self.profile.hello(self._talk(), facts):
            self._say(connection, message)

    def _promises(self, birth: Mapping[str, Any]) -> dict[str, Any]:
        """What `birth` promises, and is said again when it changes."""
        promises = dict(birth.get("promises", {}))
        promises["settled_on"] = "stored" if self.sources.reader.confirms else "puback"
        out: dict[str, Any] = {"promises": promises, "link": self._budget.mode}
        return out | {"tls_time_unchecked": True} if self._unchecked else out

    def _talk(self) -> Talk:
        door = self.sources.door()
        return Talk(self._session, round(self._now() * 1000) + door.offset_ms, door)

    def _lost(self, problem: Problem) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
            self._count_bytes(connection)
        now = self._now()
        told = self._outage.lost(problem, now, metered=self._route.link.metered,
                                 answered=connection is not None and connection.answered_any)
        if not problem.code and self._route.failed(now):
            self._outage.retry_at_s = now
        if told is not None:
            self._report(f"uplink.{told.kind}", {"text_en": told.en, "text_zh": told.zh})

    def _change_links(self, connection: Connection) -> None:
        until_s = self._now() + _DRAIN_S
        while connection.flying and self._now() < until_s:
            connection.pump(_PULSE_S)
            self._feed.settle(connection.acks())
        connection.farewell()
        self._count_bytes(connection)
        self._connection = None
        self._outage.stopped(self._now())

    def _report(self, kind: str, why: dict[str, Any]) -> None:
        self.sources.report(kind, {"platform": self.platform.id} | why)

    # a turn of service

    def _serve(self, connection: Connection, timeout_s: float) -> None:
        feed, reader = self._feed, self.sources.reader
        if self._lookout.better(self._now()):
            self._change_links(connection)
            return
        feed.look(self._news)
        self._publish_present(connection)
        sent = 0 if feed.idle() else feed.send(connection)
        self._news = True
        if connection.flying:
            connection.pump(min(timeout_s, _PULSE_S))
        elif not sent:
            # Nobody owes us an answer, so a commit is the likelier visitor; the socket is asked right after.
            if feed.blocked():  # there are rows, but it is not their time yet
                self._pause.wait(min(timeout_s, _IDLE_S))
            else:
                self._news = reader.wait(min(timeout_s, _IDLE_S, max(0.002, feed.wait_s())))
            connection.pump(0.0)
        feed.settle(connection.acks())
        self._count_bytes(connection)
        self._listen(connection)

    def _listen(self, connection: Connection) -> None:
        again, denied, connection.denied = False, connection.denied, {}
        for topic, problem in denied.items():
            log.error("subscription refused platform=%s topic=%s hint=%s", self.platform.id, topic, problem.en)
            self._report("uplink.refused", {"topic": topic, "code": problem.code, "text_en": problem.en,
                                            "text_zh": problem.zh})
        for topic, payload in connection.heard():
            again |= self._inbound.hear(topic, payload)
        if again:
            self._feed.again()
        for order, outcome in self._inbound.answers():
            self._say(connection, self.profile.reply(order, outcome, self._talk().t))

    def _publish_present(self, connection: Connection) -> None:
        now, present = self._now(), self.sources.present()
        for o in self._snapshots.due(present, now):
            if present is not None and self._selection.object(o.object):
                self._say(connection, self.profile.warn(o, self.sources.door(), present.t_ms,
                                                        3 * self.platform.warn_every_s))
        if now >= self._diag_at_s and self._budget.allows("diag", _DIAG_BYTES, now):
            self._diag_at_s = now + self.platform.diag_every_s
            self._say(connection, self.profile.diag(self._talk(), dict(self.sources.health())))

    def _say(self, connection: Connection, message: Message | None) -> None:
        if message is None:
            return
        if message.qos:
            connection.publish(squeezed(message, self.platform.compress), message)
        else:
            connection.mention(squeezed(message, self.platform.compress))
