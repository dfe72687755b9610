"""Many hosts on one wire, in one thread: real sockets, dead and living."""

import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from drivers import Command, LinkError, Note
from drivers.exchange import Raw, Write, checked
from drivers.modbus import Modbus
from drivers.modbus_wire import Device, ModbusWire
from drivers.power import Supply
from drivers.tcp import CONNECT_S, TcpLine
from drivers.template import find
from hil.slaves import Hosts, Slave, TcpServer

LIBRARY = (Path(__file__).parents[1] / "config" / "sensors",)
HOSTS = 20


def crack(n):
    return Slave(find("crack-cable-bolin", LIBRARY), 1, {"displacement": float(n)}, name=f"d{n}", turnaround_s=0)


def wire(ports, **more):
    devices = tuple(Device(id=f"d{n}", template="crack-cable-bolin", address=1, port=f"tcp://127.0.0.1:{port}")
                    for n, port in enumerate(ports))
    return ModbusWire(id="w", driver="modbus", devices=devices, **{"answer_timeout_ms": 200, **more})


def collect(driver, seconds):
    """Everything the driver says in a while, and the longest a single read took."""
    got, longest, end = [], 0.0, time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        got += driver.read(0.1)
        longest = max(longest, time.monotonic() - now)
    return got, longest


@pytest.fixture
def servers():
    with ExitStack() as stack:
        yield [stack.enter_context(TcpServer([crack(n)])) for n in range(HOSTS)]


@pytest.mark.timing
@pytest.mark.parametrize("framing", ["tcp", "rtu", "ascii"])
def test_sick_hosts_cost_the_others_nothing(framing):
    sick = {0: "refuses", 1: "blackhole", 2: "silent", 3: "closes", 4: "garbage", 5: "drips"}
    with Hosts() as hosts:
        made = [hosts.add([crack(n)], framing=framing) for n in range(HOSTS)]
        for n, fault in sick.items():
            hosts.set_fault(made[n], fault)
        threads = threading.active_count()
        driver = Modbus(wire([host.port for host in made], framing=framing),
                        {f"d{n}": {"displacement": 0.1} for n in range(HOSTS)}, LIBRARY, time.monotonic)
        driver.open()
        got, longest = collect(driver, CONNECT_S + 1.0)   # a black hole is told when its connection had its time
        assert threading.active_count() == threads
        for n in range(len(sick), HOSTS):
            mine = [s for s in got if s.device == f"d{n}"]
            assert {s.values for s in mine} == {(float(n),)}
            assert len(mine) >= 25, (n, len(mine))
        assert longest < 1.0   # waiting for a sick host would take its whole patience, seconds of it
        bad = {n: {s.notes for s in got if s.device == f"d{n}"} for n in sick}
        assert {s.values for s in got if s.device in {f"d{n}" for n in sick}} <= {(None,), (5.0,)}   # drips the truth
        assert bad[0] == {(Note.LINK,)}
        assert [len([s for s in got if s.device == f"d{n}"]) for n in (0, 1, 3)] == [1, 1, 1]   # told once
        assert bad[2] <= {(Note.NO_ANSWER,), (Note.QUARANTINED,)}
        state = {h.device: h.state for h in driver.health()}
        assert state["d2"] == "quarantined"
        assert state[f"d{HOSTS - 1}"] == "ok"
        for n in sick:
            hosts.set_fault(made[n], "")
        back, _ = collect(driver, 12.0)
        assert {s.device for s in back if s.values != (None,)} == {f"d{n}" for n in range(HOSTS)}
        driver.close()


