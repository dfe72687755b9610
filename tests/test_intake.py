"""Rows are as large as a flash page and a message allow, whatever they hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.journal.intake import EVENT_BYTES, MESSAGE_BYTES, MOST, ROW_BYTES, Intake, most_readings
from gateway.journal.rows import decode, decode_events
from gateway.model import REASONS, SAMPLE, Door, Event, Inventory, InventoryPoint
from gateway.uplink.profiles.default import Default

DOOR = Door("b", 0, "synced")


def made(kind, count, rng):
    out = np.zeros(count, SAMPLE)
    if kind == "noise":
        out = np.frombuffer(rng.bytes(count * SAMPLE.itemsize), SAMPLE).copy()
        out["value"] = rng.random(count) * 10.0 ** rng.integers(-9, 9, count)
    elif kind == "slow":
        out["value"], out["t_ms"] = np.cumsum(rng.integers(-2, 3, count)) / 10, np.arange(count) * 20
    return out


@settings(max_examples=60, deadline=None)
@given(calls=st.lists(st.tuples(st.sampled_from(["noise", "slow", "still"]), st.integers(1, 700)), min_size=1,
                      max_size=12), seed=st.integers(0, 1 << 30))
def test_a_data_row_fits_a_page_and_a_message(calls, seed):
    rng = np.random.default_rng(seed)
    intake, sent = Intake("e"), []
    for kind, count in calls:
        samples = made(kind, count, rng)
        sent.append(samples)
        parts = intake.add_samples(DOOR, 1, samples, 0.0)
        assert sum(part.count for part in parts) == count
    intake.close()
    rows = [row.stored().row for row in intake.take(1 << 30)]
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
    assert max(len(row.body) for row in rows) <= ROW_BYTES
    assert max(row.count for row in rows) <= MOST
    assert b"".join(s.tobytes() for s in sent) == b"".join(decode(row.body).tobytes() for row in rows)


def test_readings_that_compress_share_a_row():
    intake = Intake("e")
    intake.add_samples(DOOR, 1, np.zeros(10 * MOST, SAMPLE), 0.0)
    intake.close()
    assert [row.count for row in intake.take(1 << 30)] == [MOST] * 10


@settings(max_examples=60, deadline=None)
@given(name=st.integers(1, 97), count=st.integers(1, 40), resolution=st.sampled_from([0.001, 0.1, 1.0]),
       kind=st.sampled_from(["good", "doubted", "missing"]), seed=st.integers(0, 1 << 30))
def test_a_row_told_in_plain_json_fits_a_message(name, count, resolution, kind, seed):
    """However long the names are, and whatever is said of the readings."""
    inventory = Inventory(3, tuple(InventoryPoint(point=f"{n:x}".rjust(name, "p"), name="", object="", unit="mm",
                                                  resolution=resolution, poll_s=1, report_every_s=0)
                                   for n in range(count)))
    rng = np.random.default_rng(seed)
    samples = np.zeros(600, SAMPLE)
    samples["t_ms"], samples["point"] = np.arange(600) * 20, rng.integers(0, count, 600)
    samples["value"], samples["flag"] = np.round(rng.random(600) * 1e6) * resolution, 1
    if kind != "good":
        samples["flag"], samples["reason"] = 3, REASONS.index("under_range")
    if kind == "missing":
        samples["flag"], samples["value"] = 9, np.nan
        samples["reason"] = max(range(len(REASONS)), key=lambda n: len(REASONS[n]))
        samples["status"] = 1
    intake = Intake("e")
    intake.add_samples(Door("b", 1_760_000_000_000, "synced"), 3, samples, 0.0, most_readings(inventory))
    intake.close()
    profile = Default("mingluo", "gw-1")
    meaning = profile.meaning(inventory, 3)
    for pending in intake.take(1 << 30):
        row = pending.stored().row
        assert len(row.body) <= ROW_BYTES
        assert profile.row(row, decode(row.body), meaning, lambda _: False).size_bytes <= MESSAGE_BYTES


@pytest.mark.parametrize(("size", "most", "least"), [(10, 1, 1), (1000, 20, 13), (3900, 50, 50)])
def test_many_events_are_many_rows(size, most, least):
    rng = np.random.default_rng(1)
    events = [Event(id=str(n), kind="point.lost", t_ms=n, text_en=rng.bytes(size // 2).hex()) for n in range(50)]
    intake = Intake("e")
    parts = intake.add_events(DOOR, 1, "event", events, 0.0)
    bodies = [row.stored().row.body for row in intake.take(1 << 30)]
    assert len(parts) == len(bodies)
    assert least <= len(bodies) <= most
    assert max(map(len, bodies)) <= ROW_BYTES
    assert [e for body in bodies for e in decode_events(body)] == events


def test_an_endless_event_is_cut_and_says_so():
    intake = Intake("e")
    intake.add_events(DOOR, 1, "alarm", [Event(id="1", kind="alarm.raised", t_ms=1, text_zh="红" * 20_000,
                                               why={"trace": "x" * 100_000})], 0.0)
    (event,) = decode_events(intake.take(1 << 30)[0].stored().row.body)
    assert event.why["keys"] == ["trace"]
    assert "left out" in event.why["cut"]
    assert len(event.text_zh) <= EVENT_BYTES


@settings(max_examples=60, deadline=None)
@given(field=st.sampled_from(["id", "object", "who", "text_zh", "text_en", "keys", "why"]), size=st.integers(0, 60_000),
       others=st.integers(0, 60))
def test_no_event_is_too_long_for_a_row_nor_lost(field, size, others):
    why = {"keys": {"k" * size: 1, **{f"k{n}": n for n in range(300)}}, "why": {"x": "值" * size}}.get(field, {"x": 1})
    more = {field: "长" * size} if field not in ("keys", "why") else {}
    long = Event(**{"id": "1", "kind": "alarm.raised", "t_ms": 1, "why": why, **more})
    small = [Event(id=f"s{n}", kind="alarm.raised", t_ms=n) for n in range(others)]
    intake = Intake("e")
    parts = intake.add_events(DOOR, 1, "alarm", [*small, long, *small], 0.0)
    rows = [pending.stored().row for pending in intake.take(1 << 30)]
    events = [decode_events(row.body) for row in rows]
    assert [part.count for part in parts] == [len(e) for e in events]
    for row, said in zip(rows, events, strict=True):
        assert len(row.body) <= (ROW_BYTES if len(said) > 1 else EVENT_BYTES)
    told = [e for said in events for e in said]
    assert [e for e in told if e.id.startswith("s")] == small * 2
    (kept,) = (e for e in told if not e.id.startswith("s"))
    assert kept == long or "left out" in kept.why["cut"]
