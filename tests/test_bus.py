"""The simulated line tells the truth about time, settings and who talked when."""

import time

import pytest

from drivers.sensor import Serial
from hil.bus import Bus, Reply
from hil.slaves import RtuStation, Slave, attach
from hil.waveform import Settings, heard
from tests.wires import FAST, Program, model, rtu

ASK = rtu(3, 3, 0, 0, 0, 1)
RIGHT = rtu(3, 3, 2, 4, 210)


def crack(address=3, **more):
    return Slave(model("crack-cable-bolin"), address, {"displacement": 12.34}, name=f"crack{address}",
                 turnaround_s=0.0, **more)


@pytest.fixture
def line(tmp_path):
    with Bus(FAST) as bus:
        yield bus, tmp_path / "port"


@pytest.mark.parametrize(("talker", "listener", "bytes_heard", "errors"), [
    (Settings(9600), Settings(9600, None), "0103", 0),
    (Settings(9600, stop_bits=2), Settings(9600), "0103", 0),
    (Settings(9600, "even"), Settings(9600), "0103", 1),       # the parity bit taken for the stop bit: 03 has none set
    (Settings(9600), Settings(9600, "even"), "01", 1),         # 01 wants a parity bit of 1 and gets the stop bit
    (Settings(9600, "even"), Settings(9600, "odd"), "0103", 2),
    (Settings(4800), Settings(9600), None, None),
])
def test_a_uart_hears_what_the_bits_say(talker, listener, bytes_heard, errors):
    data, wrong = heard(bytes.fromhex("0103"), talker, listener)
    if bytes_heard is None:
        assert data != bytes.fromhex("0103")
    else:
        assert data.startswith(bytes.fromhex(bytes_heard))
        assert wrong >= errors


def test_half_speed_stretches_every_bit():
    """U at 4800 seen at 9600, by hand: start 0, then (LSB first) 0 1 1 0 0 1 1 0 = 0x66."""
    data, _ = heard(b"U", Settings(4800), Settings(9600))
    assert data[0] == 0x66


def test_a_request_begun_in_the_silence_is_counted(line):
    bus, path = line
    bus.attach(RtuStation([crack()]))
    with Program(bus.port(path)) as program:
        for _ in range(3):
            assert program.ask(ASK, 7, pause_s=0.01) == RIGHT
        assert (bus.requests, bus.early_requests) == (3, 0)
        program.ask(ASK, 7, pause_s=0)   # the answer is in; asks again at once
        program.ask(ASK, 1, patience_s=0.1)
    assert bus.requests == 5
    assert bus.early_requests == 1
    assert bus.least_gap_s < bus.silence_s
    early = [said for said in bus.log if said.source == str(path) and said.gap_s < bus.silence_s]
    assert len(early) == 1


def test_the_time_of_a_turn_is_that_of_physics(line):
    """Request, silence, answer: the answer's end is reckoned from the request's, however late a thread woke."""
    bus, path = line
    bus.attach(RtuStation([crack()]))
    with Program(bus.port(path)) as program:
        for _ in range(5):
            program.ask(ASK, 7, pause_s=0.01)
    turns = [(a, b) for a, b in zip(bus.log, list(bus.log)[1:], strict=False) if b.source == "slaves"]
    assert len(turns) == 5
    for asked, answered in turns:
        assert answered.end_s - asked.end_s == pytest.approx(bus.silence_s + 7 * bus.char_s, abs=1e-9)
        assert answered.at_s >= answered.end_s - 1e-6
        assert answered.gap_s == pytest.approx(bus.silence_s, abs=1e-9)
    assert bus.busy_s == pytest.approx(5 * 15 * bus.char_s)


def test_an_adapter_with_echo_hears_itself(line):
    bus, path = line
    bus.attach(RtuStation([crack()]))
    with Program(bus.port(path, echo=True)) as program:
        assert program.ask(ASK, 15) == ASK + RIGHT


def test_devices_of_different_settings_share_a_wire(line):
    """Each is heard with its own settings only, and what the others say is garbage there."""
    bus, path = line
    kinds = [Serial(baud=9600), Serial(baud=4800), Serial(baud=19200, parity="even"), Serial(baud=9600, parity="odd"),
             Serial(baud=115200, stop_bits=2)]
    log = []
    attach(bus, [crack(n, serial=serial) for n, serial in enumerate(kinds, 1)], log)
    with Program(bus.port(path, strict_parity=True)) as program:
        found = {}
        for serial in kinds:
            program.set(serial)
            for unit in range(1, 6):
                if program.ask(rtu(unit, 3, 0, 0, 0, 1), 7, patience_s=0.15) == rtu(unit, 3, 2, 4, 210):
                    found[unit] = serial
    assert found == dict(enumerate(kinds, 1))
    assert [answer.device for answer in log] == [f"crack{n}" for n in (1, 2, 3, 4, 5)]


