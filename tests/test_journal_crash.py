"""kill -9 at random moments: nothing handed over is lost, nothing comes twice, no identity changes its content.

Run as a program this file is the process that gets killed.
"""

import os
import random
import secrets
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from gateway.journal.journal import Journal
from gateway.journal.records import COLUMNS, row_of
from gateway.journal.rows import decode, decode_events
from gateway.model import SAMPLE, Door, Event, Inventory

KILLS = 1000 if os.environ.get("MINGLUO_SOAK") else 36


def journal(folder, boot):
    return Journal(folder / "state", folder / "run", "gw", boot=boot, now=time.monotonic, commit_s=0.03,
                   new_epoch=lambda: secrets.token_hex(4), platforms=("county",))


def program(folder, boot, first):
    """Record one number after the other; say each on stdout once `record` has returned."""
    j = journal(folder, boot)
    found = j.open()
    os.write(1, f"latch {(found.latch or b'-').decode()}\n".encode())
    n = j.adopt(Inventory(0, ()))
    door = Door(boot, 0, "synced")
    threading.Thread(target=lambda: [j.write(0.1) for _ in iter(int, 1)], daemon=True).start()
    j.record(door, n, events=found.events)
    out = np.zeros(7, SAMPLE)
    for k in range(first, 1 << 40):
        out["value"] = k + np.arange(7) / 8
        events = [Event(id=str(k), kind="alarm.raised", t_ms=k)] if k % 5 == 0 else []
        j.record(door, n, out, events=events, latch=str(k).encode())
        os.write(1, f"{k}\n".encode())
        time.sleep(0.0005)


class County:
    """What has ever been committed, as a platform that reads everything at once would have it."""

    def __init__(self):
        self.rows = {}

    def look(self, path):
        if not path.exists():
            return
        connection = sqlite3.connect(path)
        try:
            for record in connection.execute(f"SELECT {COLUMNS} FROM rows").fetchall():
                row = row_of(record).row
                name = (row.epoch, row.lane, row.seq)
                assert self.rows.setdefault(name, row) == row, f"{name} has other content"
        finally:
            connection.close()

    def values(self):
        return [v for r in self.rows.values() if r.lane == "data" for v in decode(r.body)["value"].tolist()]

    def events(self, kind):
        return [e for r in self.rows.values() if r.lane != "data" for e in decode_events(r.body) if e.kind == kind]


def life(folder, boot, first, after_s):
    """Start, kill after a while; returns what the process said: the latch it found, the last number handed over."""
    process = subprocess.Popen([sys.executable, __file__, str(folder), boot, str(first)], stdout=subprocess.PIPE)
    try:
        select.select([process.stdout], [], [], 30)
        time.sleep(after_s)
    finally:
        process.send_signal(signal.SIGKILL)
    said = process.communicate(timeout=10)[0].decode().split("\n")[:-1]
    numbers = [int(line) for line in said if line.isdigit()]
    latch = said[0].removeprefix("latch ") if said else None
    return latch, numbers


def test_kill_at_any_moment_loses_nothing_and_repeats_nothing(tmp_path):
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    folder = tmp_path
    print("seed", seed)
    county, handed, maybe, mishaps = County(), set(), set(), []
    path, yesterday = folder / "state" / "journal.sqlite", folder / "yesterday"
    boot, first = "boot-0", 0
    latches = {"-"}   # those that may be found; empty after a boot, when all may
    for n in range(KILLS):
        latch, numbers = life(folder, boot, first, rng.choice((0, rng.random() * 0.03, rng.random() * 0.3)))
        if latch is not None and latches:
            assert latch in latches, (n, latch, latches)
        handed.update(numbers)
        # The very last call may have been staged without having been acknowledged, also when it was the only one.
        unsaid = numbers[-1] + 1 if numbers else first
        maybe.add(unsaid)
        if numbers:
            latches = {str(numbers[-1]), str(unsaid)}
        elif latches:
            latches.add(str(unsaid))
        first = unsaid + 1
        county.look(path)
        mishap = rng.choice(["none", "none", "none", "deleted", "restored", "rebooted"])
        mishaps.append(mishap)
        if mishap == "rebooted":
            # What a power cut takes: everything on the tmpfs. A number's seven readings may be in two rows, of which
            # one was committed.
            kept = set(county.values())
            maybe |= handed
            handed = {k for k in handed if all(k + i / 8 in kept for i in range(7))}
            boot, latches = f"boot-{n + 1}", set()
            shutil.rmtree(folder / "run", ignore_errors=True)
        elif mishap == "deleted":
            shutil.rmtree(folder / "state")
        elif mishap == "restored" and yesterday.exists():
            shutil.rmtree(folder / "state")
            shutil.copytree(yesterday, folder / "state")
        if rng.random() < 0.3 and path.exists():
            shutil.rmtree(yesterday, ignore_errors=True)
            shutil.copytree(folder / "state", yesterday)
    j = journal(folder, boot)
    j.open()
    assert j.flush(10)
    j.close()
    county.look(path)
    values = county.values()
    alarms = [e.id for e in county.events("alarm.raised")]
    print(f"kills {KILLS} handed over {len(handed)} rows {len(county.rows)} mishaps {mishaps}")
    assert len(values) == len(set(values))
    assert len(alarms) == len(set(alarms))
    whole = {k for k in handed if all(k + i / 8 in set_of for i in range(7))} if (set_of := set(values)) else set()
    assert handed - whole == set()
    assert {int(v) for v in values} - handed - maybe == set()
    assert {str(k) for k in handed if k % 5 == 0} - set(alarms) == set()
    assert len(handed) > KILLS


if __name__ == "__main__":
    program(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
