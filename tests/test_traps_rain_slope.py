"""One test for each trap of rain gauges, slope sensors and sirens that has cost somebody a season or a siren."""

from __future__ import annotations

import struct
import termios
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from drivers import Command, Note, Result, Scan, SetupError
from drivers.counter import grew
from drivers.exchange import Write
from drivers.modbus import Modbus
from drivers.modbus_wire import Device, ModbusWire
from drivers.sensor import Serial
from drivers.template import find, infos
from hil.bus import Bus, Reply
from hil.slaves import RtuStation, Slave
from hil.waveform import Settings

LIBRARY = (Path(__file__).parents[1] / "config" / "sensors",)
SIREN_ON, SIREN_OFF = bytes.fromhex("0110001A000101CE18"), bytes.fromhex("0110001A0001000FD8")
PATIENCE_S = 10.0


def crc(frame: bytes) -> bytes:
    """CRC-16/Modbus bit by bit, as printed in the standard; not the code under test."""
    register = 0xFFFF
    for byte in frame:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ 0xA001 if register & 1 else register >> 1
    return struct.pack("<H", register)


def whole(frame: bytes) -> bytes:
    return frame + crc(frame)


class Canned:
    """A device that answers one request with one frame, byte for byte, and hears all others."""

    def __init__(self, answers: dict[bytes, bytes], settings: Settings | None = None) -> None:
        self.name = "canned"
        self.settings = settings
        """Its own, where they differ from the bus's."""
        self.answers = answers
        self.heard: list[bytes] = []

    def hear(self, frame: bytes, at_s: float) -> Iterator[Reply]:
        self.heard.append(frame)
        if frame in self.answers:
            yield Reply(0.004, self.answers[frame])


class Box:
    """A driver on a wire, read until something has happened."""

    def __init__(self, wire: ModbusWire, polls: dict[str, dict[str, float]],
                 library: tuple[Path, ...] = LIBRARY) -> None:
        self.driver = Modbus(wire, polls, library, time.monotonic)
        self.driver.open()
        self.scans: list[Scan] = []

    def until(self, enough: Any) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not enough():
            assert time.monotonic() < deadline, self.scans[-5:]
            self.scans += self.driver.read(0.05)

    def of(self, device: str) -> list[Scan]:
        return [scan for scan in self.scans if scan.device == device]

    def told(self, **command: Any) -> Result:
        """Give a command and wait for its result."""
        results: list[Result] = []
        self.driver.submit(Command(id="c", deadline_s=time.monotonic() + 5, **command), results.append)
        self.until(lambda: results)
        return results[0]


def wire(path: str, *devices: Device, **more: Any) -> ModbusWire:
    return ModbusWire(**{"id": "w", "driver": "modbus", "port": path, "answer_timeout_ms": 60,
                         "devices": devices} | more)


RAIN = Device(id="rain", template="rain-tipping", address=2)
RAIN_POLLS = {"rain": {"total": 0.1}}


def gauge(**more: Any) -> Slave:
    return Slave(find("rain-tipping", LIBRARY), 2, {"total": 144.1}, name="rain", **more)


def test_illegal_fc16_siren(tmp_path: Path) -> None:
    """Its frames have no byte count and one data byte: no Modbus library builds them, so they are sent as they are.

    It answers nothing known; the gauge on the same wire is read on, before and after.
    """
    assert whole(SIREN_ON[:-2]) == SIREN_ON, "sound CRC"
    legal = Write(1, 16, 0x1A, (1,)).frame
    assert len(legal) == len(SIREN_ON) + 2, "a legal write of one register is two bytes longer"
    siren = Device(id="siren", template="siren-v2", address=1, actions=("sound", "off"))
    mute = Canned({})
    with Bus() as bus:
        bus.attach(RtuStation([gauge()]))
        bus.attach(mute)
        box = Box(wire(bus.port(tmp_path / "bus"), siren, RAIN), RAIN_POLLS)
        box.until(lambda: len(box.of("rain")) >= 2)
        assert box.told(kind="act", device="siren", action="sound", siren=True).ok
        assert box.told(kind="act", device="siren", action="off", siren=True).ok
        refused = box.told(kind="act", device="siren", action="sound_2", siren=True)
        assert not refused.ok
        assert "sound_2" in refused.text_en
        seen = len(box.of("rain"))
        box.until(lambda: len(box.of("rain")) >= seen + 2)
        box.driver.close()
    assert [frame for frame in mute.heard if frame[0] == 1] == [SIREN_ON, SIREN_OFF]
    assert {scan.values for scan in box.of("rain")} == {(144.1,)}