def test_settings_that_differ_give_garbage_not_silence(line):
    """A talker at 9600 on a program at 115200: many characters, none of them true; and no truth is logged."""
    bus, path = line

    class Chatter:
        name, settings = "chatter", Settings(9600)

        def __init__(self):
            self.said = []

        def hear(self, frame, at_s):
            return []

        def unasked(self, now_s):
            if self.said:
                return None
            self.said.append(now_s)
            return Reply(0.0, RIGHT, lambda _: self.said.append("sent"))

    with Program(bus.port(path)) as program:
        bus.attach(chatter := Chatter())
        got = program.hear(7)
        assert len(got) > len(RIGHT)
        assert RIGHT not in got
        assert "sent" not in chatter.said
    assert [said.whole for said in bus.log] == [False]


def test_parity_shows_only_with_inpck(line):
    """The kernel's pty driver hides PARENB: without INPCK even and none cannot be told apart, and either works."""
    bus, path = line
    bus.attach(RtuStation([crack(serial=Serial(baud=9600, parity="even"))]))
    with Program(bus.port(path)) as program:
        program.set(Serial(baud=9600), inpck=False)
        assert program.ask(ASK, 7) == RIGHT
        program.set(Serial(baud=9600, parity="odd"), inpck=False)
        assert program.ask(ASK, 7, patience_s=0.15) == b""


def test_two_of_one_address_garble_each_other_differently_each_time(line):
    bus, path = line
    log = []
    bus.attach(RtuStation([crack(), crack()], log, "one"))
    bus.attach(RtuStation([Slave(model("crack-cable-bolin"), 3, {"displacement": 50.0}, name="twin",
                                 turnaround_s=0.003)], log, "two"))
    with Program(bus.port(path)) as program:
        heard_each = [program.ask(ASK, 7, patience_s=0.3) for _ in range(5)]
    assert RIGHT not in heard_each
    assert len(set(heard_each)) > 1
    assert all(7 <= len(said) <= 28 for said in heard_each)
    assert bus.collisions >= 5
    assert all(said.device == "twin" for said in log)   # it may come after the others, alone and whole


def test_identical_twins_never_come_through(line):
    bus, path = line
    log = []
    attach(bus, [crack(), crack()], log)
    with Program(bus.port(path)) as program:
        heard_each = [program.ask(ASK, 7, patience_s=0.3) for _ in range(6)]
    assert log == []
    assert {len(said) for said in heard_each} == {7}   # one stream of characters, not two
    assert len(set(heard_each)) == 6
    assert bus.collisions == 6


def test_an_ascii_frame_needs_no_silence_to_end(line):
    bus, path = line
    bus.attach(RtuStation([crack()], framing="ascii"))
    with Program(bus.port(path)) as program:
        assert program.ask(b":030300000001F9\r\n", 15) == b":03030204D222\r\n"   # LRC by hand: 100 - (03+03+02+04+D2)
        assert program.ask(b":030300000001F8\r\n", 1, patience_s=0.1) == b""
    asked, answered = list(bus.log)[:2]
    assert answered.end_s - asked.end_s == pytest.approx(15 * bus.char_s, abs=1e-6)


def test_who_talks_without_end_leaves_no_silence(line):
    bus, path = line
    slave = crack()
    bus.attach(RtuStation([slave]))
    with Program(bus.port(path)) as program:
        slave.fault = "babbling"
        assert len(program.hear(200, pause_s=0.0)) >= 200
        assert program.ask(ASK, 1, patience_s=0.05) != RIGHT
        slave.plug()
        time.sleep(0.06)
        program.hear(1, 0.05)
        assert program.ask(ASK, 7) == RIGHT
    gaps = [said.gap_s for said in bus.log if said.source == "slaves"][1:-1]
    assert sorted(gaps)[len(gaps) // 2] < bus.silence_s


def test_babble_comes_in_bursts_when_it_has_a_pause(line):
    bus, path = line
    slave = crack()
    slave.babble_bytes, slave.babble_s, slave.fault = 5, 0.08, "babbling"
    bus.attach(RtuStation([slave]))
    with Program(bus.port(path)) as program:
        bursts = [program.hear(5, pause_s=0.03) for _ in range(3)]
    assert [len(burst) for burst in bursts] == [5, 5, 5]
