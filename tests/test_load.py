"""What polls cost a wire, and when a device's own rest counts."""

import msgspec

from drivers.load import blocks_of, cost_of, overload, requests
from drivers.modbus_wire import Device, ModbusWire
from drivers.planner import Hole
from drivers.sensor import Serial
from drivers.template import find
from gateway.site import SHIPPED

LIBRARY = (SHIPPED / "sensors",)
RAIN = Device(id="rain", template="rain-tipping", address=2)
GAS = Device(id="gas", template="gas-self-describing", address=1)


def wire(*devices, **more):
    return ModbusWire(id="w", driver="modbus", **{"port": "/dev/null", "devices": devices, **more})


def test_a_wire_of_one_waits_for_the_rest_of_its_device():
    template = find("gas-self-describing", LIBRARY)
    assert template.min_gap_ms == 500
    alone, shared = (cost_of(wire(*devices), GAS, template) for devices in ((GAS,), (GAS, RAIN)))
    assert (alone.rest_ms, shared.rest_ms) == (500, 0)
    assert alone.exchange_ms(3, 6) == shared.exchange_ms(3, 6) - shared.gap_ms + 500
    on_network = cost_of(wire(GAS, port="tcp://10.0.0.1:502"), GAS, template)
    assert (on_network.char_ms, on_network.gap_ms, on_network.rest_ms) == (0, 0, 500)


def tired(min_gap_ms: float, *registers: int):
    """The rain gauge with other registers, and in want of rest."""
    template = find("rain-tipping", LIBRARY)
    points = tuple(msgspec.structs.replace(template.points[0], id=f"p{n}", register=n) for n in registers)
    return msgspec.structs.replace(template, points=points, min_gap_ms=min_gap_ms)


def test_a_device_that_would_be_late_gets_fewer_requests():
    """On a shared wire a hole of 40 registers is dearer than another request, but the device wants 400 ms a request."""
    shared = wire(RAIN, GAS, serial=Serial(baud=9600))
    for min_gap_ms, expected in ((0.0, [(0, 1), (41, 1)]), (400.0, [(0, 1), (41, 1)]), (600.0, [(0, 42)])):
        template = tired(min_gap_ms, 0, 41)
        planned = blocks_of(template, {"p0": 1.0, "p41": 1.0}, cost_of(shared, RAIN, template))
        assert [(block.first, block.count) for _, _, block in planned] == expected


def test_what_was_refused_is_planned_around():
    template = tired(0.0, 0, 4)
    cost = cost_of(wire(RAIN, GAS), RAIN, template)
    polls = {"p0": 1.0, "p4": 1.0}
    assert [block.count for _, _, block in blocks_of(template, polls, cost)] == [5]
    assert [block.count for _, _, block in blocks_of(template, polls, cost, {Hole(3, 1, 3)})] == [1, 1]


def test_periods_are_planned_apart_the_fastest_first():
    found = requests(wire(RAIN), {"rain": {"total": 10.0, "total_2": 1.0, "total_3": 10.0}}, LIBRARY)
    assert [(r.poll_s, r.first, r.count, r.points) for r in found] == [
        (1.0, 1, 1, ("total_2",)), (10.0, 0, 3, ("total", "total_3"))]


def test_a_slow_line_waits_as_long_before_the_answer_as_before_the_request():
    template = find("rain-tipping", LIBRARY)
    cost = cost_of(wire(RAIN, GAS, serial=Serial(baud=1200)), RAIN, template)
    assert cost.exchange_ms(3, 1) == (3.5 + 3.5 + 15) * 10_000 / 1200


def test_a_full_wire_is_said_with_numbers_in_both_languages():
    (told,) = overload(wire(RAIN, serial=Serial(baud=1200)), {"rain": {"total": 0.2}}, LIBRARY)
    assert told.path == ("devices",)
    assert "92%" in told.en
    assert "92%" in told.zh
    assert overload(wire(RAIN, serial=Serial(baud=1200)), {"rain": {"total": 1.0}}, LIBRARY) == []


def test_hosts_of_one_wire_have_each_their_own_time():
    near, far = (Device(id=f"d{n}", template="gas-self-describing", address=1, port=f"tcp://10.0.0.{n}:502")
                 for n in (1, 2))
    both = wire(near, far, port="", turnaround_ms=600)
    assert [r.host for r in requests(both, {"d1": {"concentration": 2.0}, "d2": {"concentration": 2.0}}, LIBRARY)] == [
        "tcp://10.0.0.1:502", "tcp://10.0.0.2:502"]
    # each fills 55 % of its own host's time: together more than all of one, but there are two
    assert overload(both, {"d1": {"concentration": 2.0}, "d2": {"concentration": 2.0}}, LIBRARY) == []
    (told,) = overload(both, {"d1": {"concentration": 2.0}, "d2": {"concentration": 1.2}}, LIBRARY)
    assert told.path == ("devices", 1)


def test_ascii_takes_twice_the_characters():
    template = find("rain-tipping", LIBRARY)
    plain, ascii_ = (cost_of(wire(RAIN, GAS, framing=framing), RAIN, template) for framing in (None, "ascii"))
    assert (ascii_.exchange_ms(3, 10) - plain.exchange_ms(3, 10)) * 9600 / 10_000 == 28 + 40 - 33
