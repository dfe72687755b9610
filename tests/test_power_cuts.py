"""Power cuts one after another: each life of a journal begins on the disk that the cut before has left.

A life is a process that runs the journal as it is, on the standard library's sqlite3, below the recorder of
hil.powercut. It is recorded to its end; then the cut is made at one of its calls, and what came after never happened.
An SQLite VFS that drops unsynced writes would serve only connections of its own library (apsw), and see only what
SQLite does: this way the code under test is the box's, the syncs of folders, renames and removals count too, and a
seed gives the same life again. A server that has everything imported forks each life, so that one costs milliseconds.

Some lives end by a kill instead: nothing is lost then, neither what was written nor the staging folder.
"""

import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gateway.journal.archive import Archive, Unusable
from gateway.journal.cursors import Cursor
from gateway.journal.gaps import LESS, Gap
from gateway.journal.rows import AGGREGATE, decode, decode_events
from gateway.journal.store import Store, family
from gateway.journal.verify import verify
from gateway.model import SAMPLE
from hil.powercut.disk import MODES, Disk
from hil.powercut.recording import build, compiler, environment, read
from tests.journal_life import PLATFORMS, QUOTA, value
from tests.test_journal import DOOR, Box
from tests.test_store import group, stored

SOAK = bool(os.environ.get("MINGLUO_SOAK"))
CUTS = 500 if SOAK else 40
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
KILLS, STAGING_STAYS = 0.2, 0.1

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler: apt-get install gcc libc6-dev")


# ---- what the world knows


class World:
    """Two platforms that believe what they are told, and what is found on the disks."""

    def __init__(self):
        self.found = Counter()
        self.told = {}
        """Identity → row as it was first told; None when it is gone, for good reason."""
        self.ever = {p: set() for p in PLATFORMS}
        self.settled = {p: set() for p in PLATFORMS}
        """What the platform was sent, as far as the journal has to know."""
        self.given_up = {p: set() for p in PLATFORMS}
        """What the platform was told in a gap."""
        self.latch = 0

    def hear(self, kind, *what):
        if kind == "row":
            row, = what
            if not self.same(self.told.setdefault((row.epoch, row.lane, row.seq), row), row):
                self.found["wrong"] += 1
            for gap in gaps_of([row]):
                self.lose(self.given_up, gap)
        elif kind in ("sent", "again"):
            platform, stream, spans = what
            rows = {(*stream, seq) for a, b in spans for seq in range(a, b + 1)}
            if kind == "again":
                self.settled[platform] -= rows
            else:
                self.ever[platform] |= rows
                self.settled[platform] |= rows
        elif kind == "latch":
            self.latch, = what

    def lose(self, where, gap):
        self.found[gap.reason] += 1
        for platform in gap.platforms if gap.reason not in LESS else ():
            where[platform] |= {(gap.epoch, gap.lane, seq) for seq in range(gap.first, gap.last + 1)}

    def same(self, was, row):
        """Whether a row is what was told, or less of it."""
        if was is None:
            return False
        if row.lane != "data" or not row.thinned:
            return row == was
        kept, original = decode(row.body), decode(was.body)
        odd = original[original["flag"] != 1]
        return (row.inventory, row.door) == (was.inventory, was.door) and row.of in (was.count, was.of) and np.isin(
            odd["t_ms"], kept["t_ms"]).all()

    def look(self, path):
        """What a cut has left, before anybody else opens it."""
        found = self.found
        found["cuts"] += 1
        try:
            with Archive(path) as archive:
                faults, kept = verify(archive, live=False).faults, archive.whole().kept
                held = {(s.row.epoch, s.row.lane, s.row.seq): s.row
                        for page in archive.rows(0, (1 << 63) - 1) for _, s in page if s is not None}
        except Unusable:
            found["lost" if self.told else "unborn"] += 1   # a file that was never whole: nothing was told yet
            return
        for fault in faults:
            print(fault)
        found["faults"] += len(faults)
        found["rows"] += len(held)
        found["silent"] += int(kept.state.latch.state if kept.state.latch else 0) < self.latch
        found["wrong"] += sum(not self.same(self.told[i], row) for i, row in held.items() if i in self.told)
        self.values([row for row in held.values() if row.lane == "data"])
        known = {p: set() for p in PLATFORMS}
        for gap in (*kept.state.gaps, *gaps_of(held.values())):
            self.lose(known, gap)
        for p in PLATFORMS:
            sent = {i for i in held if (d := kept.cursors.get((p, i[:2]))) is not None and d.sent.has(i[2])}
            found["claimed"] += len(sent - self.ever[p] - self.given_up[p])
            # What a journal forgot it sends again, or tells; what it was asked for and forgot is asked for again.
            self.settled[p] = self.settled[p] - held.keys() | (sent & self.ever[p])
            missing = self.told.keys() - held.keys() - self.settled[p] - self.given_up[p] - known[p]
            found["lost"] += len(missing)
            if missing:
                print("lost", p, sorted(missing)[:5])
        for i in self.told.keys() - held.keys():
            if all(i in self.settled[p] or i in self.given_up[p] for p in PLATFORMS):
                self.told[i] = None

    def values(self, rows):
        """No reading is wrong, none is there twice."""
        times = []
        for samples in (decode(row.body) for row in rows):
            times += samples["t_ms"].tolist()
            right = samples["value"] == value(samples["t_ms"])
            if samples.dtype == AGGREGATE:
                self.found["aggregates"] += 1
                right &= samples["min"] == value(samples["since_ms"])
                right &= (samples["max"] == samples["value"]) & (samples["n"] >= 1)
                right &= (samples["min"] <= samples["mean"]) & (samples["mean"] <= samples["max"])
            self.found["wrong"] += int((~right).sum())
        self.found["twice"] += len(times) - len(set(times))

    def had(self):
        """What the county may confirm."""
        streams = {}
        for epoch, lane, seq in self.told:
            if (epoch, lane, seq) in self.settled["county"]:
                streams.setdefault((epoch, lane), Cursor()).add(seq, seq)
        return [(*stream, cursor.low, cursor.ranges) for stream, cursor in streams.items()]


