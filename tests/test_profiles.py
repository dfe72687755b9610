"""Two languages beside the default: golden messages, what is lost in translation (nothing), and several at once."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from gateway.config import Platform
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
from gateway.uplink import profiles
from gateway.uplink.profile import Outcome, Talk
from gateway.uplink.profiles.senml import UNITS
from hil.broker import Broker, free_port
from hil.proxy import Proxy
from tests.uplink_site import BOOT, Memory, event, listener, samples, until, uplink

GOLDEN = Path(__file__).parent / "golden"
DOOR = Door("b7d0", 1_760_000_000_000, "synced")
INVENTORY = Inventory(7, tuple(InventoryPoint(point=p, name=p, object=o, unit=u, resolution=0.01, poll_s=1,
                                              report_every_s=0)
                               for p, o, u in (("crack-1", "slope", "mm"), ("gas-1", "well", "%LEL"),
                                               ("pressure", "well", "kPa"))))
TALK = Talk("3c9e", DOOR.offset_ms + 60_000, DOOR)
FACTS = {"name": "雷家山监测站", "version": "0.1.0", "promises": {"commit_s": 10}, "objects": [
    {"object": "slope", "name": "后山滑坡", "hazard": "slope", "people": 126,
     "position": {"lat": 29.59, "lon": 111.38, "datum": "cgcs2000"}},
    {"object": "well", "name": "阀井", "hazard": "gas"}]}


def profile(name):
    return profiles.make(Platform(id="p", host="h", port=1, profile=name), "mingluo", "gw-1", {})


def row(lane="data", seq=17, door=DOOR):
    return Row(epoch="6f2a", lane=lane, seq=seq, inventory=7, door=door, count=1, body=b"")


def conversation(p):
    """Everything a platform hears in a short life."""
    missing = REASONS.index(Reason.NO_ANSWER)
    data = np.array([(1000, 0, 1, 0, 0, 10.8649), (1000, 1, 1, 0, 0, 12.0), (2000, 0, 9, missing, 0, np.nan),
                     (2000, 2, 3, REASONS.index(Reason.RATE), 0, 101.5), (3000, 0, 1, 0, 0, 10.9),
                     (3000, 1, 1, 0, 2, 60.0)], SAMPLE)
    happened = [Event(id="a1-1", kind="alarm.raised", t_ms=2500, object="slope", alarm="a1", colour=Colour.RED,
                      text_zh="后山滑坡：红色预警", text_en="slope: red"),
                Event(id="b1", kind="box.start", t_ms=100, text_zh="网关启动", text_en="the gateway has started")]
    present = PresentObject(object="slope", name="后山滑坡", hazard="slope", service="in_service", status="Actual",
                            colour=Colour.RED, alarm="a1", alarm_colour=Colour.RED, since_ms=2500,
                            why=(Why(rule="crack-level", point="crack-1", value=63.2, limit=60, unit="mm"),))
    meaning, never = p.meaning(INVENTORY, 7), lambda _: False
    said = [p.will("3c9e"), *p.hello(TALK, FACTS), *p.inventory(INVENTORY, lambda _: True),
            p.message("data", [row()], [p.row(row(), data, meaning, never)]),
            p.message("event", [row("alarm", 3)], [p.row(row("alarm", 3), happened, meaning, never)]),
            p.warn(present, DOOR, 3000, 180.0),
            p.diag(TALK, {"gateway": {"uptime_s": 12.5}, "journal": {"rows": 3, "bytes": 8192}}), *p.bye(TALK)]
    return [[m.topic, m.retain, m.qos, m.content_type, json.loads(m.payload)] for m in said if m is not None]


@pytest.mark.parametrize("name", ["thingsboard", "senml"])
def test_golden_messages(name):
    """One conversation a language, message by message; to change one on purpose, change its file."""
    assert conversation(profile(name)) == json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


SAMPLES = st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 2), st.sampled_from([1, 1, 2, 3, 4, 9]),
                             st.integers(0, len(REASONS) - 1), st.sampled_from([0, 0, 1, 2]),
                             st.floats(-1e5, 1e5)), min_size=1, max_size=60, unique_by=lambda r: (r[0], r[1])).map(
    lambda rows: np.array(sorted(rows), SAMPLE))


def resolved(pack):
    """RFC 8428 §4.6, independently: records with every base field worked in."""
    base, out = {"bn": "", "bt": 0, "bu": None}, []
    for record in pack:
        base |= {k: record[k] for k in base if k in record}
        assert set(record) & {"v", "vs", "vb", "vd", "s"}, "a record has a value or a sum"
        name = base["bn"] + record.get("n", "")
        assert name
        assert name[0].isalnum()
        assert all(c.isalnum() or c in "-:./_" for c in name)
        out.append({"n": name, "t": base["bt"] + record.get("t", 0), "u": record.get("u", base["bu"]),
                    "v": record.get("v"), "vs": record.get("vs")})
    return out


@settings(deadline=None)
@given(data=SAMPLES)
def test_senml_resolves_to_every_reading(data):
    p = profile("senml")
    message = p.message("data", [row()], [p.row(row(), data, p.meaning(INVENTORY, 7), lambda _: False)])
    got = {(r["n"], round(r["t"] * 1000)): r for r in resolved(json.loads(message.payload))}
    for t, point, flag, reason, status, value in data.tolist():
        name, at = f"gw-1/{INVENTORY.points[point].point}", t + DOOR.offset_ms
        unit, factor = UNITS.get(INVENTORY.points[point].unit, (None, 1))
        if flag in (1, 2, 3):
            assert got[name, at]["v"] == pytest.approx(factor * value, abs=factor * 0.0051)
            assert got[name, at]["u"] == (unit or None)
        else:
            assert (name, at) not in got, "what cannot be believed is no number"
        if flag != 1:
            assert got[f"{name}/quality", at]["vs"].split()[0] == str(flag)
        if status:
            assert got[f"{name}/status", at]["vs"] == STATUSES[status]
        assert REASONS[reason] in got.get((f"{name}/quality", at), {"vs": REASONS[reason]})["vs"]


def test_two_readings_of_one_point_and_moment_are_both_kept():
    p = profile("thingsboard")
    data = np.array([(1000, 0, 1, 0, 0, 1.0), (1000, 0, 1, 0, 0, 2.0)], SAMPLE)
    part = p.row(row(), data, p.meaning(INVENTORY, 7), lambda _: False)
    entries = part.content["gw-1/slope"]
    assert [(e["ts"] - DOOR.offset_ms, e["values"]["crack-1"]) for e in entries] == [(1000, 1.0), (1001, 2.0)]


@settings(deadline=None)
@given(data=SAMPLES)
def test_thingsboard_never_gets_a_number_that_is_none(data):
    p, told = profile("thingsboard"), {}
    part = p.row(row(), data, p.meaning(INVENTORY, 7), lambda _: False)
    for device, entries in (part.content if part else {}).items():
        for entry in entries:
            for key, value in entry["values"].items():
                assert isinstance(value, str) or math.isfinite(value)
                assert (device, key, entry["ts"]) not in told
                told[device, key, entry["ts"]] = value
    for _t, point, flag, _, status, _value in data.tolist():
        known = [key for key in told if key[1] == INVENTORY.points[point].point]
        good = [r for r in data.tolist() if r[1] == point and r[2] in (1, 2, 3) and not r[4]]
        assert len(known) == len(good)
        assert flag in (1, 2, 3, 4, 9)
        assert status in (0, 1, 2)


class FakeServer:
    """What can be seen of ThingsBoard's gateway API from outside; there is no server on this machine.

    It refuses what its documentation does not have: wrong shapes, devices that were not connected.
    """

    def __init__(self, port):
        self.connected, self.telemetry, self.attributes, self.wrong, self.answers = set(), {}, {}, [], []
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self.client.on_connect = lambda c, *_: c.subscribe([("v1/gateway/#", 1), ("v1/devices/me/#", 1)])
        self.client.on_message = lambda _c, _d, m: self.take(m.topic, json.loads(m.payload))
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def take(self, topic, body):
        try:
            if topic == "v1/gateway/connect":
                self.connected.add(body["device"])
            elif topic == "v1/gateway/telemetry":
                for device, entries in body.items():
                    assert device in self.connected or device == "gw-1", device
                    for entry in entries:
                        values = entry["values"] if "ts" in entry else entry
                        assert isinstance(values, dict)
                        for key, value in values.items():
                            self.telemetry.setdefault((device, key), []).append((entry.get("ts"), value))
            elif topic == "v1/gateway/attributes":
                for device, values in body.items():
                    self.attributes.setdefault(device, {}).update(values)
            elif topic == "v1/gateway/rpc" and "method" not in body.get("data", {}):
                self.answers.append(body)
        except (KeyError, AssertionError, TypeError, AttributeError) as error:
            self.wrong.append((topic, repr(error)))

    def call(self, device, number, method, **params):
        self.client.publish("v1/gateway/rpc", json.dumps(
            {"device": device, "data": {"id": number, "method": method, "params": params}}), qos=1)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def test_several_platforms_at_once_and_neither_a_dead_nor_a_slow_one_touches_the_others(tmp_path):
    facts = {"objects": [{"object": "slope", "name": "滑坡", "hazard": "slope"}], "promises": {}}
    memories = {name: Memory() for name in ("default", "thingsboard", "senml", "dead")}

    def command(order, answer):
        answer(Outcome(ok=order.arguments == {"object": "slope"}, text_en="silenced", text_zh="已消音"))

    with Broker(folder=tmp_path / "a", prefer="mosquitto") as a, Broker(folder=tmp_path / "b") as b, \
            Broker(folder=tmp_path / "c") as c, Proxy(("127.0.0.1", a.port)) as slow:
        slow.shape(delay_s=0.2)
        server = FakeServer(b.port)
        with listener(a.port) as heard, listener(c.port) as packs, \
                uplink(memories["default"], slow.port), \
                uplink(memories["thingsboard"], b.port, profile="thingsboard", id="tb", commands=("silence",),
                       sources={"birth": lambda: facts, "command": command}) as (tb, _), \
                uplink(memories["senml"], c.port, profile="senml", id="senml"), \
                uplink(memories["dead"], free_port(), id="dead"):
            for memory in memories.values():
                memory.commit(samples(1.0, 2.0))
                memory.commit(event(1), lane="alarm")
            until(lambda: all(memories[n].count_settled() == 1 and memories[n].count_settled("alarm") == 1
                              for n in ("default", "thingsboard", "senml")))
            until(lambda: heard.of("backlog") or heard.of("data"))
            until(lambda: [t for t, _, _ in packs if t.startswith("senml/")])
            until(lambda: len(server.telemetry.get(("gw-1/slope", "crack-1"), ())) == 2)
            until(lambda: ("gw-1/slope", "alarm_colour") in server.telemetry or ("gw-1/slope", "alarm") in
                  server.telemetry)
            server.call("gw-1/slope", 1, "silence")
            server.call("gw-1/slope", 2, "clear")
            until(lambda: len(server.answers) == 2)
            assert tb.health().error == ""
        server.close()
    assert server.wrong == []
    assert [(a["id"], a["data"]["success"]) for a in server.answers] == [(2, False), (1, True)] or [
        (a["id"], a["data"]["success"]) for a in server.answers] == [(1, True), (2, False)]
    assert memories["dead"].count_settled() == 0


def test_undated_readings_wait_and_an_alarm_does_not(tmp_path):
    memory = Memory()
    memory.commit(samples(1.0), door=Door(BOOT, 0, "unset"))
    memory.commit(event(1), lane="alarm", door=Door(BOOT, 0, "unset"))
    with Broker(folder=tmp_path / "b", prefer="mosquitto") as broker:
        server = FakeServer(broker.port)
        with uplink(memory, broker.port, profile="thingsboard", sources={"birth": lambda: {
                "objects": [{"object": "slope", "hazard": "slope"}], "promises": {}}}):
            until(lambda: server.telemetry.get(("gw-1/slope", "alarm")))
            assert server.telemetry["gw-1/slope", "alarm"] == [(None, "a1")]
            assert memory.count_settled() == 0
            memory.offsets[BOOT] = (1_770_000_000_000, 5.0)
            until(lambda: server.telemetry.get(("gw-1/slope", "crack-1")))
        server.close()
    assert server.telemetry["gw-1/slope", "crack-1"][0][0] > 1_770_000_000_000
