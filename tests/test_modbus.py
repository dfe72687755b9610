"""The driver against its simulator: real RTU frames on a pty, real Modbus TCP on a socket."""

import itertools
import threading
import time
from pathlib import Path

import msgspec
import pytest

import drivers
from drivers import Command, LinkError, Note, SetupError
from drivers.jobs import Reading, Wait
from drivers.modbus import Modbus
from drivers.modbus_wire import Device, ModbusWire, host_port
from drivers.schedule import Schedule, Task
from drivers.sensor import Serial
from drivers.station import BACK_OFF_S, Station
from drivers.template import find
from hil.bus import Bus
from hil.slaves import RtuStation, Slave, TcpServer, attach

LIBRARY = (Path(__file__).parents[1] / "config" / "sensors",)
FAST = Serial(baud=115200)


def rain(address=2, **more):
    return Slave(find("rain-tipping", LIBRARY), address, {"total": 144.1}, name="rain", **more)


def crack(address=3, **more):
    return Slave(find("crack-cable-bolin", LIBRARY), address, {"displacement": 12.34}, name="crack", **more)


def wire(port, *devices, **more):
    return ModbusWire(id="w", driver="modbus", port=port, answer_timeout_ms=60, devices=devices or (
        Device(id="rain", template="rain-tipping", address=2),
        Device(id="crack", template="crack-cable-bolin", address=3)),
        **more)


class Rig:
    """Two slaves and a driver that polls them."""

    def __init__(self, driver, slaves, log, bus=None):
        self.driver, self.log, self.bus = driver, log, bus
        self.slaves = {slave.name: slave for slave in slaves}

    def scans(self, enough, patience_s=5.0):
        """Read until `enough(all scans so far)`."""
        got, deadline = [], time.monotonic() + patience_s
        while not enough(got):
            assert time.monotonic() < deadline, got
            got += self.driver.read(0.05)
        return got

    def of(self, device, count=1):
        """Read until there are `count` scans of a device; return those."""
        return [s for s in self.scans(lambda got: sum(s.device == device for s in got) >= count)
                if s.device == device]


POLLS = {"rain": {"total": 0.1}, "crack": {"displacement": 0.05}}


@pytest.fixture(params=["rtu", "tcp"])
def rig(request, tmp_path):
    slaves, log = [rain(turnaround_s=0.001), crack(turnaround_s=0.001)], []
    if request.param == "rtu":
        with Bus(FAST) as bus:
            bus.attach(RtuStation(slaves, log))
            driver = Modbus(wire(bus.port(tmp_path / "bus"), serial=FAST), POLLS, LIBRARY, time.monotonic)
            driver.open()
            yield Rig(driver, slaves, log, bus)
            driver.close()
    else:
        with TcpServer(slaves, log=log) as server:
            driver = Modbus(wire(f"tcp://127.0.0.1:{server.port}"), POLLS, LIBRARY, time.monotonic)
            driver.open()
            yield Rig(driver, slaves, log)
            driver.close()


def test_it_is_found_by_its_entry_point():
    assert drivers.find("modbus") is Modbus
    assert Modbus.Wire is ModbusWire


def test_scans_say_what_the_slaves_said(rig):
    got = rig.scans(lambda got: len(got) >= 12)
    assert {(s.device, s.points, s.values, s.notes) for s in got} == {
        ("rain", ("total",), (144.1,), ()), ("crack", ("displacement",), (12.34,), ())}
    deadline = time.monotonic() + 2
    while len(rig.log) < len(got) and time.monotonic() < deadline:
        time.sleep(0.001)   # an answer is logged once it is out, so a moment after it can be read
    assert [s.device for s in got] == [a.device for a in rig.log][:len(got)]
    for scan, answer in zip(got, rig.log, strict=False):
        assert 0 <= scan.at_s - answer.at_s < 0.05
        assert dict(zip(scan.points, scan.values, strict=True)).items() <= answer.values.items()


def test_new_values_come_through(rig):
    rig.of("crack")
    rig.slaves["crack"].set("displacement", 61.5)
    assert rig.of("crack")[-1].values == (61.5,)


