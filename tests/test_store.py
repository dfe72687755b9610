"""The SQLite file: durable settings, cursors, trimming."""

import random
import sqlite3
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.journal.cursors import Cursor, Delivery
from gateway.journal.entries import Latch
from gateway.journal.records import COLUMNS, Stored, key_of, lane_seq, row_of
from gateway.journal.state import DamagedError, State, pack, unpack
from gateway.journal.store import Store
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


def test_a_flipped_bit_in_the_small_state_is_damage_never_a_false_latch(store):
    for n in range(8):
        raw = bytearray(pack("state", State(gateway="gw", latch=Latch(b"red", "boot", 1, None))))
        raw[4 + n * 3] ^= 4
        with pytest.raises(DamagedError):
            unpack("state", bytes(raw), State)
    with pytest.raises(DamagedError):
        unpack("other", pack("state", State()), State)


def test_a_newer_schema_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "journal.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(sqlite3.DatabaseError, match="this program knows"):
        Store(path, 64 << 20)
