"""Brings what waits to the disk.

Owns: when a group is due, what it is made of, what happens when the disk fails.
Promises: alarms, events and the latch at once, data at its interval; a group is given up by staging only when the disk
has it; a failing disk is told once and its end once, and nothing is dropped for it here.
Never: judges, waits for the disk under the ledger's lock.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Collection

from gateway.journal.disk import Disk, Outcome
from gateway.journal.entries import Mark
from gateway.journal.ledger import Ledger
from gateway.journal.state import State
from gateway.journal.transaction import Changes
from gateway.model import Inventory

log = logging.getLogger(__name__)

_URGENT_S = 1.0
_FIRST_S = 0.2
"""The first data row after a start closes this soon: the county sees a fresh box at once."""
_WORDS = {
    "damaged": ("日志库损坏，已移开并开始新文件，正在后台抢救可读部分",
                "the journal is damaged and was moved aside; what can be read is being carried over into a new one"),
    "salvaged": ("日志库抢救完毕，可读部分已保留", "the damaged journal was searched; what could be read was kept"),
    "newer": ("日志库由更新版本的程序写成，已移开保存", "the journal was written by a newer program and is kept aside"),
    "rescued": ("日志库文件被删除或替换，已从内存连接写回",
                "the journal file was deleted or exchanged and has been written back"),
}


class Writer:
    """One per Journal; `write` belongs to the writer's thread, `flush` may come from any."""

    def __init__(self, ledger: Ledger, disk: Disk, *, commit_s: float, batch_bytes: int) -> None:
        self.urgent = False
        """From yellow up: data is committed every second. Under the ledger's lock."""
        self._ledger, self._disk, self._now = ledger, disk, ledger.now
        self._commit_s, self._batch = commit_s, batch_bytes
        self._writing = threading.Lock()
        self._fresh = True
        self._force = False
        self._faulty = False
        self.last_commit_s = self._now()

    @property
    def interval_s(self) -> float:
        """How long a reading may wait for the disk now."""
        return min(self._commit_s, _URGENT_S) if self.urgent else self._commit_s

    # ---- when: under the lock

    def _interval(self) -> float:
        return min(self.interval_s, _FIRST_S) if self._fresh else self.interval_s

    def _wait_s(self, now: float) -> float:
        """Seconds until something has to be written; infinite when there is nothing."""
        intake = self._ledger.intake
        if self._disk.retry_at > now:
            return self._disk.retry_at - now
        if intake.urgent() or self._latch_moved() or (self._force and self._unsaved()):
            return 0.0
        if intake.bytes >= self._batch and intake.data:
            return 0.0
        oldest = intake.oldest_s()
        wait = float("inf") if oldest is None else oldest + self._interval() - now
        if self._moved():
            wait = min(wait, self.last_commit_s + self._commit_s - now)
        return wait

    def _latch_moved(self) -> bool:
        return self._ledger.latch != self._ledger.committed.state.latch

    def _unsaved(self) -> bool:
        return not self._ledger.intake.empty() or self._moved()

    def _moved(self) -> bool:
        """Whether something besides rows is to be written, or looked into."""
        ledger, disk = self._ledger, self._disk
        return bool(ledger.deliveries.moved or ledger.undated or ledger.damaged or ledger.untold.gaps
                    or disk.store is None or self._unknown(()) or disk.suspect is not None or disk.fault)

    def _unknown(self, numbers: Collection[int]) -> list[Inventory]:
        """The current inventory and those of `numbers`, as far as the file has them not."""
        stored = self._disk.store.inventories if self._disk.store is not None else {}
        return [i for i in self._ledger.inventories.among(numbers) if i.n not in stored]

    # ---- what

    def write(self, timeout_s: float) -> bool:
        """Wait until a group is due or `timeout_s` is over, then commit it.

        Returns whether something was committed. Never raises for what the disk does; may take as long as the disk does.
        """
        ledger = self._ledger
        with ledger.lock:
            wait = self._wait_s(self._now())
            if wait > 0 and timeout_s > 0 and not self._disk.searching:
                ledger.due.wait(min(wait, timeout_s))
        if not self._writing.acquire(timeout=timeout_s):
            return False
        try:
            with ledger.lock:
                now = self._now()
                due = self._wait_s(now) <= 0
                if not due and not self._disk.searching:
                    return False
                changes = self._take(now) if due else None
            return self._commit(changes) if changes is not None else self._search()
        finally:
            self._writing.release()

    def _take(self, now: float) -> Changes:
        """Under the lock: what the next group is made of."""
        ledger, intake = self._ledger, self._ledger.intake
        oldest = intake.oldest_s()
        if self._force or (oldest is not None and oldest + self._interval() <= now):
            if intake.growing is not None:
                self._fresh = False
            intake.close()
        ledger.tell_gaps(now, self._force)
        flight = intake.take(self._batch, one_lane=bool(self._disk.fault))
        door, marks = ledger.door, ledger.deliveries.take_moved()
        state = State(gateway=ledger.gateway, boot=ledger.boot, epoch=intake.epoch, latch=ledger.latch,
                      alive_utc_ms=int(now * 1000) + door.offset_ms if door.trust != "unset" else None,
                      gaps=ledger.untold.gaps, confirms=ledger.deliveries.confirms, worn=ledger.worn)
        return Changes(state=state, cursors=list(marks), marks=marks, had=ledger.deliveries.had(), reason=intake.reason,
                       inventories=self._unknown({row.inventory for row in flight}),
                       damaged=[(epoch, lane, seq) for (epoch, lane), seq in ledger.damaged],
                       boots=dict(ledger.undated), inventory=ledger.inventories.current, telling=dict(ledger.telling))

    def _commit(self, changes: Changes) -> bool:
        ledger = self._ledger
        try:
            changes.rows = [row.stored() for row in ledger.intake.flight]  # encoding is the writer's work
            outcome = self._disk.commit(changes, ledger.deliveries.platforms)
        except BaseException as error:
            with ledger.lock:
                ledger.intake.put_back()
                ledger.deliveries.moved.update(changes.cursors)
                self._report()
            if isinstance(error, (sqlite3.Error, OSError)):
                return False
            raise
        self._lose(outcome)
        with ledger.lock:
            self._settle(changes, outcome.taken)
            self._report()
            ledger.commit_done()
        return True

    def _search(self) -> bool:
        """Between two groups: carry some rows of a damaged journal over."""
        ledger = self._ledger
        with ledger.lock:
            had = ledger.deliveries.had()
        try:
            outcome = self._disk.search(had, ledger.deliveries.platforms)
        except (sqlite3.Error, OSError):
            with ledger.lock:
                self._report()
            return False
        self._lose(outcome)
        with ledger.lock:
            self._report()
            ledger.commit_done()
        return False

    def _lose(self, outcome: Outcome) -> None:
        ledger = self._ledger
        with ledger.lock:
            ledger.lose(outcome.gaps)  # before the new extents hide what was trimmed
        self.publish()
        if word := outcome.word:
            with ledger.lock:
                ledger.tell(f"journal.{word}", *_WORDS[word], outcome.why)

    def publish(self) -> None:
        """Show what the disk has; nobody else looks at the Store."""
        if (store := self._disk.store) is not None:
            size = store.file_bytes()
            with self._ledger.lock:
                self._ledger.publish(store, size)

    def _settle(self, changes: Changes, taken: int) -> None:
        """Under the lock: staging need not keep these any more."""
        ledger = self._ledger
        flight = ledger.intake.done(taken)
        ledger.damaged.difference_update(((epoch, lane), seq) for epoch, lane, seq in changes.damaged)
        ledger.dated(changes.boots)
        self.last_commit_s = self._now()
        ledger.shadow.stage(Mark(ledger.committed.state.commit))
        ledger.shadow.mend(ledger.intake)
        for row in flight:
            ledger.shadow.release(row.identity)
            ledger.telling.pop(row.identity, None)

    def watch(self) -> None:
        """Under the lock: notice a disk that neither works nor fails."""
        if not self._faulty and self._disk.trouble():
            self._report()

    def _report(self) -> None:
        """Under the lock: one event when the disk fails, one when it works again."""
        fault = self._disk.trouble()
        if bool(fault) != self._faulty:
            self._faulty = bool(fault)
            if fault:
                self._ledger.tell("journal.fault", f"日志库写入失败：{fault}", f"journal cannot be written: {fault}",
                                  {"error": fault})
            else:
                log.warning("journal works again path=%s", self._disk.path)
                self._ledger.tell("journal.recovered", "日志库恢复写入", "journal can be written again", {})

    # ---- the end

    def flush(self, timeout_s: float) -> bool:
        """Commit all there is, for an orderly stop. False when the disk took too long: staging still has it."""
        deadline = self._now() + timeout_s
        with self._ledger.lock:
            self._force = True
        try:
            while self._now() < deadline:
                if not self._writing.acquire(timeout=max(0.0, deadline - self._now())):
                    return False
                self._writing.release()
                with self._ledger.lock:
                    if not self._unsaved() and not self._latch_moved():
                        return True
                self.write(min(0.1, max(0.0, deadline - self._now())))
            return False
        finally:
            with self._ledger.lock:
                self._force = False

    def close(self) -> None:
        """Let go of the disk. A writer that hangs in it keeps its connection; the process is ending anyway."""
        if self._writing.acquire(timeout=0.5):
            try:
                self._disk.close()
            finally:
                self._writing.release()