def test_equal_questions_to_a_slow_device_never_change_places(tmp_path):
    """An answer later than three timeouts, and two blocks of one length: the one would pass for the other."""
    slow = rain(turnaround_s=0.075)
    slow.set("total_2", 0.8)
    rain_alone = Device(id="rain", template="rain-tipping", address=2)
    with Bus(FAST) as bus:
        bus.attach(RtuStation([slow]))
        made = ModbusWire(id="w", driver="modbus", port=bus.port(tmp_path / "bus"), serial=FAST, answer_timeout_ms=20,
                          devices=(rain_alone,))
        driver = Modbus(made, {"rain": {"total": 0.1, "total_2": 0.15}}, LIBRARY, time.monotonic)
        driver.open()
        got, end = [], time.monotonic() + 3.0
        while time.monotonic() < end:
            driver.submit(command("read_now", "rain"))
            got += driver.read(0.05)
        driver.close()
    assert len(got) >= 2
    assert {(s.points, s.values) for s in got} <= {(("total",), (None,)), (("total_2",), (None,)),
                                                  (("total",), (144.1,)), (("total_2",), (0.8,))}


def test_a_name_that_is_none_is_a_link_error():
    device = Device(id="crack", template="crack-cable-bolin", address=3)
    driver = Modbus(wire("tcp://a..b:502", device), {}, LIBRARY, time.monotonic)
    with pytest.raises(LinkError, match="right"):
        driver.open()


def test_many_who_ask_at_once_are_answered_by_one_read(rig):
    rig.scans(lambda got: {s.device for s in got} == {"rain", "crack"})
    for _ in range(200):
        rig.driver.submit(command("read_now", "rain", points=("total_3",)))
        rig.driver.submit(command("read_now", "rain"))
    got = [rig.driver.read(0.05) for _ in range(8)]
    assert sum(s.points == ("total_3",) for scans in got for s in scans) == 1
    assert sum(s.device == "crack" for scans in got for s in scans) >= 1


def test_polls_keep_their_pace_and_their_place(rig):
    starts = [s.at_s for s in rig.of("crack", 20)][1:]   # the first read is an early one
    assert starts[-1] - starts[0] >= 17 * 0.05           # never faster than asked, however late some came
    [task] = [task for rounds in rig.driver._rounds.values() for task in rounds.schedule.tasks
              if task.station.device == "crack"]
    began_s = task.due_s
    rig.of("crack", 5)
    moved = task.due_s - began_s
    assert moved / 0.05 == pytest.approx(round(moved / 0.05))


WRONG = ("silent", "garbled", "cut_short", "wrong_unit", "wrong_function", "short", "exception", "busy", "doubled",
         "wrong_transaction")


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_answer_is_never_a_value(rig, fault):
    if (fault == "wrong_transaction" and rig.bus) or (fault == "garbled" and not rig.bus):
        pytest.skip("not a fault of this kind of wire")
    if fault == "doubled" and not rig.bus:
        pytest.skip("on TCP the transaction number tells the second one apart")
    rig.of("crack")
    slave = rig.slaves["crack"]
    slave.fault = fault
    slave.set("displacement", 99.0)
    # an answer from before may have been on its way
    bad = [s for s in rig.scans(lambda got: sum(s.values == (None,) for s in got if s.device == "crack") >= 3)
           if s.device == "crack" and s.values != (12.34,)]
    count = {"exception": ("exception_4", 3), "busy": ("exception_6", 5)}
    expected = {"silent": Note.NO_ANSWER, "garbled": Note.BAD_CRC, "cut_short": Note.BAD_CRC if rig.bus else
                Note.NO_ANSWER, "wrong_unit": Note.FOREIGN, "wrong_function": Note.FOREIGN, "short": Note.FOREIGN,
                "exception": Note.REFUSED, "busy": Note.BUSY, "doubled": Note.FOREIGN,
                "wrong_transaction": Note.NO_ANSWER}[fault]
    assert [s.values for s in bad] == [(None,)] * 3
    # on a machine that is held up, what came late may meet the next request
    assert expected in {s.notes[0] for s in bad} <= {expected, Note.NO_ANSWER}
    assert not [a for a in rig.log if not a.fault and a.values.get("displacement") == 99.0]
    state = {h.device: h for h in rig.driver.health()}
    assert state["crack"].state == ("failing" if fault in count else "quarantined")
    kind, times = count.get(fault, (expected, 4))   # the first failure is asked again at once, and not told
    assert times - 2 <= state["crack"].errors[kind] <= times
    slave.plug()
    rig.driver.submit(command("read_now", "crack"))   # a back-off does not hold what somebody asks for
    good = rig.scans(lambda got: any(s.device == "crack" and s.values == (99.0,) for s in got))
    assert {s.values for s in good if s.device == "crack"} <= {(99.0,), (None,)}


