"""Many hosts on one wire, in one thread: real sockets, dead and living."""

import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from drivers import LinkError, Note
from drivers.modbus import Modbus
from drivers.modbus_wire import Device, ModbusWire
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
        got, longest = collect(driver, 3.0)
        assert threading.active_count() == threads
        for n in range(len(sick), HOSTS):
            mine = [s for s in got if s.device == f"d{n}"]
            assert {s.values for s in mine} == {(float(n),)}
            assert len(mine) >= 25, (n, len(mine))
        assert longest < 0.2
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
