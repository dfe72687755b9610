"""The journal at work in a process of its own, so that what the kernel counts for it is the journal's alone.

Owns: a real Journal with the settings of the service (quota, `commit_s`, staging in memory) at a time of its own, and
beside it the physical limit: the same rows appended to a file, one write and one fdatasync a group. Promises: both are
fed by turns in the same run; a row that did not arrive ends the run. Never: changes the journal for a figure.

Usage: python -m hil.bench.journal_work put|written|quiet|history FOLDER STAGING ARGUMENTS-AS-JSON
Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gateway.journal.archive import Archive
from gateway.journal.history import Asked, history
from gateway.journal.journal import FILE, Journal
from gateway.journal.wear import written_bytes
from gateway.model import SAMPLE, Door, Inventory, InventoryPoint, Row, Samples

T0_MS = 1_790_000_000_000
QUOTA_BYTES = 1 << 30
HEAD_BYTES = 64
"""Of a row in the log: its identity, clock and checksum, packed."""
BOOT = "b" * 32


def points_of(count: int, every_s: float) -> Inventory:
    """An inventory of `count` points, two decimals each."""
    return Inventory(0, tuple(InventoryPoint(
        point=f"device-{n // 50}-p{n % 50:02d}", name="测点", object="slope", unit="mm", resolution=0.01,
        poll_s=every_s, report_every_s=every_s, low=0, high=1000) for n in range(count)))


class Signal:
    """Readings of all points: a slow drift under some noise, rounded to 0.01; or uniform over 0 … 1000, the worst."""

    def __init__(self, points: int, seed: int, *, noise: bool = False) -> None:
        self._rng, self._noise = np.random.default_rng(seed), noise
        self._level = self._rng.uniform(10, 900, points)

    def at(self, t_ms: int) -> Samples:
        """One reading of each point, array of SAMPLE."""
        count = len(self._level)
        samples = np.zeros(count, SAMPLE)
        samples["t_ms"], samples["point"], samples["flag"] = t_ms, np.arange(count), 1
        self._level += self._rng.normal(0, 0.01, count)
        samples["value"] = np.round(self._rng.uniform(0, 1000, count) if self._noise
                                    else self._level + self._rng.normal(0, 0.03, count), 2)
        return samples


class Box:
    """A journal that is fed at a time of its own, and a platform that is sent everything at once."""

    def __init__(self, folder: Path, staging: Path, points: int, every_s: float = 1.0, *, commit_s: float = 10.0,
                 max_bytes: int = QUOTA_BYTES) -> None:
        self.now_s = 100.0
        self.journal = Journal(folder, staging, "gw", boot=BOOT, now=lambda: self.now_s,
                               new_epoch=lambda: secrets.token_hex(8), platforms=["county"], commit_s=commit_s,
                               max_bytes=max_bytes)
        self.journal.open()
        self.door, self.number = Door(BOOT, T0_MS, "synced"), self.journal.adopt(points_of(points, every_s))
        self.reader = self.journal.reader("county")
        self.readings = 0

    def record(self, samples: Samples, scan: int = 50) -> None:
        """Hand over, a device's scan at a time."""
        for at in range(0, len(samples), scan):
            self.journal.record(self.door, self.number, samples[at:at + scan])

    def sent(self) -> list[Row]:
        """What was committed since the last call; marked as sent, as an uplink does."""
        rows: list[Row] = []
        while found := self.reader.pending(("data",), limit=1000):
            for row in found:
                self.reader.settle(row.epoch, row.lane, [row.seq])
            rows += found
        self.readings += sum(row.count for row in rows)
        return rows

    def end(self, recorded: int) -> None:
        """Commit the rest and let go.

        Raises:
            RuntimeError: not every reading that was handed over came back out.
        """
        if not self.journal.flush(60.0):
            raise RuntimeError("the journal did not commit the rest within 60 s")
        self.sent()
        self.reader.close()
        self.journal.close()
        if self.readings != recorded:
            raise RuntimeError(f"{recorded} readings were recorded, {self.readings} read back")


