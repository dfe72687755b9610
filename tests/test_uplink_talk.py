"""What a platform says to the box, and what it does not get to see: against a real broker."""

import threading
import time

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from gateway.config import Filter, Position
from gateway.model import Colour, Door, Event, Inventory, InventoryPoint, Present, PresentObject
from gateway.orders import Orders
from gateway.uplink.profile import Order, Outcome
from hil.broker import Broker
from tests.uplink_site import BOOT, INVENTORY, Memory, Verdict, event, listener, samples, until, uplink


@pytest.fixture
def broker(tmp_path):
    with Broker(folder=tmp_path / "broker", prefer="mosquitto") as running:
        yield running


def seqs(got, *topics):
    return [row["seq"] for m in got.of(*topics) for row in m["rows"]]


def test_rows_come_again_when_asked_and_live_goes_on_in_order(broker):
    memory = Memory()
    memory.commit(*(samples(n) for n in range(30)))
    with listener(broker.port) as got, uplink(memory, broker.port, backlog_messages_per_s=500):
        until(lambda: memory.count_settled() == 30)
        memory.commit(samples(31))
        until(lambda: seqs(got, "data") == [31])
        got.say("cmd/replay", {"v": 1, "id": "r1", "epoch": "e1", "lane": "data", "ranges": [[5, 9], [31, 33]]})
        (answer,) = until(lambda: got.of("resp/replay"))
        memory.commit(samples(32))
        until(lambda: seqs(got, "data") == [31, 32])
        until(lambda: len(seqs(got, "backlog")) == 36)
    assert (answer["id"], answer["ok"]) == ("r1", True)
    assert [n for a, b in answer["replayed"] for n in range(a, b + 1)] == [5, 6, 7, 8, 9, 31]
    assert [n for a, b in answer["gone"] for n in range(a, b + 1)] == [32, 33]
    assert seqs(got, "backlog")[30:] == [5, 6, 7, 8, 9, 31]
    assert memory.count_settled() == 32


def test_what_is_in_flight_is_not_sent_a_second_time_on_one_connection(broker):
    memory = Memory()
    memory.commit(*(samples(n) for n in range(2000)))
    with listener(broker.port) as got, uplink(memory, broker.port, backlog_messages_per_s=1000) as (up, _):
        until(lambda: memory.count_settled() > 200)
        got.say("cmd/replay", {"v": 1, "id": "r1", "epoch": "e1", "lane": "data", "ranges": [[1, 10]]})
        until(lambda: up.health().backlog_rows == 0 and got.of("resp/replay"))
    sent = seqs(got, "backlog")
    assert sorted(sent) == sorted([*range(1, 2001), *range(1, 11)])


def test_receipts_reach_the_journal_and_a_refused_one_is_told_once(broker):
    memory = Memory()
    memory.commit(samples(1))
    receipt = {"v": 1, "streams": [{"epoch": "e1", "lane": "data", "up_to": 1, "ranges": [[3, 4]]}]}
    with listener(broker.port) as got, uplink(memory, broker.port) as (up, reports):
        until(lambda: memory.count_settled() == 1)
        got.say("stored", receipt)
        until(lambda: memory.receipts == [("e1", "data", 1, ((3, 4),))])
        memory.verdict = Verdict("beyond what was sent")
        got.say("stored", receipt)
        got.say("stored", receipt)
        until(lambda: len(memory.receipts) == 3)
        assert [why["reason"] for kind, why in reports if kind == "uplink.receipt_refused"] == ["beyond what was sent"]
        got.say("stored", {"v": 1, "streams": "all"})
        until(lambda: up.health().unreadable == 1)


def test_a_platform_that_lost_its_database_gets_the_rows_again(broker):
    memory = Memory()
    memory.commit(samples(1), samples(2))
    with listener(broker.port) as got, uplink(memory, broker.port):
        until(lambda: memory.count_settled() == 2)
        memory.verdict = Verdict(again=True)
        memory.settled["e1", "data"].discard(2)
        got.say("stored", {"v": 1, "streams": [{"epoch": "e1", "lane": "data", "up_to": 1}]})
        until(lambda: seqs(got, "backlog") == [1, 2, 2])


