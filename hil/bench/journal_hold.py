"""How long an alarm waits for its commit while the journal trims, and while a platform is sent a range again.

Owns: a journal of many rows, and an alarm put again and again beside what is asked for. Promises: writer, feeder,
reader and alarms are threads of their own as in the service; the disk's own fdatasync is measured in between, on the
same file system. Never: calls anything of the journal that the service does not, apart from the building.

Usage: python -m hil.bench.journal_hold FOLDER STAGING ROWS ALARMS SEED
Prints one line of JSON: of each phase, the milliseconds of every alarm, and of the disk's syncs.
"""

from __future__ import annotations

import json
import random
import secrets
import sys
import threading
import time
from pathlib import Path
from typing import Any

from gateway.journal.journal import FILE, Journal
from gateway.journal.records import PAGE_BYTES, Stored
from gateway.journal.rows import Stream, encode
from gateway.journal.state import State
from gateway.journal.store import Store
from gateway.journal.transaction import Changes
from gateway.model import Door, Event, Row
from hil.bench.journal_work import BOOT, T0_MS, Log, Signal, points_of

POINTS, EPOCH, GROUP = 40, "built", 20_000
SENT, MISSES = "county", "city"
"""A platform that was sent every row that was built; one that was sent none."""


def build(folder: Path, rows: int, seed: int) -> int:
    """Fill a journal by large transactions; the bytes of its pages."""
    store, signal = Store(folder / FILE, 8 << 30), Signal(POINTS, seed)
    door, inventory = Door(BOOT, T0_MS, "synced"), points_of(POINTS, 1.0)
    bodies = [encode(signal.at(1000 * n).tobytes(), "data") for n in range(64)]
    state = State(gateway="gw", boot=BOOT, epoch=EPOCH)
    for first in range(1, rows + 1, GROUP):
        group = [Stored(Row(epoch=EPOCH, lane="data", seq=seq, inventory=1, door=door, count=POINTS,
                            body=bodies[seq % len(bodies)]), seq * POINTS)
                 for seq in range(first, min(rows + 1, first + GROUP))]
        done = store.commit(Changes(state=state, rows=group, reason="built", inventory=1,
                                    inventories=[] if first > 1 else [type(inventory)(1, inventory.points)]))
        if done.taken != len(group):
            raise RuntimeError(f"{done.taken} of {len(group)} rows were written")
    pages = int(store.connection.execute("PRAGMA page_count").fetchone()[0])
    store.close()
    return pages * PAGE_BYTES


class Box:
    """The built journal, opened as the service does, with its threads."""

    def __init__(self, folder: Path, staging: Path, max_bytes: int, *, platform: str, seed: int) -> None:
        self._journal = Journal(folder, staging, "gw", boot=BOOT, now=time.monotonic,
                                new_epoch=lambda: secrets.token_hex(8), platforms=[platform], max_bytes=max_bytes)
        self._journal.open()
        self.door, self.number = Door(BOOT, T0_MS, "synced"), self._journal.adopt(points_of(1000, 1.0))
        self._signal, self._rng, self._stop = Signal(1000, seed), random.Random(seed), threading.Event()
        self.epoch = next(e["epoch"] for e in self._journal.epochs())
        self._reader = self._journal.reader(platform)
        if platform == SENT:
            self._reader.skip(EPOCH, "data", 1, self._reader.heads()[EPOCH, "data"])
        self.writes_ms: list[float] = []
        self._writer = threading.Thread(target=self._write)
        self._feeder = threading.Thread(target=self._feed)
        self._writer.start()
        self._feeder.start()

    def _write(self) -> None:
        while not self._stop.is_set():
            began_s = time.thread_time()
            if self._journal.write(0.2):
                self.writes_ms.append(1000 * (time.thread_time() - began_s))

    def _feed(self) -> None:
        """10 000 readings/s, so that every group has rows to make room for."""
        while not self._stop.wait(0.1):
            samples = self._signal.at(round(1000 * time.monotonic()))
            for at in range(0, len(samples), 50):
                self._journal.record(self.door, self.number, samples[at:at + 50])

    def alarms(self, count: int, log: Log) -> dict[str, Any]:
        """Put alarms one after another; ms until each is committed, and ms of the disk's own syncs between them."""
        took, synced, began = list[float](), list[float](), len(self.writes_ms)
        stream: Stream = (self._journal.health()["epoch"], "alarm")
        for n in range(count):
            self._stop.wait(self._rng.uniform(0.0, 0.1))
            began_s, before = time.monotonic(), self._reader.heads().get(stream, 0)
            self._reader.pending(("alarm",), limit=1)   # what `wait` counts commits from
            self._journal.record(self.door, self.number, None, [Event(
                id=f"a{n}-{secrets.token_hex(4)}", kind="alarm.raised", t_ms=round(1000 * began_s))])
            while self._reader.heads().get(stream, 0) == before:
                if not self._reader.wait(30.0):
                    raise RuntimeError(f"alarm {n} was not committed within 30 s; {self._journal.fault}")
                self._reader.pending(("alarm",), limit=1)
            took.append(1000 * (time.monotonic() - began_s))
            synced.append(1000 * log.put([bytes(PAGE_BYTES)]))
        return {"took_ms": took, "sync_ms": synced, "cpu_ms": self.writes_ms[began:]}

    def replayed(self, count: int, rows: int, log: Log) -> dict[str, Any]:
        """The same while another reader is sent a range of `rows` rows again, as fast as it goes."""
        done, seen = threading.Event(), [0]

        def again() -> None:
            reader = self._journal.reader(SENT)
            while not done.is_set():
                reader.replay(EPOCH, "data", [(1, rows)])
                while not done.is_set() and (found := reader.pending(("data",), until={(EPOCH, "data"): rows})):
                    reader.settle(EPOCH, "data", [row.seq for row in found if row.epoch == EPOCH])
                    seen[0] += len(found)
                    if not any(row.epoch == EPOCH for row in found):
                        break
            reader.close()

        thread = threading.Thread(target=again)
        thread.start()
        try:
            return self.alarms(count, log) | {"replayed_rows": seen[0]}
        finally:
            done.set()
            thread.join()

    def rows(self) -> int:
        """Rows the journal holds."""
        return int(self._journal.health()["rows"])

    def close(self) -> None:
        """End the threads, commit the rest."""
        self._stop.set()
        self._feeder.join()
        self._writer.join()
        self._journal.flush(30.0)
        self._reader.close()
        self._journal.close()


def measure(folder: Path, staging: Path, rows: int, alarms: int, seed: int) -> dict[str, Any]:
    """All phases: alone, replay; then with no more room: rows that were sent go, rows that somebody misses go."""
    began_s = time.monotonic()
    full, log, out = build(folder, rows, seed), Log(folder / "log"), dict[str, Any]()
    out["build_s"], out["rows"], out["file_bytes"] = time.monotonic() - began_s, rows, full
    box = Box(folder, staging / "a", 8 << 30, platform=SENT, seed=seed)
    out["alone"] = box.alarms(alarms, log)
    out["replay"] = box.replayed(alarms, rows, log)
    box.close()
    for name, platform in (("drop", SENT), ("thin", MISSES)):
        at = staging / name
        box = Box(folder, at, full, platform=platform, seed=seed)
        before = box.rows()
        out[name] = box.alarms(alarms, log) | {"rows_before": before, "rows_after": box.rows()}
        box.close()
    log.close()
    return out


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:6]))), flush=True)
