"""What is asked and what comes of it, on a made-up clock and line: splitting, probes, quarantine, jobs, supplies."""

import random
import struct
from types import SimpleNamespace

import msgspec
import pytest

from drivers import Command, Note, SetupError
from drivers.exchange import Ask, Raw, checked
from drivers.jobs import Reading, Wait
from drivers.line import Heard
from drivers.planner import Cost
from drivers.power import Power
from drivers.rounds import Rounds, Unit
from drivers.sensor import Example, Point, Template, Title
from drivers.sheet import WriteRule
from drivers.station import QUARANTINED, Station

COST = Cost(char_ms=1.0, turnaround_ms=10.0, gap_ms=4.0)
POINTS = (0, 1, 4, 5, 9)


def template(**more):
    points = tuple(Point(id=f"p{n}", register=n, unit="1", resolution=1, write=WriteRule(function=6)) for n in POINTS)
    return Template(maker="m", title=Title(zh="表", en="meter"), manual="none", points=points,
                    examples=(Example(request="01", answer="01", source="computed"),), **more)


class Line:
    """Answers reads from registers; refuses or is silent as told; every exchange takes 0.02 s."""

    def __init__(self, rounds):
        self.rounds, self.now = rounds, 0.0
        self.registers = {n: 100 + n for n in range(20)}
        self.missing: set[int] = set()
        self.silent = lambda _: False
        self.broken = lambda: None
        self.code = 2
        self.asked, self.scans = [], []
        rounds.start(0.0)

    def run(self, until_s):
        while self.now < until_s:
            turn, urgent, wake_s = self.rounds.next(self.now)
            if turn is None:
                self.now = min(wake_s, until_s)
                continue
            began, self.now = self.now, self.now + 0.02
            heard = self.hear(turn.ask)
            self.asked.append((began, turn.ask))
            self.scans += self.rounds.settle(turn, urgent, heard, began)
        return self

    def hear(self, ask):
        if self.silent(ask):
            return Heard(Note.NO_ANSWER, b"", 0, self.now)
        if note := self.broken():
            return Heard(note, b"", 0, self.now)
        if isinstance(ask, Raw):
            return Heard(None, ask.frame, 0, self.now, 0.01)
        if isinstance(ask, Ask):
            span = range(ask.first, ask.first + ask.count)
            if self.missing & set(span):
                return Heard(Note.REFUSED, b"", 0, self.now, 0.01, self.code)
            return Heard(None, struct.pack(f">{ask.count}H", *(self.registers[n] for n in span)), 0, self.now, 0.01)
        self.registers[ask.first] = ask.values[0]
        return Heard(None, ask.pdu, 0, self.now, 0.01)

    def said(self, since_s=0.0):
        """Point → its values since then."""
        found = {}
        for scan in self.scans:
            if scan.at_s >= since_s:
                for point, value in zip(scan.points, scan.values, strict=True):
                    found.setdefault(point, []).append(value)
        return found


def line(polls=None, *, patience_s=0.3, retries=1, power=None, **more):
    station = Station("d", None, 0.0, patience_s, unit=1)
    unit = Unit(station, template(), COST, power=power, **more)
    return Line(Rounds([unit], {"d": polls or dict.fromkeys((f"p{n}" for n in POINTS), 1.0)}, retries=retries))


def command(kind, **more):
    return Command(id="c", kind=kind, device="d", deadline_s=1e9, **more)


@pytest.mark.parametrize("code", [2, 3])
def test_a_refused_hole_costs_no_reading_and_is_remembered(code):
    bus = line()
    bus.code, bus.missing = code, {2, 3, 6, 7, 8}
    bus.run(5.0)
    assert bus.asked[0][1].count == 10          # cheapest: one read over both holes
    for n in POINTS:
        assert bus.said()[f"p{n}"] == [100.0 + n] * len(bus.said()[f"p{n}"])
        assert len(bus.said()[f"p{n}"]) >= 5
    spans = [(ask.first, ask.count) for at_s, ask in bus.asked if at_s > 0.2]
    assert set(spans) == {(0, 2), (4, 2), (9, 1)}   # never over a hole again
    health = bus.rounds.units["d"].station.health()
    assert health.refused == ("3:0-9",)
    assert health.errors == {f"exception_{code}": 1}


