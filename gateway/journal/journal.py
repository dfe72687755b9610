"""The journal's door: record on one side, rows on the other.

Owns: the lock between pipeline, writer and uplinks; when a group is committed; what happens when the disk fails.
Promises: `record` never waits for the disk; what it returned from survives the process, what was committed survives a
power cut; a loss is an event with its exact range; a broken, full, missing or exchanged file never stops the box.
Never: knows topics, judges, reads the wall clock.

Threads: `record` and `urgent` belong to the pipeline, `write` to the writer, a Reader to its uplink; `settle`,
`health`, `inventory` may be called from any.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from gateway.journal.cursors import Cursor
from gateway.journal.disk import Disk
from gateway.journal.intake import Intake, Pending, merge
from gateway.journal.reader import Reader
from gateway.journal.recovery import REASONS, Plan, plan
from gateway.journal.rows import Part
from gateway.journal.staging import FORMAT, Adopted, Entry, Found, Group, Head, Latch, Mark, Staging
from gateway.journal.store import Changes, Extent, Gap, State, Stream
from gateway.model import LANES, SAMPLE, Door, Event, Inventory, Lane, Samples

log = logging.getLogger(__name__)

FILE = "journal.sqlite"
_URGENT_S = 1.0
_FIRST_S = 0.2
"""The first data row after a start closes this soon: the county sees a fresh box at once."""
_GAP_S = 60.0
"""Gaps of one reason are told at most this often, joined; until then they are part of the saved state."""
_BATCH_BYTES = 1 << 20


class Recovered(Struct, frozen=True, kw_only=True):
    """What a start found."""

    epoch: str
    reason: str
    """Why numbering began anew (a key of recovery.REASONS); empty when it goes on."""
    latch: bytes | None
    latch_same_boot: bool
    latch_age_s: float | None
    """How long ago the latch was said; None after a reboot."""
    silent_s: float | None
    """How long nothing was recorded; None after a reboot."""
    latch_utc_ms: int | None
    alive_utc_ms: int | None
    """Wall time of the last commit, None when nobody could vouch for it: the length of an outage."""
    replayed: int
    """Rows staged by the dead process and now waiting for the writer."""
    events: tuple[Event, ...]
    """To be recorded by the caller, once it has a Door."""


class Journal:
    """One folder, one staging folder, one writer."""

    def __init__(self, folder: Path | str, staging: Path | str, gateway: str, *, boot: str, now: Callable[[], float],
                 new_epoch: Callable[[], str], platforms: Sequence[str] = (), commit_s: float = 10.0,
                 max_bytes: int = 1 << 30, staging_bytes: int = 16 << 20) -> None:
        self.path = Path(folder) / FILE
        self.commits = 0
        self._staging = Staging(Path(staging), min(1 << 20, max(4096, staging_bytes // 8)))
        self._gateway, self._boot, self._now, self._new_epoch = gateway, boot, now, new_epoch
        self._platforms = tuple(platforms)
        self._commit_s, self._max_bytes, self._bound = commit_s, max_bytes, staging_bytes
        self._batch = min(_BATCH_BYTES, max(16384, max_bytes // 16))
        self._lock = threading.Lock()
        self._due = threading.Condition(self._lock)
        self._told = threading.Condition(self._lock)
        self._writing = threading.Lock()
        self._disk = Disk(self.path, max_bytes, now, new_epoch)
        self._intake = Intake("")
        self._flight: list[Pending] = []
        self._cursors: dict[tuple[str, Stream], Cursor] = {}
        self._dirty: set[tuple[str, Stream]] = set()
        self._inventories: dict[int, Inventory] = {}
        self._current = 0
        self._extents: dict[Stream, Extent] = {}
        self._numbers: dict[str, int] = {}
        self._saved = State()
        self._latch: Latch | None = None
        self._latch_due = False
        self._door = Door(boot, 0, "unset")
        self._reason = ""
        self._gaps: list[Gap] = []
        self._gaps_since = 0.0
        self._damaged: set[tuple[Stream, int]] = set()
        self._urgent = False
        self._fresh = True
        self._force = False
        self._faulty = False
        self._staging_fault = ""
        self._last_commit_s = now()
        self._dropped_rows = self._dropped_records = 0
        self._file_bytes = 0

    # ---- start

    def open(self) -> Recovered:
        """Read both files and decide how to go on. Writes only where there is no readable journal.

        Raises:
            BlockingIOError: another process has the staging folder or the journal.
        """
        found = self._read_staging()
        trouble, gaps = "", list[Gap]()
        at = self._now()
        try:
            trouble, gaps = self._disk.attach()
        except BlockingIOError:
            raise
        except (sqlite3.Error, OSError) as error:
            trouble = "unreachable"
            self._disk.note(error)
            log.error("journal cannot be opened path=%s error=%s effect=rows wait in memory", self.path, error)
        store = self._disk.store
        state, extents, epochs = (store.state, store.streams, store.epochs) if store else (State(), {}, {})
        self._publish()
        way = plan(found, state, extents, epochs, gateway=self._gateway, boot=self._boot, fresh=self._new_epoch(),
                   trouble=trouble, at_s=at)
        with self._lock:
            self._intake, self._reason, self._latch = way.intake, way.reason, way.latch
            self._latch_due = way.latch != state.latch
            for n, inventory in found.inventories.items():
                self._inventories.setdefault(n, inventory)
            self._begin_segment()
            for identity in way.done:
                self._staging.release(identity)
            untold = self._untold()
            fresh = [msgspec.structs.replace(gap, platforms=self._missed_by(gap)) for gap in (*gaps, *way.gaps)]
            lost = [*state.gaps, *untold, *fresh]
            self._settle_gaps(lost)
            events = self._opening(way, state, lost, at)
        return self._recovered(way, found, state, events, at)

    def _read_staging(self) -> Found:
        try:
            return self._staging.read()
        except BlockingIOError:
            raise
        except OSError as error:
            self._staging_trouble(error)
            return Found()

    def _publish(self) -> None:
        """Show readers and `record` what the disk has; they never look at the Store itself."""
        store = self._disk.store
        if store is None:
            return
        size = store.file_bytes()
        with self._lock:
            if store.cursors is not self._cursors:
                store.cursors.update(self._cursors)
                self._dirty.update(self._cursors)
                self._cursors = store.cursors
            for n, inventory in store.inventories.items():
                self._inventories.setdefault(n, inventory)
            self._extents = store.streams
            self._numbers = {name: epoch.number for name, epoch in store.epochs.items()}
            self._saved = store.state
            self._file_bytes = size

    def _untold(self) -> list[Gap]:
        """Rows trimmed in the very last group, whose gap had no time to be written."""
        lost: dict[Stream, tuple[int, tuple[str, ...]]] = {}
        for (platform, stream), cursor in self._cursors.items():
            extent = self._extents.get(stream)
            if extent is not None and platform in self._platforms and cursor.lacking(1, extent.oldest - 1):
                first, who = lost.get(stream, (cursor.low + 1, ()))
                lost[stream] = (min(cursor.low + 1, first), (*who, platform))
        return [Gap(stream[0], stream[1], first, self._extents[stream].oldest - 1, None, "quota", who)
                for stream, (first, who) in lost.items()]

    def _opening(self, way: Plan, state: State, lost: list[Gap], at: float) -> tuple[Event, ...]:
        t_ms, epoch = int(at * 1000), way.intake.epoch
        events = []
        if way.reason:
            zh, en = REASONS[way.reason]
            last = {lane: extent.next - 1 for (name, lane), extent in self._extents.items() if name == state.epoch}
            events.append(Event(id=f"{epoch}-open", kind="journal.epoch", t_ms=t_ms, text_zh=zh, text_en=en,
                                why={"reason": way.reason, "epoch": epoch, "was": state.epoch, "last": last}))
        events += [self._gap_event(gap, t_ms, f"{epoch}-open-{n}-{t_ms}") for n, gap in enumerate(lost)]
        return tuple(events)

    def _recovered(self, way: Plan, found: Found, state: State, events: tuple[Event, ...], at: float) -> Recovered:
        latch, head = way.latch, found.head
        same = latch is not None and latch.boot == self._boot
        return Recovered(
            epoch=way.intake.epoch, reason=way.reason, latch=latch.state if latch else None, latch_same_boot=same,
            latch_age_s=max(0.0, at - latch.t_ms / 1000) if latch and same else None,
            silent_s=max(0.0, at - found.t_ms / 1000) if head and head.boot == self._boot and found.t_ms else None,
            latch_utc_ms=latch.utc_ms if latch else None, alive_utc_ms=state.alive_utc_ms, replayed=len(way.rows),
            events=events)

    # ---- the pipeline's side

    def adopt(self, inventory: Inventory) -> int:
        """Number an inventory by its content: the same content has the same number, on any card, for ever."""
        content = msgspec.msgpack.encode(inventory.points)
        n = int.from_bytes(hashlib.blake2b(content, digest_size=4).digest(), "big") or 1
        with self._lock:
            while n in self._inventories and self._inventories[n].points != inventory.points:
                n += 1
            named = Inventory(n, inventory.points)
            self._current = n
            if n not in self._inventories:
                self._inventories[n] = named
                self._stage(Adopted(named))
            self._due.notify()
        return n

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
        with self._lock:
            self._door, self._current = door, inventory
            parts: list[Part] = []
            intake = self._intake
            wake = bool(events)
            if samples is not None and len(samples):
                wake = wake or intake.growing is None
                parts += intake.add_samples(door, inventory, samples, at)
                wake = wake or intake.growing is None
            for lane in ("alarm", "event") if events else ():
                mine = [e for e in events if e.kind.startswith("alarm.") == (lane == "alarm")]
                if mine:
                    parts.append(intake.add_events(door, inventory, lane, mine, at))
            changed = None
            if latch is not None and (self._latch is None or latch != self._latch.state):
                utc = int(at * 1000) + door.offset_ms if door.trust != "unset" else None
                changed = self._latch = Latch(latch, self._boot, int(at * 1000), utc)
                self._latch_due = wake = True
            if parts or changed:
                self._stage(Group(int(at * 1000), tuple(parts), changed))
            if intake.bytes > self._bound:
                self._shed()
            if wake:
                self._due.notify()

    def urgent(self, on: bool) -> None:
        """From yellow up: data is committed every second."""
        with self._lock:
            if on != self._urgent:
                self._urgent = on
                self._due.notify()

    def _stage(self, entry: Entry) -> None:
        """Under the lock. A failing staging folder costs what a dead process would lose, and nothing else."""
        try:
            if self._staging.full():
                self._staging.begin(self._head())
            self._staging.append(entry)
        except OSError as error:
            self._staging_trouble(error)
        else:
            if self._staging_fault:
                self._staging_fault = ""
                log.warning("staging works again folder=%s", self._staging.folder)

    def _staging_trouble(self, error: OSError) -> None:
        if not self._staging_fault:
            log.error("staging failed folder=%s error=%s effect=a dead process loses what is not committed",
                      self._staging.folder, error)
        self._staging_fault = str(error)

    def _head(self) -> Head:
        needed = {self._current, *(row.inventory for row in self._intake.waiting()),
                  *(row.inventory for row in self._flight)}
        return Head(FORMAT, self._gateway, self._boot, self._intake.epoch, self._saved.commit, self._latch,
                    tuple(i for n, i in self._inventories.items() if n in needed))

    def _begin_segment(self) -> None:
        try:
            self._staging.begin(self._head())
        except OSError as error:
            self._staging_trouble(error)

    def _shed(self) -> None:
        """Memory is bounded: the oldest data goes, counted; alarms and events are staged again if they must be."""
        for row, gap in self._intake.shed(self._bound * 7 // 8):
            self._staging.release(row.identity)
            self._dropped_rows += 1
            self._dropped_records += row.count
            self._lose([gap])
        while self._staging.bytes > self._bound * 3 // 2 and (oldest := self._staging.oldest()) is not None:
            number, identities = oldest
            for row in [*self._flight, *self._intake.waiting()]:
                if row.identity in identities:
                    self._stage(Group(int(self._now() * 1000), row.staged(), None))
            if self._staging_fault:
                return
            self._staging.drop(number)

    def _lose(self, gaps: Iterable[Gap]) -> None:
        """Under the lock: these rows will never come; they are settled for everybody, and told in one event."""
        for gap in gaps:
            missing = self._missed_by(gap)
            if missing or not self._platforms:
                if not self._gaps:
                    self._gaps_since = self._now()
                merge(self._gaps, [msgspec.structs.replace(gap, platforms=missing)])
            self._settle_gaps([gap])

    def _missed_by(self, gap: Gap) -> tuple[str, ...]:
        return tuple(p for p in self._platforms
                     if self._cursor(p, (gap.epoch, gap.lane)).lacking(gap.first, gap.last))

    def _settle_gaps(self, gaps: Iterable[Gap]) -> None:
        for gap in gaps:
            for platform in self._platforms:
                self._cursor(platform, (gap.epoch, gap.lane)).add(gap.first, gap.last)
                self._dirty.add((platform, (gap.epoch, gap.lane)))

    def _gap_event(self, gap: Gap, t_ms: int, name: str) -> Event:
        count = "?" if gap.count is None else gap.count
        return Event(id=name, kind="journal.gap", t_ms=t_ms,
                     text_zh=f"记录缺失：{gap.lane} {gap.first}–{gap.last}，共 {count} 条（{gap.reason}）",
                     text_en=f"records lost: {gap.lane} {gap.first}-{gap.last}, {count} records ({gap.reason})",
                     why={"epoch": gap.epoch, "lane": gap.lane, "from": gap.first, "to": gap.last, "count": gap.count,
                          "reason": gap.reason, "platforms": list(gap.platforms)})

    def _emit(self, kind: str, zh: str, en: str, why: dict[str, Any]) -> None:
        """Under the lock: the journal's own event, by the ordinary way."""
        at = self._now()
        name = f"{self._intake.epoch}-j{self._intake.next['event']}"
        self._own(Event(id=name, kind=kind, t_ms=int(at * 1000), text_zh=zh, text_en=en, why=why), at)

    def _own(self, event: Event, at: float) -> None:
        part = self._intake.add_events(self._door, self._current, "event", [event], at)
        self._stage(Group(int(at * 1000), (part,), None))

    # ---- the writer's side

    def _interval(self) -> float:
        return min(self._commit_s, _FIRST_S if self._fresh else _URGENT_S if self._urgent else self._commit_s)

    def _wait_s(self, now: float) -> float:
        """Under the lock: seconds until something has to be written; infinite when there is nothing."""
        intake = self._intake
        if self._disk.retry_at > now:
            return self._disk.retry_at - now
        if intake.urgent or self._latch_due or (self._force and self._unsaved()):
            return 0.0
        if intake.bytes >= self._batch and intake.data:
            return 0.0
        oldest = intake.oldest_s()
        wait = float("inf") if oldest is None else oldest + self._interval() - now
        if self._unsaved():
            wait = min(wait, self._last_commit_s + self._commit_s - now)
        return wait

    def _unsaved(self) -> bool:
        return bool(self._dirty or self._damaged or self._gaps or not self._intake.empty()
                    or not self._known() or self._disk.suspect or self._disk.fault)

    def _known(self) -> bool:
        store = self._disk.store
        return store is not None and (self._current in store.inventories or self._current not in self._inventories)

    def write(self, timeout_s: float) -> bool:
        """One step of the writer's thread: wait until a group is due or `timeout_s` is over, then commit it.

        Returns whether something was committed. Never raises for what the disk does; may take as long as the disk does.
        """
        with self._lock:
            wait = self._wait_s(self._now())
            if wait > 0 and timeout_s > 0:
                self._due.wait(min(wait, timeout_s))
        if not self._writing.acquire(timeout=timeout_s):
            return False
        try:
            with self._lock:
                now = self._now()
                if self._wait_s(now) > 0:
                    return False
                changes = self._take(now)
            return self._commit(changes)
        finally:
            self._writing.release()

    def _take(self, now: float) -> Changes:
        """Under the lock: what the next group is made of."""
        intake = self._intake
        oldest = intake.oldest_s()
        if self._force or (oldest is not None and oldest + self._interval() <= now):
            if intake.growing is not None:
                self._fresh = False
            intake.close()
        if self._gaps and (self._force or now >= self._gaps_since + _GAP_S):
            gaps, self._gaps = self._gaps, []
            for gap in gaps:
                self._own(self._gap_event(gap, int(now * 1000), f"{intake.epoch}-j{intake.next['event']}"), now)
        self._flight = intake.take(self._batch)
        door = self._door
        state = State(gateway=self._gateway, boot=self._boot, epoch=intake.epoch, latch=self._latch,
                      alive_utc_ms=int(now * 1000) + door.offset_ms if door.trust != "unset" else None,
                      gaps=tuple(self._gaps))
        store = self._disk.store
        stored = store.inventories if store is not None else {}
        needed = {self._current, *(row.inventory for row in self._flight)}
        dirty, self._dirty = self._dirty, set()
        return Changes(state=state, cursors=sorted(dirty), reason=self._reason,
                       marks={key: (c.low, list(c.ranges)) for key in dirty if (c := self._cursors.get(key))},
                       inventories=[i for n, i in self._inventories.items() if n in needed and n not in stored],
                       damaged=[(epoch, lane, seq) for (epoch, lane), seq in self._damaged])

    def _commit(self, changes: Changes) -> bool:
        flight = self._flight
        try:
            changes.rows = [row.stored() for row in flight]  # encoding is the writer's work
            word, gaps = self._disk.commit(changes, self._platforms)
        except BaseException as error:
            with self._lock:
                self._intake.put_back(flight)
                self._flight = []
                self._dirty.update(changes.cursors)
                self._report()
            if isinstance(error, (sqlite3.Error, OSError)):
                return False
            raise
        with self._lock:
            self._lose(gaps)  # before the new extents hide what was trimmed
        self._publish()
        with self._lock:
            self._flight = []
            self._settled(flight, changes)
            if word:
                self._emit(f"journal.{word}", *_WORDS[word], {"holes": len(gaps)})
            self._report()
            self.commits += 1
            self._told.notify_all()
        return True

    def _settled(self, flight: list[Pending], changes: Changes) -> None:
        """Under the lock: staging need not keep these any more."""
        self._intake.done(flight)
        self._damaged.difference_update(((epoch, lane), seq) for epoch, lane, seq in changes.damaged)
        self._latch_due = self._latch_due and self._latch != changes.state.latch
        self._last_commit_s = self._now()
        self._stage(Mark(self._saved.commit))
        if not self._staging.intact() and not self._staging_fault:
            # Somebody cleaned the folder under us: what is not committed is written again.
            self._begin_segment()
            for row in self._intake.waiting():
                self._stage(Group(int(self._last_commit_s * 1000), row.staged(), None))
        for row in flight:
            self._staging.release(row.identity)

    def _report(self) -> None:
        """Under the lock: one event when the disk fails, one when it works again."""
        fault = self._disk.fault
        if bool(fault) != self._faulty:
            self._faulty = bool(fault)
            if fault:
                self._emit("journal.fault", f"日志库写入失败：{fault}", f"journal cannot be written: {fault}",
                           {"error": fault})
            else:
                log.warning("journal works again path=%s", self.path)
                self._emit("journal.recovered", "日志库恢复写入", "journal can be written again", {})

    def flush(self, timeout_s: float) -> bool:
        """Commit all there is, for an orderly stop. False when the disk took too long: staging still has it."""
        deadline = self._now() + timeout_s
        with self._lock:
            self._force = True
        try:
            while self._now() < deadline:
                if not self._writing.acquire(timeout=max(0.0, deadline - self._now())):
                    return False
                self._writing.release()
                with self._lock:
                    if not self._unsaved() and not self._latch_due:
                        return True
                self.write(min(0.1, max(0.0, deadline - self._now())))
            return False
        finally:
            with self._lock:
                self._force = False

    def close(self) -> None:
        """Let go of everything. A writer that hangs in the disk keeps its connection; the process is ending anyway."""
        if self._writing.acquire(timeout=0.5):
            try:
                self._disk.close()
            finally:
                self._writing.release()
        with self._lock:
            self._staging.close()

    # ---- the uplinks' side

    def reader(self, platform: str) -> Reader:
        """The journal as this platform sees it. A platform never seen before begins with the oldest row kept."""
        with self._lock:
            if platform not in self._platforms:
                self._platforms = (*self._platforms, platform)
        return Reader(self, platform)

    def _cursor(self, platform: str, stream: Stream) -> Cursor:
        cursor = self._cursors.get((platform, stream))
        if cursor is None:
            cursor = self._cursors[platform, stream] = Cursor()
        extent = self._extents.get(stream)
        if extent is not None and cursor.low < extent.oldest - 1:
            cursor.add(cursor.low + 1, extent.oldest - 1)  # trimmed: gone or told as a gap
        return cursor

    def settle(self, platform: str, epoch: str, lane: Lane, seqs: Iterable[int]) -> None:
        """The platform has these rows. Saved with the next group; a crash before means they are sent again."""
        with self._lock:
            cursor = self._cursor(platform, (epoch, lane))
            for seq in seqs:
                cursor.add(seq, seq)
            self._dirty.add((platform, (epoch, lane)))

    def missing(self, platform: str, stream: Stream, first: int, last: int) -> list[tuple[int, int]]:
        """Spans of first…last that the platform has not settled."""
        with self._lock:
            return list(self._cursor(platform, stream).missing(first, last))

    def extents(self) -> dict[Stream, Extent]:
        """What is committed, by stream; a snapshot nobody changes."""
        return self._extents

    def aged(self, extents: Iterable[Stream], lane: Lane) -> list[Stream]:
        """The streams of one lane, oldest epoch first."""
        numbers = self._numbers
        return sorted((s for s in extents if s[1] == lane and s[0] in numbers), key=lambda s: numbers[s[0]])

    def number(self, epoch: str) -> int | None:
        """The age of an epoch, 1 the oldest; None when nothing of it is committed."""
        return self._numbers.get(epoch)

    @property
    def generation(self) -> int:
        """Changes when readers must open the file again."""
        return self._disk.generation

    def damaged(self, stream: Stream, seq: int) -> None:
        """A row whose checksum does not hold: taken out and told as a gap."""
        with self._lock:
            if (stream, seq) not in self._damaged:
                self._damaged.add((stream, seq))
                self._lose([Gap(stream[0], stream[1], seq, seq, None, "damaged")])
                self._due.notify()

    def absent(self, stream: Stream, first: int, last: int) -> None:
        """Rows below the head that are not in the file: they will never come, and whoever misses them is told."""
        with self._lock:
            self._lose([Gap(stream[0], stream[1], first, last, None, "absent")])
            self._due.notify()

    def suspect(self, error: str) -> None:
        """A reader met damage; the writer looks for itself."""
        with self._lock:
            self._disk.suspect = error
            self._due.notify()

    def wait_commit(self, seen: int, timeout_s: float) -> bool:
        """Sleep until there is a commit after number `seen`."""
        with self._lock:
            return self._told.wait_for(lambda: self.commits != seen, timeout_s)

    def inventory(self, n: int) -> Inventory | None:
        """The inventory of that number, while a row needs it."""
        with self._lock:
            return self._inventories.get(n)

    def inventory_numbers(self) -> list[int]:
        """All inventories that are kept."""
        with self._lock:
            return sorted(self._inventories)

    def epochs(self) -> list[dict[str, Any]]:
        """For birth: what each stream still holds and where it ends, oldest epoch first."""
        extents, current = self._extents, self._intake.epoch
        out = [{"epoch": s[0], "lane": s[1], "oldest_seq": extents[s].oldest, "next_seq": extents[s].next,
                "closed": s[0] != current} for lane in LANES for s in self.aged(extents, lane)]
        known = {(e["epoch"], e["lane"]) for e in out}
        return out + [{"epoch": current, "lane": lane, "oldest_seq": 1, "next_seq": 1, "closed": False}
                      for lane in LANES if (current, lane) not in known]

    def health(self) -> dict[str, Any]:
        """How the journal is doing; never touches the disk."""
        with self._lock:
            extents = self._extents
            return {
                "epoch": self._intake.epoch, "rows": sum(e.rows for e in extents.values()),
                "bytes": self._file_bytes, "max_bytes": self._max_bytes,
                "waiting_bytes": self._intake.bytes, "staging_bytes": self._staging.bytes,
                "backlog": {p: sum(self._cursor(p, s).lacking(e.oldest, e.next - 1) for s, e in extents.items())
                            for p in self._platforms},
                "last_commit_s": self._last_commit_s, "commits": self.commits, "fault": self._disk.fault,
                "staging_fault": self._staging_fault, "dropped_rows": self._dropped_rows,
                "dropped_records": self._dropped_records,
            }


_WORDS = {
    "salvaged": ("日志库损坏，已抢救可读部分", "the journal was damaged; what could be read was kept"),
    "rescued": ("日志库文件被删除或替换，已从内存连接写回",
                "the journal file was deleted or exchanged and has been written back"),
}