def test_a_late_answer_is_never_taken_for_the_next_one(rig):
    rig.of("crack")
    slave = rig.slaves["crack"]
    slave.late_s, slave.fault = 0.13, "late"
    slave.set("displacement", 50.0)
    assert rig.of("crack", 2)[-1].values == (None,)
    slave.set("displacement", 70.0)
    slave.plug()
    values = [s.values[0] for s in rig.scans(
        lambda got: any(s.device == "crack" and s.values == (70.0,) for s in got)) if s.device == "crack"]
    assert 50.0 not in values


def test_a_garbled_tcp_header_is_a_dead_wire_that_comes_back(tmp_path):
    slave = crack()
    with TcpServer([slave]) as server:
        device = Device(id="crack", template="crack-cable-bolin", address=3)
        driver = Modbus(wire(f"tcp://127.0.0.1:{server.port}", device), {"crack": {"displacement": 0.05}}, LIBRARY,
                        time.monotonic)
        driver.open()
        slave.fault = "garbled"
        with pytest.raises(LinkError, match="does not speak Modbus TCP"):
            Rig(driver, [slave], []).of("crack", 3)   # the first may have been on its way
        slave.plug()
        driver.open()
        assert Rig(driver, [slave], []).of("crack")[0].values == (12.34,)
        driver.close()


def test_one_dead_device_does_not_stop_the_other(rig):
    rig.of("rain")
    rig.slaves["crack"].unplug()
    before = time.monotonic()
    got = rig.scans(lambda got: sum(s.device == "rain" for s in got) >= 25)
    assert time.monotonic() - before < 25 * 0.1 + 1.0
    dead = [s for s in got if s.device == "crack" and s.values != (12.34,)]   # one may have been on its way
    assert dead
    assert all(s.values == (None,) and s.notes == (Note.NO_ANSWER,) for s in dead)
    assert all(s.values == (144.1,) for s in got if s.device == "rain")
    gaps = [b.at_s - a.at_s for a, b in itertools.pairwise(dead)]
    assert gaps == sorted(gaps) or len(gaps) < 2 or gaps[-1] >= BACK_OFF_S[1]


def test_a_silent_address_answers_nobody_else(rig):
    """Address 2 and 3 are there; a slave is silent for the rest."""
    assert rig.slaves["rain"].address == 2
    port = rig.driver._line.port if rig.bus else rig.driver._network.members[0].host.name
    rig.driver.close()
    nobody = wire(port, Device(id="rain", template="rain-tipping", address=9), serial=FAST if rig.bus else None)
    rig.driver = Modbus(nobody, {"rain": {"total": 0.05}}, LIBRARY, time.monotonic)
    rig.driver.open()
    assert rig.of("rain")[0].notes == (Note.NO_ANSWER,)
    rig.driver.close()


def command(kind, device, points=(), **more):
    return Command(id="c", kind=kind, device=device, points=points, deadline_s=time.monotonic() + 5, **more)


def test_read_now_comes_before_polls_and_wakes_a_waiting_read(tmp_path):
    with TcpServer([rain(turnaround_s=0)]) as server:
        device = Device(id="rain", template="rain-tipping", address=2)
        driver = Modbus(wire(f"tcp://127.0.0.1:{server.port}", device), {"rain": {"total": 600}}, LIBRARY,
                        time.monotonic)
        driver.open()
        assert len(driver.read(1)) == 1
        timer = threading.Timer(0.1, driver.submit, [command("read_now", "rain", ("total_2", "total_3"))])
        began = time.monotonic()
        timer.start()
        scans = driver.read(10)
        assert 0.1 <= time.monotonic() - began < 2
        assert [s.points for s in scans] == [("total_2", "total_3")]   # nobody polls these: read for the asking
        driver.submit(command("read_now", "rain"))
        assert [s.points for s in driver.read(1)] == [("total",)]
        assert driver.read(0) == []
        timer.join()
        driver.close()