def test_a_broker_that_forgot_us_has_what_it_did_not_confirm_sent_again(tmp_path):
    memory = Memory()
    with Broker(folder=tmp_path / "b", prefer="mosquitto") as broker, uplink(memory, broker.port) as (up, _):
        until(lambda: up.health().connected)
        assert memory.rewound == 1


def test_what_may_not_be_asked_is_refused_and_what_may_is_answered(broker):
    asked = []

    def command(order, answer):
        asked.append((order.name, dict(order.arguments), order.by))
        threading.Thread(target=answer, args=(Outcome(ok=True, text_en="silenced", text_zh="已消音"),)).start()

    with listener(broker.port) as got, uplink(Memory(), broker.port, commands=("silence",),
                                              sources={"command": command}) as (up, _):
        until(lambda: up.health().connected)
        until(lambda: got.of("birth"))
        got.say("cmd/clear", {"v": 1, "id": "c1", "by": "李明", "object": "slope"})
        got.say("cmd/silence", {"v": 1, "id": "c2", "by": "李明", "object": "slope"})
        until(lambda: len(got.of("resp/clear", "resp/silence")) == 2)
    (no,), (yes,) = got.of("resp/clear"), got.of("resp/silence")
    assert (no["id"], no["ok"], "commands" in no["text_zh"]) == ("c1", False, True)
    assert (yes["id"], yes["ok"], yes["text_zh"]) == ("c2", True, "已消音")
    assert asked == [("silence", {"object": "slope"}, "李明")]


TWO = Inventory(5, tuple(InventoryPoint(point=f"p-{name}", name=name, object=name, unit="mm", resolution=1.0, poll_s=1,
                                        report_every_s=0) for name in ("slope", "dam")))


class TwoObjects(Memory):
    """Readings of two objects, and a snapshot of each."""

    def inventory(self, n):
        return TWO

    def both(self, value):
        out = samples(value, value + 1)
        out["point"] = (0, 1)
        return out


def present():
    return Present(t_ms=round(time.monotonic() * 1000), objects=tuple(PresentObject(
        object=o, name=o, hazard=hazard, service="in_service", status="Actual", colour=Colour.NONE)
        for o, hazard in (("slope", "slope"), ("dam", "reservoir"))))


def test_a_filter_shows_one_object_and_covers_the_rest(broker):
    memory = TwoObjects()
    only_dam = samples(7)
    only_dam["point"] = 1
    memory.commit(memory.both(1), only_dam, memory.both(3))
    memory.commit([Event(id=o, kind="point.lost", t_ms=1, object=o) for o in ("slope", "dam", "")], lane="event")
    facts = {"objects": [{"object": o, "position": Position(lat=29.59123, lon=111.38456, datum="cgcs2000")}
                         for o in ("slope", "dam")],
             "streams": [{"lane": lane} for lane in ("alarm", "event", "data")], "promises": {"commit_s": 10}}
    with listener(broker.port) as got, uplink(
            memory, broker.port, present=present, filter=Filter(hazards=("slope",), position_decimals=2),
            sources={"hazards": {"slope": "slope", "dam": "reservoir"}, "birth": lambda: facts}):
        until(lambda: memory.count_settled() == 3 and memory.count_settled("event") == 1)
        until(lambda: got.of("warn/slope") and got.of("backlog") and got.of("event"))
    (message,), (birth, *_) = got.of("backlog"), got.of("birth")
    assert message["covers"] == [1, 3]
    assert [(r["seq"], [x["point"] for x in r["readings"]]) for r in message["rows"]] == [(1, ["p-slope"]),
                                                                                         (3, ["p-slope"])]
    assert [e["id"] for e in got.of("event")[0]["rows"][0]["events"]] == ["slope", ""]
    assert got.of("warn/dam") == []
    assert birth["objects"] == [{"object": "slope", "position": {"lat": 29.59, "lon": 111.38, "datum": "cgcs2000"}}]
    assert [p and p["point"] for p in got.of("inventory/5")[0]["points"]] == ["p-slope", None]


def test_a_lane_that_is_not_wanted_is_settled_unsent(broker):
    memory = Memory()
    memory.commit(samples(1), samples(2))
    memory.commit(event(1), lane="alarm")
    with listener(broker.port) as got, uplink(memory, broker.port, filter=Filter(lanes=("alarm",))) as (up, _):
        until(lambda: memory.count_settled() == 2 and memory.count_settled("alarm") == 1)
        until(lambda: got.of("event"))
        assert up.health().sent_rows == 1
    assert got.of("data", "backlog") == []


