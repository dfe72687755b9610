"""The SQLite file: durable settings, cursors, trimming, salvage of any damage."""

import random
import shutil
import sqlite3
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.journal.cursors import Cursor, Delivery
from gateway.journal.entries import Latch
from gateway.journal.gaps import Gap
from gateway.journal.records import COLUMNS, Stored, key_of, lane_seq, row_of
from gateway.journal.salvage import salvage
from gateway.journal.state import DamagedError, State, pack, unpack
from gateway.journal.store import Store, family
from gateway.journal.transaction import Changes
from gateway.model import Door, Inventory, Row

DOOR = Door("boot", 5, "synced")
P = ("county",)


def stored(seq, lane="data", size=2000, epoch="e1", inventory=3):
    body = random.Random(f"{epoch}{lane}{seq}").randbytes(size)
    return Stored(Row(epoch=epoch, lane=lane, seq=seq, inventory=inventory, door=DOOR, count=10, body=body), seq * 10)


def group(*rows, epoch="e1", **more):
    return Changes(state=State(gateway="gw", boot="boot", epoch=epoch), rows=list(rows), **more)


def held(store):
    query = f"SELECT {COLUMNS} FROM rows ORDER BY id"
    return [row_of(r) for r in store.connection.execute(query).fetchall()]


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "journal.sqlite", 64 << 20)
    yield store
    store.close()


def test_a_commit_is_synced_before_it_returns(store, tmp_path):
    # NORMAL here would lose the last groups at a power cut without any error.
    assert store.connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_all_that_was_committed_is_there_after_opening_again(store):
    mark = (2, [(5, 6)], 1, [(6, 6)])
    store.commit(group(stored(1), stored(2), stored(1, "alarm"), inventories=[Inventory(3, ())], inventory=3,
                       cursors=[("county", ("e1", "data"))], marks={("county", ("e1", "data")): mark}), P)
    again = Store(store.path, 64 << 20)
    assert held(again) == [stored(1, "alarm"), stored(1), stored(2)]
    assert (again.streams, again.epochs, again.inventories, again.state) == (
        store.streams, store.epochs, store.inventories, store.state)
    assert again.cursors["county", ("e1", "data")].saved() == mark
    assert again.state.commit == 1
    again.close()


def test_the_first_content_of_an_identity_stays(store):
    store.commit(group(stored(1)), P)
    store.commit(group(stored(1), stored(1, size=99)), P)
    assert held(store) == [stored(1)]
    assert store.streams["e1", "data"].rows == 1


@settings(max_examples=300, deadline=None)
@given(spans=st.lists(st.tuples(st.booleans(), st.integers(1, 60), st.integers(0, 8)), max_size=30))
def test_a_cursor_is_the_set_of_what_was_added_and_not_removed(spans):
    cursor, truth = Cursor(), set()
    for add, first, more in spans:
        if add:
            cursor.add(first, first + more)
        else:
            cursor.remove_all([(first, first + more)])
        span = set(range(first, first + more + 1))
        truth = truth | span if add else truth - span
    everything = set(range(1, 80))
    assert {s for s in everything if cursor.has(s)} == truth
    assert {s for a, b in cursor.missing(1, 79) for s in range(a, b + 1)} == everything - truth
    assert {s for a, b in cursor.within(10, 30) for s in range(a, b + 1)} == truth & set(range(10, 31))
    assert cursor.last == max(truth, default=0)
    assert cursor.lacking(10, 30) == len(set(range(10, 31)) - truth)
    assert all(b + 1 < c for (_, b), (c, _) in pairwise(cursor.ranges))
    assert not cursor.ranges or cursor.ranges[0][0] > cursor.low + 1


@given(number=st.integers(1, 1 << 20), lane=st.sampled_from(["alarm", "event", "data"]),
       seq=st.integers(1, (1 << 40) - 1))
def test_a_key_says_epoch_lane_and_seq(number, lane, seq):
    assert lane_seq(key_of(number, lane, seq)) == (number, lane, seq)


def fill(store, settled_to, groups=60, start=1):
    gaps, seq = [], start
    for n in range(groups):
        rows = [stored(seq + i) for i in range(10)]
        seq += 10
        store.cursors["county", ("e1", "data")] = Delivery(Cursor(min(settled_to, seq - 1)))
        rows = [stored(start + n, "event", 200), *rows]
        while rows:   # what found no room comes again
            done = store.commit(group(*rows), P)
            gaps, rows = gaps + done.gaps, rows[done.taken:]
    return gaps, seq


