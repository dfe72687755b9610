"""Less of a row: what is kept, and that what is given up is counted to the last reading."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.journal.cursors import Cursor, Delivery
from gateway.journal.intake import ROW_BYTES
from gateway.journal.lessened import merged
from gateway.journal.records import COLUMNS, Stored, row_of
from gateway.journal.rows import AGGREGATE, decode, encode_samples
from gateway.journal.state import State
from gateway.journal.store import Store
from gateway.journal.thin import ONE_IN, _widened, aggregate, thin
from gateway.journal.transaction import Changes
from gateway.model import SAMPLE, Door, Row

DOOR = Door("boot", 5, "synced")
EVERY = np.array([1000, 500, 60_000])
SAMPLES = st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 3), st.sampled_from([1, 1, 1, 1, 3, 4, 9]),
                             st.just(0), st.sampled_from([0, 0, 0, 2]), st.floats(-1e6, 1e6)), max_size=300).map(
    lambda rows: np.array(sorted(rows), SAMPLE))


def odd(samples):
    return samples[(samples["flag"] != 1) | (samples["status"] != 0)]


@settings(deadline=None)
@given(samples=SAMPLES)
def test_thinning_keeps_what_is_odd_and_one_in_ten(samples):
    less = thin(samples, EVERY)
    assert odd(less).tobytes() == odd(samples).tobytes()
    assert thin(less, EVERY).tobytes() == less.tobytes()
    assert {r.tobytes() for r in less} <= {r.tobytes() for r in samples}


def test_of_steady_readings_one_in_ten_is_left():
    samples = np.zeros(5000, SAMPLE)
    samples["t_ms"], samples["flag"] = np.arange(5000) * 1000 + 37, 1
    assert len(thin(samples, EVERY)) == 5000 // ONE_IN
    samples["t_ms"] += np.random.default_rng(1).integers(-40, 40, 5000)   # the wire's jitter
    assert 0.9 < len(thin(samples, EVERY)) / 500 < 1.1


def joined(rows):
    return np.concatenate([*(_widened(row) for row in rows), np.empty(0, AGGREGATE)])


@settings(deadline=None)
@given(rows=st.lists(SAMPLES, max_size=6), cut=st.integers(0, 6))
def test_aggregates_are_exact_and_may_be_merged_again(rows, cut):
    once = aggregate(rows, 1000)
    assert [odd(now)["value"].tolist() for now in once] == [odd(was)["value"].tolist() for was in rows]
    once = joined(once)
    twice = joined(aggregate([joined(aggregate(rows[:cut], 1000)), joined(aggregate(rows[cut:], 1000))], 1000))
    whole = np.concatenate(rows) if rows else np.empty(0, SAMPLE)
    good = whole[(whole["flag"] == 1) & (whole["status"] == 0)]
    assert len(odd(once)) == len(odd(whole))
    for got in (once, twice):
        merged = got[(got["flag"] == 1) & (got["status"] == 0)]
        assert sorted(merged["point"].tolist()) == sorted(set(good["point"].tolist()))
        for one in merged:
            mine = good[good["point"] == one["point"]]
            assert (one["n"], one["min"], one["max"]) == (len(mine), mine["value"].min(), mine["value"].max())
            assert one["since_ms"] == mine["t_ms"].min()
            assert one["mean"] == pytest.approx(mine["value"].mean(), abs=1e-6)
    assert decode(encode_samples(once)).tobytes() == once.tobytes()
    assert decode(encode_samples(once)).dtype == AGGREGATE


def stored(seq, rng, total):
    samples = np.zeros(250, SAMPLE)
    samples["t_ms"] = seq * 25_000 + np.arange(250) * 100
    samples["point"], samples["flag"] = np.arange(250) % 5, 1
    samples["value"] = rng.random(250) * 1e6
    samples["flag"][rng.integers(0, 250)] = 3
    return Stored(Row(epoch="e1", lane="data", seq=seq, inventory=3, door=DOOR, count=250,
                      body=encode_samples(samples)), total)


@settings(deadline=None, max_examples=60)
@given(points=st.sampled_from([1, 50, 500]), odd_share=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
       rows=st.integers(1, 16), count=st.sampled_from([20, 250]), seed=st.integers(0, 1 << 30))
def test_merged_rows_fit_a_page_and_say_the_same(points, odd_share, rows, count, seed):
    rng = np.random.default_rng(seed)
    block = []
    for seq in range(16, 16 + rows):
        samples = np.zeros(count, SAMPLE)
        samples["t_ms"] = seq * 1000 + np.sort(rng.integers(0, 1000, count))
        samples["point"] = rng.integers(0, points, count)
        samples["flag"] = np.where(rng.random(count) < odd_share, 3, 1)
        samples["value"] = rng.random(count) * 1e6
        block.append(Stored(Row(epoch="e1", lane="data", seq=seq, inventory=3, door=DOOR, count=count,
                                body=encode_samples(samples)), seq * count))
    changed = merged([(stored, ("county",)) for stored in block])
    was = [decode(stored.row.body) for stored, _ in changed]
    now = [decode(stored.row.body) for _, stored in changed]
    assert sum(len(s.row.body) for _, s in changed) <= sum(len(s.row.body) for s, _ in changed)
    for (before, after), samples in zip(changed, now, strict=True):
        assert len(after.row.body) <= ROW_BYTES
        assert (after.row.seq, after.row.of, after.row.count) == (before.row.seq, count, len(samples))
        assert odd(samples).size == odd(decode(before.row.body)).size
    if changed:
        assert [s.tobytes() for s in now] == [s.tobytes() for s in aggregate(was, 70)]


@pytest.mark.parametrize(("times", "steps"), [(2, {"thinned"}), (8, {"thinned", "aggregated"}),
                                              (40, {"thinned", "aggregated", "quota"})])
def test_what_is_kept_and_what_was_told_is_all_there_was(tmp_path, times, steps):
    """Two platforms at different marks; the store is filled many times over."""
    quota = 1 << 20
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = np.random.default_rng(seed)
    store, gaps, given_up = Store(tmp_path / "journal.sqlite", quota), [], 0
    county, city = Delivery(Cursor(0)), Delivery(Cursor(0))
    store.cursors["county", ("e1", "data")], store.cursors["city", ("e1", "data")] = county, city
    rows = times * quota // 2200
    for seq in range(1, rows + 1, 4):
        group = [stored(n, rng, n * 250) for n in range(seq, seq + 4)]
        if seq < rows // times // 4:
            county.sent.add(1, seq + 3)
        if seq < rows // times // 8:
            city.sent.add(1, seq + 3)
        changes = Changes(state=State(gateway="gw", boot="b", epoch="e1"), rows=group)
        gaps += store.commit(changes, ("county", "city")).gaps
        assert store.file_bytes() <= quota
    held = [row_of(r) for r in store.connection.execute(f"SELECT {COLUMNS} FROM rows ORDER BY id").fetchall()]
    assert None not in held
    extent = store.streams["e1", "data"]
    assert [s.row.seq for s in held] == list(range(extent.oldest, extent.next))
    assert extent.bytes == sum(len(s.row.body) for s in held)
    assert {g.reason for g in gaps} == steps
    told = {reason: sum(g.count for g in gaps if g.reason == reason) for reason in ("thinned", "aggregated", "quota")}
    settled = rows // times // 8 // 4 * 4 + 4   # what both had went silently
    first = min(g.first for g in gaps)
    given_up = sum(told.values())
    kept = sum(s.row.count for s in held)
    silent = 250 * (first - 1) if first <= settled + 1 else 0
    print(told, "kept", kept, "silent", silent)
    assert kept + given_up + silent == 250 * (extent.next - 1)
    assert max(len(s.row.body) for s in held) <= ROW_BYTES
    for s in held:
        assert len(decode(s.row.body)) == s.row.count
        assert s.row.of in (0, 250)
        if s.row.thinned == "thin":
            assert odd(decode(s.row.body)).size == 1
    store.close()