def test_a_register_that_is_not_there_is_missing_alone():
    bus = line()
    bus.missing = {4}
    bus.run(5.0)
    said = bus.said(since_s=0.5)
    assert set(said["p4"]) == {None}
    for n in (0, 1, 5, 9):
        assert set(said[f"p{n}"]) == {100.0 + n}
    notes = {note for scan in bus.scans for note in scan.notes if note}
    assert notes == {Note.REFUSED}


def test_a_block_that_is_met_with_silence_is_split_too():
    """Some devices say nothing at all to a read over registers they do not have."""
    bus = line()
    bus.silent = lambda ask: isinstance(ask, Ask) and ask.first <= 6 < ask.first + ask.count
    bus.run(30.0)
    said = bus.said(since_s=20.0)
    for n in POINTS:
        assert set(said[f"p{n}"]) == {100.0 + n}


def test_a_dead_device_is_tried_by_one_cheap_read_and_back_with_everything_at_once():
    bus = line()
    bus.run(1.5)
    dead = bus.now
    bus.silent = lambda _: True
    bus.run(60.0)
    tries = [(at_s, ask) for at_s, ask in bus.asked if at_s > dead]
    assert all(ask.count == 1 for _, ask in tries[2:])      # after the poll and its repetition
    assert len(tries) < 15
    assert tries[-1][0] - tries[-2][0] >= 10.0
    lost = [scan for scan in bus.scans if scan.at_s > dead]
    assert {point for scan in lost for point in scan.points} == {f"p{n}" for n in POINTS}
    assert sum(Note.QUARANTINED in scan.notes for scan in lost) == 1
    assert bus.rounds.units["d"].station.fails >= QUARANTINED
    bus.silent = lambda _: False
    back = bus.now
    bus.run(back + 12.0)
    first = min(scan.at_s for scan in bus.scans if scan.at_s > back)
    everything = [s for s in bus.scans if first <= s.at_s <= first + 0.1]
    assert {point for scan in everything for point in scan.points} == {f"p{n}" for n in POINTS}


def test_one_lost_answer_is_asked_again_and_not_told():
    bus = line()
    bus.run(1.5)
    once = iter([True])
    bus.silent = lambda _: next(once, False)
    bus.run(6.0)
    assert None not in {value for values in bus.said().values() for value in values}
    assert bus.rounds.units["d"].station.errors == {Note.NO_ANSWER: 1}
    told = line(retries=0)
    once = iter([True])
    told.silent = lambda _: next(once, False)
    told.run(0.5)
    assert told.scans[0].notes == (Note.NO_ANSWER,) * 5


def test_a_write_is_done_when_it_reads_back():
    bus, results = line(writable=("p4",)), []
    bus.run(0.5)
    bus.rounds.command(command("write", values={"p4": 7}), results.append, bus.now)
    bus.run(0.6)
    [result] = results
    assert (result.ok, result.values) == (True, {"p4": 7})
    assert bus.registers[4] == 7
    bus.hear, hear = lambda ask: Heard(None, b"\0\1", 0, bus.now, 0.01), bus.hear   # it acknowledges and forgets
    bus.rounds.command(command("write", values={"p4": 9}), results.append, bus.now)
    bus.run(0.8)
    bus.hear = hear
    assert not results[1].ok
    assert "reads back something else" in results[1].text_en


@pytest.mark.parametrize(("more", "text"), [
    ({"values": {"p0": 1}}, "does not let 'p0' be written"), ({"values": {"p4": 1e9}}, "does not fit in u16"),
    ({}, "needs a point")])
def test_a_write_that_may_not_be_is_refused(more, text):
    bus, results = line(writable=("p4",)), []
    bus.rounds.command(command("write", **more), results.append, 0.0)
    assert not results[0].ok
    assert text in results[0].text_en
    assert bus.rounds.schedule.urgent == []