def test_the_quota_takes_what_all_platforms_have_first_and_then_tells_the_exact_gap(tmp_path):
    quota = 1 << 20
    store = Store(tmp_path / "journal.sqlite", quota)
    gaps, seq = fill(store, settled_to=10 ** 9)
    assert gaps == []
    assert store.streams["e1", "data"].oldest > 1
    settled = seq - 1
    more, seq = fill(store, settled_to=settled, start=seq)
    data = store.streams["e1", "data"]
    assert more[0].first == settled + 1
    assert more[-1].last == data.oldest - 1
    assert all(a.last + 1 == b.first for a, b in pairwise(more))
    assert {g.reason for g in more} == {"quota"}
    assert all(g.count == 10 * (g.last - g.first + 1) for g in more)
    kept = [s for s in held(store) if s.row.lane == "data"]
    assert [s.row.seq for s in kept] == list(range(data.oldest, seq))
    assert data.rows == len(kept)
    assert data.bytes == sum(len(s.row.body) for s in kept)
    assert store.streams["e1", "event"].rows == 120
    assert store.file_bytes() <= quota
    store.close()


def test_old_empty_epochs_go_with_their_cursors_and_inventories(tmp_path):
    store = Store(tmp_path / "journal.sqlite", 1 << 20)
    for n in range(40):
        epoch = f"e{n:02d}"
        store.cursors["county", (epoch, "data")] = Delivery(Cursor(10 ** 6))
        rows = [stored(i, epoch=epoch, inventory=n + 1) for i in range(1, 21)]
        store.commit(group(*rows, epoch=epoch, inventories=[Inventory(n + 1, ())],
                           cursors=[("county", (epoch, "data"))],
                           marks={("county", (epoch, "data")): (10 ** 6, [])}), P)
    assert "e39" in store.epochs
    assert "e00" not in store.epochs
    assert {k[1][0] for k in store.cursors} <= set(store.epochs)
    assert set(store.inventories) == {s.row.inventory for s in held(store)}
    keys = [k for (k,) in store.connection.execute("SELECT key FROM state")]
    assert not [k for k in keys if "e00" in k]
    store.close()


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
    rows, gaps = salvage(path, new, {})
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
        _, gaps = salvage(path, new, {})
        got = held(new)
        assert all(s == stored(s.row.seq) for s in got)
        told = {s for g in gaps for s in range(g.first, g.last + 1)}
        assert told <= set(range(1, 61)) - {s.row.seq for s in got}
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
    assert salvage(good, new, {})[0] == len(held(new)) > 0
    new.close()


def test_a_flipped_bit_in_the_small_state_is_damage_never_a_false_latch(store):
    for n in range(8):
        raw = bytearray(pack("state", State(gateway="gw", latch=Latch(b"red", "boot", 1, None))))
        raw[4 + n * 3] ^= 4
        with pytest.raises(DamagedError):
            unpack("state", bytes(raw), State)
    with pytest.raises(DamagedError):
        unpack("other", pack("state", State()), State)


def test_what_is_only_in_the_write_ahead_log_is_salvaged_too(tmp_path):
    path = tmp_path / "journal.sqlite"
    store = Store(path, 64 << 20)
    store.commit(group(stored(1)), P)
    aside = tmp_path / "aside.sqlite"
    for source, target in zip(family(path)[:2], family(aside)[:2], strict=True):
        shutil.copy(source, target)
    store.close()
    new = Store(tmp_path / "new.sqlite", 64 << 20)
    assert salvage(aside, new, {})[0] == 1
    new.close()


def test_what_the_caller_knew_to_be_committed_and_is_not_found_is_a_gap(tmp_path, store):
    store.commit(group(stored(1)), P)
    new = Store(tmp_path / "new.sqlite", 64 << 20)
    assert salvage(tmp_path / "none", new, {}) == (0, [])
    known = {("e1", "data"): store.streams["e1", "data"].__class__(1, 5, 4, 0, 40)}
    path = store.path
    store.connection.execute("PRAGMA wal_checkpoint")
    assert salvage(path, new, known) == (1, [Gap("e1", "data", 2, 4, None, "damaged")])
    new.close()


def test_a_newer_schema_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "journal.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(sqlite3.DatabaseError, match="this program knows"):
        Store(path, 64 << 20)
