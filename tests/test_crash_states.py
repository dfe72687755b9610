"""A power cut at any moment of a real gateway's life: what it had told the county is on the disk that is left.

The process is recorded call by call (hil.powercut); then every cut is tried on any part of what was not synced. The
same search over a gateway that cheats finds losses, or it would prove nothing.
"""

import contextlib
import os
import random
import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from gateway.journal.records import COLUMNS, row_of
from gateway.journal.rows import decode, decode_events
from gateway.journal.store import Store
from hil.powercut.disk import MODES, Disk
from hil.powercut.recording import build, compiler, environment, read
from hil.powercut.vouched import rows
from hil.rig import Rig
from tests.sites import site

SOAK = bool(os.environ.get("MINGLUO_SOAK"))
STATES = 1_000_000 if SOAK else 20_000
SHORT = 2_000
ROWS = 20
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
FILE = "journal.sqlite"

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler: apt-get install gcc libc6-dev")

NORMAL = """
from gateway.journal import store
prepare = store.Store._prepare
def unsafe(self):
    prepare(self)
    self.connection.execute("PRAGMA synchronous = NORMAL")
store.Store._prepare = unsafe
from gateway.__main__ import main
main()
"""
EARLY = """
import os
from gateway.journal import store
commit = store.Store.commit
def early(self, changes, platforms=()):
    # The group before is synced only now, after it was seen and told.
    fd = os.open(f"{self.path}-wal", os.O_RDONLY) if os.path.exists(f"{self.path}-wal") else -1
    if fd >= 0:
        os.fsync(fd)
        os.close(fd)
    self.connection.execute("PRAGMA synchronous = OFF")
    return commit(self, changes, platforms)
store.Store.commit = early
from gateway.__main__ import main
main()
"""


class Life(NamedTuple):
    """One recorded run."""

    calls: list
    told: list
    alarm: int
    """Index of the call after which an alarm had been told."""


def recorded(folder, arguments=()):
    """Let a gateway live under the recorder: readings, events, an alarm, acknowledgements; killed and started twice."""
    library = build(folder)
    place = Path(tempfile.mkdtemp(prefix="record-", dir=MEMORY))
    try:
        log = place / "log"
        path = site(folder / "site")
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings["journal"]["commit_s"] = 0.1
        path.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
        box = folder / "box"
        state = (box / settings["journal"]["folder"]).resolve()
        with Rig(path, box, turnaround_s=0.002, environment=environment(library, state, log),
                 arguments=arguments) as rig:
            rig.slaves["crack"].set("displacement", 5.0)
            rig.start()
            rig.wait("a reading at the county", lambda: rig.county.counters().readings)
            rig.slaves["crack"].set("displacement", 61.5)
            rig.wait("the alarm at the county", lambda: any(e["kind"] == "alarm.raised" for e in rig.county.events()))
            for _ in range(2):
                known = rig.county.counters().rows
                rig.wait("some life", lambda known=known: rig.county.counters().rows > known + ROWS)
                rig.kill()
                rig.start()
            known = rig.county.counters().rows
            rig.wait("a third life", lambda: rig.county.counters().rows > known)
            rig.kill()
        calls = read(log, state)
    finally:
        shutil.rmtree(place)
    told = list(rows(calls))
    alarm = next(v.call for v in told if v.identity[1] == "alarm")
    return Life(calls, told, alarm)


def cut(life, seed, states):
    """Try so many cuts; returns what was found, counted."""
    rng = random.Random(seed)
    # The hard moments are those around a sync: half of all cuts are made there.
    syncs = [n for n, call in enumerate(life.calls) if call.kind == "S"]
    last = len(life.calls) - 1
    points = sorted(min(last, max(0, rng.choice(syncs) + rng.choice((-1, 0, 1)))) if rng.random() < 0.5
                    else rng.randrange(len(life.calls)) for _ in range(states))
    found, disk, taken, told = Counter(), Disk(), 0, {}
    vouched = iter(life.told)
    following = next(vouched, None)
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        folder = Path(name)
        for point in points:
            while taken <= point:
                disk.take(life.calls[taken])
                taken += 1
            while following is not None and following.call <= point:
                told.setdefault(following.identity, following.row)
                following = next(vouched, None)
            for file in folder.iterdir():
                file.unlink()
            for file, image in disk.after(rng, rng.choice(MODES)).items():
                (folder / file).write_bytes(image)
            found["states"] += 1
            look(folder / FILE, told, point >= life.alarm, found)
    return found