def test_read_now_is_served_first(rig):
    rig.of("rain")
    time.sleep(0.2)   # by now every poll is due
    rig.driver.submit(command("read_now", "rain", ("total_2",)))
    got = rig.scans(lambda got: any(s.points == ("total_2",) for s in got))
    # an answer that was on its way already may come first; no poll of a serial line is
    assert len(got) <= (1 if rig.bus else 3), got


def test_expired_and_senseless_commands_are_dropped_and_said(rig, caplog):
    late = Command(id="old", kind="read_now", device="rain", deadline_s=time.monotonic() - 1)
    for ask in (late, command("read_now", "nobody"), command("pace", "rain"), command("read_now", "rain", ("depth",))):
        rig.driver.submit(ask)
    rig.of("rain")
    text = caplog.text
    for word in ("command_expired", "no_such_device", "pace_without_period", "no point depth"):
        assert word in text


def test_pace_holds_for_its_time_and_ends(rig):
    rig.of("rain")
    rig.driver.submit(command("pace", "rain", period_s=0.02, until_s=time.monotonic() + 0.5))
    fast = [s.at_s for s in rig.of("rain", 10)]
    assert fast[-1] - fast[0] < 9 * 0.1 * 0.8
    deadline = time.monotonic() + 0.6
    while time.monotonic() < deadline:
        rig.driver.read(0.05)
    slow = [s.at_s for s in rig.of("rain", 4)]
    assert (slow[-1] - slow[0]) / 3 == pytest.approx(0.1, abs=0.04)


def test_the_wire_comes_back_after_being_pulled_out(tmp_path):
    with Bus(FAST) as bus:
        bus.attach(RtuStation([rain(), crack()]))
        port = bus.port(tmp_path / "bus")
        driver = Modbus(wire(port, serial=FAST), POLLS, LIBRARY, time.monotonic)
        driver.open()
        rig = Rig(driver, [], [])
        rig.of("rain")
        bus.unplug(port)
        with pytest.raises(LinkError):
            rig.of("rain", 100)
        driver.close()
        with pytest.raises(LinkError):
            driver.open()
        bus.plug(port)
        driver.open()
        assert rig.of("rain")[0].values == (144.1,)
        driver.close()
        driver.close()


def test_a_port_is_opened_anew_only_when_nobody_answers_any_more(tmp_path, monkeypatch):
    """An adapter may hang: nobody on it is heard, though the port is there."""
    monkeypatch.setattr("drivers.modbus.DEAF_S", 1.5)
    monkeypatch.setattr("drivers.modbus.REOPEN_S", 3.0)
    slaves = [rain(turnaround_s=0.001), crack(turnaround_s=0.001)]
    with Bus(FAST) as bus:
        bus.attach(RtuStation(slaves))
        driver = Modbus(wire(bus.port(tmp_path / "bus"), serial=FAST), POLLS, LIBRARY, time.monotonic)
        driver.open()
        rig, opened = Rig(driver, slaves, []), []
        truly = driver._line.open
        driver._line.open = lambda: (opened.append(time.monotonic()), truly())
        slaves[1].unplug()
        rig.scans(lambda got: sum(s.device == "rain" for s in got) >= 40, 10)
        assert opened == []                  # one of two is well: the port is not the reason
        slaves[0].unplug()
        deaf_s = time.monotonic()
        rig.scans(lambda _: opened, 15)
        assert opened[0] - deaf_s >= 1.5
        for slave in slaves:
            slave.plug()
        rig.scans(lambda got: {s.device for s in got if s.values[0] is not None} == {"rain", "crack"}, 15)
        assert len(opened) == 1
        driver.close()