def test_what_was_asked_before_the_end_is_still_heard():
    slow = Slave(find("crack-cable-bolin", LIBRARY), 1, {"displacement": 7.0}, name="d0", turnaround_s=0.1)
    log = []
    with TcpServer([slow], log=log) as server, TcpServer([crack(1)]) as other:
        driver = Modbus(wire([server.port, other.port], answer_timeout_ms=800),
                        {f"d{n}": {"displacement": 0.05} for n in range(2)}, LIBRARY, time.monotonic)
        driver.open()
        while not any(s.device == "d1" for s in driver.read(0.01)):
            pass   # the quick one has answered; the slow one has been asked and has not
        asked = len(log)
        last = driver.finish()
        assert [s.values for s in last if s.device == "d0"] == [(7.0,)]
        assert len(log) == asked + 1
        assert driver.finish() == []   # and nothing new was asked
        driver.close()
        driver.open()
        while not driver.read(1.0):
            pass   # opened again, it asks again
        driver.close()


def test_an_only_host_that_breaks_owes_nothing_more():
    with Hosts() as hosts:
        host = hosts.add([crack(0)])
        driver = Modbus(wire([host.port]), {"d0": {"displacement": 0.05}}, LIBRARY, time.monotonic)
        driver.open()
        while not driver.read(1.0):
            pass
        hosts.set_fault(host, "closes")
        assert driver.finish() == []
        driver.close()


def test_a_host_comes_back_by_itself(servers):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    driver = Modbus(wire([servers[0].port, port]), {"d0": {"displacement": 0.1}, "d1": {"displacement": 0.1}}, LIBRARY,
                    time.monotonic)
    driver.open()
    got, _ = collect(driver, 0.5)
    assert [s.notes for s in got if s.device == "d1"] == [(Note.LINK,)]   # told once, not every poll
    with TcpServer([crack(1)], port=port):
        deadline = time.monotonic() + 10
        while not any(s.values == (1.0,) for s in driver.read(0.1)):
            assert time.monotonic() < deadline
    driver.close()


def test_answers_that_arrive_together_are_returned_together(servers):
    driver = Modbus(wire([s.port for s in servers]), {f"d{n}": {"displacement": 1.0} for n in range(HOSTS)}, LIBRARY,
                    time.monotonic)
    driver.open()
    sizes, end = [], time.monotonic() + 3.2
    while time.monotonic() < end:
        if scans := driver.read(0.5):
            sizes.append(len(scans))
    driver.close()
    assert sum(sizes) >= 3 * HOSTS
    assert len(sizes) <= sum(sizes) / 2


def test_names_are_for_a_wire_of_their_own():
    made = ModbusWire(id="w", driver="modbus", devices=tuple(
        Device(id=f"d{n}", template="crack-cable-bolin", address=1, port=port)
        for n, port in enumerate(("tcp://192.0.2.1:502", "tcp://valve.example:502"))))
    [(path, text)] = Modbus.problems(made, LIBRARY)
    assert path == ("devices",)
    assert "'valve.example' is a name" in text
    twice = ModbusWire(id="w", driver="modbus", port="tcp://192.0.2.1:502", devices=(
        Device(id="a", template="crack-cable-bolin", address=1),
        Device(id="b", template="crack-cable-bolin", address=1, port="tcp://192.0.2.2:502"),
        Device(id="c", template="crack-cable-bolin", address=1, port="tcp://192.0.2.1:502")))
    assert [path for path, _ in Modbus.problems(twice, LIBRARY)] == [("devices", 2, "address")]
    none = ModbusWire(id="w", driver="modbus", devices=(Device(id="a", template="crack-cable-bolin", address=1),))
    assert [path for path, _ in Modbus.problems(none, LIBRARY)] == [("port",)]


def test_an_only_host_that_never_answers_a_connection_is_a_link_error():
    with Hosts() as hosts:
        host = hosts.add([crack(0)])
        hosts.set_fault(host, "blackhole")
        driver = Modbus(wire([host.port]), {}, LIBRARY, time.monotonic)
        with pytest.raises(LinkError, match="no answer to the connection"):
            driver.open()


