"""The pipeline's thread: what happens, and in which order, when something enters the box.

Owns: the order of deeds. Promises, for every Scan, ask and tick:

1. the outputs follow the demand before anything is written or waited for;
2. then confirming reads are asked of the wires;
3. then everything judged is staged in one step: readings, events and the latch of the alarms;
4. then the detector is fed and the present is shown.

A keeper that fails costs what it refuses, counted; the siren and the next latch do not notice. A bug on the way costs
what it met: the next step brings outputs and latch to what is judged then.

Never: decides anything, waits for a disk, a network or a detector.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

import drivers
from gateway.inbox import Ask, Inbox
from gateway.judgement.outcome import Feed, Outcome
from gateway.model import LEVELS, SAMPLE, Command, Demand, Door, Event, Present, Reply, Samples

log = logging.getLogger(__name__)

TICK_S = 1.0
"""What only the clock can notice is noticed within this time."""


def joined(parts: Sequence[Samples]) -> Samples:
    """Join Samples, not to be written to; concatenate would work out the type of their fields anew each time."""
    return np.frombuffer(b"".join([part.tobytes() for part in parts]), SAMPLE)


class Judge(Protocol):
    """The pure part (`judgement.pipeline.Pipeline`)."""

    def scan(self, scan: drivers.Scan, now_s: float) -> Outcome: ...  # noqa: D102
    def tick(self, now_s: float) -> Outcome: ...  # noqa: D102
    def command(self, command: Command, now_s: float) -> tuple[Outcome, Reply]: ...  # noqa: D102
    @property
    def next_due_s(self) -> float: ...  # noqa: D102
    def present(self, now_s: float) -> Present: ...  # noqa: D102
    def latch(self) -> bytes: ...  # noqa: D102


class Keeper(Protocol):
    """Where what was judged is kept (`journal.journal.Journal`)."""

    def record(self, door: Door, inventory: int, samples: Samples | None, events: Sequence[Event],  # noqa: D102
               latch: bytes | None) -> None: ...
    def urgent(self, on: bool) -> None: ...  # noqa: D102


class Corridor:
    """One thread of pure parts between the inbox and everything that follows.

    `submit` maps a device to its wire's `Driver.submit`; `feed` takes good readings for the detector; `lost` words the
    loss of so many Scans, `unkept` that of so many Records for the reason given; `each_second` looks after what only
    the clock shows (its own steps, troubled workers).
    """

    def __init__(self, inbox: Inbox, judge: Judge, keeper: Keeper, inventory: int, *,
                 follow: Callable[[tuple[Demand, ...]], None], door: Callable[[], Door],
                 submit: Mapping[str, Callable[[drivers.Command], None]], feed: Callable[[Feed], None],
                 lost: Callable[[int], Event], unkept: Callable[[int, str], Event],
                 each_second: Callable[[], Sequence[Event]], now: Callable[[], float]) -> None:
        self._inbox, self._judge, self._keeper, self.inventory = inbox, judge, keeper, inventory
        self._follow, self._door, self._submit, self._feed = follow, door, submit, feed
        self._lost, self._unkept, self._each_second, self._now = lost, unkept, each_second, now
        self._tick_s = 0.0
        self._urgent = False
        self._samples: list[Samples] = []
        self._asks: deque[Ask] = deque()
        self._waiting: deque[drivers.Scan] = deque()
        self._dropped = 0
        self._latch: bytes | None = None
        """Not staged yet, because the keeper failed."""
        self._refused = 0
        self._whole = True
        """The step before was seen through to its end."""
        self.fault = ""
        """Why what is judged is not kept now; empty when it is."""
        self.scans = 0
        self.present = judge.present(now())
        """The box as it stands, replaced whole: for `warn`, status and the page."""

    def apply(self, outcome: Outcome) -> None:
        """Carry out what was decided, in the order promised above."""
        if outcome.demand is not None:
            self._follow(outcome.demand)
        for ask in outcome.ask:
            if submit := self._submit.get(ask.device):
                try:
                    submit(ask)
                except Exception:  # a bug in one driver; events and latch below must still be staged
                    log.exception("confirming read not asked device=%s", ask.device)
        if outcome.samples is not None:
            self._samples.append(outcome.samples)
        if outcome.events or outcome.latch is not None:
            self._stage([event for _, event in outcome.events], outcome.latch)
            self._show()
        if outcome.feed is not None:
            self._feed(outcome.feed)

    def ask(self, deed: Callable[[float], Outcome]) -> None:
        """From any thread: have the pipeline's thread call `deed` with the time and carry out what follows."""
        self._inbox.ask(lambda now_s: self.apply(deed(now_s)))

    def command(self, command: Command, answer: Callable[[Reply], None]) -> None:
        """From any thread: judge a Command; `answer` is called from the pipeline's thread with what became of it."""

        def deed(now_s: float) -> None:
            outcome, reply = self._judge.command(command, now_s)
            self.apply(outcome)
            answer(reply)

        self._inbox.ask(deed)

    def step(self, timeout_s: float) -> None:
        """Take what has come in, or what the clock brings, and see it through."""
        whole, self._whole = self._whole, False
        if not whole:
            self._mend()
        now_s = self._now()
        due_s = min(self._judge.next_due_s, self._tick_s + TICK_S)
        left = bool(self._asks or self._waiting)
        asks, scans, dropped = self._inbox.take(0.0 if left else min(timeout_s, max(0.0, due_s - now_s)))
        self._asks.extend(asks)
        self._waiting.extend(scans)
        self._dropped += dropped
        while self._asks:  # taken one by one, so that a bug met on the way costs one and not the rest
            self._asks.popleft()(self._now())
        while self._waiting:
            self.scans += 1
            self.apply(self._judge.scan(self._waiting.popleft(), self._now()))
        now_s = self._now()
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._stage([self._lost(dropped)])
        if now_s >= due_s:
            self.apply(self._judge.tick(now_s))
            if now_s >= self._tick_s + TICK_S:
                self._tick_s = now_s
                if (facts := self._each_second()) or self._latch is not None:
                    self._stage(facts)
                self._show()
        if self._samples:
            self._stage()
        self._whole = True

    def _mend(self) -> None:
        """After a bug: its outcome may be lost, so outputs and latch are brought to what is judged now."""
        self._show()
        self._follow(self.present.demand)
        self._stage(latch=self._judge.latch())

    def drain(self) -> None:
        """Judge and stage what still waits; for the end, when the wires have stopped."""
        self.step(0.0)
        while len(self._inbox):
            self.step(0.0)

    def tell(self, events: Sequence[Event]) -> None:
        """From any thread: record facts about the box itself."""
        if events:
            self._inbox.ask(lambda _: self._stage(events))

    def _stage(self, events: Sequence[Event] = (), latch: bytes | None = None) -> None:
        """Stage what has been judged so far, in one write. Samples first: an event never overtakes its cause."""
        parts, self._samples = self._samples, []
        samples = parts[0] if len(parts) == 1 else joined(parts) if parts else None
        if latch is not None:
            self._latch = latch
        try:
            self._keeper.record(self._door(), self.inventory, samples, events, self._latch)
        except Exception as error:  # the siren goes on without its books
            self._not_kept(error, len(events) + (0 if samples is None else len(samples)))
            return
        self._latch = None
        if self.fault:
            log.warning("records are kept again refused=%d", self._refused)
            fact = self._unkept(self._refused, self.fault)
            self._refused, self.fault = 0, ""
            self._stage([fact])

    def _not_kept(self, error: Exception, records: int) -> None:
        """Count what was refused and try the latch alone: it may be the records that cannot be written."""
        if not self.fault:
            log.error("records not kept error=%s effect=the siren goes on", error, exc_info=error)
        self.fault = f"{type(error).__name__}: {error}"[:200]
        self._refused += records
        if self._latch is not None:
            try:
                self._keeper.record(self._door(), self.inventory, None, (), self._latch)
            except Exception as again:  # owed: it goes with the next record, at the latest in a second
                log.debug("latch not staged error=%s", again)
            else:
                self._latch = None

    def _show(self) -> None:
        self.present = self._judge.present(self._now())
        urgent = any(LEVELS.index(o.alarm_colour) >= 2 for o in self.present.objects)
        if urgent != self._urgent:
            self._urgent = urgent
            self._keeper.urgent(urgent)
