"""A power cut at any moment of a real gateway's life: what it had told the county is on the disk that is left.

The process is recorded call by call (hil.powercut), on a journal that is over its quota from the first moment, so that
all that trimming does is in it, with a platform that is never there; it is killed, its journal compacted, its staging
folder lost. Then every cut is tried on any part of what was not synced: each disk must hold exactly what one of the
commits had made of it, and that one must account for all that was told by then. The same search over a gateway that
cheats finds losses, or it would prove nothing.
"""

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml

from gateway.journal.archive import Archive
from gateway.journal.cursors import Delivery
from gateway.journal.gaps import LESS
from gateway.journal.journal import Journal
from gateway.journal.lessened import BLOCK
from gateway.journal.rows import decode, decode_events
from gateway.journal.store import Store
from gateway.journal.verify import verify
from gateway.model import SAMPLE, Door, Inventory, InventoryPoint
from hil.broker import free_port
from hil.powercut.disk import MODES, Disk
from hil.powercut.recording import build, compiler, environment, read
from hil.powercut.vouched import rows
from hil.rig import Rig
from tests.sites import site

SOAK = bool(os.environ.get("MINGLUO_SOAK"))
STATES = 1_000_000 if SOAK else 20_000
SHORT = 1_000
ROWS = 20
OPENED = 16
"""One disk in so many is opened as a start opens it, and its pages are checked; all are read."""
QUOTA = 1 << 20
STORED, SENT, THINS, MERGES, STAYS = 20, 20, 32, 32, 130
"""Rows there are before the gateway's first start: stored by both platforms, sent to both, of which thinning leaves
little, of which only aggregating does, of which neither."""
PLATFORMS = ("county", "city")
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


def aged(folder, staging):
    """Write a journal that a gateway of `QUOTA` has to trim in every way there is."""
    clock, rng = 1000.0, np.random.default_rng(1)
    journal = Journal(folder, staging, "box-1", boot="before", now=lambda: clock, new_epoch=lambda: "e-before",
                      platforms=PLATFORMS, max_bytes=64 << 20)
    journal.open()
    n = journal.adopt(Inventory(0, (InventoryPoint(point="old-1", name="旧测点", object="slope", unit="mm",
                                                   resolution=0.1, poll_s=1, report_every_s=0),)))
    readers = [journal.reader(p) for p in PLATFORMS]
    for row in range(STORED + SENT + THINS + MERGES + STAYS):
        samples = np.zeros(230, SAMPLE)
        every_ms = np.arange(230) * 10_000 if row >= STORED + SENT + THINS else np.arange(230) * 1_000
        samples["t_ms"] = row * 2_400_000 + every_ms + rng.integers(0, 900, 230)
        samples["value"], samples["flag"] = rng.random(230) * 1e6, 1 if row < STORED + SENT + THINS + MERGES else 3
        journal.record(Door("before", 0, "synced"), n, samples)
        assert journal.flush(5)
    for reader in readers:
        reader.pending(("data",), limit=STORED + SENT)
        reader.settle("e-before", "data", range(1, STORED + SENT + 1))
    # Of a platform that never confirms what was sent counts as stored.
    assert not readers[1].stored("e-before", "data", STORED, ()).refused
    assert readers[0].pending(("data",), limit=10_000, max_bytes=1 << 30)
    readers[0].settle("e-before", "data", range(STORED + SENT + 1, row + 2))
    assert journal.flush(5)
    for reader in readers:
        reader.close()
    journal.close()


class Commit(NamedTuple):
    """What a commit made of the journal, and what that is worth."""

    content: tuple
    rows: int
    faults: int
    owed: list
    """Calls by which rows were told that it does not account for, ascending."""
    claims: list
    """Calls by which rows were told that it says the county has, ascending."""
    latched: bool


class Life(NamedTuple):
    """One recorded run."""

    image: dict
    calls: list
    told: list
    alarm: int
    """Index of the call after which an alarm had been told."""
    commits: dict
    """By the saved state, of which every commit has its own."""
    trimmed: Counter
    """Rows given up, by the way."""