def test_low_word_first(tmp_path: Path) -> None:
    """SEN0575 sends 12.3456 mm as E240 0001; read high word first that is 379 584 mm."""
    answers = {}
    for first, words in ((8, (0xE240, 0x0001)), (6, (0x5730, 0x0000, 0xE240, 0x0001, 44, 0, 45))):
        request = whole(struct.pack(">BBHH", 0xC0, 4, first, len(words)))
        answers[request] = whole(struct.pack(f">BBB{len(words)}H", 0xC0, 4, 2 * len(words), *words))
    with Bus() as bus:
        bus.attach(Canned(answers))
        device = Device(id="sen0575", template="rain-dfrobot-sen0575", address=0xC0)
        box = Box(wire(bus.port(tmp_path / "bus"), device), {"sen0575": {"total": 0.1}})
        box.until(lambda: len(box.scans) >= 2)
        box.driver.close()
    assert {(scan.points, scan.values, scan.notes) for scan in box.scans} == {(("total",), (12.3456,), ())}
    assert (0xE240 * 65536 + 1) / 10000 > 379_000, "what the usual order would have made of it"


def test_counter_reset(tmp_path: Path) -> None:
    """A power cut begins the total at 0: what fell since then counts, nothing is negative, nothing is invented."""
    info = infos(find("rain-tipping", LIBRARY))["total"]
    assert (info.counter, info.resets, info.wrap) == (True, "power_loss", None)
    slave = gauge()
    with Bus() as bus:
        bus.attach(RtuStation([slave]))
        box = Box(wire(bus.port(tmp_path / "bus"), RAIN), RAIN_POLLS)
        for total in (144.1, 144.6, 0.0, 0.3, 0.9):   # the power cut is between 144.6 and 0
            slave.set("total", total)
            box.until(lambda total=total: box.scans and box.scans[-1].values == (total,))
        box.driver.close()
    totals = [scan.values[0] for scan in box.scans]
    assert None not in totals
    steps = [grew(before or 0.0, after or 0.0, info.wrap, info.resets) for before, after in pairwise(totals)]
    assert sum(step.delta for step in steps) == pytest.approx(0.5 + 0.9)
    assert [step.how for step in steps if step.how] == ["reset"]


@pytest.mark.parametrize(("model", "before", "after"), [("rain-cg-62", 600.0, 0.02), ("rain-tipping", 6000.0, 0.2)])
def test_counter_reset_near_its_end_invents_no_rain(model: str, before: float, after: float) -> None:
    """Taken for a wrap, a power cut at 600 of 655.36 mm would be 55 mm of rain that never fell."""
    info = infos(find(model, LIBRARY))["total"]
    assert grew(before, after, info.wrap, info.resets) == (after, "reset")


def test_clearing_is_no_part_of_a_scan(tmp_path: Path) -> None:
    """Clearing a gauge is a write of 0: polls never send one, and a command only where the site allows it."""
    for model in ("rain-tipping", "rain-cg-62"):
        assert find(model, LIBRARY).point("total").write
    with Bus() as bus:
        bus.attach(RtuStation([gauge()]))
        box = Box(wire(bus.port(tmp_path / "bus"), RAIN), {"rain": {"total": 0.1, "total_2": 0.1, "total_3": 0.1}})
        box.until(lambda: len(box.scans) >= 5)
        refused = box.told(kind="write", device="rain", values={"total": 0})
        box.driver.close()
        asked = [spoken.frame for spoken in bus.log if spoken.frame[0] == 2 and len(spoken.frame) == 8]
    assert not refused.ok
    assert "does not let 'total' be written" in refused.text_en
    assert asked
    assert {frame[1] for frame in asked} == {3}


