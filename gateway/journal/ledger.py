"""What memory knows of the journal, under one lock.

Owns: the lock between pipeline, writer and uplinks, and all they share: what waits, what is committed, who has had
what, what is lost. Promises: nobody waits for the disk under the lock; every loss is settled for all platforms and
told to those who miss it. Never: touches the database.

Methods that say so are called with `lock` held; the others take it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gateway.journal.committed import Committed
from gateway.journal.cursors import Spans, joined, minus
from gateway.journal.deliveries import Deliveries, Receipt
from gateway.journal.entries import FORMAT, Group, Head, Latch
from gateway.journal.gaps import Gap, Untold
from gateway.journal.intake import Intake
from gateway.journal.inventories import Inventories
from gateway.journal.rows import Identity, Stream
from gateway.journal.shadow import Shadow
from gateway.journal.staging import Staging
from gateway.journal.store import Store
from gateway.journal.wear import Worn
from gateway.model import Door, Event, Inventory


class Ledger:
    """One per Journal."""

    def __init__(self, staging: Staging, *, gateway: str, boot: str, platforms: Sequence[str],
                 now: Callable[[], float]) -> None:
        self.gateway, self.boot, self.now = gateway, boot, now
        self.lock = threading.Lock()
        self.due = threading.Condition(self.lock)
        """Something may have to be written."""
        self.intake = Intake("")
        self.shadow = Shadow(staging, self._head, now)
        self.inventories = Inventories()
        self.deliveries = Deliveries(platforms)
        self.untold = Untold()
        self.telling: dict[Identity, list[Gap]] = {}
        """Gaps whose event waits to be committed, by its row: until then they are part of the saved state."""
        self._last_gap: dict[Stream, int] = {}
        """The row that told the last one; empty before the first."""
        self.damaged: set[tuple[Stream, int]] = set()
        """Rows whose checksum does not hold, still in the file."""
        self.door = Door(boot, 0, "unset")
        self.latch: Latch | None = None
        self.undated: dict[str, tuple[int, float]] = {}
        """Clock offsets that became known and are not saved yet."""
        self.worn = Worn()
        self.committed = Committed()
        self.commits = 0
        self._told = threading.Condition(self.lock)

    def _head(self) -> Head:
        needed = {row.inventory for row in (*self.intake.flight, *self.intake.waiting())}
        return Head(FORMAT, self.gateway, self.boot, self.intake.epoch, self.committed.state.commit, self.latch,
                    tuple(self.inventories.among(needed)))

    # ---- with the lock held

    def publish(self, store: Store, file_bytes: int) -> None:
        """With the lock: show what the disk has now."""
        self.deliveries.follow(store.cursors, store.streams, store.state.confirms)
        self.inventories.learn(store.inventories.values())
        self.committed = Committed(store.state, store.streams,
                                   {name: epoch.number for name, epoch in store.epochs.items()}, file_bytes,
                                   {boot: (d.offset_ms, d.error_ms) for boot, d in store.kept.boots.items()},
                                   store.kept.search)

    def commit_done(self) -> None:
        """With the lock: wake the readers."""
        self.commits += 1
        self._told.notify_all()

    def lose(self, gaps: Iterable[Gap]) -> None:
        """With the lock: these records will never come; rows that are gone are settled for everybody; all is told."""
        for gap in gaps:
            addressed = self.deliveries.addressed(gap)
            if addressed.platforms or not self.deliveries.platforms:
                self.untold.add(addressed, self.now())
            self.deliveries.write_off(gap)

    def tell(self, kind: str, zh: str, en: str, why: dict[str, Any]) -> None:
        """With the lock: record an event about the journal itself."""
        at_s = self.now()
        self._record(Event(id=self._name(), kind=kind, t_ms=int(at_s * 1000), text_zh=zh, text_en=en, why=why), at_s)

    def tell_gaps(self, at_s: float, force: bool) -> None:
        """With the lock: record an event for every gap that is due, or with `force` for all."""
        heard = all(self.deliveries.heard(p, stream, seq) for p in self.deliveries.platforms
                    for stream, seq in self._last_gap.items())
        for gap in self.untold.due(at_s, force, heard):
            self._last_gap = {(self.intake.epoch, "event"): self.intake.next["event"]}
            row = self._record(gap.event(self._name(), int(at_s * 1000)), at_s)
            self.telling.setdefault(row, []).append(gap)

    def _name(self) -> str:
        return f"{self.intake.epoch}-j{self.intake.next['event']}"

    def _record(self, event: Event, at_s: float) -> Identity:
        parts = self.intake.add_events(self.door, self.inventories.current, "event", [event], at_s)
        self.shadow.stage(Group(int(at_s * 1000), tuple(parts), None))
        return parts[-1].epoch, parts[-1].lane, parts[-1].seq

    def date(self, events: Iterable[Event]) -> None:
        """With the lock: remember what a boot's clock was worth, where an event tells."""
        for event in events:
            if event.kind == "clock.offset" and event.why.get("trust") != "unset":
                boot, offset_ms, error_ms = (event.why.get(key) for key in ("boot", "offset_ms", "error_ms"))
                if isinstance(boot, str) and isinstance(offset_ms, int) and isinstance(error_ms or 0, int | float):
                    self.undated[boot] = (offset_ms, float(error_ms or 0))

    def dated(self, boots: Mapping[str, tuple[int, float]]) -> None:
        """With the lock: these are saved."""
        for boot, dating in boots.items():
            if self.undated.get(boot) == dating:
                del self.undated[boot]

    # ---- for readers

    def offset(self, boot: str) -> tuple[int, float] | None:
        """Clock offset of a boot and its error in ms, once they are known."""
        return self.undated.get(boot) or self.committed.boots.get(boot)

    def stored(self, platform: str, stream: Stream, up_to: int, ranges: Sequence[tuple[int, int]]) -> Receipt:
        """The platform's database holds these rows of the stream."""
        with self.lock:
            return self.deliveries.store(platform, stream, up_to, ranges)

    def replay(self, platform: str, stream: Stream, ranges: Sequence[tuple[int, int]]) -> tuple[Spans, Spans]:
        """The platform asks for rows once more."""
        with self.lock:
            waiting = (*self.intake.flight, *self.intake.waiting())
            old, searching = stream[0] != self.intake.epoch, self.committed.search is not None
            ended = old and all(stream != (row.epoch, row.lane) for row in waiting)
            again, gone = self.deliveries.replay(platform, stream, ranges, ended)
            if old and searching:
                return again, []   # some may still be found in the wreck
            untold = joined((g.first, g.last) for g in self.untold.gaps if (g.epoch, g.lane) == stream)
            return again, list(minus(gone, untold))   # the gap will say why

    def rewind(self, platform: str) -> bool:
        """What was sent and not confirmed may be lost."""
        with self.lock:
            return self.deliveries.rewind(platform)

    def settle(self, platform: str, stream: Stream, seqs: Iterable[int]) -> None:
        """The platform has these rows. Saved with the next group; a crash before means they are sent again."""
        with self.lock:
            self.deliveries.settle(platform, stream, seqs)

    def skip(self, platform: str, stream: Stream, first: int, last: int) -> None:
        """Rows first…last are not the platform's."""
        with self.lock:
            self.deliveries.skip(platform, stream, first, last)

    def offer(self, platform: str, lasts: Mapping[Stream, int]) -> None:
        """Rows up to these are given out to be sent."""
        with self.lock:
            self.deliveries.offer(platform, lasts)

    def missing(self, platform: str, stream: Stream, first: int, last: int) -> list[tuple[int, int]]:
        """Spans of first…last that the platform has not settled."""
        with self.lock:
            return self.deliveries.missing(platform, stream, first, last)

    def rotten(self, stream: Stream, seq: int) -> None:
        """A row whose checksum does not hold: taken out and told as a gap."""
        with self.lock:
            if (stream, seq) not in self.damaged:
                self.damaged.add((stream, seq))
                self.lose([Gap(stream[0], stream[1], seq, seq, None, "damaged")])
                self.due.notify()

    def absent(self, stream: Stream, first: int, last: int) -> None:
        """Rows below the head that are not in the file: they will never come, and whoever misses them is told."""
        with self.lock:
            self.lose([Gap(stream[0], stream[1], first, last, None, "absent")])
            self.due.notify()

    def nudge(self) -> None:
        """Let the writer look whether there is something to do."""
        with self.lock:
            self.due.notify()

    def wait_commit(self, seen: int, timeout_s: float) -> bool:
        """Sleep until there is a commit after number `seen`."""
        with self.lock:
            return self._told.wait_for(lambda: self.commits != seen, timeout_s)

    def inventory(self, n: int) -> Inventory | None:
        """The inventory of that number."""
        with self.lock:
            return self.inventories.get(n)