def test_a_command_under_way_has_its_result_when_the_wire_is_closed():
    results = []
    with Hosts() as hosts:
        made = [hosts.add([crack(n)]) for n in range(2)]
        driver = Modbus(wire([host.port for host in made], answer_timeout_ms=5000), {"d1": {"displacement": 0.1}},
                        LIBRARY, time.monotonic)
        hosts.set_fault(made[0], "silent")
        driver.open()
        got, _ = collect(driver, 0.3)
        assert got
        driver.submit(Command(id="c", kind="read_now", device="d0", points=("displacement",),
                              deadline_s=time.monotonic() + 60), results.append)
        collect(driver, 0.3)
        assert not results
        driver.close()
        assert [(r.id, r.ok) for r in results] == [("c", False)]
        driver.open()
        driver.read(0.1)
        driver.close()
        assert len(results) == 1


def test_a_lent_only_host_is_left_alone_and_its_thread_goes_on():
    results = []
    with TcpServer([crack(0)]) as server:
        driver = Modbus(wire([server.port]), {"d0": {"displacement": 0.1}}, LIBRARY, time.monotonic)
        driver.submit(Command(id="loan", kind="lend", deadline_s=time.monotonic() + 5, until_s=time.monotonic() + 4),
                      results.append)                      # the wire is not open yet: lent at once
        assert [r.ok for r in results] == [True]
        began = time.monotonic()
        driver.open()
        assert time.monotonic() - began < 0.5
        got, _ = collect(driver, 0.5)
        assert {s.notes for s in got} == {(Note.BORROWED,)}
        driver.submit(Command(id="loan", kind="take_back", deadline_s=time.monotonic() + 5))
        got, _ = collect(driver, 0.5)
        assert any(s.values == (0.0,) for s in got)
        assert time.monotonic() - began < 3
        driver.close()


def test_silence_is_no_answer_to_a_frame_of_a_makers_own():
    """A siren behind a converter that passes RTU through."""
    sound = checked(bytes.fromhex("01 10 00 1A 00 01 01"))
    with Hosts() as hosts:
        host = hosts.add([crack(0)], framing="rtu")
        hosts.set_fault(host, "silent")
        line = TcpLine("127.0.0.1", host.port, 0.05, time.monotonic, framing="rtu")
        line.open()
        assert line.exchange(Raw(sound, answer=sound)).note is Note.NO_ANSWER
        assert line.exchange(Raw(sound, answer=None)).note is None     # its maker promises none
        assert line.exchange(Write(0, 6, 0, [1])).note is None         # a broadcast: nobody may answer
        line.close()


def test_a_command_for_a_lost_host_has_its_result_at_once():
    results = []
    with Hosts() as hosts:
        made = [hosts.add([crack(n)]) for n in range(2)]
        for fault in ("refuses", "blackhole"):
            hosts.set_fault(made[0], fault)
            driver = Modbus(wire([host.port for host in made]), {"d1": {"displacement": 0.1}}, LIBRARY, time.monotonic)
            driver.open()
            collect(driver, 4.0)
            driver.submit(Command(id=fault, kind="read_now", device="d0", points=("displacement",),
                                  deadline_s=time.monotonic() + 4), results.append)
            collect(driver, 0.2)
            driver.close()
    assert [(r.id, r.ok) for r in results] == [("refuses", False), ("blackhole", False)]


def test_the_supply_of_a_sensor_behind_a_lost_host_is_switched_off(monkeypatch):
    switched = []
    relay = SimpleNamespace(on=lambda: switched.append("on"), off=lambda: switched.append("off"),
                            close=lambda: switched.append("closed"))
    monkeypatch.setattr("drivers.power.open_relay", lambda *_: relay)
    with Hosts() as hosts:
        made = [hosts.add([crack(n)]) for n in range(2)]
        devices = tuple(msgspec.structs.replace(device, supply=Supply(pin=6, active="high") if not n else None)
                        for n, device in enumerate(wire([host.port for host in made]).devices))
        driver = Modbus(ModbusWire(id="w", driver="modbus", devices=devices), {"d0": {"displacement": 0.1}}, LIBRARY,
                        time.monotonic)
        driver.open()
        got, _ = collect(driver, 0.5)
        assert switched == ["on"]
        assert got
        hosts.set_fault(made[0], "refuses")
        collect(driver, 0.5)
        assert switched == ["on", "closed"]
        driver.close()
