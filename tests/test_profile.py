"""The default profile: one golden message a topic, shown in gateway/uplink/CONTRACT.md and kept true here."""

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
from gateway.uplink.profile import Mark, Order, Outcome, Receipt, Talk, TimeAnswer
from gateway.uplink.profiles.columns import Meaning
from gateway.uplink.profiles.default import Default

CONTRACT = Path(__file__).parent.parent / "gateway" / "uplink" / "CONTRACT.md"
DOOR = Door("b7d0", 1_760_000_000_000, "synced")
INVENTORY = Inventory(7, (
    InventoryPoint(point="crack-1", name="1号裂缝位移", object="slope", unit="mm", resolution=0.01, poll_s=0.5,
                   report_every_s=0, low=0, high=200, model="crack-cable", read="crack.displacement"),
    InventoryPoint(point="rain-1", name="雨量", object="slope", unit="mm", resolution=0.5, poll_s=1, report_every_s=60,
                   counter=True)))
MEANING = Meaning(INVENTORY, 7)
NAMES = {p.point: p.name for p in INVENTORY.points}
PROFILE, COMPACT = (Default("mingluo", "430726-001", NAMES, compact=compact) for compact in (False, True))
TALK = Talk("3c9e", DOOR.offset_ms + 60_000, DOOR)
ORDER = Order(id="c7", name="silence", by="李明", role="值班员", expires=1_760_000_120_000,
              arguments={"object": "slope", "for_s": 600})
DONE = Outcome(ok=True, text_en="silenced", text_zh="已消音")
HEARD = {"stored": Receipt((Mark("6f2a", "data", 17, ((20, 24),)),)), "cmd/silence": ORDER,
         "time/answer": TimeAnswer("q1", 1_760_000_060_000)}


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
    rows, never = [row()], lambda _: False
    state, birth = PROFILE.hello(TALK, {
        "name": "雷家山监测站", "objects": [{"object": "slope", "name": "后山滑坡", "people": 126}],
        "promises": {"commit_s": 10, "settled_on": "stored"}, "link": "normal", "nonce": "8c1f",
        "streams": [{"epoch": "6f2a", "lane": "data", "oldest_seq": 1, "next_seq": 18, "closed": False}]})
    said = [
        state, birth, *PROFILE.inventory(INVENTORY, lambda _: True),
        PROFILE.message("data", rows, [PROFILE.row(row(), data, MEANING, never)]),
        PROFILE.message("event", [row("alarm", 3)], [
            PROFILE.row(row("alarm", 3), [event], MEANING, lambda t_ms: t_ms < 3000)]),
        PROFILE.warn(present, DOOR, 3000, 180), PROFILE.diag(TALK, {"backlog_rows": 0}),
        PROFILE.ask_time("q1", DOOR), PROFILE.reply(ORDER, DONE, TALK.t)]
    out = {message.topic.removeprefix("mingluo/1/430726-001/"): message.payload for message in said}
    compact = COMPACT.message("data", rows, [COMPACT.row(row(), data, MEANING, never)])
    return out | {"data, compact": compact.payload}


def shown():
    found = re.findall(r"^`\{…\}/([^`]+)`\s.*?```json\n(.*?)\n```", CONTRACT.read_text("utf-8"), re.S | re.M)
    return {topic: json.loads(text) for topic, text in found}


def test_the_contract_shows_every_topic_as_it_is():
    want = {topic: json.loads(body) for topic, body in golden().items()}
    told = shown()
    assert want == {topic: body for topic, body in told.items() if topic not in (*HEARD, "cmd/replay")}
    for topic, heard in HEARD.items():
        assert heard == PROFILE.hear(PROFILE.topic(topic), json.dumps(told[topic]).encode())