def recorded(folder, arguments=(), lives=3):
    """Let a gateway live under the recorder: readings, events, an alarm, acknowledgements; killed and started again."""
    library = build(folder)
    place = Path(tempfile.mkdtemp(prefix="record-", dir=MEMORY))
    try:
        log = place / "log"
        path = site(folder / "site")
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings["journal"] |= {"commit_s": 0.1, "max_bytes": QUOTA}
        settings["platforms"].append({"id": "city", "host": "127.0.0.1", "port": free_port()})   # nobody is there
        path.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
        box = folder / "box"
        state, staging = ((box / settings["journal"][name]).resolve() for name in ("folder", "staging"))
        aged(state, folder / "staging")
        image = {FILE: (state / FILE).read_bytes()}
        variables = environment(library, state, log)
        with Rig(path, box, turnaround_s=0.002, environment=variables, arguments=arguments) as rig:
            rig.slaves["crack"].set("displacement", 5.0)
            rig.start()
            rig.wait("a reading at the county", lambda: rig.county.counters().readings)
            rig.slaves["crack"].set("displacement", 61.5)
            rig.wait("the alarm at the county", lambda: any(e["kind"] == "alarm.raised" for e in rig.county.events()))
            for n in range(lives):
                known = rig.county.counters().rows
                rig.wait("some life", lambda known=known: rig.county.counters().rows > known + ROWS)
                rig.kill()
                if n == 1:   # an installer at work
                    subprocess.run([sys.executable, "-m", "gateway", "journal", "vacuum", "--folder", str(state)],
                                   check=True, capture_output=True, env=os.environ | variables)
                    shutil.rmtree(staging)
                if n < lives - 1:
                    rig.start()
        calls = read(log, state)
    finally:
        shutil.rmtree(place)
    told = list(rows(calls))
    alarm = next(v.call for v in told if v.identity[1] == "alarm")
    return Life(image, calls, told, alarm, *commits(image, calls, told))


def commits(image, calls, told):
    """All states of the journal there were, each after the last write of a burst into its log."""
    known, trimmed, given_up = {}, Counter(), set()
    disk = Disk(image)
    by = {}
    for v in told:
        by.setdefault(v.identity, v)
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        folder = Folder(Path(name))
        for n, call in enumerate(calls):
            disk.take(call)
            following = calls[n + 1] if n + 1 < len(calls) else None
            if call.kind != "W" or call.path != f"{FILE}-wal" or (
                    following is not None and (following.kind, following.path) == ("W", call.path)):
                continue
            folder.lay(disk.live())
            content = folder.content()
            if (key := state_of(content)) not in known:
                with Archive(folder.path / FILE) as archive:
                    known[key] = weighed(archive, content, by, given_up, trimmed)
            assert known[key].content == content
    return known, trimmed


def weighed(archive, content, by, given_up, trimmed):
    """What a commit is worth. `given_up`: what any of them has told the city about, so far."""
    faults, kept, county = verify(archive, live=False).faults, archive.kept, set()
    held = {(s.row.epoch, s.row.lane, s.row.seq): s.row
            for page in archive.rows(0, (1 << 63) - 1) for _, s in page if s is not None}
    gaps = [(g.epoch, g.lane, g.first, g.last, g.reason, g.platforms) for g in kept.state.gaps]
    events = [e for row in held.values() if row.lane == "event" for e in decode_events(row.body)]
    gaps += [tuple(e.why[k] for k in ("epoch", "lane", "from", "to", "reason", "platforms"))
             for e in events if e.kind == "journal.gap"]
    for epoch, lane, first, last, reason, platforms in gaps:
        trimmed[reason] += 1
        if reason not in LESS:
            span = {(epoch, lane, seq) for seq in range(first, last + 1)}
            given_up |= span if "city" in platforms else set()
            county |= span if "county" in platforms else set()
    before = {seq for epoch, _, seq in held if epoch == "e-before"}
    trimmed["stored"] = max(trimmed["stored"], len(set(range(1, STORED + 1)) - before))
    trimmed["sent"] = max(trimmed["sent"], len(set(range(STORED + 1, STORED + SENT + 1)) - before))
    trimmed["epochs"] = max(trimmed["epochs"], len(kept.epochs))

    def sent(identity):
        return kept.cursors.get(("county", identity[:2]), Delivery()).sent.has(identity[2])

    wrong = sum(not same(held[i], v.row, by) for i, v in by.items() if i in held)
    owed = sorted(v.call for i, v in by.items() if i not in held and not (
        (sent(i) or i in county) and i in given_up))
    claims = sorted(by[i].call if i in by else 1 << 60 for i in held if sent(i) and i[0] != "e-before")
    return Commit(content, len(held), len(faults) + wrong, owed, claims, kept.state.latch is not None)


class Folder:
    """Where disks are laid out and read."""

    def __init__(self, path):
        self.path, self.there = path, {}

    def lay(self, image):
        """Files that are there already as they should be are not written again."""
        for name in self.there.keys() - image.keys():
            (self.path / name).unlink()
            del self.there[name]
        (self.path / f"{FILE}-shm").unlink(missing_ok=True)
        for name, raw in image.items():
            if not name.endswith("-shm") and self.there.get(name) != raw:
                (self.path / name).write_bytes(raw)
                self.there[name] = raw

    def content(self):
        """All that the journal holds, read without a trace."""
        with contextlib.closing(sqlite3.connect(f"file:{self.path / FILE}?mode=ro", uri=True)) as connection:
            connection.execute(f"PRAGMA mmap_size = {4 * QUOTA}")   # quicker
            return tuple(connection.execute(f"SELECT * FROM {table}").fetchall()
                         for table in ("state", "rows", "inventories"))

    def start(self):
        """The same as a start sees it, and whether every page is in order."""
        with contextlib.closing(Store(self.path / FILE, QUOTA)) as store:
            run = store.connection.execute
            found = tuple(run(f"SELECT * FROM {table}").fetchall() for table in ("state", "rows", "inventories"))
            whole = run("PRAGMA integrity_check").fetchone() == ("ok",)
        for name in self.there:
            (self.path / name).unlink(missing_ok=True)
        self.there = {}
        return found, whole


