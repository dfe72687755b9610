"""Programs by other people: libmodbus as the device of our driver, mbpoll as the master of our simulator."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from drivers.exchange import Ask, Write
from drivers.line import SerialLine
from drivers.modbus import Modbus
from drivers.modbus_wire import Device, ModbusWire
from drivers.sensor import Serial
from drivers.tcp import TcpLine
from hil.bus import Bus
from hil.bus_process import plain
from hil.slaves import RtuStation, Slave, TcpServer
from tests.wires import FAST, LIBRARY, rtu

SOURCE = Path(__file__).parents[1] / "hil" / "foreign" / "slave.c"
UNIT = 5
BITS = [int(n % 3 == 0) for n in range(20)]
MODEL = """
maker: libmodbus
title: {zh: 外部从站, en: foreign slave}
manual: hil/foreign/slave.c
points:
  - {id: holding, register: 7, unit: "1", resolution: 1}
  - {id: input, register: 7, function: 4, unit: "1", resolution: 1}
  - {id: coil, register: 9, function: 1, type: bit, unit: "1", resolution: 1}
  - {id: contact, register: 10, function: 2, type: bit, unit: "1", resolution: 1}
examples:
"""
for name, asked, answered, value in (("holding", (3, 0, 7, 0, 1), (3, 2, 3, 0xEF), 1007),
                                     ("input", (4, 0, 7, 0, 1), (4, 2, 7, 0xD7), 2007),
                                     ("coil", (1, 0, 9, 0, 1), (1, 1, 1), 1),
                                     ("contact", (2, 0, 10, 0, 1), (2, 1, 0), 0)):
    frames = f"request: {rtu(UNIT, *asked).hex(' ')}, answer: {rtu(UNIT, *answered).hex(' ')}"
    MODEL += f"  - {{{frames}, values: {{{name}: {value}}}, source: computed}}\n"


@pytest.fixture(scope="session")
def foreign(tmp_path_factory):
    if not shutil.which("gcc") or not Path("/usr/include/modbus/modbus.h").exists():
        pytest.skip("no gcc or no libmodbus-dev here: `make check` installs them")
    program = tmp_path_factory.mktemp("foreign") / "slave"
    subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-I/usr/include/modbus", "-o", program, SOURCE,
                    "-lmodbus"], check=True)
    return program


class Running:
    """The foreign slave's process; a context manager. Its first line is the TCP port, 0 on a serial one."""

    def __init__(self, *command):
        self.process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline() or -1)
        assert self.port >= 0, self.process.wait(5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(params=["rtu 9600 even", "rtu 115200", "tcp"])
def far(request, foreign, tmp_path):
    """(port string, serial settings or None) of a foreign slave, on a paced line or on TCP."""
    if request.param == "tcp":
        with Running(foreign, "tcp", UNIT) as slave:
            yield f"tcp://127.0.0.1:{slave.port}", None
        return
    serial = FAST if "115200" in request.param else Serial(baud=9600, parity="even")
    with Bus(serial) as bus:
        theirs, ours = bus.port(tmp_path / "theirs"), bus.port(tmp_path / "ours")
        with Running(foreign, "rtu", theirs, serial.baud, serial.parity[0].upper(), UNIT):
            yield ours, serial
        assert bus.collisions == 0


@pytest.fixture
def line(far):
    port, serial = far
    made = SerialLine(port, serial, 0.5, time.monotonic) if serial else \
        TcpLine("127.0.0.1", int(port.rsplit(":", 1)[1]), 0.5, time.monotonic)
    made.open()
    yield made
    made.close()


def read(line, function, first, count):
    """Values of one read: bits or words."""
    heard = line.exchange(Ask(UNIT, function, first, count))
    assert heard.note is None, heard
    if function < 3:
        held = int.from_bytes(heard.data[heard.start:heard.start + (count + 7) // 8], "little")
        return [held >> n & 1 for n in range(count)]
    return [int.from_bytes(heard.data[at:at + 2], "big") for at in range(heard.start, heard.start + 2 * count, 2)]


def test_all_four_tables_are_read(line):
    assert read(line, 1, 0, 20) == BITS
    assert read(line, 2, 3, 17) == BITS[3:]
    assert read(line, 3, 0, 20) == [1000 + n for n in range(20)]
    assert read(line, 4, 5, 10) == [2005 + n for n in range(10)]


def test_what_it_refuses_is_a_refusal(line):
    assert line.exchange(Ask(UNIT, 3, 15, 10)).note == "refused"
    assert read(line, 3, 19, 1) == [1019]


def test_all_four_writes_arrive(line):
    for ask in (Write(UNIT, 5, 1, [1]), Write(UNIT, 6, 2, [4242]), Write(UNIT, 15, 4, [1, 0, 0, 1, 1]),
                Write(UNIT, 16, 10, [1, 2, 65535])):
        assert line.exchange(ask).note is None, ask.pdu.hex()
    assert read(line, 1, 0, 10) == [1, 1, 0, 1, 1, 0, 0, 1, 1, 1]
    assert read(line, 3, 1, 3) == [1001, 4242, 1003]
    assert read(line, 3, 9, 5) == [1009, 1, 2, 65535, 1013]


def test_the_driver_polls_it(far, tmp_path):
    port, serial = far
    (tmp_path / "foreign.yaml").write_text(MODEL, encoding="utf-8")
    made = ModbusWire(id="w", driver="modbus", port=port, serial=serial, answer_timeout_ms=500,
                      devices=(Device(id="far", template="foreign", address=UNIT),))
    driver = Modbus(made, {"far": dict.fromkeys(("holding", "input", "coil", "contact"), 0.5)}, (tmp_path, *LIBRARY),
                    time.monotonic)
    driver.open()
    said, end_s = {}, time.monotonic() + 5
    while len(said) < 4 and time.monotonic() < end_s:
        for scan in driver.read(0.1):
            assert not any(scan.notes), scan
            said |= dict(zip(scan.points, scan.values, strict=True))
    driver.close()
    assert said == {"holding": 1007, "input": 2007, "coil": 1, "contact": 0}


def mbpoll(*arguments):
    if not shutil.which("mbpoll"):
        pytest.skip("no mbpoll here: `make check` installs it")
    done = subprocess.run(["mbpoll", "-1", "-0", "-o", "1", *map(str, arguments)], capture_output=True, text=True,
                          timeout=20, check=False, env={**os.environ, "LC_ALL": "C"})
    return done, {int(n): int(value.split()[0]) for n, value in re.findall(r"^\[(\d+)\]:\s+(-?\d+)", done.stdout, re.M)}


@pytest.fixture(params=["rtu", "tcp"])
def simulated(request, tmp_path):
    """(mbpoll's arguments, the slave, its log)"""
    slave, log = Slave(plain(10), UNIT, {f"r{n}": 100 + n for n in range(10)}, turnaround_s=0.0), []
    if request.param == "tcp":
        with TcpServer([slave], log=log) as server:
            yield ["-m", "tcp", "-p", server.port, "127.0.0.1"], slave, log
        return
    serial = Serial(baud=19200, parity="even")
    with Bus(serial) as bus:
        bus.attach(RtuStation([slave], log))
        yield ["-m", "rtu", "-b", serial.baud, "-P", "even", bus.port(tmp_path / "line")], slave, log


def test_mbpoll_and_the_simulator_agree(simulated):
    where, slave, log = simulated
    done, found = mbpoll("-a", UNIT, "-r", 2, "-c", 5, "-t", 4, *where)
    assert found == {n: 100 + n for n in range(2, 7)}, done.stdout + done.stderr
    for first, values in ((3, [777]), (5, [1, 2, 40000])):
        done, _ = mbpoll("-a", UNIT, "-r", first, "-t", 4, *where, *values)
        assert done.returncode == 0, done.stdout + done.stderr
    assert [(w.function, w.first, w.values) for w in slave.written] == [(6, 3, (777,)), (16, 5, (1, 2, 40000))]
    done, found = mbpoll("-a", UNIT, "-r", 3, "-c", 4, "-t", 4, *where)
    assert found == {3: 777, 4: 104, 5: 1, 6: 2}, done.stdout
    assert log[0].values == {f"r{n}": 100 + n for n in range(2, 7)}
    done, found = mbpoll("-a", UNIT, "-r", 8, "-c", 5, "-t", 4, *where)
    assert found == {}
    assert "Illegal data address" in done.stdout + done.stderr


def test_mbpoll_is_deceived_by_no_fault_of_the_simulator(simulated):
    where, slave, _ = simulated
    slave.fault = "exception"
    done, found = mbpoll("-a", UNIT, "-r", 2, "-c", 1, "-t", 4, *where)
    assert found == {}
    assert "Slave device or server failure" in done.stdout + done.stderr
