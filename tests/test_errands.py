"""Writes, actions and loans of ports, asked of the running gateway at its socket."""

import json
import socket
import time

import pytest
import serial
import yaml

from gateway import client
from hil.broker import free_port
from hil.rig import Rig

SITE = {
    "version": 1, "demo": True, "gateway": {"id": "errands", "name": "差事"},
    "wires": [
        {"id": "bus", "driver": "modbus", "port": "bus", "serial": {"baud": 115200}, "devices": [
            {"id": "crack", "template": "crack-cable-bolin", "address": 3},
            {"id": "rain", "template": "rain-tipping", "address": 2}]},
        {"id": "pins", "driver": "gpio", "port": "mock:pins.sock"}],
    "objects": [{
        "id": "slope", "name": "滑坡", "hazard": "slope", "service": "in_service",
        "points": [{"id": "crack-1", "name": "裂缝", "read": "crack.displacement", "poll_s": 0.1,
                    "report": {"every_s": 0}},
                   {"id": "rain-1", "name": "雨量", "read": "rain.total", "poll_s": 0.5,
                    "report": {"every_s": 0}}],
        "rules": [{"id": "level", "point": "crack-1", "above": {"yellow": 20, "red": 60}, "latch": [],
                   "off_delay_s": 0}],
        "outputs": ["siren"],
        "authority": {"approved_by": "test", "approved_on": "2026-01-01", "red": "automatic"}}],
    "outputs": [{"id": "siren", "kind": "siren", "wire": "pins", "pin": 17, "active": "high"}],
    "platforms": [{"id": "county", "host": "127.0.0.1"}],
    "journal": {"folder": "state", "staging": "run/staging", "commit_s": 0.2},
    "control": {"socket": "control.sock"},
}


@pytest.fixture
def rig(tmp_path):
    path = tmp_path / "site.yaml"
    site = {**SITE, "platforms": [SITE["platforms"][0] | {"port": free_port()}]}
    path.write_text(yaml.safe_dump(site, allow_unicode=True), encoding="utf-8")
    with Rig(path, tmp_path / "box") as made:
        made.slaves["crack"].set("displacement", 1.0)
        made.start()
        made.wait("the first readings", lambda: made.county.counters().readings >= 3)
        yield made


class Loan:
    """A borrower: one connection to the control socket."""

    def __init__(self, rig, port="bus", for_s=60.0):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(10)
        with client.short_path(rig.folder / "control.sock") as address:
            self.socket.connect(address)
        ask = {"do": "lend", "port": str(rig.folder / port), "for_s": for_s}
        self.socket.sendall(json.dumps(ask).encode() + b"\n")
        line = b""
        while not line.endswith(b"\n"):
            line += self.socket.recv(4096)
        self.reply = json.loads(line)

    def taken_back(self):
        """Wait until the gateway hangs up."""
        return self.socket.recv(1) == b""

    def close(self):
        self.socket.close()


@pytest.fixture
def borrow(rig):
    made = []

    def ask(**more):
        made.append(Loan(rig, **more))
        return made[-1]
    yield ask
    for loan in made:
        loan.close()


def asked(rig, device):
    status = client.ask(rig.folder / "control.sock", {"do": "status"})
    return next(d["asked"] for w in status["wires"] for d in w.get("devices", []) if d["device"] == device)


def notes(rig, since_ms):
    return {reason for _, t_ms, value, _, reason, *_ in rig.county.readings() if t_ms >= since_ms and value is None}


def test_a_lent_port_is_the_borrowers_alone_and_comes_back(rig, borrow):
    before_ms = time.time() * 1000
    loan = borrow()
    assert loan.reply["ok"], loan.reply
    assert loan.reply["wire"] == "bus"
    count = asked(rig, "crack")
    with serial.Serial(str(rig.folder / "bus"), 115200, exclusive=True):   # the lock is free
        rig.wait("points that read borrowed", lambda: "borrowed" in notes(rig, before_ms))
        assert asked(rig, "crack") == count   # nothing was asked meanwhile
    assert not borrow().reply["ok"]           # one borrower at a time
    loan.close()
    rig.wait("polls again", lambda: asked(rig, "crack") > count + 3)
    kinds = rig.wait("both events", lambda: {"wire.lent", "wire.returned"} <= {e["kind"] for e in rig.county.events()}
                     and [e["kind"] for e in rig.county.events()])
    assert kinds.index("wire.lent") < kinds.index("wire.returned")
    assert rig.audit().invented == []


def test_a_loan_ends_by_itself_and_by_an_alarm(rig, borrow):
    loan = borrow(for_s=0.5)
    assert loan.taken_back()
    count = asked(rig, "crack")
    rig.wait("polls again", lambda: asked(rig, "crack") > count)
    rig.slaves["crack"].set("displacement", 30.0)
    rig.wait("yellow", lambda: client.ask(rig.folder / "control.sock", {"do": "status"})["objects"][0]["colour"]
             == "yellow")
    refused = borrow().reply
    assert not refused["ok"]
    assert "预警" in refused["text_zh"]
    assert "alarm" in refused["text_en"]
    rig.slaves["crack"].set("displacement", 1.0)
    rig.wait("calm", lambda: client.ask(rig.folder / "control.sock", {"do": "status"})["objects"][0]["colour"]
             == "none")
    assert borrow().reply["ok"]


def test_a_wire_that_is_down_is_lent_at_once_and_left_alone(rig, borrow):
    bus, port = rig.buses["bus"], str(rig.folder / "bus")
    bus.unplug(port)
    rig.wait("the loss", lambda: any(e["kind"] == "wire.down" for e in rig.county.events()))
    began = time.monotonic()
    loan = borrow()
    assert loan.reply["ok"], loan.reply
    assert time.monotonic() - began < 2.0
    bus.plug(port)
    count = asked(rig, "crack")
    with serial.Serial(port, 115200, exclusive=True):
        rig.wait("points that read borrowed", lambda: "borrowed" in notes(rig, 0))
        assert asked(rig, "crack") == count
    loan.close()
    rig.wait("polls again", lambda: asked(rig, "crack") > count + 3)


def test_a_port_of_nobodys_is_not_ours_to_lend(rig, borrow):
    assert borrow(port="elsewhere").reply == {"ok": True, "not_mine": True}


def test_what_the_configuration_does_not_allow_is_refused_in_both_languages(rig):
    def ask(**more):
        return client.ask(rig.folder / "control.sock", {"do": "wire", **more})

    for request, text in (({"kind": "write", "device": "rain", "values": {"total": 0}}, "writable: nothing"),
                          ({"kind": "act", "device": "rain", "action": "on"}, "allowed: nothing"),
                          ({"kind": "write", "device": "nobody", "values": {"x": 1}}, "no device called 'nobody'"),
                          ({"kind": "burn", "device": "rain"}, "expected one of"),
                          ({"kind": "pace", "device": "rain"}, "needs a period")):
        reply = ask(**request)
        assert not reply["ok"]
        assert text in reply["text_en"]
        assert reply["text_zh"]
    assert ask(kind="read_now", device="rain", points=["total_2"])["values"].keys() == {"total_2"}
    assert ask(kind="pace", device="rain", period_s=0.05, for_s=5)["ok"]
    before = asked(rig, "rain")
    rig.wait("faster polls", lambda: asked(rig, "rain") > before + 20, 5)
    record = rig.wait("the record", lambda: [e for e in rig.county.events() if e["kind"] == "wire.pace"])
    assert record[0]["who"]