def test_a_command_under_way_has_its_result_when_the_wire_goes(tmp_path):
    with Bus(FAST) as bus:
        bus.attach(RtuStation([rain()]))   # nobody answers for the crack
        port, results = bus.port(tmp_path / "bus"), []
        driver = Modbus(msgspec.structs.replace(wire(port, serial=FAST), answer_timeout_ms=5000), {}, LIBRARY,
                        time.monotonic)
        driver.open()
        driver.submit(command("read_now", "crack", ("displacement",)), results.append)
        timer = threading.Timer(0.3, bus.unplug, [port])
        timer.start()
        with pytest.raises(LinkError):
            driver.read(10)
        timer.join()
        driver.close()
        assert [(r.id, r.ok) for r in results] == [("c", False)]


def test_a_given_back_wire_takes_commands_and_loans_at_once(tmp_path):
    def lend(id_, kind="lend"):
        return Command(id=id_, kind=kind, deadline_s=time.monotonic() + 5)

    with Bus(FAST) as bus:
        bus.attach(RtuStation([crack()]))
        results = []
        driver = Modbus(wire(bus.port(tmp_path / "bus"), serial=FAST), {}, LIBRARY, time.monotonic)
        driver.open()
        for ask in (lend("one"), lend("one", "take_back"), lend("two"), lend("two", "take_back"),
                    command("read_now", "crack", ("displacement",))):
            driver.submit(ask, results.append)
        driver.read(0.5)
        assert [(r.id, r.ok) for r in results] == [("one", True), ("one", True), ("two", True), ("two", True),
                                                   ("c", True)]
        driver.close()


def test_a_host_that_goes_is_a_link_error_and_one_that_is_not_there_too():
    server = TcpServer([rain()])
    with server:
        driver = Modbus(wire(f"tcp://127.0.0.1:{server.port}"), POLLS, LIBRARY, time.monotonic)
        driver.open()
    with pytest.raises(LinkError):
        Rig(driver, [], []).scans(lambda got: len(got) > 20)
    with pytest.raises(LinkError, match="tcp://127"):
        driver.open()
    with pytest.raises(LinkError, match="not connected"):
        driver.read(0.2)
    driver.close()


def test_a_noisy_bus_loses_readings_but_never_bends_one(tmp_path):
    log = []
    with Bus(FAST, seed=5) as bus:
        bus.attach(RtuStation([rain(turnaround_s=0.001), crack(turnaround_s=0.001)], log))
        driver = Modbus(wire(bus.port(tmp_path / "bus"), serial=FAST), POLLS, LIBRARY, time.monotonic)
        driver.open()
        bus.flip = bus.drop = 0.01
        got = Rig(driver, [], []).scans(lambda got: len(got) >= 40, 20)
        driver.close()
    values = [s.values[0] for s in got]
    assert set(values) <= {144.1, 12.34, None}
    assert {144.1, 12.34, None} <= set(values)
    read = sorted((s.device, *s.values) for s in got if s.values[0] is not None)
    true = sorted((a.device, a.values.get("total", a.values.get("displacement"))) for a in log)
    assert read == true   # what went out whole was read, and nothing else was


# -- the set-up --------------------------------------------------------------------------------------------------

RAIN = Device(id="rain", template="rain-tipping", address=2)


SIREN = Device(id="s", template="siren-v2", address=1, actions=("sound",))


