"""A damaged journal: the box goes on at once, and what can be read of the wreck comes after."""

import os
import random
import shutil
import sqlite3
import time
from contextlib import suppress

import msgspec
import pytest

from gateway.journal.archive import Archive, Unusable
from gateway.journal.gaps import Gap
from gateway.journal.records import COLUMNS, INSERT, Stored, lane_seq, record_of, row_of
from gateway.journal.rows import decode
from gateway.journal.salvage import Salvage, inherited
from gateway.journal.state import Extent, Kept, extent_key, pack
from gateway.journal.store import Store, family
from gateway.journal.transaction import PUT
from gateway.journal.verify import verify
from gateway.model import Inventory
from tests.test_journal import DOOR, Box, alarm
from tests.test_store import P, group, held, stored


def search(path, new, known=None):
    """All of it at once: rows found, and what is told missing."""
    new.inherit(inherited(path, known))
    found, gaps = Salvage(path.parent, new.kept, new.kept.search), []
    while new.kept.search is not None:
        step = found.step(time.monotonic)
        while not (carried := new.carry(step, {}, P)).whole:
            gaps += carried.gaps
        gaps += carried.gaps
    found.close()
    return found.rows, gaps


def wreck(tmp_path, rows=120):
    path = tmp_path / "good" / "journal.sqlite"
    store = Store(path, 64 << 20)
    for at in range(1, rows, 5):
        store.commit(group(*[stored(s) for s in range(at, at + 5)], inventories=[Inventory(3, ())]), P)
    store.close()  # checkpoints: everything is in the main file
    return path


@pytest.mark.parametrize("what", ["header", "version", "schema", "interior", "one leaf", "garbage tail", "truncated",
                                  "empty", "not a database"])
def test_any_damage_is_searched_for_whole_rows_and_never_invents_one(tmp_path, what):
    path = wreck(tmp_path)
    raw = bytearray(path.read_bytes())
    pages = len(raw) // 4096
    rng = random.Random(5)
    least = {"header": 120, "version": 120, "schema": 120, "one leaf": 115, "garbage tail": 50, "truncated": 40}
    if what == "header":
        raw[:100] = rng.randbytes(100)
    elif what == "version":
        raw[60:64] = rng.randbytes(4)
    elif what == "schema":
        raw[100:4096] = rng.randbytes(3996)
    elif what == "interior":
        for page in range(pages):
            if raw[page * 4096] in (2, 5):
                raw[page * 4096:page * 4096 + 300] = rng.randbytes(300)
    elif what == "one leaf":
        page = pages // 2
        raw[page * 4096:(page + 1) * 4096] = rng.randbytes(4096)
    elif what == "garbage tail":
        raw[pages // 2 * 4096:] = rng.randbytes(len(raw) - pages // 2 * 4096)
    elif what == "truncated":
        raw = raw[:pages // 2 * 4096]
    elif what == "empty":
        raw = bytearray()
    else:
        raw = bytearray(b"hello" * 2000)
    path.write_bytes(raw)
    new = Store(tmp_path / "new" / "journal.sqlite", 64 << 20)
    rows, gaps = search(path, new)
    got = held(new)
    assert len(got) == rows >= least.get(what, 0)
    assert all(s == stored(s.row.seq) for s in got)
    lost = set(range(1, 121)) - {s.row.seq for s in got}
    told = {s for g in gaps for s in range(g.first, g.last + 1)}
    assert told <= lost
    if what in ("header", "version", "schema", "one leaf"):
        assert told == lost
    new.close()


def test_random_flips_never_yield_a_wrong_row(tmp_path):
    good = wreck(tmp_path, 60)
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    print("seed", seed)
    raw = good.read_bytes()
    for n in range(15):
        broken = bytearray(raw)
        for _ in range(rng.choice((1, 8, 64))):
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        path = tmp_path / f"w{n}" / "journal.sqlite"
        path.parent.mkdir()
        path.write_bytes(broken)
        new = Store(tmp_path / f"n{n}" / "journal.sqlite", 64 << 20)
        _, gaps = search(path, new)
        got = held(new)
        assert all(s == stored(s.row.seq) for s in got)
        told = {s for g in gaps for s in range(g.first, g.last + 1)}
        assert told <= set(range(1, 61)) - {s.row.seq for s in got}
        new.close()


def test_names_of_the_schema_that_are_no_text_any_more_are_damage_like_any_other(tmp_path):
    good = wreck(tmp_path, 60)
    raw = good.read_bytes()
    at = raw.index(b"CREATE TABLE rows")
    for n, place in enumerate(range(at - 16, at + 40)):
        path = tmp_path / f"w{n}" / "journal.sqlite"
        path.parent.mkdir()
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0x80]) + raw[place + 1:])
        with suppress(sqlite3.DatabaseError):   # a start takes it for damage, or does not need those bytes
            Store(path, 64 << 20).close()
        with suppress(Unusable), Archive(path) as archive:
            list(archive.rows(0, 1 << 62))
        new = Store(tmp_path / f"n{n}" / "journal.sqlite", 64 << 20)
        assert search(path, new)[0] == len(held(new)) == 60
        new.close()


