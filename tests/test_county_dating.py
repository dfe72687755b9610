"""How the reference subscriber's database dates what it keeps, whatever order it hears of things in."""

from __future__ import annotations

import json
from itertools import permutations

import pytest

from gateway.county.database import connect
from gateway.county.messages import Clock, Event, Reading, Row, Rows
from gateway.county.store import Store

BOOT, AT_MS = "b7d0", 50_000
UTC = 1_800_000_000_000


def message(seq, *, lane="data", offset_ms=0, trust="unset", boot=BOOT, at_ms=AT_MS, **event):
    """A row of one record, of this monotonic ms of its boot."""
    t = at_ms + offset_ms
    return Rows(v=1, gateway="gw-1", epoch="6f2a", lane=lane, covers=(seq, seq), inventory=7, boot=boot,
                clock=Clock(trust), rows=[Row(
                    seq=seq, offset_ms=offset_ms,
                    readings=[Reading(point="crack-1", t=t, value=float(seq), quality=1)] * (lane == "data"),
                    events=[Event(id=f"{lane}-{seq}", t=t, **{"kind": "box.start", **event})] * (lane != "data"))])


def told(seq, offset_ms, at_ms, error_ms=5.0, **why):
    """The offset of the boot, as told at this monotonic ms."""
    return message(seq, lane="event", offset_ms=offset_ms, trust="synced", at_ms=at_ms, kind="clock.offset",
                   why={"boot": BOOT, "offset_ms": offset_ms, "error_ms": error_ms, "trust": "synced", **why})


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "county.sqlite")


def times(store):
    return store.db.run("SELECT seq, t FROM readings ORDER BY seq")


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_of_several_offsets_of_a_boot_the_one_told_last_dates_whatever_comes_first(path, order):
    """A hole that is filled later, or two processes that share the work, bring the older word last."""
    said = [message(1), told(1, UTC + 7000, 60_000, 900.0), told(2, UTC, 70_000)]
    store = Store(connect(path))
    for n in order:
        store.keep([said[n]], 0)
    assert times(store) == [(1, UTC + AT_MS)]
    store.keep([message(2)], 0)
    assert times(store)[-1] == (2, UTC + AT_MS)


def test_a_process_dates_by_what_another_learnt_meanwhile(path):
    one, other = Store(connect(path)), Store(connect(path))
    one.keep([told(1, UTC + 7000, 60_000, 900.0), message(1)], 0)
    other.keep([told(2, UTC, 70_000)], 0)
    one.keep([message(2)], 0)
    assert times(other) == [(1, UTC + AT_MS), (2, UTC + AT_MS)]


def test_an_event_says_its_time_in_one_place_only(path):
    """What is kept as it came would still say 1970 after the event was dated."""
    store = Store(connect(path))
    store.keep([message(1, lane="alarm", kind="alarm.raised", text_zh="后山滑坡：红色预警"), told(1, UTC, 60_000)], 0)
    ((t, body),) = store.db.run("SELECT t, body FROM events WHERE lane = 'alarm'")
    assert t == UTC + AT_MS
    assert "t" not in json.loads(body)
    assert json.loads(body)["text_zh"] == "后山滑坡：红色预警"


def test_rows_that_knew_their_time_and_those_of_another_boot_are_left_alone(path):
    store = Store(connect(path))
    store.keep([message(1, trust="holdover", offset_ms=UTC - 400), message(2, boot="other"), message(3),
                told(1, UTC, 60_000)], 0)
    assert times(store) == [(1, UTC - 400 + AT_MS), (2, AT_MS), (3, UTC + AT_MS)]
