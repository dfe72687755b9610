"""The default profile: one golden message a topic, shown in gateway/uplink/README.md and kept true here."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import (
    REASONS,
    SAMPLE,
    STATUSES,
    Colour,
    Door,
    Event,
    Inventory,
    InventoryPoint,
    PresentObject,
    Reason,
    Row,
    Why,
)
from gateway.uplink.profiles.default import Default, Meaning

README = Path(__file__).parent.parent / "gateway" / "uplink" / "README.md"
DOOR = Door("b7d0", 1_760_000_000_000, "synced")
INVENTORY = Inventory(7, (
    InventoryPoint(point="crack-1", name="1号裂缝位移", object="slope", unit="mm", resolution=0.01, poll_s=0.5,
                   report_every_s=0, low=0, high=200, model="crack-cable", read="crack.displacement"),
    InventoryPoint(point="rain-1", name="雨量", object="slope", unit="mm", resolution=0.5, poll_s=1, report_every_s=60,
                   counter=True)))
MEANING = Meaning(INVENTORY, 7)
PROFILE = Default("mingluo", "430726-001", {p.point: p.name for p in INVENTORY.points})


def row(lane="data", seq=17):
    return Row(epoch="6f2a", lane=lane, seq=seq, inventory=7, door=DOOR, count=2, body=b"")


def samples(*tuples):
    return np.array(list(tuples), SAMPLE)


def golden():
    data = samples((1000, 0, 1, 0, 0, 10.8649), (2000, 1, 9, REASONS.index(Reason.NO_ANSWER), 0, np.nan))
    event = Event(id="a1-1", kind="alarm.raised", t_ms=2500, object="slope", alarm="a1", colour=Colour.RED,
                  was=Colour.ORANGE, text_zh="后山滑坡：红色预警", text_en="slope: red",
                  why={"rule": "crack-level", "value": 63.2, "limit": 60})
    present = PresentObject(object="slope", name="后山滑坡", hazard="slope", service="in_service", status="Actual",
                            colour=Colour.ORANGE, alarm="a1", alarm_colour=Colour.RED, acknowledged=True, since_ms=2500,
                            why=(Why(rule="crack-level", point="crack-1", value=58.2, limit=40, unit="mm"),),
                            lost=("rain-1",))
    data_message = PROFILE.message(row(), 17, [PROFILE.row(row(), data, MEANING, lambda _: False)])
    return {
        "state": PROFILE.state(True, "3c9e", since=DOOR.offset_ms + 500),
        "birth": PROFILE.birth({"name": "雷家山监测站", "objects": [{"id": "slope", "name": "后山滑坡", "people": 126}],
                                "commit_s": 10, "streams": [
                                    {"epoch": "6f2a", "lane": "data", "oldest_seq": 1, "next_seq": 18}]},
                               "3c9e", DOOR.offset_ms + 500, DOOR),
        "inventory/7": PROFILE.inventory(INVENTORY),
        "data": data_message,
        "backlog": data_message,
        "event": PROFILE.message(row("alarm", 3), 3, [
            PROFILE.row(row("alarm", 3), [event], MEANING, lambda t_ms: t_ms < 3000)]),
        "warn/slope": PROFILE.warn(present, 3000, DOOR, 180),
        "diag": PROFILE.diag(DOOR.offset_ms + 60_000, DOOR, {"backlog_rows": 0}),
    }


def shown():
    found = re.findall(r"^`\{…\}/(\S+)` [^`].*?```json\n(.*?)\n```", README.read_text("utf-8"), re.S | re.M)
    return {topic: json.loads(text) for topic, text in found}


def test_readme_shows_every_topic_as_it_is():
    want = {topic: json.loads(body) for topic, body in golden().items() if topic != "backlog"}
    assert want == shown()


def test_chinese_is_not_escaped():
    for topic in ("birth", "inventory/7", "event", "warn/slope"):
        text = golden()[topic].decode("utf-8")
        assert "\\u" not in text
        assert re.search(r"[\u4e00-\u9fff]", text), topic


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 1), st.sampled_from([1, 2, 3, 4, 9]),
                          st.integers(0, len(REASONS) - 1), st.integers(0, 2),
                          st.one_of(st.just(float("nan")), st.floats(-1e6, 1e6)))))
def test_every_reading_says_what_it_is_worth(tuples):
    body = json.loads(PROFILE.row(row(), samples(*tuples), MEANING, lambda _: False))
    assert len(tuples) == len(body["readings"])
    for (t, point, flag, reason, status, value), got in zip(tuples, body["readings"], strict=True):
        assert t + DOOR.offset_ms == got["t"]
        assert INVENTORY.points[point].point == got["point"]
        assert flag == got["quality"]
        assert STATUSES[status] == got["status"]
        assert REASONS[reason].value == got.get("reason", "")
        if np.isnan(value):
            assert got["value"] is None
        else:
            decimals = (2, 1)[point]
            assert abs(got["value"] - value) <= 0.5 * 10 ** -decimals + 1e-9
            assert len(repr(got["value"]).partition(".")[2]) <= decimals, "no tail of binary digits"


def test_message_is_whole_rows_and_says_which():
    rows = [row(seq=n) for n in (5, 6, 7)]
    parts = [PROFILE.row(r, samples((r.seq, 0, 1, 0, 0, r.seq)), MEANING, lambda _: False) for r in rows]
    body = json.loads(PROFILE.message(rows[0], 7, parts))
    assert body["covers"] == [5, 7]
    assert [r["seq"] for r in body["rows"]] == [5, 6, 7]
    assert body["clock"] == {"trust": "synced"}


def test_a_point_beyond_the_inventory_is_an_error_not_another_point():
    with pytest.raises(ValueError, match="beyond inventory 7"):
        PROFILE.row(row(), samples((0, 2, 1, 0, 0, 1.0)), MEANING, lambda _: False)


def test_unknown_inventory_keeps_the_readings():
    body = json.loads(PROFILE.row(row(), samples((0, 2, 1, 0, 0, 1.25)), Meaning(None, 9), lambda _: False))
    assert (body["readings"][0]["point"], body["readings"][0]["value"]) == ("9#2", 1.25)


@pytest.mark.timing
def test_fifty_readings_encode_within_150_us():
    many = np.zeros(50, SAMPLE)
    many["t_ms"], many["point"], many["flag"] = np.arange(50) * 20, np.arange(50) % 2, 1
    many["value"] = np.linspace(0, 100, 50)
    best = min(_timed(lambda: PROFILE.row(row(), many, MEANING, lambda _: False)) for _ in range(200))
    print(f"50 readings: {best * 1e6:.0f} us")
    assert best <= 150e-6


def _timed(work):
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
