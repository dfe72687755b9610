"""The traps vendors lay, one test each: gas, level and radar. Wire tests are real RTU frames on a pty."""

import struct
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from drivers import Note
from drivers.modbus import Modbus
from drivers.modbus_wire import Device, ModbusWire
from drivers.planner import Cost, plan
from drivers.reader import Reader, carried
from drivers.sensor import Serial
from drivers.template import find, infos
from hil.bus import Bus
from hil.slaves import RtuStation, Slave, attach

LIBRARY = (Path(__file__).parents[1] / "config" / "sensors",)
FAST = Serial(baud=115200)


class Talk:
    """One simulated device on a pty, the driver that polls some of its points, and what the device said."""

    def __init__(self, driver, points, slave, said):
        self.driver, self.points, self.slave, self.said = driver, set(points), slave, said

    def hear(self, patience_s=5.0):
        """Return point → (value, note), once every polled point was heard from now on."""
        since, heard, deadline = time.monotonic(), {}, time.monotonic() + patience_s
        while not self.points <= heard.keys():
            assert time.monotonic() < deadline, heard
            for scan in self.driver.read(0.05):
                if scan.at_s > since + 0.02:   # not one that was under way when the registers changed
                    notes = scan.notes or [""] * len(scan.values)
                    heard |= dict(zip(scan.points, zip(scan.values, notes, strict=True), strict=True))
        return heard


@contextmanager
def talk(folder, model, *points, values=None):
    template, said = find(model, LIBRARY), []
    slave = Slave(template, template.address, values, name="it", turnaround_s=0.001)
    with Bus(FAST) as bus:
        bus.attach(RtuStation([slave], said))
        driver = Modbus(ModbusWire(id="w", driver="modbus", port=bus.port(folder / "bus"), serial=FAST,
                                   devices=(Device(id="it", template=model, address=template.address),)),
                        {"it": dict.fromkeys(points, 0.1)}, LIBRARY, time.monotonic)
        driver.open()
        try:
            yield Talk(driver, points, slave, said)
        finally:
            driver.close()


@pytest.mark.parametrize("model", ["radar-siyb", "keller-nanolevel"])
def test_non_contiguous_registers_are_asked_for_one_point_a_request(tmp_path, model):
    template = find(model, LIBRARY)
    spans = [point.span() for point in template.points]
    blocks = plan(spans, Cost(1.04, 5.0, 4.0), template.max_registers, template.contiguous)
    assert sorted((b.first, b.count) for b in blocks) == sorted((s.first, s.count) for s in spans)
    joined = plan(spans, Cost(1.04, 5.0, 4.0), template.max_registers)
    assert len(joined) < len(blocks), "read in blocks it would be cheaper: the template's word makes the difference"
    with talk(tmp_path, model, *(point.id for point in template.points)) as line:
        line.hear()
    assert line.said
    assert {len(answer.values) for answer in line.said} == {1}


def test_unit_register_moves_the_point_or_refuses_it_but_never_the_number(tmp_path):
    """The same water: 2345 mm, 234.5 cm; then somebody sets the probe to kPa, and to mA."""
    with talk(tmp_path, "level-qdy30a", "level", "pressure") as line:
        for unit, decimals, count, level, pressure in (
                (2, 0, 2345, 2.345, None), (1, 1, 2345, 2.345, None), (1, 2, 23450, 2.345, None),
                (5, 2, 2299, None, 22.99), (3, 3, 23, None, 23.0), (6, 0, 12, None, None), (9, 0, 2345, None, None)):
            for register, word in ((2, unit), (3, decimals), (4, count)):
                line.slave.set_register(3, register, word)
            heard = line.hear()
            assert heard["level"] == (level, "" if level is not None else Note.UNIT_MISMATCH)
            assert heard["pressure"] == (pressure, "" if pressure is not None else Note.UNIT_MISMATCH)


def test_unit_register_codes_of_another_vendor_fit_no_template_but_theirs():
    """Code 2 is mm at one vendor and nothing at the other; 16 is metres of water at the other and nothing here."""
    words = struct.pack(">7H", 1, 3, 2, 0, 2345, 0, 5000)
    ours, theirs = (find(model, LIBRARY) for model in ("level-qdy30a", "level-unit-codes-9-17"))
    for template, data, value in ((ours, words, 2.345), (theirs, words, None),
                                  (theirs, words[:4] + b"\0\x10" + words[6:], 2345.0),
                                  (ours, words[:4] + b"\0\x10" + words[6:], None)):
        points = [template.point("level")]
        assert Reader(points, 3, 0, 7).decode(data) == ((value,), () if value else (Note.UNIT_MISMATCH,))
    assert ours.identify.matches(words)
    assert not theirs.identify.matches(words + b"\0\0")


def test_base_1_manual_numbers_are_one_less_on_the_wire(tmp_path):
    """The manual's reading of channel 1 is 0x21: copied as printed, a float would be made of the halves of two."""
    with talk(tmp_path, "gas-oi-7032", "gas_1", "gas_2", values={"gas_1": 12.5, "gas_2": 0.0}) as line:
        assert line.hear()["gas_1"] == (12.5, "")
    held = line.slave.answer(struct.pack(">BHH", 3, 0x21 - 1, 2))
    assert struct.unpack(">f", held[2:]) == (12.5,)
    as_printed = line.slave.answer(struct.pack(">BHH", 3, 0x21, 2))
    assert struct.unpack(">f", as_printed[2:]) != (12.5,)


