"""Power cuts one after another: each life of a journal begins on the disk that the cut before has left.

A life is a process that runs the journal as it is, on the standard library's sqlite3, below the recorder of
hil.powercut. It is recorded to its end; then the cut is made at one of its calls, and what came after never happened.
An SQLite VFS that drops unsynced writes would serve only connections of its own library (apsw), and see only what
SQLite does: this way the code under test is the box's, the syncs of folders, renames and removals count too, and a
seed gives the same life again. A server that has everything imported forks each life, so that one costs milliseconds.

Some lives end by a kill instead: nothing is lost then, neither what was written nor the staging folder.

Run as a program this file is that server.
"""

import contextlib
import json
import os
import pickle
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gateway.journal.archive import Archive, Unusable
from gateway.journal.cursors import Cursor
from gateway.journal.gaps import LESS, Gap
from gateway.journal.journal import Journal
from gateway.journal.rows import AGGREGATE, decode, decode_events
from gateway.journal.store import Store
from gateway.journal.vacuum import vacuum
from gateway.journal.verify import verify
from gateway.model import REASONS, SAMPLE, Door, Event, Inventory, InventoryPoint
from hil.powercut.disk import MODES, Disk
from hil.powercut.recording import build, compiler, environment, read

SOAK = bool(os.environ.get("MINGLUO_SOAK"))
CUTS = 500 if SOAK else 40
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
PLATFORMS = ("county", "city")
QUOTA = 160 * 4096   # less than a configuration may say: it is full after some hundred rows
KILLS, STAGING_STAYS = 0.2, 0.1

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler: apt-get install gcc libc6-dev")


def value(t_ms):
    """What was read at a moment; ascends with it, and does not compress."""
    return t_ms + ((t_ms * 2654435761 >> 7) & 0xFFFFF) / (1 << 21)


# ---- a life