def test_chinese_is_not_escaped():
    for topic in ("birth", "inventory/7", "event", "warn/slope"):
        text = golden()[topic].decode("utf-8")
        assert "\\u" not in text
        assert re.search(r"[\u4e00-\u9fff]", text), topic


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 1), st.sampled_from([1, 2, 3, 4, 9]),
                          st.integers(0, len(REASONS) - 1), st.integers(0, 2),
                          st.one_of(st.just(float("nan")), st.floats(-1e6, 1e6))), min_size=1))
def test_every_reading_says_what_it_is_worth(tuples):
    body = json.loads(PROFILE.row(row(), samples(*tuples), MEANING, lambda _: False).content)
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


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 1), st.sampled_from([1, 2, 3, 4, 9]),
                          st.integers(0, len(REASONS) - 1), st.integers(0, 2),
                          st.one_of(st.just(float("nan")), st.floats(-1e6, 1e6))), min_size=1))
def test_compact_says_the_same(tuples):
    """Whoever knows the inventory gets the same readings from columns as from names."""
    data = samples(*tuples)
    plain = json.loads(PROFILE.row(row(), data, MEANING, lambda _: False).content)["readings"]
    body = json.loads(COMPACT.row(row(), data, MEANING, lambda _: False).content)
    marks = {k: rest for first, count, *rest in body.get("marks", ()) for k in range(first, first + count)}
    got = []
    for dt, first, values in body["scans"]:
        for n, value in enumerate(values):
            quality, reason, status = marks.get(len(got), (1, "", "Actual"))
            one = {"point": INVENTORY.points[first + n].point, "t": body["t0"] + dt, "value": value, "quality": quality,
                   "status": status}
            got.append(one | ({"reason": reason} if reason else {}))
    assert plain == got


def test_rows_of_which_nothing_is_left_are_covered():
    assert PROFILE.row(row(), samples(), MEANING, lambda _: False) is None
    part = PROFILE.row(row(seq=6), samples((1, 0, 1, 0, 0, 1.0)), MEANING, lambda _: False)
    body = json.loads(PROFILE.message("data", [row(seq=5), row(seq=6)], [None, part]).payload)
    assert (body["covers"], [r["seq"] for r in body["rows"]]) == ([5, 6], [6])


@pytest.mark.parametrize(("topic", "payload", "match"), [
    ("stored", b"{", "truncated"), ("stored", b'{"v":2,"streams":[]}', "v"), ("cmd/ack", b"[]", "object"),
    ("stored", b'{"v":1,"streams":[{"epoch":"a","lane":"data","up_to":-1}]}', "up_to"),
    ("stored", b'{"v":1,"streams":[{"epoch":"a","lane":"data","up_to":1,"ranges":[[1,1099511627776]]}]}', "ranges"),
    ("time/answer", b'{"v":1,"id":"a","utc_ms":"now"}', "utc_ms"), ("cmd/ack", b'{"v":1}', "id"),
    ("cmd/ack", b'\xff', "cmd/ack")])
def test_what_cannot_be_read_says_why(topic, payload, match):
    with pytest.raises(ValueError, match=match):
        PROFILE.hear(PROFILE.topic(topic), payload)


def test_message_is_whole_rows_and_says_which():
    rows = [row(seq=n) for n in (5, 6, 7)]
    parts = [PROFILE.row(r, samples((r.seq, 0, 1, 0, 0, r.seq)), MEANING, lambda _: False) for r in rows]
    body = json.loads(PROFILE.message("data", rows, parts).payload)
    assert body["covers"] == [5, 7]
    assert [r["seq"] for r in body["rows"]] == [5, 6, 7]
    assert body["clock"] == {"trust": "synced"}


def test_a_point_beyond_the_inventory_is_an_error_not_another_point():
    with pytest.raises(ValueError, match="beyond inventory 7"):
        PROFILE.row(row(), samples((0, 2, 1, 0, 0, 1.0)), MEANING, lambda _: False)


def test_unknown_inventory_keeps_the_readings():
    body = json.loads(PROFILE.row(row(), samples((0, 2, 1, 0, 0, 1.25)), Meaning(None, 9), lambda _: False).content)
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