SIREN_8E1 = """
maker: a siren of the modbus.cn kind
title: {zh: 声光报警器, en: sound and light alarm}
manual: https://www.modbus.cn/32606.html
serial: {baud: 9600, parity: even, stop_bits: 1}
min_gap_ms: 50
points:
  - {id: lamp, register: 1, function: 1, type: bit, unit: "1", resolution: 1, write: {function: 5, verify: false}}
examples:
  - {request: 01 01 00 01 00 01 AC 0A, answer: 01 01 01 00 51 88, values: {lamp: 0}, source: computed}
"""
"""What is public of it: 9600 8E1, coils by function 5, 50 ms between commands. Its coil table is not: a site that has
such a siren has the paper, and writes this file."""


def test_8e1_siren_sharing_a_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parity differs from that of the sensors: refused unless meant, and then changed for each request.

    The bus hears with each one's parity; what is asked of the port is written down too.
    """
    (tmp_path / "sensors").mkdir()
    (tmp_path / "sensors" / "siren-8e1.yaml").write_text(SIREN_8E1, encoding="utf-8")
    library = (tmp_path / "sensors", *LIBRARY)
    siren = Device(id="siren", template="siren-8e1", address=1, serial=Serial(parity="even"), writable=("lamp",))
    ((where, text),) = Modbus.problems(wire("p", RAIN, siren, serial=Serial()), library)
    assert where == ("devices", 1, "serial")
    assert "9600 8E1 on a wire of 9600 8N1" in text

    asked: list[tuple[float, bool]] = []
    truly = termios.tcsetattr

    def noted(fd: int, when: int, attributes: list[Any]) -> None:
        asked.append((time.monotonic(), bool(attributes[2] & termios.PARENB)))
        truly(fd, when, attributes)

    monkeypatch.setattr(termios, "tcsetattr", noted)
    on, off = (whole(bytes([1, 5, 0, 1, state, 0])) for state in (0xFF, 0))
    with Bus() as bus:
        bus.attach(RtuStation([gauge()]))
        bus.attach(Canned({on: on, off: off}, Settings(9600, "even")))
        shared = wire(bus.port(tmp_path / "bus", strict_parity=True), RAIN, siren, serial=Serial(), mixed_settings=True)
        box = Box(shared, RAIN_POLLS, library)
        box.until(lambda: len(box.of("rain")) >= 2)
        assert box.told(kind="write", device="siren", values={"lamp": 1}, siren=True).ok
        assert box.told(kind="write", device="siren", values={"lamp": 0}, siren=True).ok
        seen = len(box.of("rain"))
        box.until(lambda: len(box.of("rain")) >= seen + 2)
        box.driver.close()
        log = list(bus.log)
    requests = [spoken for spoken in log if spoken.source not in ("canned", "slaves")]
    begun = {id(spoken): spoken.at_s - len(spoken.frame) * bus.char_s for spoken in log}
    for spoken in requests:
        even = ([False] + [parity for when_s, parity in asked if when_s <= begun[id(spoken)]])[-1]
        assert even == (spoken.frame[0] == 1), spoken.frame.hex(" ")
    commands = [spoken for spoken in requests if spoken.frame[0] == 1]
    assert [spoken.frame for spoken in commands] == [on, off]
    echo = next(spoken for spoken in log if spoken.source == "canned")
    assert begun[id(commands[1])] - echo.at_s >= 0.050, "its rest between commands"
    assert len(requests) > 5
    assert {scan.values for scan in box.of("rain")} == {(144.1,)}


def test_sign_bug_of_cable_meters(tmp_path: Path) -> None:
    """FFF6 is a cable drawn in by 1 mm: not 1 mm drawn out (the published script), and not 6 552.6 mm."""
    request = whole(bytes.fromhex("010300000001"))
    with Bus() as bus:
        bus.attach(Canned({request: whole(bytes.fromhex("010302FFF6"))}))
        device = Device(id="crack", template="crack-cable-feishang", address=1)
        box = Box(wire(bus.port(tmp_path / "bus"), device), {"crack": {"displacement": 0.1}})
        box.until(lambda: len(box.scans) >= 2)
        box.driver.close()
    assert {scan.values for scan in box.scans} == {(-1.0,)}


def test_a_cable_drawn_out_to_its_end_is_saturated_not_broken() -> None:
    for model in ("crack-cable-bolin", "crack-cable-feishang"):
        assert infos(find(model, LIBRARY))["displacement"].beyond_high == "saturated"


def test_vw_f0_squared(tmp_path: Path) -> None:
    """At its zero frequency a strain gauge says 0 µε; a script that forgets f0² says 1 183. Frost stays frost."""
    request = whole(bytes.fromhex("010300010002"))
    answer = whole(bytes.fromhex("010304") + struct.pack(">HH", 8600, 65486))
    with Bus() as bus:
        bus.attach(Canned({request: answer}))
        device = Device(id="gauge", template="vw-kunpeng-strain", address=1, parameters={"k": 0.0016, "f0": 860})
        box = Box(wire(bus.port(tmp_path / "bus"), device), {"gauge": {"strain": 0.1, "temperature": 0.1}})
        box.until(lambda: len(box.scans) >= 2)
        box.driver.close()
    assert {tuple(zip(scan.points, scan.values, strict=True)) for scan in box.scans} == {
        (("strain", 0.0), ("temperature", -5.0))}


@pytest.mark.parametrize("model", ["vw-kunpeng-strain", "vw-kunpeng-piezo"])
def test_vw_without_its_calibration_sheet_is_refused(model: str) -> None:
    point = find(model, LIBRARY).points[0].id
    with pytest.raises(SetupError, match="f0"):
        Modbus(wire("p", Device(id="g", template=model, address=1)), {"g": {point: 1}}, LIBRARY, time.monotonic)


def test_over_read_block(tmp_path: Path) -> None:
    """The inclinometer is asked for all 18 registers though three are wanted; 18 zeros are no angle of 0°."""
    request = whole(bytes.fromhex("010400000012"))
    silent = whole(bytes.fromhex("010424") + bytes(36))
    device = Canned({request: silent})
    with Bus() as bus:
        bus.attach(device)
        box = Box(wire(bus.port(tmp_path / "bus"), Device(id="tilt", template="tilt-sanzhiyingke", address=1)),
                  {"tilt": {"x": 0.1, "y": 0.1}})
        box.until(lambda: len(box.scans) >= 2)
        box.driver.close()
    assert set(device.heard) == {request}
    assert {(scan.values, scan.notes) for scan in box.scans} == {((None, None), (Note.NO_DATA, Note.NO_DATA))}


def test_broken_loop_is_not_empty(tmp_path: Path) -> None:
    """0 mA is a torn wire, 4 mA an empty tank: what a module with nothing connected says has no value."""
    request, answer = whole(bytes.fromhex("010400000001")), whole(bytes.fromhex("0104020000"))
    with Bus() as bus:
        bus.attach(Canned({request: answer}))
        box = Box(wire(bus.port(tmp_path / "bus"), Device(id="ai", template="ai-waveshare-8ch", address=1)),
                  {"ai": {"ai1": 0.1}})
        box.until(lambda: len(box.scans) >= 2)
        box.driver.close()
    assert {(scan.values, scan.notes) for scan in box.scans} == {((None,), (Note.SENSOR_FAULT,))}