def test_a_siren_goes_first_then_writes_then_confirming_reads_then_polls():
    bus, results = line(writable=("p0", "p1", "p4")), []
    bus.now = 10.0   # every poll is due
    rounds = bus.rounds
    rounds.command(command("read_now", points=("p9",)), results.append, bus.now)
    rounds.command(command("write", values={"p4": 4}), results.append, bus.now)
    rounds.command(command("write", values={"p0": 1}, siren=True), results.append, bus.now)
    bus.run(10.3)
    order = [("write" if not isinstance(ask, Ask) else "read", ask.first) for _, ask in bus.asked]
    assert order[:5] == [("write", 0), ("read", 0), ("write", 4), ("read", 4), ("read", 0)]
    assert [r.ok for r in results] == [True] * 3


def test_every_command_gets_one_result_also_when_its_time_passes_or_the_line_goes():
    bus, results = line(writable=("p4",)), []
    late = Command(id="late", kind="read_now", device="d", deadline_s=-1.0)
    bus.rounds.command(late, results.append, 0.0)
    bus.rounds.command(command("write", values={"p4": 1}), results.append, 0.0)
    bus.rounds.command(command("read_now"), results.append, 0.0)
    bus.rounds.drop()
    bus.run(1.0)
    assert [(r.id, r.ok) for r in results] == [("late", False), ("c", False), ("c", False)]
    assert "nothing was sent" in results[1].text_en


def test_a_read_of_a_block_that_has_to_be_split_is_answered_whole():
    bus, results = line({f"p{n}": 60.0 for n in POINTS}), []
    bus.missing = {2, 3}
    bus.rounds.command(command("read_now"), results.append, 0.0)
    bus.run(1.0)
    assert results[0].ok
    assert results[0].values == {f"p{n}": 100.0 + n for n in POINTS}


class Relay:
    """A made-up relay that notes when it is switched."""

    def __init__(self, bus):
        self.bus, self.log = bus, []

    def on(self):
        self.log.append((self.bus().now, True))

    def off(self):
        self.log.append((self.bus().now, False))

    def close(self):
        self.log.append((self.bus().now, None))


def test_a_switched_sensor_is_warm_and_settled_when_it_is_read(monkeypatch):
    relay = Relay(lambda: bus)
    monkeypatch.setattr("drivers.power.open_relay", lambda *_: relay)
    power = Power(SimpleNamespace(port="lgpio", pin=6, active="high"), warm_up_s=8.0, settle_reads=2)
    bus = line(dict.fromkeys((f"p{n}" for n in POINTS), 60.0), power=power)
    bus.run(200.0)
    on = [at_s for at_s, state in relay.log if state]
    off = [at_s for at_s, state in relay.log if state is False]
    assert len(on) == 4
    assert len(off) >= 3
    for begun, ended in zip(on, off, strict=False):
        asked = [at_s for at_s, _ in bus.asked if begun <= at_s <= ended]
        told = [scan.at_s for scan in bus.scans if begun <= scan.at_s <= ended]
        assert min(asked) >= begun + 8.0
        assert len(asked) == 3
        assert len(told) == 1
    assert not any(off_s < at_s < on_s for off_s, on_s in zip(off, on[1:], strict=False) for at_s, _ in bus.asked)
    bus.rounds.close()
    assert relay.log[-1][1] is None


def test_an_answer_nobody_waited_for_any_more_suggests_a_longer_timeout():
    bus = line(patience_s=0.3)
    station = bus.rounds.units["d"].station
    bus.silent = lambda _: True
    bus.run(0.1)
    bus.rounds.overheard(Heard(None, b"", 0, 0.37, stray=b"\0" + checked(b"\1\3\2\0\5")))
    health = station.health()
    assert health.errors["late"] == 1
    assert health.timeout_ms == pytest.approx(560, abs=20)   # 0.37 s and half as much again