def test_compressed_and_compact(broker):
    memory = Memory()
    memory.commit(*(samples(*range(50)) for _ in range(10)))
    with listener(broker.port) as got, uplink(memory, broker.port, compress=True, compact=True) as (up, _):
        until(lambda: got.of("backlog"))
        until(lambda: up.health().sent_rows == 10)   # counted when it is handed over, and it may be heard before
    message = got.of("backlog")[0]
    assert message["compact"] is True
    values = [v for row in message["rows"] for _, _, scan in row["scans"] for v in scan]
    assert values == [float(n) for n in range(50)] * 10


def test_birth_is_said_again_when_a_promise_changes(broker):
    commit = [10.0]
    with listener(broker.port) as got, uplink(Memory(), broker.port, sources={
            "birth": lambda: {"promises": {"commit_s": commit[0]}}}):
        until(lambda: got.of("birth"))
        commit[0] = 1.0
        until(lambda: got.of("birth")[-1]["promises"] == {"commit_s": 1.0, "settled_on": "puback"})


class ByTime:
    """A language that files by time; otherwise the default one."""

    keyed_by_time = True

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_undated_rows_wait_for_a_date_where_time_is_the_key(broker):
    memory = Memory()
    memory.commit(samples(1), samples(2), door=Door(BOOT, 0, "unset"))
    memory.commit(samples(3), epoch="e0", door=Door("boot-0", 0, "unset"))
    memory.commit(samples(4), epoch="e-1", door=Door("boot-x", 0, "unset"))
    memory.commit(event(1), lane="alarm", door=Door(BOOT, 0, "unset"))
    memory.offsets["boot-x"] = (1_760_000_000_000, 5.0)
    with listener(broker.port) as got, uplink(memory, broker.port, speak=ByTime) as (_, reports):
        until(lambda: memory.count_settled("alarm") == 1)
        assert memory.count_settled() == 0
        memory.offsets[BOOT] = (1_770_000_000_000, 5.0)
        until(lambda: memory.count_settled() == 2)
        until(lambda: memory.count_settled(epoch="e-1") == 1)
        until(lambda: [why["epoch"] for kind, why in reports if kind == "uplink.set_aside"] == ["e0"])
        until(lambda: len(seqs(got, "backlog")) == 3)
    told = {m["epoch"]: m["rows"][0]["readings"][0]["t"] for m in got.of("backlog")}
    assert told["e1"] > 1_770_000_000_000
    assert 1_760_000_000_000 < told["e-1"] < 1_770_000_000_000


def test_orders_name_who_asked_and_refuse_what_is_malformed():
    done, answers = [], []
    orders = Orders(lambda command, _: done.append(command), lambda request, answer: answer({"ok": True, **request}))
    say = answers.append
    orders.do("county", Order(id="c1", name="ack", by="李明", role="值班员", arguments={"object": "slope"}), say)
    assert (done[0].kind, done[0].who, done[0].object) == ("acknowledge", "李明, 值班员, county", "slope")
    orders.do("county", Order(id="c2", name="read_now", arguments={"device": "rain"}), say)
    assert answers.pop().more["device"] == "rain"
    for name, arguments in (("ack", {}), ("service", {"object": "slope", "service": "gone"}), ("dance", {}),
                            ("silence", {"object": "slope", "for_s": -1}), ("ack", {"object": "slope", "x": 1})):
        orders.do("county", Order(id="c3", name=name, arguments=arguments), say)
        assert not answers.pop().ok, name
    assert len(done) == 1


def test_hostile_input_is_counted_and_bounded(broker):
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    memory = Memory()
    with uplink(memory, broker.port) as (up, _):
        until(lambda: up.health().connected)
        for payload in (b"", b"\xff\xfe", b"[" * 1000, b'{"v":1}', b"null",
                        b'{"v":1,"streams":[' + b"1," * 5000 + b"1]}"):
            client.publish("mingluo/1/gw-1/stored", payload, qos=1).wait_for_publish(5)
        until(lambda: up.health().unreadable == 6)
        memory.commit(samples(1))
        until(lambda: memory.count_settled() == 1)
    client.loop_stop()
    assert INVENTORY.n == 5