class Life:
    """What a process does with its journal; `say` tells the world."""

    def __init__(self, folder, order):
        self.rng, self.folder, self.boot = random.Random(order["seed"]), Path(folder), order["boot"]
        self.ms, self.had = order["ms"], order["had"]
        self.ear, self.mouth = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.mouth.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

    def say(self, *what):
        raw = pickle.dumps(what)
        assert self.mouth.send(raw) == len(raw)
        self.ear.recv(len(raw))

    def start(self):
        self.journal = Journal(self.folder / "state", self.folder / "run", "gw", boot=self.boot,
                               now=lambda: self.ms / 1000, new_epoch=lambda: f"{self.rng.getrandbits(32):08x}",
                               platforms=PLATFORMS, commit_s=5, max_bytes=QUOTA, staging_bytes=1 << 20)
        found = self.journal.open()
        self.door, self.heads = Door(self.boot, 1000, "synced"), {}
        self.latch = int(found.latch or 0)
        self.readers = {p: self.journal.reader(p) for p in PLATFORMS}
        commit = self.journal._writer._commit
        self.journal._writer._commit = lambda changes: (commit(changes), self.tell())[0]   # an uplink that never sleeps
        self.adopt()
        self.journal.record(self.door, self.n, events=found.events)
        self.say("open")
        self.tell()

    def stop(self):
        for reader in self.readers.values():
            reader.close()
        self.journal.close()

    def tell(self):
        """All that is committed and was not told by this process."""
        rows = self.readers["county"].pending(after=self.heads, limit=10_000, max_bytes=1 << 30)
        for row in rows:
            self.heads[row.epoch, row.lane] = row.seq
            self.say("row", row)
        latch = self.journal._ledger.committed.state.latch
        self.say("latch", int(latch.state) if latch is not None else 0)

    # what may happen

    def adopt(self):
        points = tuple(InventoryPoint(point=f"p{n}", name=f"测点{n}", object="slope", unit="mm", resolution=0.1,
                                      poll_s=1, report_every_s=0) for n in range(self.rng.choice((3, 5, 8))))
        self.n, self.points = self.journal.adopt(Inventory(0, points)), len(points)

    def readings(self):
        for _ in range(self.rng.choice((1, 1, 4))):
            count = self.rng.choice((20, 200, 250))
            out = np.zeros(count, SAMPLE)
            out["t_ms"] = sorted(self.rng.sample(range(self.ms + 1, self.ms + 50 * count), count))
            out["point"], out["reason"] = np.frombuffer(self.rng.randbytes(2 * count), np.uint8).reshape(2, count) % [
                [self.points], [len(REASONS)]]
            out["flag"] = [self.rng.choice((1,) * 30 + (3,)) for _ in out] if self.rng.random() < 0.7 else 3
            out["value"] = value(out["t_ms"])
            self.ms += 50 * count
            self.journal.record(self.door, self.n, out)
            self.journal.write(0)

    def event(self):
        kind = self.rng.choice(("alarm.raised", "point.lost"))
        self.latch += 1
        self.journal.record(self.door, self.n, events=[Event(id=f"{self.boot}-{self.ms}-{self.latch}", kind=kind,
                                                             t_ms=self.ms, text_zh="测" * self.rng.randrange(60))],
                            latch=b"%d" % self.latch)
        self.ms += 1
        self.journal.write(0)

    def wait(self):
        self.ms += self.rng.choice((100, 6000, 61_000))
        self.journal.write(0)

    def flush(self):
        assert self.journal.flush(5)

    def send(self):
        """Some rows, not always the oldest ones, to one platform."""
        platform = self.rng.choice(("county", "county", "city"))
        rows = self.readers[platform].pending(limit=self.rng.choice((3, 30)))
        self.sent(platform, [row for row in rows if self.rng.random() < 0.95])

    def sent(self, platform, rows):
        for row in rows:
            self.say("sent", platform, (row.epoch, row.lane), [(row.seq, row.seq)])
            self.readers[platform].settle(row.epoch, row.lane, [row.seq])

    def receipt(self):
        """The county confirms what it has."""
        for epoch, lane, low, ranges in self.had[-6:]:
            spans = [(1, low), *ranges]
            if not self.readers["county"].stored(epoch, lane, low, ranges).refused:
                self.say("sent", "county", (epoch, lane), spans)

    def replay(self):
        """A platform asks for rows once more: of those that are kept."""
        platform = self.rng.choice(PLATFORMS)
        reader = self.readers[platform]
        for (epoch, lane), head in reader.heads().items():
            first = self.rng.randrange(1, head + 1) if head else 1
            spans, _ = reader.replay(epoch, lane, [(first, first + 5)])
            if spans:
                rows = reader.pending((lane,), after={(epoch, lane): spans[0][0] - 1}, until={(epoch, lane): spans[-1][1]})
                self.say("again", platform, (epoch, lane), [(row.seq, row.seq) for row in rows if row.epoch == epoch])

    def restart(self):
        if self.rng.random() < 0.5:
            self.journal.flush(5)
        self.stop()
        self.compact()
        self.start()

    def compact(self):
        path = self.folder / "state" / "journal.sqlite"
        if self.rng.random() < 0.3 and path.exists():
            with contextlib.suppress(Unusable):   # never whole
                vacuum(path)

    def live(self, steps):
        self.compact()
        self.start()
        what = (self.readings,) * 16 + (self.event,) * 4 + (self.wait,) * 6 + (self.send,) * 4 + (
            self.flush, self.receipt, self.receipt, self.replay, self.adopt, self.restart)
        for _ in range(steps):
            self.rng.choice(what)()

    def end(self):
        """In peace: all is sent that is there, all is told."""
        self.start()
        for _ in range(4):
            for platform in PLATFORMS:
                self.sent(platform, self.readers[platform].pending(limit=10_000, max_bytes=1 << 30))
            self.ms += 3_700_000
            self.flush()
        self.stop()


def normal():
    """A cheat: commits that are not synced."""
    prepare = Store._prepare

    def unsafe(self):
        prepare(self)
        self.connection.execute("PRAGMA synchronous = NORMAL")
    Store._prepare = unsafe


def early():
    """A cheat: what is told is synced only with the next group."""
    commit = Store.commit

    def unsafe(self, changes, platforms=()):
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(f"{self.path}-wal", os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
        self.connection.execute("PRAGMA synchronous = OFF")
        return commit(self, changes, platforms)
    Store.commit = unsafe


def serve(folder, cheat):
    """Fork a life an order."""
    {"normal": normal, "early": early, "": lambda: None}[cheat]()
    for line in sys.stdin:
        order = json.loads(line)
        if (pid := os.fork()) == 0:
            life, failed = Life(folder, order), 1
            try:
                life.live(order["steps"]) if order["steps"] else life.end()
                failed = 0
            finally:
                traceback.print_exc() if failed else None
                os._exit(failed)
        print(os.waitpid(pid, 0)[1], flush=True)


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
    server = subprocess.Popen([sys.executable, __file__, str(box), cheat], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent,
                              env=os.environ | environment(build(folder), box, log) | {"PYTHONPATH": ".", "PYTHONHASHSEED": "0"})

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


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