def test_warm_up_zeros_with_a_good_crc_are_no_level(tmp_path):
    with talk(tmp_path, "radar-fmr20", "level", "distance", "temperature") as line:
        for register in range(5000, 5006):
            line.slave.set_register(3, register, 0)
        line.slave.set_register(3, 5006, 0x41A0)   # 20.0 °C stands there all the while
        assert line.hear() == dict.fromkeys(("level", "distance", "temperature"), (None, Note.WARM_UP))
        line.slave.set("distance", 2.5)
        line.slave.set("level", 12.5)
        heard = line.hear()
        assert heard == {"level": (12.5, ""), "distance": (2.5, ""), "temperature": (20.0, "")}
    assert infos(find("radar-fmr20", LIBRARY))["level"].warm_up_s == 12


def test_8e1_meter_on_an_8n1_wire_is_refused_unless_meant(tmp_path):
    radar = Device(id="radar", template="radar-fmr20", address=200)
    gas = Device(id="gas", template="gas-fukaite", address=1)

    def wire(*devices, **more):
        return ModbusWire(id="w", driver="modbus", port="p", devices=devices, **more)

    (((where), said),) = Modbus.problems(wire(gas, radar), LIBRARY)
    assert where == ("devices", 1, "template")
    assert "9600 8E1 on a wire of 9600 8N1" in said
    assert Modbus.problems(wire(radar), LIBRARY) == []
    assert Modbus.problems(wire(gas, radar, mixed_settings=True), LIBRARY) == []
    # Both set to one parity, and said so: nothing to complain about.
    assert Modbus.problems(wire(gas, radar, serial=Serial(baud=9600)), LIBRARY) == []
    even = Device(id="radar", template="radar-fmr20", address=200, serial=Serial(parity="even"))
    assert "8E1" in Modbus.problems(wire(gas, even, serial=Serial(baud=9600)), LIBRARY)[0][1]
    with Bus(Serial(baud=9600)) as bus:   # each understands only who speaks with its parity
        attach(bus, [Slave(find("radar-fmr20", LIBRARY), 200, {"level": 12.5, "distance": 2.5}, name="radar",
                           serial=Serial(parity="even")),
                     Slave(find("gas-fukaite", LIBRARY), 1, name="gas", serial=Serial())])
        port = bus.port(tmp_path / "bus", strict_parity=True)
        driver = Modbus(ModbusWire(id="w", driver="modbus", port=port, devices=(gas, radar),
                                   mixed_settings=True),
                        {"gas": {"decimals": 0.3}, "radar": {"level": 0.3}}, LIBRARY, time.monotonic)
        driver.open()
        heard, deadline = {}, time.monotonic() + 5
        while len(heard) < 2:
            assert time.monotonic() < deadline, heard
            heard |= {scan.device: scan.values for scan in driver.read(0.05)}
        driver.close()
    assert heard["radar"] == (12.5,)


def test_staleness_of_a_head_that_is_lost_is_told_by_its_age(tmp_path):
    """The reading cannot carry its age (160 registers away, an answer holds 125): the age, read apart, vouches."""
    with talk(tmp_path, "gas-oi-7032", "gas_1", "battery_1", "age_1",
              values={"gas_1": 12.5, "battery_1": 23.0, "age_1": 23}) as line:
        assert line.hear() == {"gas_1": (12.5, ""), "battery_1": (23.0, ""), "age_1": (23.0, ""), "fault_1": (0.0, "")}
        line.slave.set("age_1", 361)
        heard = line.hear()
        line.slave.set("age_1", 10)
        back = line.hear()
        line.slave.set("fault_1", 9)
        faulty = line.hear()
    assert heard["battery_1"] == (None, Note.NO_DATA)
    assert heard["gas_1"] == (None, Note.NO_DATA)
    assert back["gas_1"] == (12.5, "")
    assert faulty["gas_1"] == (None, Note.NO_DATA)
    age = infos(find("gas-oi-7032", LIBRARY))["age_1"]
    assert heard["age_1"][0] > age.high
    assert age.beyond_high == "fail"


def test_two_manuals_two_encodings_of_oxygen_the_other_is_out_of_range():
    """20.9 % is 00 D1 in one manual and 14 09 in the other: of that one nothing from 1.0 % on can pass for a value."""
    template = find("gas-sf6-o2", LIBRARY)
    points, oxygen = carried(template, 3, 0, 2), infos(template)["oxygen"]

    def read(word):
        (_, value), _ = Reader(points, 3, 0, 2).decode(struct.pack(">2H", 3048, word))
        return value

    assert read(0x00D1) == 20.9
    for tenths in range(256):
        whole, rest = divmod(tenths, 10)
        assert oxygen.low <= read(tenths) <= oxygen.high
        told = read(whole << 8 | rest)
        assert told > oxygen.high if whole else told == tenths / 10
    assert oxygen.beyond_high == "fail"


def test_trigger_mode_distance_is_an_old_one(tmp_path):
    with talk(tmp_path, "ultrasonic-urm14", "distance", values={"distance": 432.1}) as line:
        assert line.hear()["distance"] == (432.1, "")
        line.slave.set_register(3, 8, 4)
        assert line.hear()["distance"] == (None, Note.NO_DATA)
        line.slave.set_register(3, 8, 0)
        line.slave.set_register(3, 5, 0xFFFF)
        assert line.hear()["distance"] == (None, Note.NO_DATA)
