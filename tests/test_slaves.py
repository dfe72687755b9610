"""The simulated devices: every fault is what its name says, and the log holds nothing but truths."""

import random

import pytest

from drivers import writing
from drivers.exchange import checked
from drivers.sensor import Action, Point, Serial, Step, Title
from drivers.sensor import Template as Model
from drivers.template import names
from hil.bus import Bus
from hil.bus_process import plain
from hil.faults import ACCEPTABLE, DOUBTFUL, SERIAL_ONLY
from hil.slaves import FAULTS, RtuStation, Slave
from tests.wires import FAST, LIBRARY, Program, model, rtu

ASK, PDU = rtu(3, 3, 0, 0, 0, 2), bytes((3, 0, 0, 0, 2))
RIGHT = rtu(3, 3, 4, 0, 1, 0, 2)


def slave(**more):
    made = Slave(plain(10), 3, {f"r{n}": n + 1 for n in range(10)}, name="plain", turnaround_s=0.0, **more)
    made.late_s = 0.08
    return made


def sheet(points, **more):
    return Model(model="m", maker="x", title=Title(zh="x", en="x"), manual="x", examples=(), points=points, **more)


@pytest.fixture
def rig(tmp_path):
    with Bus(FAST) as bus:
        made, log = slave(), []
        bus.attach(RtuStation([made], log))
        with Program(bus.port(tmp_path / "port")) as program:
            yield made, program, log


@pytest.mark.parametrize(("fault", "heard"), [
    ("", RIGHT), ("silent", b""), ("late", RIGHT), ("garbled", RIGHT[:-3] + bytes([RIGHT[-3] ^ 0x10]) + RIGHT[-2:]),
    ("cut_short", RIGHT[:4]), ("wrong_unit", rtu(4, 3, 4, 0, 1, 0, 2)), ("wrong_function", rtu(3, 4, 4, 0, 1, 0, 2)),
    ("short", rtu(3, 3, 2, 0, 1)), ("exception", rtu(3, 0x83, 4)), ("busy", rtu(3, 0x83, 6)),
    ("gateway_path", rtu(3, 0x83, 10)), ("gateway_target", rtu(3, 0x83, 11)), ("leading_zero", b"\0" + RIGHT),
    ("trailing_zero", RIGHT + b"\0"), ("trailing_ff", RIGHT + b"\xff"), ("doubled", RIGHT + RIGHT),
    ("stale", rtu(3, 3, 2, 0, 10)), ("wrong_transaction", RIGHT), ("refuses_writes", RIGHT), ("forgets", RIGHT)])
def test_a_fault_is_what_its_name_says(rig, fault, heard):
    made, program, log = rig
    assert program.ask(rtu(3, 3, 0, 9, 0, 1), 7) == rtu(3, 3, 2, 0, 10)
    log.clear()
    made.fault = fault
    assert program.ask(ASK, max(1, len(heard)), patience_s=0.2) == heard
    told = [(a.values, a.fault) for a in log]
    if fault in ACCEPTABLE | DOUBTFUL | {"wrong_transaction"}:
        assert told == [({"r0": 1, "r1": 2}, fault if fault in DOUBTFUL else "")]
        assert log[0].at_s - log[0].asked_s >= (made.late_s if fault == "late" else 0.0)
    else:
        assert told == []
    made.plug()
    assert program.ask(ASK, 9) == RIGHT


def test_every_fault_has_its_case():
    mark = next(m for m in test_a_fault_is_what_its_name_says.pytestmark if m.name == "parametrize")
    assert {case[0] for case in mark.args[1]} | {"babbling"} == set(FAULTS)   # babbling: tests/test_bus.py


def test_a_late_answer_is_true_of_its_own_question(rig):
    made, program, log = rig
    made.fault = "late"
    program.ask(ASK, 1, patience_s=0.03)
    made.set("r0", 500)
    heard = program.hear(9)
    assert heard == RIGHT
    assert log[0].values["r0"] == 1
    assert log[0].at_s - log[0].asked_s >= made.late_s


def test_a_stale_answer_nobody_could_tell_is_not_given(rig):
    made, program, log = rig
    program.ask(ASK, 9)
    made.fault = "stale"
    assert program.ask(rtu(3, 3, 0, 4, 0, 2), 1, patience_s=0.1) == b""
    assert len(log) == 1