def look(path, told, alarmed, found):
    """Open what a cut has left as a start would, and compare it with what had been told."""
    if not path.exists():
        found["lost"] += bool(told)
        return
    try:
        store = Store(path, 1 << 30)
    except sqlite3.Error:
        # A file that was never whole: nothing was told yet.
        found["damaged" if told else "unborn"] += 1
        return
    with contextlib.closing(store):
        held = {}
        for record in store.connection.execute(f"SELECT {COLUMNS} FROM rows").fetchall():
            stored = row_of(record)
            if stored is None:
                found["wrong"] += 1
            else:
                held[stored.row.epoch, stored.row.lane, stored.row.seq] = stored.row
        found["lost"] += len(told.keys() - held.keys())
        for identity, row in told.items():
            if identity in held and not same(held[identity], row):
                found["wrong"] += 1
        for (_, (epoch, lane)), delivery in store.cursors.items():
            claimed = {(epoch, lane, n) for a, b in delivery.sent.spans() for n in range(a, b + 1)}
            found["claimed"] += len(claimed - told.keys())
        found["silent"] += alarmed and store.state.latch is None
        found["rows"] += len(held)
        for (epoch, lane), extent in store.streams.items():
            mine = [seq for e, la, seq in held if (e, la) == (epoch, lane)]
            found["misnumbered"] += bool(mine) and (min(mine), max(mine) + 1, len(mine)) != (
                extent.oldest, extent.next, extent.rows)


def same(row, told):
    if row.lane != "data":
        return [e.id for e in decode_events(row.body)] == [e["id"] for e in told["events"]]
    samples, readings = decode(row.body), told["readings"]
    return [t + row.door.offset_ms for t in samples["t_ms"].tolist()] == [r["t"] for r in readings] and all(
        (value != value and r["value"] is None) or abs(value - (r["value"] or 0.0)) <= 0.5
        for value, r in zip(samples["value"].tolist(), readings, strict=True))


def searched(life, states):
    seed = random.randrange(1 << 30)
    jobs = min(os.cpu_count() or 1, 8) if SOAK else 2
    began_s = time.monotonic()
    with ProcessPoolExecutor(jobs) as pool:
        found = sum(pool.map(cut, [life] * jobs, range(seed, seed + jobs), [states // jobs] * jobs), Counter())
    took_s = time.monotonic() - began_s
    print(f"seed {seed}: {len(life.calls)} calls, {len(life.told)} rows told, {found['states']} states in "
          f"{took_s:.0f} s, {found['states'] / took_s:.0f}/s: {dict(found)}")
    return found


@pytest.mark.long
def test_no_power_cut_takes_what_was_told(tmp_path):
    found = searched(recorded(tmp_path), STATES)
    assert {k: found[k] for k in ("lost", "wrong", "damaged", "claimed", "silent", "misnumbered")} == dict.fromkeys(
        ("lost", "wrong", "damaged", "claimed", "silent", "misnumbered"), 0)
    assert found["rows"] > 5 * found["states"]


@pytest.mark.parametrize("cheat", [NORMAL, EARLY], ids=["synchronous=NORMAL", "told before it was committed"])
def test_a_gateway_that_cheats_is_found_out(tmp_path, cheat):
    runner = tmp_path / "cheat.py"
    runner.write_text(cheat, encoding="utf-8")
    assert searched(recorded(tmp_path, (str(runner),)), SHORT)["lost"] > 0