@pytest.mark.parametrize("seed", [26, 120, 142])
def test_a_tree_whose_keys_come_in_no_order_ends_the_search(tmp_path, seed):
    """These flips give the same rows again and again to a search that trusts their order."""
    good = wreck(tmp_path, 60)
    rng = random.Random(seed)
    broken = bytearray(good.read_bytes())
    for _ in range(rng.choice((1, 8, 64))):
        broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
    good.write_bytes(broken)
    new = Store(tmp_path / "new" / "journal.sqlite", 64 << 20)
    assert search(good, new)[0] == len(held(new)) > 0
    new.close()


def test_what_is_only_in_the_write_ahead_log_is_salvaged_too(tmp_path):
    path = tmp_path / "journal.sqlite"
    store = Store(path, 64 << 20)
    store.commit(group(stored(1)), P)
    aside = tmp_path / "aside.sqlite"
    for source, target in zip(family(path)[:2], family(aside)[:2], strict=True):
        shutil.copy(source, target)
    store.close()
    new = Store(tmp_path / "new.sqlite", 64 << 20)
    assert search(aside, new)[0] == 1
    new.close()


def test_what_the_caller_knew_to_be_committed_and_is_not_found_is_a_gap(tmp_path):
    store = Store(tmp_path / "journal.sqlite", 64 << 20)
    store.commit(group(stored(1)), P)
    new = Store(tmp_path / "new.sqlite", 64 << 20)
    assert search(tmp_path / "none", new) == (0, [])
    known = Kept()
    known.epochs, known.streams = dict(store.epochs), {("e1", "data"): Extent(1, 5, 4, 0, 40)}
    store.connection.execute("PRAGMA wal_checkpoint")
    assert search(store.path, new, known) == (1, [Gap("e1", "data", 2, 4, None, "damaged")])
    new.close()


# ---- the whole journal

CHUNK = 100


@pytest.fixture
def box(tmp_path):
    box = Box(tmp_path)
    yield box
    box.close()

def values(n):
    """Of row n: all different, and hard to compress, so that each row has a page or two of its own."""
    return [float(v) for v in random.Random(n).sample(range(n << 32, (n + 1) << 32), CHUNK)]


def filled(box, rows):
    """Record `rows` rows of data and an alarm."""
    for n in range(1, rows + 1):
        box.record(*values(n))
        box.flush()
    box.record(events=[alarm("old")])
    box.flush()