def test_a_reading_nobody_vouches_for_is_no_data():
    made = template()
    points = (made.points[0],
              *(msgspec.structs.replace(point, vouched_by={"p0": (0, 50)}) for point in made.points[1:]))
    unit = Unit(Station("d", None, 0.0, 0.3, unit=1), msgspec.structs.replace(made, points=points), COST)
    bus = Line(Rounds([unit], {"d": {"p9": 1.0}}))      # p0 is polled unasked, and before it
    bus.registers[0] = 50
    bus.run(2.5)
    assert bus.said()["p9"] == [109.0] * len(bus.said()["p9"])
    bus.registers[0] = 51
    bus.run(5.0)
    assert set(bus.said(since_s=3.1)["p9"]) == {None}
    bus.registers[0] = 7
    bus.run(8.0)
    assert set(bus.said(since_s=6.1)["p9"]) == {109.0}
    bus.missing = {0}                                    # the voucher cannot be read: nobody vouches
    bus.run(12.0)
    assert set(bus.said(since_s=9.1)["p9"]) == {None}
    assert {note for scan in bus.scans for note in scan.notes} <= {"", Note.NO_DATA, Note.REFUSED}


def test_a_model_without_the_point_is_refused():
    with pytest.raises(SetupError, match="no point depth"):
        line({"depth": 1.0})


def test_a_device_that_is_back_and_refuses_the_probe_takes_the_line_from_nobody():
    dead, well = (Station(name, None, 0.0, 0.3, unit=n) for n, name in ((1, "dead"), (2, "well")))
    bus = Line(Rounds([Unit(dead, template(), COST), Unit(well, template(), COST)],
                      {"dead": dict.fromkeys(("p0", "p1", "p4"), 1.0), "well": {"p9": 1.0}}))
    bus.silent = lambda ask: ask.unit == 1
    bus.run(10.0)
    bus.silent = lambda _: False
    bus.missing = {0}                       # the very register the probe asks for
    asked = len(bus.asked)
    bus.run(60.0)
    assert len(bus.asked) - asked < 50 * 4 + 20, "the probe was asked again and again"
    assert len([s for s in bus.scans if s.device == "well" and s.at_s > 10]) >= 49
    said = [s for s in bus.scans if s.device == "dead" and s.at_s > 30]
    assert {v for s in said for p, v in zip(s.points, s.values, strict=True) if p != "p0"} == {101.0, 104.0}
    assert dead.health().state != "quarantined"


@pytest.mark.parametrize("retries", [0, 1, 2, 3])
def test_a_loss_is_told_of_every_point_however_often_a_poll_is_repeated(retries):
    bus = line({"p0": 1.0, "p4": 5.0, "p9": 60.0}, retries=retries)
    bus.run(3.0)
    bus.silent = lambda _: True
    bus.run(30.0)
    lost = [scan for scan in bus.scans if scan.at_s > 3.0]
    assert {point for scan in lost for point in scan.points} == {"p0", "p4", "p9"}
    assert sum(Note.QUARANTINED in scan.notes for scan in lost) == 1


def test_a_lost_answer_after_an_outage_splits_no_block():
    """A block counts as refused by silence only where the device answers everything else, again and again."""
    bus = line()
    bus.run(1.5)
    for n in range(3):
        bus.silent = lambda _: True
        bus.run(bus.now + 20.0)
        bus.silent = lambda _: False
        while bus.rounds.units["d"].station.fails:
            bus.run(bus.now + 0.02)
        once = iter([True])
        bus.silent = lambda _, once=once: next(once, False)
        bus.run(bus.now + 5.0)
        assert bus.rounds.units["d"].station.refused == [], n


@pytest.mark.parametrize(("note", "share"), [(Note.BAD_CRC, 0.2), (Note.FOREIGN, 0.2), (Note.NO_ANSWER, 0.02)])
def test_noise_splits_no_block(note, share):
    bus = line({"p0": 0.5, "p4": 1.0, "p5": 1.0, "p9": 1.0}, patience_s=0.01)
    rng, seed = random.Random(7), 7
    bus.broken = lambda: note if rng.random() < share else None
    bus.run(2000.0)
    assert bus.rounds.units["d"].station.errors[note] > 50
    assert bus.rounds.units["d"].station.refused == [], f"seed {seed}"