def gaps_of(rows):
    for row in rows:
        for event in decode_events(row.body) if row.lane != "data" else ():
            if event.kind == "journal.gap":
                why = event.why
                yield Gap(why["epoch"], why["lane"], why["from"], why["to"], why["count"], why["reason"],
                          tuple(why["platforms"]))


# ---- cut after cut


def chain(folder, seed, cuts, cheat="", until=lambda found: False):
    """So many lives; returns what was found, counted."""
    rng, world, disk = random.Random(seed), World(), Disk()
    place = Path(tempfile.mkdtemp(prefix="cuts-", dir=MEMORY))
    box, look, log = place / "box", place / "look", place / "log"
    box.mkdir()
    variables = environment(build(folder), box, log) | {"PYTHONPATH": ".", "PYTHONHASHSEED": "0"}
    server = subprocess.Popen([sys.executable, "-m", "tests.journal_life", str(box), cheat], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent,
                              env=os.environ | variables)

    def life(n, boot, steps):
        log.write_bytes(b"")
        order = {"seed": rng.getrandbits(40), "boot": f"boot-{boot}", "ms": 1_000_000 + n * 5_000_000, "steps": steps,
                 "had": world.had()}
        print(json.dumps(order), file=server.stdin, flush=True)
        assert server.stdout.readline() == "0\n", (n, order)
        return read(log, box)

    try:
        n = boot = 0
        while world.found["cuts"] < cuts and not until(world.found):
            calls = life(n, boot, rng.choice((5, 20, 60)))
            for call in calls[:moment(rng, calls) + 1]:
                disk.take(call)
                if call.kind == "M":
                    world.hear(*pickle.loads(call.data))
            n += 1
            if rng.random() < KILLS:
                image = disk.live()
            else:
                image, boot = disk.after(rng, rng.choice(MODES)), boot + 1
                if rng.random() > STAGING_STAYS:
                    image = {name: raw for name, raw in image.items() if not name.startswith("run/")}
                disk = Disk(image)
                lay(look, image)
                world.look(look / "state" / "journal.sqlite")
            lay(box, image)
        if not until(world.found):
            for call in life(n, boot, 0):
                if call.kind == "M":
                    world.hear(*pickle.loads(call.data))
            for p in PLATFORMS:
                world.found["lost"] += sum(i not in world.ever[p] and i not in world.given_up[p] for i in world.told)
    finally:
        server.stdin.close()
        server.wait()
        server.stdout.close()
        shutil.rmtree(place)
    return world.found