def spoil(box, where, pages=1):
    """Noise over some pages of the database, as a card does it: nothing tells the writer."""
    store, path = box.journal._disk.store, box.journal.path
    if store is not None:
        store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek(int(path.stat().st_size * where) // 4096 * 4096)
        file.write(random.Random(7).randbytes(4096 * pages))
    if store is not None:
        store.connection.execute("PRAGMA shrink_memory")
        store._identity = store._stat()


def meet(box):
    """The uplink comes upon the damage."""
    box.reader.close()
    box.values()
    assert box.journal._disk.suspect is not None


def test_the_writer_goes_on_at_once_and_what_was_found_comes_after(box):
    filled(box, 60)
    spoil(box, 0.5)
    meet(box)
    box.record(-1, events=[alarm("new")])
    assert box.pass_time(0)         # one step of the writer, as ever
    assert box.journal.searching
    assert [e.id for e in box.events("alarm.raised")] == ["new"]
    assert box.pass_time(10.1)
    assert box.values() == [-1]     # what is not found yet is nobody's gap
    for _ in range(3):
        box.pass_time(0.1)
    assert [e.id for e in box.events("alarm.raised")] == ["old", "new"]   # alarms are found first
    box.search()
    box.flush()
    gaps = [(e.why["from"], e.why["to"]) for e in box.events("journal.gap")]
    lost = [seq for a, b in gaps for seq in range(a, b + 1)]
    assert 0 < len(lost) <= 8
    assert sorted([*box.values(), *(v for seq in lost for v in values(seq))]) == sorted(
        [-1, *(v for n in range(1, 61) for v in values(n))])
    assert [len(box.events(f"journal.{kind}")) for kind in ("damaged", "salvaged")] == [1, 1]
    assert box.events("journal.salvaged")[0].why["holes"] == len(gaps)


class Lives:
    """A box to which everything happens, and what was committed on it by then."""

    def __init__(self, folder, rng, **options):
        self.box, self.rng, self.committed, self.n, self.boots = Box(folder, **options), rng, {}, 0, 0
        self.staged = set()   # rows that a start brought back from staging, after they may have been told as lost

    def record(self):
        self.n += 1
        self.box.record(*values(self.n))
        self.commit()
        epoch = self.box.found.epoch
        ends = {(e["epoch"], e["lane"]): e["next_seq"] for e in self.box.journal.epochs()}
        self.committed[epoch, ends[epoch, "data"] - 1] = values(self.n)

    def commit(self):
        """As time passes: the disk may fail, and be tried again after a minute."""
        for _ in range(20):
            self.box.pass_time(11)
            if self.box.journal._ledger.intake.empty() and not self.box.journal.fault:
                return
        raise AssertionError(self.box.journal.fault)

    def spoil(self):
        spoil(self.box, self.rng.random() * 0.99)
        self.box.reader.close()
        self.box.values()

    def step(self):
        self.box.pass_time(0.1)

    def restart(self):
        self.boots += self.rng.random() < 0.3
        self.box.restart(boot=f"boot{self.boots}")
        self.started()

    def started(self):
        self.staged |= {(row.epoch, row.seq) for row in self.box.journal._ledger.intake.waiting() if row.lane == "data"}
        for event in self.box.found.events:   # as the box does when it has a clock
            self.box.journal.record(DOOR, self.box.n, events=[event])

    def spoiled_start(self):
        self.box.die()
        self.box.journal._disk.store = None
        spoil(self.box, self.rng.random() * 0.99, pages=self.rng.choice((1, 3)))
        self.box.start(boot=f"boot{self.boots}")
        self.started()

    def end(self):
        """Rows that can be read, and rows that a gap names, once a county has asked for all that birth speaks of."""
        self.box.search()
        gone = {}
        for e in self.box.journal.epochs():
            _, lost = self.box.reader.replay(e["epoch"], e["lane"], [(1, e["next_seq"] - 1)])
            gone |= {(e["epoch"], seq): "gone" for a, b in lost for seq in range(a, b + 1) if e["lane"] == "data"}
        for _ in range(2):             # holes are found by looking
            self.box.values()
            self.box.events("")
            self.box.pass_time(3601)   # gaps are told joined, and seldom while nobody hears them
            self.commit()
            self.box.search()
        read = {(row.epoch, row.seq): decode(row.body)["value"].tolist() for row in self.box.rows()}
        told = {(e.why["epoch"], seq): e.why["reason"] for e in self.box.events("journal.gap")
                if e.why["lane"] == "data" for seq in range(e.why["from"], e.why["to"] + 1)}
        return read, gone | told


@pytest.mark.parametrize("life", range(12))
def test_whatever_happens_during_a_search_each_row_is_read_or_told(tmp_path, life):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    lives = Lives(tmp_path, rng)
    for _ in range(12):
        lives.record()
    lives.spoil()
    for _ in range(40):
        rng.choice((lives.record, lives.record, lives.step, lives.step, lives.restart, lives.spoil, lives.spoiled_start)
                   )() if rng.random() < 0.5 else lives.step()
    read, told = lives.end()
    assert {k: v for k, v in read.items() if lives.committed.get(k) != v} == {}
    assert read.keys() & told.keys() <= lives.staged
    births = {e["epoch"]: range(e["oldest_seq"], e["next_seq"])
              for e in lives.box.journal.epochs() if e["lane"] == "data"}
    silent = lives.committed.keys() - read.keys() - told.keys()
    # A county that asks for what is older than `oldest_seq` is told that it is gone. Of rows after the last one found,
    # where noise took the small state too, nobody knows.
    assert [(epoch, seq) for epoch, seq in silent if seq in births.get(epoch, ())] == []
    assert told.keys() <= lives.committed.keys()
    with Archive(lives.box.folder / "state") as archive:
        faults = [fault.text_en for fault in verify(archive, live=True).faults]
    assert [text for text in faults if "the journal knows of" in text] == []   # there may be damage nobody met yet
    lives.box.close()


def test_a_full_journal_is_searched_within_its_quota_and_what_goes_is_told(tmp_path):
    lives = Lives(tmp_path, random.Random(1), max_bytes=1 << 20, staging_bytes=1 << 20)
    while sum(len(told) for _, told in [lives.end()]) < 20:     # the room is used up
        for _ in range(40):
            lives.record()
    spoil(lives.box, 0.5)
    meet(lives.box)
    for _ in range(40):
        lives.record()
    read, told = lives.end()
    assert not lives.box.journal.searching
    assert lives.committed.keys() - read.keys() - told.keys() == set()
    assert {told[k] for k in lives.committed.keys() - read.keys()} <= {"quota", "damaged", "absent", "gone"}
    assert len(read) > 60
    assert sum(f.stat().st_size for f in family(lives.box.journal.path)[:2]) <= 1 << 20
    lives.box.close()


def test_without_room_on_the_disk_the_search_ends_and_the_wreck_stays(box, monkeypatch):
    filled(box, 30)
    spoil(box, 0.5)
    meet(box)
    monkeypatch.setattr("gateway.journal.disk.free_bytes", lambda _folder: 1 << 20)
    box.record(-1)
    box.pass_time(11)
    box.search()
    box.pass_time(11)
    box.pass_time(61)
    box.pass_time(11)
    assert box.values() == [-1]
    told = [(e.why["from"], e.why["to"]) for e in box.events("journal.gap") if e.why["lane"] == "data"]
    assert told == [(1, 30)]
    aside = next(path for path in box.journal.path.parent.glob("*.corrupt-*") if "-wal" not in path.name)
    office = Store(box.folder / "office.sqlite", 64 << 20)
    assert search(aside, office)[0] >= 20
    office.close()


@pytest.mark.skipif(not os.environ.get("MINGLUO_SOAK"), reason="a million rows: make soak")
def test_a_million_rows_hold_nobody_up(tmp_path):
    """Seconds from damage to the next commit, and the longest the writer was held, at the size a card can have."""
    measure_search(tmp_path, 1_000_000)


def test_a_search_holds_nobody_up(tmp_path):
    measure_search(tmp_path, 20_000)


def measure_search(tmp_path, rows):
    box = Box(tmp_path, max_bytes=8 << 30)
    box.record(*values(1))
    box.flush()
    multiply(box, rows)
    spoil(box, 0.5, pages=3)
    meet_in_middle(box, rows)
    box.record(-1, events=[alarm()])
    holds, began = [], time.perf_counter()
    while not holds or box.journal.searching:
        at = time.perf_counter()
        box.pass_time(0.001)
        holds.append(time.perf_counter() - at)
    print(f"{rows} rows: alarm committed {holds[0]:.3f} s after the damage was met, search "
          f"{time.perf_counter() - began:.1f} s, longest hold {max(holds[1:]) * 1000:.1f} ms")
    assert [e.id for e in box.events("alarm.raised")] == ["a1"]
    box.flush()
    lost = sum(e.why["to"] - e.why["from"] + 1 for e in box.events("journal.gap"))
    assert 1 <= lost <= 600
    assert box.journal._disk.store.streams[box.found.epoch, "data"].rows >= rows - lost
    box.close()


def multiply(box, rows):
    """The first row of data `rows` times, as so many commits would have left it."""
    store, stream = box.journal._disk.store, (box.found.epoch, "data")
    run = store.connection
    record = run.execute(f"SELECT {COLUMNS} FROM rows WHERE count = {CHUNK}").fetchone()
    row, number, old = row_of(record).row, lane_seq(record[0])[0], store.streams[stream]
    run.execute("BEGIN")
    run.executemany(INSERT, (record_of(Stored(msgspec.structs.replace(row, seq=n), n * CHUNK), number)
                             for n in range(2, rows + 1)))
    store.kept.streams[stream] = new = msgspec.structs.replace(
        old, next=rows + 1, rows=rows, bytes=old.bytes * rows, total=rows * CHUNK)
    run.execute(PUT, (extent_key(stream), pack(extent_key(stream), new)))
    run.execute("COMMIT")
    box.journal._writer.publish()
    intake = box.journal._ledger.intake
    intake.next["data"], intake.total["data"] = rows + 1, rows * CHUNK


def meet_in_middle(box, rows):
    """A reader comes upon the damage where it is."""
    box.reader.close()
    box.reader.skip(box.found.epoch, "data", 1, rows * 45 // 100)
    while box.journal._disk.suspect is None:
        for row in (found := box.rows()):
            box.reader.settle(row.epoch, "data", [row.seq])
        assert found or box.journal._disk.suspect is not None