def test_a_read_of_points_nobody_polls_makes_no_voucher_old():
    made = template()
    points = (made.points[0],
              *(msgspec.structs.replace(point, vouched_by={"p0": (0, 200)}) for point in made.points[1:]))
    unit = Unit(Station("d", None, 0.0, 0.3, unit=1), msgspec.structs.replace(made, points=points, contiguous=False),
                COST)                                    # voucher and vouched are read 5 s apart
    bus, results = Line(Rounds([unit], {"d": {"p0": 60.0, "p9": 10.0}})), []
    bus.run(5.0)
    bus.rounds.command(command("read_now", points=("p5",)), results.append, bus.now)
    bus.run(200.0)
    assert results[0].values["p5"] == 105.0
    assert set(bus.said()["p9"]) == {109.0}


def test_a_settling_sensor_is_read_whole_also_where_it_is_not_polled(monkeypatch):
    monkeypatch.setattr("drivers.power.open_relay", lambda *_: Relay(lambda: bus))
    made = template()
    points = (*made.points[:4], msgspec.structs.replace(made.points[4], vouched_by={"p5": (0, 200)}))
    power = Power(SimpleNamespace(port="lgpio", pin=6, active="high"), warm_up_s=2.0, settle_reads=2)
    unit = Unit(Station("d", None, 0.0, 0.3, unit=1), msgspec.structs.replace(made, points=points), COST, power=power)
    bus, results = Line(Rounds([unit], {"d": {"p5": 600.0}})), []
    bus.run(100.0)
    bus.rounds.command(command("read_now", points=("p9",)), results.append, bus.now)
    bus.run(110.0)
    assert results[0].values["p9"] == 109.0


def test_a_dead_sensor_does_not_keep_its_supply_on(monkeypatch):
    relay = Relay(lambda: bus)
    monkeypatch.setattr("drivers.power.open_relay", lambda *_: relay)
    power = Power(SimpleNamespace(port="lgpio", pin=6, active="high"), warm_up_s=8.0, settle_reads=0)
    bus = line({"p0": 600.0, "p9": 600.0}, power=power)
    bus.silent = lambda _: True
    bus.run(6000.0)
    begun, fed_s = None, 0.0
    for at_s, on in [*relay.log, (bus.now, False)]:
        fed_s += at_s - begun if begun is not None else 0.0
        begun = at_s if on else None
    assert fed_s < 600.0, "its battery pays for every second"
    bus.silent = lambda _: False
    bus.run(6700.0)
    assert set(bus.said(since_s=6000.0)["p0"]) == {100.0}


def test_a_command_that_was_given_up_gets_no_second_result():
    bus, results = line({"p0": 60.0, "p4": 60.0, "p9": 60.0}), []
    bus.run(0.5)
    tasks = bus.rounds.schedule.tasks
    wait = Wait(command("read_now"), results.append, 2)
    reading = Reading(tasks[0], 1e9, wait)
    wait.drop()
    bus.missing = {1, 2, 3, 5, 6, 7, 8}
    bus.rounds.schedule.put(reading)
    bus.run(10.0)
    assert len(results) == 1


@pytest.mark.parametrize("period_s", [0.0, -1.0, 1e-300, 5e-324, 0.001, float("nan"), float("inf")])
def test_a_pace_no_wire_can_keep_is_refused(period_s):
    bus, results = line(), []
    bus.rounds.command(command("pace", period_s=period_s, until_s=60.0), results.append, 0.0)
    bus.run(10.0)
    assert [r.ok for r in results] == [False]
    assert len(bus.asked) <= 11


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308, -1e308, 1.7976931348623157e308])
def test_a_value_that_is_no_register_is_refused(value):
    bus, results = line(writable=("p4",)), []
    unit = bus.rounds.units["d"]
    unit.template = msgspec.structs.replace(unit.template, points=tuple(
        msgspec.structs.replace(point, scale=0.001) for point in unit.template.points))
    bus.rounds.command(command("write", values={"p4": value}), results.append, 0.0)
    bus.run(1.0)
    assert [r.ok for r in results] == [False]