class Log:
    """An append-only file: one write and one fdatasync a group."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def put(self, rows: list[bytes]) -> float:
        """Append a group; the seconds of the sync."""
        os.write(self._fd, b"".join(rows))
        began_s = time.monotonic()
        os.fdatasync(self._fd)
        return time.monotonic() - began_s

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)


def put(folder: Path, staging: Path, *, rate: int, commit_s: float, groups: int, seed: int) -> dict[str, Any]:
    """Journal and log by turns, group by group: seconds a group of each, and where the journal's went."""
    box, log = Box(folder, staging, rate, commit_s=commit_s), Log(folder / "log")
    signal, recorded = Signal(rate, seed), 0
    journal_s, staged_s, log_s, sizes, counts = [0.0], [0.0], list[float](), list[int](), list[int]()
    while len(log_s) < groups + 3:
        samples = signal.at(round(1000 * box.now_s))
        recorded += rate
        began_s = time.monotonic()
        box.record(samples)
        staged_s[-1] += time.monotonic() - began_s
        box.now_s += 1.0
        committed = box.journal.write(0.0)
        journal_s[-1] += time.monotonic() - began_s
        if committed and (rows := box.sent()):
            framed = [bytes(HEAD_BYTES) + row.body for row in rows]
            began_s = time.monotonic()
            log.put(framed)
            log_s.append(time.monotonic() - began_s)
            sizes.append(sum(map(len, framed)))
            counts.append(sum(row.count for row in rows))
            journal_s.append(0.0)
            staged_s.append(0.0)
    log.close()
    box.end(recorded)
    kept = slice(3, 3 + groups)   # the first groups find an empty file and an early first row
    return {"journal_s": journal_s[kept], "staged_s": staged_s[kept], "log_s": log_s[kept], "bytes": sizes[kept],
            "readings": counts[kept]}


def written(folder: Path, staging: Path, *, rate: int, groups: int, warm_up: int, noise: bool,
            seed: int) -> dict[str, Any]:
    """Bytes the kernel wrote for `groups` groups of 10 s in a journal that is full, and for the log of the same."""
    box, log = Box(folder, staging, rate, max_bytes=1 << 23), Log(folder / "log")
    signal, recorded, rows = Signal(rate, seed, noise=noise), 0, list[list[bytes]]()
    before = readings = 0
    for group in range(warm_up + groups):
        if group == warm_up:
            before, readings = _written(), box.readings
        done = False
        while not done:
            box.record(signal.at(round(1000 * box.now_s)))
            recorded += rate
            box.now_s += 1.0
            done = box.journal.write(0.0)
        found = box.sent()
        if group >= warm_up:
            rows.append([bytes(HEAD_BYTES) + row.body for row in found])
    after, readings = _written(), box.readings - readings
    for framed in rows:
        log.put(framed)
    bare = _written() - after
    log.close()
    box.end(recorded)
    return {"bytes": after - before, "log_bytes": bare, "readings": readings}


def quiet(folder: Path, staging: Path, *, points: int, minutes: int, seed: int) -> dict[str, Any]:
    """Bytes written for `points` readings a minute, each commit followed by the one that keeps the platform's mark."""
    box, log, signal = Box(folder, staging, points, 60.0), Log(folder / "log"), Signal(points, seed)
    recorded = commits = 0
    before = _written()
    rows = list[list[bytes]]()
    for _ in range(minutes):
        box.record(signal.at(round(1000 * box.now_s)))
        recorded += points
        for _ in range(60):
            box.now_s += 1.0
            if box.journal.write(0.0):
                commits += 1
                if found := box.sent():
                    rows.append([bytes(HEAD_BYTES) + row.body for row in found])
    after = _written()
    for framed in rows:
        log.put(framed)
    bare = _written() - after
    log.close()
    box.end(recorded)
    return {"bytes": after - before, "log_bytes": bare, "commits": commits, "minutes": minutes}


def read_back(folder: Path, staging: Path, *, points: int, seconds: int, rounds: int, seed: int) -> dict[str, Any]:
    """Seconds to read all of a journal as columns, and to fetch and inflate its bodies alone, by turns."""
    box, signal = Box(folder, staging, points), Signal(points, seed)
    for _ in range(seconds):
        box.record(signal.at(round(1000 * box.now_s)))
        box.now_s += 1.0
        if box.journal.write(0.0):
            box.sent()
    box.end(points * seconds)
    asked = Asked(since_ms=T0_MS, until_ms=T0_MS + round(1000 * box.now_s))
    ours_s, bare_s = list[float](), list[float]()
    for _ in range(rounds):
        began_s = time.monotonic()
        with Archive(folder) as archive:
            found = history(archive, asked)
        ours_s.append(time.monotonic() - began_s)
        if (got := sum(series.readings for series in found.series)) != points * seconds or found.unreadable:
            raise RuntimeError(f"{points * seconds} readings are kept, {got} read back")
        began_s = time.monotonic()
        connection = sqlite3.connect(folder / FILE)
        for (body,) in connection.execute("SELECT body FROM rows ORDER BY id"):
            zlib.decompress(body[body.index(b"\x78"):])
        connection.close()
        bare_s.append(time.monotonic() - began_s)
    return {"ours_s": ours_s, "bare_s": bare_s, "readings": points * seconds}


def _written() -> int:
    count = written_bytes()
    if count is None:
        raise RuntimeError("this kernel does not count what a process writes (/proc/self/io)")
    return count


WORK: dict[str, Callable[..., dict[str, Any]]] = {"put": put, "written": written, "quiet": quiet, "history": read_back}

if __name__ == "__main__":
    print(json.dumps(WORK[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]), **json.loads(sys.argv[4]))), flush=True)
