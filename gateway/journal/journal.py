"""The journal's door: record on one side, rows on the other.

Owns: a start, and what `record` does. Promises: `record` never waits for the disk; what it returned from survives the
process, what was committed survives a power cut; a loss is an event with its exact range; a broken, full, missing or
exchanged file never stops the box. Never: knows topics, judges, reads the wall clock.

Threads: `record` and `urgent` belong to the pipeline, `write` to the writer, a Reader to its uplink; `health` and
`epochs` may be called from any.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gateway.journal.disk import Disk
from gateway.journal.entries import Adopted, Group, Latch
from gateway.journal.ledger import Ledger
from gateway.journal.quota import shares
from gateway.journal.reader import Reader
from gateway.journal.records import PAGE_BYTES
from gateway.journal.recovery import Recovered, ours, plan, report
from gateway.journal.rows import Part
from gateway.journal.staging import Staging
from gateway.journal.state import Kept, State
from gateway.journal.wear import Wear
from gateway.journal.writer import Writer
from gateway.model import SAMPLE, Door, Event, Inventory, Lane, Samples

__all__ = ["Journal", "Recovered"]

log = logging.getLogger(__name__)

FILE = "journal.sqlite"
_EVENT_LANES: tuple[Lane, ...] = ("alarm", "event")


class Journal:
    """One folder, one staging folder, one writer."""

    def __init__(self, folder: Path | str, staging: Path | str, gateway: str, *, boot: str, now: Callable[[], float],
                 new_epoch: Callable[[], str], platforms: Sequence[str] = (), commit_s: float = 10.0,
                 max_bytes: int = 1 << 30, staging_bytes: int = 16 << 20,
                 flash_bytes_day: float | None = None) -> None:
        """`flash_bytes_day`: what may be written in a day; more is an event. None: no limit."""
        self.path = Path(folder) / FILE
        self._now, self._new_epoch = now, new_epoch
        self._max_bytes, self._bound = max_bytes, staging_bytes
        self._staging = Staging(Path(staging), min(1 << 20, max(4096, staging_bytes // 8)))
        self._disk = Disk(self.path, max_bytes, now, new_epoch)
        self._ledger = Ledger(self._staging, gateway=gateway, boot=boot, platforms=platforms, now=now)
        self._wear = Wear(flash_bytes_day)
        self._writer = Writer(self._ledger, self._disk, commit_s=commit_s,
                              batch_bytes=shares(max_bytes).group * PAGE_BYTES // 2)

    def open(self) -> Recovered:
        """Read both files and decide how to go on. Writes only where there is no readable journal.

        Raises:
            BlockingIOError: another process has the staging folder or the journal.
        """
        ledger = self._ledger
        found = ledger.shadow.read()
        at = self._now()
        trouble = self._attach(partial(ours, found, gateway=ledger.gateway, boot=ledger.boot))
        kept = self._disk.store.kept if self._disk.store is not None else Kept()
        self._writer.publish()
        self._wear.worn = ledger.worn = kept.state.worn
        way = plan(found, kept.state, kept.streams, kept.epochs, gateway=ledger.gateway, boot=ledger.boot,
                   fresh=self._new_epoch(), trouble=trouble, at_s=at)
        with ledger.lock:
            ledger.intake, ledger.latch = way.intake, way.latch
            ledger.inventories.learn(found.inventories.values())
            ledger.date(event for row in way.rows for event in row.events())
            self._begin_segment()
            for identity in way.done:
                ledger.shadow.release(identity)
            lost = [*(gap if gap.platforms else ledger.deliveries.addressed(gap) for gap in kept.state.gaps),
                    *(ledger.deliveries.addressed(gap) for gap in way.gaps)]
            for gap in lost:
                ledger.deliveries.write_off(gap)
            return report(way, found, kept.state, kept.streams, lost, boot=ledger.boot, at_s=at)

    def _attach(self, ours: Callable[[State], bool]) -> str:
        try:
            return self._disk.attach(ours)
        except BlockingIOError:
            raise
        except (sqlite3.Error, OSError) as error:
            self._disk.note(error)
            log.error("journal cannot be opened path=%s error=%s effect=rows wait in memory", self.path, error)
            return "unreachable"

    def _begin_segment(self) -> None:
        self._ledger.shadow.begin()

    # ---- the pipeline's side

    def adopt(self, inventory: Inventory) -> int:
        """Number an inventory by its content: the same content has the same number, on any card, for ever."""
        ledger = self._ledger
        with ledger.lock:
            named, new = ledger.inventories.adopt(inventory)
            if new:
                ledger.shadow.stage(Adopted(named))
            ledger.due.notify()
        return named.n

    def record(self, door: Door, inventory: int, samples: Samples | None = None, events: Sequence[Event] = (),
               latch: bytes | None = None) -> None:
        """Hand over: staged when this returns, committed soon after. Never waits for the disk.

        Args:
            door: boot, offset and trust of the clock for everything in this call.
            inventory: number from `adopt`.
            samples: array of SAMPLE; copied.
            events: kinds beginning with ``alarm.`` go to the alarm lane, all others to the event lane.
            latch: the state that must sound again after a restart; None = unchanged.
        """
        if samples is not None and samples.dtype != SAMPLE:
            raise TypeError(f"samples are {samples.dtype}: expected an array of gateway.model.SAMPLE")
        at = self._now()
        ledger = self._ledger
        with ledger.lock:
            ledger.door, ledger.inventories.current = door, inventory
            self._writer.watch()
            ledger.date(events)
            parts: list[Part] = []
            intake = ledger.intake
            wake = bool(events)
            if samples is not None and len(samples):
                wake = wake or intake.growing is None
                parts += intake.add_samples(door, inventory, samples, at, ledger.inventories.limit(inventory))
                wake = wake or intake.growing is None
            for lane in _EVENT_LANES if events else ():
                mine = [e for e in events if e.kind.startswith("alarm.") == (lane == "alarm")]
                if mine:
                    parts += intake.add_events(door, inventory, lane, mine, at)
            changed = None
            if latch is not None and (ledger.latch is None or latch != ledger.latch.state):
                utc = int(at * 1000) + door.offset_ms if door.trust != "unset" else None
                changed = ledger.latch = Latch(latch, ledger.boot, int(at * 1000), utc)
                wake = True
            if parts or changed:
                ledger.shadow.stage(Group(int(at * 1000), tuple(parts), changed))
            if intake.bytes > self._bound:
                self._shed()
            if wake:
                ledger.due.notify()

    def _shed(self) -> None:
        """Memory is bounded: the oldest data goes, counted; alarms and events are staged again if they must be."""
        ledger = self._ledger
        for row, gap in ledger.intake.shed(self._bound * 7 // 8):
            ledger.shadow.release(row.identity)
            ledger.lose([gap])
        ledger.shadow.bound(self._bound * 3 // 2, ledger.intake)

    def urgent(self, on: bool) -> None:
        """From yellow up: data is committed every second."""
        with self._ledger.lock:
            if on != self._writer.urgent:
                self._writer.urgent = on
                self._ledger.due.notify()

    def offset(self, boot: str) -> tuple[int, float] | None:
        """Clock offset of a boot and its error in ms, where they became known."""
        return self._ledger.offset(boot)

    @property
    def commit_s(self) -> float:
        """The promise in force: readings younger than this may be lost in a power cut."""
        return self._writer.interval_s

    # ---- the writer's side

    def write(self, timeout_s: float) -> bool:
        """One step of the writer's thread: wait until a group is due or `timeout_s` is over, then commit it.

        Returns whether something was committed. Never raises for what the disk does; may take as long as the disk does.
        """
        try:
            return self._writer.write(timeout_s)
        finally:
            self._weigh()

    def _weigh(self) -> None:
        """What that wrote, counted for the day."""
        ledger, now = self._ledger, self._now()
        with ledger.lock:
            door = ledger.door
            over = self._wear.look(now, None if door.trust == "unset" else now + door.offset_ms / 1000)
            ledger.worn = self._wear.worn
            if over:
                today, limit = ledger.worn.today_bytes, self._wear.budget_bytes_day or 0
                wrote, bears = f"{today / 1e6:.1f} MB", f"{limit / 1e6:g} MB"
                ledger.tell("journal.worn", f"今天已向存储卡写入 {wrote}，超过每天 {bears} 的预算",
                            f"{wrote} written to the card today, more than its {bears} a day",
                            {"bytes": today, "budget_bytes": round(limit)})

    def flush(self, timeout_s: float) -> bool:
        """Commit all there is, for an orderly stop. False when the disk took too long: staging still has it."""
        return self._writer.flush(timeout_s)

    def close(self) -> None:
        """Let go of everything. What is not committed stays staged for the next start."""
        self._writer.close()
        with self._ledger.lock:
            self._ledger.shadow.close()

    # ---- the uplinks' side, and whoever asks

    def reader(self, platform: str) -> Reader:
        """The journal as this platform sees it. A platform never seen before begins with the oldest row kept."""
        with self._ledger.lock:
            self._ledger.deliveries.know(platform)
        return Reader(self._ledger, self._disk, platform)

    def epochs(self) -> list[dict[str, Any]]:
        """For birth: what each stream still holds and where it ends, oldest epoch first."""
        return self._ledger.committed.births(self._ledger.intake.epoch)

    @property
    def fault(self) -> str:
        """Why nothing can be committed now; empty when it can. Takes no lock: asked every second by the siren path."""
        return self._disk.trouble()

    @property
    def searching(self) -> bool:
        """Whether rows of a damaged journal are still being looked for."""
        return self._ledger.committed.search is not None

    def _flash(self) -> dict[str, Any]:
        """Bytes written to the card: today, in the day before, and what it may be; None is not known."""
        wear = self._wear
        return {"today_bytes": wear.worn.today_bytes if wear.measured else None,
                "before_bytes": wear.worn.before_bytes, "budget_bytes_day": wear.budget_bytes_day}

    def health(self) -> dict[str, Any]:
        """How the journal is doing; never touches the disk."""
        ledger = self._ledger
        with ledger.lock:
            intake, committed, deliveries = ledger.intake, ledger.committed, ledger.deliveries
            return {
                "epoch": intake.epoch, "rows": sum(e.rows for e in committed.streams.values()),
                "bytes": committed.file_bytes, "max_bytes": self._max_bytes,
                "waiting_bytes": intake.bytes, "staging_bytes": ledger.shadow.bytes,
                "backlog": {p: deliveries.backlog(p) for p in deliveries.platforms},
                "last_commit_s": self._writer.last_commit_s, "commits": ledger.commits, "fault": self._disk.trouble(),
                "searching": self.searching, "staging_fault": ledger.shadow.fault, "dropped_rows": intake.dropped_rows,
                "dropped_records": intake.dropped_records, "flash": self._flash(),
            }