@pytest.mark.parametrize(("made", "path", "text"), [
    (wire("p", RAIN, Device(id="b", template="rain-tipping", address=2)), ("devices", 1, "address"), "taken by 'rain'"),
    (wire("p", RAIN, Device(id="rain", template="rain-tipping", address=3)), ("devices", 1, "id"), "ids must differ"),
    (wire("p", Device(id="a", template="rain-tiping", address=2)), ("devices", 0, "template"), "rain-tipping"),
    (wire("p", Device(id="a", template="rain-tipping", address=2, serial=Serial(parity="even")), serial=Serial()),
     ("devices", 0, "serial"), "9600 8E1 on a wire of 9600 8N1"),
    (wire("tcp://host", RAIN), ("port",), "tcp://host:port"),
    (wire("http://host:1", RAIN), ("port",), "tcp://host:port"),
    (wire("tcp:host:1", RAIN), ("port",), "expected a path"),
    (wire("tcp://host:502", RAIN, serial=FAST), ("serial",), "set them in the converter"),
    (wire("/dev/ttyUSB0", RAIN, Device(id="b", template="rain-tipping", address=3, port="tcp://192.168.1.5:502")),
     ("devices", 1, "port"), "on a serial wire"),
    (wire("/dev/ttyUSB0", Device(id="b", template="rain-tipping", address=3, port="tcp://192.168.1.5:502"), RAIN),
     ("devices", 0, "port"), "on a serial wire"),
    (wire("/dev/ttyUSB0", SIREN, framing="ascii"), ("devices", 0, "actions"), "framing: rtu"),
    (wire("tcp://host:502", SIREN), ("devices", 0, "actions"), "framing: rtu"),
])
def test_what_cannot_work_is_said_before_anything_is_opened(made, path, text):
    found = Modbus.problems(made, LIBRARY)
    assert [p for p, _ in found] == [path]
    assert text in found[0][1]
    with pytest.raises(SetupError, match=r"^wire w: "):
        Modbus(made, {}, LIBRARY, time.monotonic)


def test_mixed_settings_may_be_meant():
    odd = Device(id="a", template="rain-tipping", address=2, serial=Serial(parity="even"))
    assert Modbus.problems(wire("p", odd, mixed_settings=True), LIBRARY) == []


def test_two_speeds_share_a_wire_when_meant(tmp_path):
    with Bus(FAST) as bus:
        attach(bus, [rain(), crack(serial=Serial(baud=57600))])
        devices = (RAIN, Device(id="crack", template="crack-cable-bolin", address=3, serial=Serial(baud=57600)))
        driver = Modbus(wire(bus.port(tmp_path / "bus"), *devices, serial=FAST, mixed_settings=True), POLLS, LIBRARY,
                        time.monotonic)
        driver.open()
        got = Rig(driver, [], []).scans(lambda got: len(got) >= 6)
        assert {s.values for s in got} == {(144.1,), (12.34,)}
        driver.close()


def test_ports_are_told_apart():
    assert host_port("/dev/ttyUSB0") is host_port("bus-a") is None
    assert host_port("tcp://127.0.0.1:18502") == ("127.0.0.1", 18502)
    assert host_port("tcp://[::1]:502") == ("::1", 502)


def test_describe_gives_all_points_and_leaves_out_the_broken():
    known = Modbus.describe(wire("p", RAIN, Device(id="x", template="nothing", address=5)), LIBRARY)
    assert known.keys() == {"rain"}
    assert known["rain"].keys() == {"total", "total_2", "total_3"}
    assert known["rain"]["total"].counter
    assert known["rain"]["total"].unit == "mm"


def test_a_wire_that_cannot_keep_up_is_told_with_numbers(caplog):
    slow = wire("p", serial=Serial(baud=1200))
    polls = {"rain": {"total": 0.2}, "crack": {"displacement": 0.2}}
    found = Modbus.overload(slow, polls, LIBRARY)
    # 29.2 ms of silence, as much before the answer, 15 characters of 8.33 ms, twice, in 200 ms
    assert "183%" in found[-1].en
    assert "183%" in found[-1].zh
    assert Modbus.overload(slow, {"rain": {"total": 2}, "crack": {"displacement": 2}}, LIBRARY) == []
    gas = wire("p", Device(id="gas", template="gas-self-describing", address=1))
    assert "faster than it can answer" in Modbus.overload(gas, {"gas": {"concentration": 0.5}}, LIBRARY)[0].en
    Modbus(slow, polls, LIBRARY, time.monotonic)
    assert "wire_overloaded" in caplog.text


@pytest.mark.parametrize(("polls", "text"), [({"rain": {"depth": 1}}, "no point depth"),
                                             ({"x": {"y": 1}}, "not on it")])
def test_polls_of_what_is_not_there_are_refused(polls, text):
    with pytest.raises(SetupError, match=text):
        Modbus(wire("p"), polls, LIBRARY, time.monotonic)


# -- due times, without a wire -----------------------------------------------------------------------------------


