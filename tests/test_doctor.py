"""Every diagnosis is reached by what really happens on a wire, and says in both languages what to do."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drivers import LinkError
from drivers.exchange import Ask
from drivers.line import SerialLine
from drivers.sensor import Serial
from drivers.template import find
from gateway.installer import diagnoses, doctor, evidence
from gateway.installer.borrow import Loan
from gateway.installer.doctor import Doctor
from gateway.installer.link import Link
from hil.broker import free_port
from hil.bus import Bus, Reply
from hil.hosts import Hosts
from hil.slaves import Slave, attach

LIBRARY = (Path(__file__).parents[1] / "config" / "sensors",)
RAIN = find("rain-tipping", LIBRARY)


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    """Fewer and shorter questions than beside a cabinet: the simulator is quick."""
    monkeypatch.setattr(doctor, "TIMES", 10)
    monkeypatch.setattr(doctor, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(doctor, "REST_S", 0.005)


def examine(port: str, **more) -> list[doctor.Finding]:
    link = Link(port, more.pop("link_settings", Serial()), Loan("/no/such/socket", port, time.monotonic),
                time.monotonic)
    return Doctor(link, [RAIN], more.pop("model", RAIN), **more).examine(listen_s=more.pop("listen_s", 0.2))


class Babbler:
    """Something at the far end that answers every request with bytes of its own."""

    def __init__(self, says: Callable[[], bytes]) -> None:
        self.name, self._says = "babbler", says
        self.settings, self.end = None, b""

    def hear(self, frame: bytes, at_s: float) -> Iterator[Reply]:
        yield Reply(0.005, self._says())

    def unasked(self, now_s: float) -> None:
        return None


@contextlib.contextmanager
def on_bus(tmp_path: Path, *slaves: Slave, echo: bool = False,
           station: Babbler | None = None) -> Iterator[tuple[Bus, str]]:
    with Bus(Serial()) as bus:
        attach(bus, slaves)
        if station:
            bus.attach(station)
        yield bus, bus.port(tmp_path / "port", echo=echo)


def rain(fault: str = "", **more) -> Slave:
    slave = Slave(RAIN, more.pop("address", 2), {"total": 144.1}, name=more.pop("name", "rain"), seed=5, **more)
    slave.fault = fault
    return slave


def slave_case(fault: str = "", **habits) -> Callable[[Path], set[str]]:
    def case(tmp_path: Path) -> set[str]:
        slave = rain(fault)
        for name, value in habits.items():
            setattr(slave, name, value)
        with on_bus(tmp_path, slave) as (_, port):
            return {one.diagnosis.id for one in examine(port)}
    return case


def garbage_case(says: Callable[[], bytes]) -> Callable[[Path], set[str]]:
    def case(tmp_path: Path) -> set[str]:
        with on_bus(tmp_path, station=Babbler(says)) as (_, port):
            return {one.diagnosis.id for one in examine(port)}
    return case


def other_settings(tmp_path: Path) -> set[str]:
    with on_bus(tmp_path, rain(serial=Serial(baud=4800))) as (_, port):
        (one,) = examine(port)
    assert "4800 8N1" in one.texts("zh")[0]
    assert "9600 8N1" in one.texts("en")[1]
    return {one.diagnosis.id}


def echo(tmp_path: Path) -> set[str]:
    with on_bus(tmp_path, rain(), echo=True) as (_, port):
        found = [one.diagnosis.id for one in examine(port)]
    assert found == ["echo", "well"]   # told, then overcome
    return set(found)


def collision(tmp_path: Path) -> set[str]:
    with on_bus(tmp_path, rain(name="one"), rain(name="two", turnaround_s=0.006)) as (_, port):
        return {one.diagnosis.id for one in examine(port)}


def other_master(tmp_path: Path) -> set[str]:
    stop = threading.Event()

    def poll(port: str) -> None:
        line = SerialLine(port, Serial(), 0.05, time.monotonic)
        line.open()
        while not stop.is_set():
            line.exchange(Ask(2, 3, 0, 3))
        line.close()

    with on_bus(tmp_path, rain()) as (bus, port):
        master = threading.Thread(target=poll, args=(bus.port(tmp_path / "plc"),))
        master.start()
        try:
            return {one.diagnosis.id for one in examine(port)}
        finally:
            stop.set()
            master.join()


def unasked(tmp_path: Path) -> set[str]:
    slave = rain("babbling")
    slave.babble_s = 0.05
    with on_bus(tmp_path, slave) as (_, port):
        return {one.diagnosis.id for one in examine(port)}


def no_port(tmp_path: Path) -> set[str]:
    return {one.diagnosis.id for one in examine(str(tmp_path / "none"))}


def held(tmp_path: Path) -> set[str]:
    with on_bus(tmp_path, rain()) as (_, port):
        other = SerialLine(port, Serial(), 0.1, time.monotonic)
        other.open()
        try:
            return {one.diagnosis.id for one in examine(port)}
        finally:
            other.close()


def gone(tmp_path: Path) -> set[str]:
    class Puller(Link):
        """The plug comes out after the third question."""

        def exchange(self, ask, settings=None, timeout_s=None):
            if len(self.trials) == 3:
                bus.unplug(port)
            return super().exchange(ask, settings, timeout_s)

    with on_bus(tmp_path, rain()) as (bus, port):
        link = Puller(port, Serial(), Loan("/no/such/socket", port, time.monotonic), time.monotonic)
        return {one.diagnosis.id for one in Doctor(link, [RAIN], RAIN).examine(0.05)}


def host_refuses(_: Path) -> set[str]:
    return {one.diagnosis.id for one in examine(f"tcp://127.0.0.1:{free_port()}")}


def host_silent(_: Path) -> set[str]:
    return {one.diagnosis.id for one in examine("tcp://no-such-host.invalid:502")}


def transparent(_: Path) -> set[str]:
    with Hosts() as hosts:
        host = hosts.add([rain()], framing="rtu")
        return {one.diagnosis.id for one in examine(f"tcp://127.0.0.1:{host.port}")}


def not_modbus(_: Path) -> set[str]:
    def serve() -> None:
        while True:
            try:
                link, _ = server.accept()
            except OSError:
                return
            with link, contextlib.suppress(OSError):
                link.recv(256)
                link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            return {one.diagnosis.id for one in examine(f"tcp://127.0.0.1:{server.getsockname()[1]}")}
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


RANDOM = random.Random(7)   # seed 7
CASES: dict[str, Callable[[Path], set[str]]] = {
    "no_port": no_port, "held": held, "gone": gone, "host_refuses": host_refuses, "host_silent": host_silent,
    "transparent": transparent, "not_modbus": not_modbus, "other_master": other_master, "unasked": unasked,
    "echo": echo, "other_settings": other_settings, "nothing": slave_case("silent"),
    "swapped": garbage_case(lambda: b"\0\xff\0"), "two_devices": slave_case("doubled"), "collision": collision,
    "speed": garbage_case(lambda: b"\xe6\x98\x1e\x80\x66"), "damaged": slave_case("garbled"),
    "babble": garbage_case(lambda: RANDOM.randbytes(RANDOM.randrange(6, 30))),
    "noise": slave_case(chance={"garbled": 0.15}), "gaps": slave_case(chance={"silent": 0.4}),
    "late": slave_case("late", late_s=0.4), "foreign": slave_case("wrong_unit"),
    "wrong_shape": slave_case("short"), "busy": slave_case("busy"), "fails_inside": slave_case("exception"),
    "refuses": slave_case("exception", exception=2), "well": slave_case(),
}
ELSEWHERE = {"no_permission"}
"""Reached only by a user who is not root; its measure is tested below."""
ALONE = set(CASES) - {"echo", "babble"}
"""Those that must come alone: a second, wrong diagnosis would send the installer to the wrong place."""


def test_the_table_has_a_case_for_each_row():
    assert set(CASES) | ELSEWHERE == {row.id for row in diagnoses.TABLE}


@pytest.mark.parametrize("name", CASES)
def test_a_symptom_on_the_wire_is_named(name, tmp_path):
    found = CASES[name](tmp_path)
    assert name in found
    if name in ALONE:
        assert found == {name}


@pytest.mark.parametrize("row", diagnoses.TABLE, ids=lambda row: row.id)
def test_a_row_looks_at_measures_that_are_taken_and_fills_its_words(row):
    assert set(row.when) <= set(evidence.MEASURES)
    assert row.when
    none = evidence.weigh(())
    assert not row.holds(none)   # without any evidence nothing is diagnosed
    one = doctor.Finding(row, none, {name: {"zh": "x", "en": "x"} for name in (
        "timeout_ms", "elsewhere_text", "asked_text", "refusal_text")})
    for text in (*one.texts("zh"), *one.texts("en")):
        assert text
        assert "{" not in text
    assert any("一" <= char <= "鿿" for char in one.texts("zh")[0])


@pytest.mark.parametrize(("error", "measure"), [
    (FileNotFoundError(2, "no"), "missing"), (PermissionError(13, "no"), "forbidden"), (OSError(16, "busy"), "held"),
    (OSError(11, "locked"), "held"), (OSError(25, "not a tty"), "missing")])
def test_an_error_of_the_system_becomes_a_measure(error, measure):
    told = LinkError(f"serial port /dev/x: {error}")
    told.__cause__ = error
    assert evidence.broken_link(told) == {measure: 1.0}
    rows = diagnoses.diagnose(evidence.weigh((), more={measure: 1.0}))
    assert [row.id for row in rows] == [{"missing": "no_port", "forbidden": "no_permission", "held": "held"}[measure]]


def test_without_an_address_likely_ones_are_looked_at_and_each_is_examined(tmp_path):
    slow = rain("late", address=26, name="slow")
    slow.late_s = 0.06
    with on_bus(tmp_path, rain(), slow, rain("exception", address=80, name="sick")) as (_, port):
        found = {(one.address, one.diagnosis.id) for one in examine(port, model=None, given=Serial())}
    assert found == {(2, "well"), (26, "well"), (80, "fails_inside")}


def test_a_host_with_several_devices_is_examined_too():
    with Hosts() as hosts:
        host = hosts.add([rain(), rain(address=12, name="twelve")])
        found = {(one.address, one.diagnosis.id) for one in examine(f"tcp://127.0.0.1:{host.port}", model=None)}
    assert found == {(2, "well"), (12, "well")}