def state_of(content):
    return next((value for key, value in content[0] if key == "state"), None)


def cut(life, seed, states):
    """Try so many cuts; returns what was found, counted."""
    rng = random.Random(seed)
    # The hard moments are those around a sync: half of all cuts are made there.
    syncs = [n for n, call in enumerate(life.calls) if call.kind == "S"]
    last = len(life.calls) - 1
    points = sorted(min(last, max(0, rng.choice(syncs) + rng.choice((-1, 0, 1)))) if rng.random() < 0.5
                    else rng.randrange(len(life.calls)) for _ in range(states))
    found, disk, taken = Counter(), Disk(life.image), 0
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        folder = Folder(Path(name))
        for point in points:
            while taken <= point:
                disk.take(life.calls[taken])
                taken += 1
            folder.lay(disk.after(rng, rng.choice(MODES)))
            found["states"] += 1
            look(folder, life, point, found, found["states"] % OPENED == 0)
    return found


def look(folder, life, point, found, opened):
    """Read what a cut has left, and compare it with what had been told."""
    content = None
    try:
        with contextlib.suppress(sqlite3.OperationalError):   # there is a rollback to be done, not by a reader
            content = folder.content()
        if opened or content is None:
            found["opened"] += 1
            started, whole = folder.start()
            found["damaged"] += not whole or started != (content or started)
            content = started
    except sqlite3.Error:
        content = None
    commit = life.commits.get(state_of(content)) if content is not None else None
    if commit is None or commit.content != content:   # then nothing that was told can be relied on
        found["torn" if content is not None else "damaged"] += 1
        found["lost"] += point >= life.told[0].call
        return
    found["rows"] += commit.rows
    found["wrong"] += commit.faults
    found["lost"] += bisect_right(commit.owed, point)
    found["claimed"] += len(commit.claims) - bisect_right(commit.claims, point)
    found["silent"] += point >= life.alarm and not commit.latched


def same(row, told, by):
    if row.lane != "data":
        mine = [e.id for e in decode_events(row.body) if "county" in e.why.get("platforms", ("county",))]
        return mine == [e["id"] for e in told["events"]]   # gaps are told to those who miss something
    samples, readings = decode(row.body), told["readings"]
    times = [t + row.door.offset_ms for t in samples["t_ms"].tolist()]
    if row.thinned:   # for the city, after the county had all; what is merged lies in the last rows of its block
        first = row.seq - row.seq % BLOCK if row.thinned == "aggregate" else row.seq
        block = (by.get((row.epoch, row.lane, seq)) for seq in range(first, row.seq + 1))
        return set(times) <= {r["t"] for v in block if v is not None for r in v.row["readings"]}
    return times == [r["t"] for r in readings] and all(
        (value != value and r["value"] is None) or abs(value - (r["value"] or 0.0)) <= 0.5
        for value, r in zip(samples["value"].tolist(), readings, strict=True))


def searched(life, states):
    seed = random.randrange(1 << 30)
    jobs = min(os.cpu_count() or 1, 8) if SOAK else 2
    began_s = time.monotonic()
    with ProcessPoolExecutor(jobs) as pool:
        found = sum(pool.map(cut, [life] * jobs, range(seed, seed + jobs), [states // jobs] * jobs), Counter())
    took_s = time.monotonic() - began_s
    print(f"seed {seed}: {len(life.calls)} calls, {len(life.commits)} commits, {len(life.told)} rows told, "
          f"{dict(life.trimmed)}; {found['states']} states in {took_s:.0f} s, {found['states'] / took_s:.0f}/s: "
          f"{dict(found)}")
    return found


BAD = ("lost", "wrong", "torn", "damaged", "claimed", "silent")


@pytest.mark.long
def test_no_power_cut_takes_what_was_told(tmp_path):
    life = recorded(tmp_path)
    # All of it was recorded.
    assert all(life.trimmed[step] for step in ("stored", "sent", "thinned", "aggregated", "quota"))
    assert life.trimmed["epochs"] >= 3
    assert any(call.kind == "R" and call.path == f"{FILE}.compact" for call in life.calls)
    found = searched(life, STATES)
    assert {k: found[k] for k in BAD} == dict.fromkeys(BAD, 0)
    assert found["opened"] > STATES // OPENED // 2
    assert found["rows"] > 5 * found["states"]


@pytest.mark.parametrize("cheat", [NORMAL, EARLY], ids=["synchronous=NORMAL", "told before it was committed"])
def test_a_gateway_that_cheats_is_found_out(tmp_path, cheat):
    runner = tmp_path / "cheat.py"
    runner.write_text(cheat, encoding="utf-8")
    assert searched(recorded(tmp_path, (str(runner),), lives=1), SHORT)["lost"] > 0