def tasks(*periods, gap_s=0.0):
    from drivers.exchange import Ask
    from drivers.reader import Reader
    point = find("crack-cable-bolin", LIBRARY).points
    return [Task(Station(f"d{n}", None, gap_s, 0.3), Ask(n + 1, 3, 0, 1), Reader(point, 3, 0, 1), period)
            for n, period in enumerate(periods)]


def run(schedule, until, cost_s=0.01, fail=()):
    """Serve a schedule on a made-up clock; returns (time, device) of every exchange."""
    now, served = 0.0, []
    schedule.start(now)
    while now < until:
        task, wake = schedule.next(now)
        if task is None:
            now = min(wake, until)
            continue
        served.append((now, task.station.device))
        schedule.done(task, now)
        now += cost_s
        if task.station.device in fail:
            task.station.failure(now, Note.NO_ANSWER)
        else:
            task.station.answer(now, 0.001)
    return served


def test_everything_is_read_at_once_then_spread():
    served = run(Schedule(tasks(1, 1, 1, 1)), 10)
    assert [d for _, d in served[:4]] == ["d0", "d1", "d2", "d3"]
    assert served[3][0] < 0.05
    assert sorted({round(t % 1, 3) for t, _ in served[4:]}) == [0.0, 0.25, 0.5, 0.75]


def test_a_missed_poll_is_skipped_and_counted():
    made = tasks(0.1)
    served = run(Schedule(made), 10, cost_s=0.25)
    assert len(served) == pytest.approx(40, abs=1)
    assert made[0].due_s == pytest.approx(0.1 * (len(served) + made[0].station.missed))   # the grid never moved
    assert served[-1][0] - 0.1 <= made[0].due_s <= served[-1][0] + 0.1 + 1e-6             # and nothing piled up


def test_a_fast_point_is_not_held_up_by_slow_ones():
    served = run(Schedule(tasks(0.05, *[10] * 20)), 10, cost_s=0.02)
    fast = [t for t, d in served if d == "d0"]
    assert len(fast) >= 195
    assert max(b - a for a, b in itertools.pairwise(fast)) <= 0.1


def test_a_device_gets_its_rest():
    served = run(Schedule(tasks(0.1, gap_s=0.5)), 5)
    assert min(b - a for (a, _), (b, _) in itertools.pairwise(served)) >= 0.5099


def test_a_dead_device_is_asked_ever_more_seldom():
    served = [t for t, d in run(Schedule(tasks(0.1, 0.1)), 60, fail={"d0"}) if d == "d0"]
    waits = [b - a for a, b in itertools.pairwise(served)]
    assert [round(b - a, 6) >= 0 for a, b in itertools.pairwise(waits)] == [True] * (len(waits) - 1)
    assert waits[-1] >= 9.99
    assert len(served) < 12


def test_a_refusing_device_keeps_its_pace():
    station = Station("d", None, 0, 0.3)
    station.failure(1.0, Note.REFUSED, 4)
    assert station.retry_s < 1.0
    assert station.health().state == "failing"


def test_a_read_asked_for_is_not_done_after_its_deadline():
    soon, later = tasks(9, 9)
    schedule, results = Schedule((soon, later)), []
    soon.station.free_s, later.station.free_s = 5.0, 8.0
    reads = [Reading(task, deadline_s, Wait(Command(id=task.station.device, kind="read_now", deadline_s=deadline_s),
                                            results.append, 1)) for task, deadline_s in ((later, 10.0), (soon, 1.0))]
    for read in reads:
        schedule.put(read)
    assert schedule.next(6.0) == (None, 8.0)
    assert [(r.id, r.ok) for r in results] == [("d0", False)]
    assert schedule.next(8.0) == (reads[0], 8.0)


def test_a_slower_pace_that_ends_has_missed_nothing():
    [task] = made = tasks(1)
    schedule = Schedule(made)
    schedule.start(0.0)
    schedule.done(task, 0.0)
    schedule.pace(made, 60.0, 50.0, 0.5)
    assert schedule.next(0.5)[0] is task
    schedule.done(task, 0.5)
    assert schedule.next(50.0)[0] is task
    schedule.done(task, 50.0)
    assert task.station.missed == 0
    assert 50.0 < task.due_s <= 51.0
