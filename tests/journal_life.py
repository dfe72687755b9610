"""Lives of a journal, forked by a server that has everything imported: what power cuts are made in.

Run as a program this file is that server: an order a line comes in, the exit code of a life goes out. A life tells what
happens by sending it on a socket, where the recorder of hil.powercut hears it in its place among the writes and syncs.
"""

import contextlib
import json
import os
import pickle
import random
import socket
import sys
import traceback
from pathlib import Path

import numpy as np

from gateway.journal.archive import Unusable
from gateway.journal.journal import Journal
from gateway.journal.store import Store
from gateway.journal.vacuum import vacuum
from gateway.model import REASONS, SAMPLE, Door, Event, Inventory, InventoryPoint

PLATFORMS = ("county", "city")
QUOTA = 160 * 4096   # less than a configuration may say: it is full after some hundred rows


def value(t_ms):
    """What was read at a moment; ascends with it, and does not compress."""
    return t_ms + ((t_ms * 2654435761 >> 7) & 0xFFFFF) / (1 << 21)


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
                stream, last = (epoch, lane), spans[-1][1]
                rows = reader.pending((lane,), after={stream: spans[0][0] - 1}, until={stream: last})
                self.say("again", platform, stream, [(row.seq, row.seq) for row in rows if row.epoch == epoch])

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


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