def test_holes_single_registers_and_long_reads_are_refused_when_told():
    points = tuple(Point(id=f"p{n}", register=n, unit="1", resolution=1) for n in (0, 1, 5))
    made = Slave(sheet(points), 1)
    asked = [bytes((3, 0, first, 0, count)) for first, count in ((0, 2), (0, 6), (1, 1), (5, 1), (2, 1))]
    assert [made.answer(pdu)[0] for pdu in asked] == [3] * 5
    made.refuses_holes = True
    assert [made.answer(pdu)[:2].hex() for pdu in asked] == ["0304", "8302", "0302", "0302", "8302"]
    made.refuses.add((3, 1))
    assert [made.answer(pdu)[:2].hex() for pdu in asked] == ["8302", "8302", "8302", "0302", "8302"]
    made.refuses_holes, made.refuses, made.max_registers = False, set(), 4
    assert [made.answer(pdu)[:2].hex() for pdu in asked] == ["0304", "8303", "0302", "0302", "0302"]


def test_a_slow_device_takes_its_time(rig):
    made, program, log = rig
    made.turnaround_s = 0.05
    assert program.ask(ASK, 9) == RIGHT
    assert log[0].at_s - log[0].asked_s >= 0.05


def test_chance_draws_every_fault_and_the_log_stays_true():
    """Every PDU that says it is the answer carries the true registers, whatever was drawn; the seed repeats it all."""
    seed = random.randrange(2**32)
    print("seed", seed)
    faults = [fault for fault in FAULTS if fault]

    def run():
        made = slave(seed=seed)
        made.chance = dict.fromkeys(faults, 0.05 / len(faults) * 10)   # half of all exchanges
        return [made.exchange(PDU, float(n)) for n in range(4000)]

    outcomes = run()
    assert outcomes == run()
    drawn = {done.fault for done in outcomes if done}
    assert drawn >= set(faults) - {"silent", "stale", "wrong_transaction"}   # those say nothing, or nothing wrong here
    for done in outcomes:
        if done and done.told:
            assert (done.unit, done.pdu) == (3, RIGHT[1:-2])
            assert done.told == {"r0": 1, "r1": 2}
            assert done.fault in ACCEPTABLE | DOUBTFUL
    assert sum(not (done and done.fault == "") for done in outcomes) > 1500


def test_faults_of_a_serial_line_are_none_on_tcp():
    made = slave()
    for fault in SERIAL_ONLY:
        made.fault = fault
        assert made.exchange(PDU, 0.0, tcp=True).fault == ""


@pytest.mark.parametrize(("request_", "answer", "after"), [
    ((6, 0, 2, 0x12, 0x34), (6, 0, 2, 0x12, 0x34), 0x1234),
    ((16, 0, 1, 0, 3, 6, 0, 7, 0, 8, 0, 9), (16, 0, 1, 0, 3), 8),
    ((16, 0, 1, 0, 3, 5, 0, 7, 0, 8, 0), (0x90, 3), 3),            # byte count and data differ
    ((16, 0, 9, 0, 2, 4, 0, 7, 0, 8), (0x90, 2), 3),              # past the end
    ((16, 0, 1, 0, 0, 0), (0x90, 3), 3), ((6, 0, 2, 1), (0x86, 1), 3), ((22, 0, 2, 0, 0, 0, 0), (0x96, 1), 3),
    ((5, 0, 0, 0xFF, 0), (0x85, 2), 3), ((5, 0, 0, 1, 0), (0x85, 3), 3),
])
def test_registers_are_written(rig, request_, answer, after):
    made, program, _ = rig
    assert program.ask(rtu(3, *request_), 5) == rtu(3, *answer)
    assert program.ask(rtu(3, 3, 0, 2, 0, 1), 7) == rtu(3, 3, 2, *after.to_bytes(2, "big"))
    assert bool(made.written) == (answer[0] < 0x80)


def test_coils_are_written():
    points = tuple(Point(id=f"c{n}", register=n, function=1, type="bit", unit="1", resolution=1) for n in range(10))
    made = Slave(sheet(points), 1)
    assert made.answer(bytes((5, 0, 9, 0xFF, 0))) == bytes((5, 0, 9, 0xFF, 0))
    assert made.answer(bytes((15, 0, 1, 0, 3, 1, 0b101))) == bytes((15, 0, 1, 0, 3))
    assert made.answer(bytes((1, 0, 0, 0, 10))) == bytes((1, 2, 0b1010, 0b10))
    assert [(w.function, w.first, w.values) for w in made.written] == [(5, 9, (1,)), (15, 1, (1, 0, 1))]