def moment(rng, calls):
    """Where to cut: often while the life begins, often around a sync."""
    opened = next(n for n, call in enumerate(calls) if call.kind == "M")
    syncs = [n for n, call in enumerate(calls) if call.kind == "S"]
    n = rng.choice((rng.randrange(opened + 10), rng.choice(syncs) + rng.choice((-1, 0, 1)), rng.randrange(len(calls))))
    return min(max(0, n), len(calls) - 1)


def lay(folder, image):
    """Make the folder this one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, raw in image.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(raw)


BAD = ("lost", "wrong", "twice", "faults", "claimed", "silent")


def test_no_cut_after_another_takes_what_was_told(tmp_path):
    seed, began_s = random.randrange(1 << 30), time.monotonic()
    print("seed", seed)
    found = chain(tmp_path, seed, CUTS)
    print(f"{time.monotonic() - began_s:.1f} s: {dict(found)}")
    assert {k: found[k] for k in BAD} == dict.fromkeys(BAD, 0)


@pytest.mark.parametrize("cheat", ["normal", "early"])
def test_a_journal_that_cheats_is_found_out(tmp_path, cheat):
    found = chain(tmp_path, 1, 40, cheat, until=lambda found: found["lost"])
    print(dict(found))
    assert found["lost"] > 0


# ---- what they found


def test_what_a_killed_process_wrote_is_synced_before_anybody_reads_it(tmp_path, monkeypatch):
    first = Store(tmp_path / "a" / "journal.sqlite", 1 << 20)
    first.commit(group(stored(1)))
    (tmp_path / "b").mkdir()
    for part in family(first.path)[:2]:   # as it lies when the kill came before the sync
        shutil.copy(part, tmp_path / "b")
    first.close()
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(Path(f"/proc/self/fd/{fd}").readlink().name), fsync(fd)))
    second = Store(tmp_path / "b" / "journal.sqlite", 1 << 20)
    assert second.streams
    assert synced == ["journal.sqlite-wal"]
    second.close()


def full(box, flag):
    """Record until a group has just given something up; returns the gaps, which nobody was told yet."""
    rng = np.random.default_rng(1)
    while not (gaps := box.journal._disk.store.state.gaps):
        out = np.zeros(240, SAMPLE)
        out["t_ms"], out["value"], out["flag"] = box.clock * 1000 + np.arange(240) * 40, rng.random(240), flag
        box.journal.record(DOOR, box.n, out)
        box.pass_time(11)
    return gaps


@pytest.mark.parametrize(("flag", "reason"), [(1, "thinned"), (3, "quota")])
def test_a_cut_right_after_a_loss_does_not_hide_it(tmp_path, flag, reason):
    """From a platform that never had anything, either. What is only less is still sent."""
    box = Box(tmp_path, max_bytes=QUOTA)
    gaps = full(box, flag)
    assert {gap.reason for gap in gaps} == {reason}
    box.die()
    shutil.rmtree(tmp_path / "run")
    box.start(boot="next")
    told = {(e.why["reason"], e.why["from"], e.why["to"], *e.why["platforms"]) for e in box.found.events
            if e.kind == "journal.gap"}
    assert told == {(g.reason, g.first, g.last, "county") for g in gaps}
    less = {seq for g in gaps if g.reason != "quota" for seq in range(g.first, g.last + 1)}
    gone = {seq for g in gaps if g.reason == "quota" for seq in range(g.first, g.last + 1)}
    assert less - gone <= {row.seq for row in box.rows()}
    box.close()


def test_rows_that_went_because_everybody_had_them_are_no_fault(tmp_path):
    box = Box(tmp_path, max_bytes=QUOTA)
    rng, reader = np.random.default_rng(1), box.reader
    stream = box.found.epoch, "data"
    while reader.heads().get(stream, 0) < 3 or reader.row(*stream, 2):   # the first row is sent to nobody
        box.record(*np.sort(rng.integers(0, 1 << 40, 150)))
        box.pass_time(11)
        reader.settle(*stream, [row.seq for row in box.rows() if row.seq > 1])
    assert reader.row(*stream, 1)
    with Archive(tmp_path / "state") as archive:
        assert verify(archive, live=True).faults == []
    box.close()