def test_writes_fail_by_name(rig):
    made, program, _ = rig
    made.fault = "refuses_writes"
    assert program.ask(rtu(3, 6, 0, 0, 0, 99), 5) == rtu(3, 0x86, 4)
    made.fault = "forgets"
    assert program.ask(rtu(3, 6, 0, 0, 0, 99), 8) == rtu(3, 6, 0, 0, 0, 99)
    assert program.ask(ASK, 9) == RIGHT
    assert [w.values for w in made.written] == [(99,)]


def test_a_broadcast_is_obeyed_and_not_answered(rig):
    made, program, _ = rig
    assert program.ask(rtu(0, 6, 0, 0, 0, 99), 1, patience_s=0.05) == b""
    assert program.ask(ASK, 9) == rtu(3, 3, 4, 0, 99, 0, 2)
    assert made.written[0].broadcast


@pytest.mark.parametrize("name", [n for n in names(LIBRARY) if model(n).set_address])
def test_an_address_recipe_gives_the_address(tmp_path, name):
    old = model(name).address
    made = Slave(model(name), old, name=name, turnaround_s=0.0)
    with Bus(FAST) as bus:
        bus.attach(RtuStation([made]))
        with Program(bus.port(tmp_path / "port")) as program:
            for step, _ in writing.address_steps(made.template, old, 17):
                answer = program.ask(step.frame, 8, patience_s=0.2)
                assert answer == (rtu(step.unit, *step.pdu[:5]) if step.unit else b"")
        assert made.address == 17


def test_a_recipe_wants_its_steps_in_order():
    steps = (Step(register=0x11, value=0x18, broadcast=True), Step(register=0x13, value="address", broadcast=True))
    made = Slave(sheet((Point(id="a", register=0, unit="1", resolution=1),), set_address=steps), 5)
    address, unlock = bytes((6, 0, 0x13, 0, 9)), bytes((6, 0, 0x11, 0, 0x18))
    made.exchange(address, 0.0, broadcast=True)
    assert made.address == 5
    made.exchange(unlock, 0.0, broadcast=True)
    made.exchange(bytes((6, 0, 0x13, 1, 0)), 0.0, broadcast=True)   # 256 is no address
    assert made.address == 5
    made.exchange(unlock, 0.0, broadcast=True)
    made.exchange(address, 0.0, broadcast=True)
    assert made.address == 9
    made.exchange(address.replace(b"\x09", b"\x0a"), 0.0, broadcast=True)   # locked again
    assert made.address == 9


def test_an_address_is_taken_when_no_step_more_goes_to_the_old_one():
    steps = (Step(register=1, value="address"), Step(register=2, value=1), Step(register=3, value=9, moved=True))
    made = Slave(sheet((Point(id="a", register=9, unit="1", resolution=1),), set_address=steps), 5)
    made.exchange(bytes((6, 0, 1, 0, 8)), 0.0)
    assert made.address == 5
    made.exchange(bytes((6, 0, 2, 0, 1)), 0.0)
    assert made.address == 8


def test_an_action_of_the_template_is_obeyed(tmp_path):
    """A siren's frame that is no legal Modbus, as its maker prints it."""
    request, answer = checked(bytes.fromhex("01 10 00 1A 00 01 01")), rtu(1, 0x10, 0, 0x1A, 0, 1)
    action = Action(id="sound", request=request.hex(" "), answer=answer.hex(" "), source="x")
    made = Slave(sheet((), actions=(action,)), 6, turnaround_s=0.0)
    with Bus(FAST) as bus:
        bus.attach(RtuStation([made]))
        with Program(bus.port(tmp_path / "port")) as program:
            assert program.ask(checked(b"\6" + request[1:-2]), 8) == rtu(6, *answer[1:-2])
            made.fault = "silent"
            assert program.ask(checked(b"\6" + request[1:-2]), 1, patience_s=0.05) == b""
    assert [word for _, word in made.acted] == ["sound"]


def test_one_transceiver_has_one_setting():
    with pytest.raises(ValueError, match=r"use hil\.station\.attach"):
        RtuStation([slave(), slave(serial=Serial(baud=4800))])
