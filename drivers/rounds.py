"""What the devices of one line are asked, in which order, and what came of it.

Owns: the block reads of one line (a bus, or one host), their splitting where a device refuses to be read over, and
what becomes of every exchange: Scans, standings, results of commands. Promises: a failed exchange is a Scan of None
with the reason, never a number; one that is tried again at once is not told twice; a refused hole costs no reading.
Never: does I/O, reads a clock: it says what is next and is told what was heard.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence

from drivers import Answer, Command, Note, Result, Scan, SetupError, refused
from drivers.exchange import Ask, Raw, Write, answers_in
from drivers.jobs import Job, Reading, Wait, act, write
from drivers.line import Heard
from drivers.load import blocks_of
from drivers.planner import Block, Cost, Hole, split
from drivers.planner import refused as refused_between
from drivers.power import Power
from drivers.reader import Reader
from drivers.registers import width
from drivers.schedule import Schedule, Task, Turn, Urgent
from drivers.sensor import Point, Template
from drivers.station import BUSY_S, SILENT, Station
from drivers.vouching import Vouching
from drivers.writing import action_frames, encode

log = logging.getLogger(__name__)

ILLEGAL = (2, 3)
"""Exceptions by which a device refuses registers it does not have (address, value)."""
_AT = 3
"""Where the data of an RTU answer begin when nothing came before it."""
SILENCES = 3
"""Silences of one block, each after an answer to another question and none answered between, that count as a refusal:
a split is for good, so neither noise nor an outage may look like one."""
PACE_S = 0.01, 86400.0
"""The shortest and longest period of a pace; as of a poll."""


class Unit:
    """One device of the line: its model, its standing, and what the site lets be done to it."""

    def __init__(self, station: Station, template: Template, cost: Cost, *, parameters: Mapping[str, float] = {},
                 writable: Iterable[str] = (), actions: Iterable[str] = (), power: Power | None = None) -> None:
        self.station, self.template, self.cost = station, template, cost
        self.parameters = template.known(parameters)
        self.writable, self.actions, self.power = frozenset(writable), frozenset(actions), power
        self.vouching = Vouching(template)
        self.apart: set[Hole] = set()
        """Where the device refused to be read over."""

    def tasks(self, points: Mapping[str, float]) -> list[Task]:
        """Plan the block reads that carry these points (point → period in s), and those that vouch for them.

        Raises:
            SetupError: the model has no such point.
        """
        if unknown := sorted(set(points) - {point.id for point in self.template.points}):
            raise SetupError(f"device {self.station.device}: its model {self.template.model} has no point "
                             f"{', '.join(unknown)}; it has {', '.join(point.id for point in self.template.points)}")
        return [self._task(poll_s, members, block)
                for poll_s, members, block in blocks_of(self.template, self.vouching.polls(points), self.cost,
                                                        self.apart)]

    def parts(self, task: Task) -> list[Task]:
        """Take a refused block read apart, and remember where; none when only one span is left."""
        spans = [point.span() for point in task.members]
        whole = Block(task.ask.function, task.ask.first, task.ask.count, tuple(range(len(spans))))
        blocks = split(whole, spans)
        self.apart |= refused_between(blocks)
        return [self._task(task.own_s, [task.members[n] for n in block.spans], block) for block in blocks]

    def probe(self, tasks: Sequence[Task]) -> Task:
        """Return the cheapest read there is among these: one point of the smallest span."""
        one = min((point for task in tasks for point in task.members), key=lambda point: point.span().count)
        span = one.span()
        return self._task(math.inf, [one], Block(span.function, span.first, span.count, (0,)))

    def _task(self, poll_s: float, points: Sequence[Point], block: Block) -> Task:
        return Task(self.station, Ask(self.station.unit, block.function, block.first, block.count),
                    Reader(points, block.function, block.first, block.count, self.parameters), poll_s, points)


class Rounds:
    """All the devices of one line."""

    def __init__(self, units: Sequence[Unit], polls: Mapping[str, Mapping[str, float]], *, retries: int = 1,
                 grid_s: float = 0.0) -> None:
        """Plan the polls.

        Raises:
            SetupError: a model lacks a point it is polled for.
        """
        self.units = {unit.station.device: unit for unit in units}
        self._retries = retries
        tasks: list[Task] = []
        probes: dict[Station, Task] = {}
        for device, unit in self.units.items():
            mine = unit.tasks(polls.get(device, {}))
            tasks += mine
            if mine:
                probes[unit.station] = unit.probe(mine)
        self.schedule = Schedule(tasks, grid_s)
        self.schedule.probes = probes
        self._powered = [unit for unit in units if unit.power is not None]

    # --- what is next

    def start(self, now: float) -> None:
        """Begin the polls."""
        self.schedule.start(now)

    def next(self, now: float) -> tuple[Turn | None, Urgent | None, float]:
        """Return what to send (None = nothing now), what was asked for by it if anything, and when to look again."""
        wake = math.inf
        for unit in self._powered:
            wake = min(wake, self._supply(unit, now))
        found, at_s = self.schedule.next(now)
        if found is None:
            return None, None, min(wake, at_s)
        if isinstance(found, Task):
            return found, None, now
        return found.turn, found, now

    def _supply(self, unit: Unit, now: float) -> float:
        assert unit.power is not None
        wanted = any(urgent.turn.station is unit.station for urgent in self.schedule.urgent)
        due_s = now if wanted else min((task.due_s for task in self.schedule.tasks if task.station is unit.station),
                                       default=math.inf)
        return unit.power.step(due_s, unit.station, now)

    # --- what came of it

    def settle(self, turn: Turn, urgent: Urgent | None, heard: Heard, started_s: float) -> list[Scan]:
        """Take what an exchange came to, begun at `started_s`."""
        station = turn.station
        if heard.note is None:
            station.answer(heard.at_s, heard.response_s or 0.0)
        if isinstance(urgent, Job):
            if heard.note is not None:
                station.failure(heard.at_s, heard.note, heard.code, started_s)
            if urgent.hear(heard):
                self.schedule.put(urgent)
            return []
        assert isinstance(turn, Task)
        scans = self._answered(turn, heard, started_s) if heard.note is None \
            else self._failed(turn, heard, started_s, told=isinstance(urgent, Reading))
        if isinstance(urgent, Reading):
            self._told(urgent, scans)
        return scans

    def overheard(self, heard: Heard) -> None:
        """Look for answers nobody waited for any more, in what the line said beside the answer."""
        for unit in answers_in(heard.stray) + (answers_in(heard.data) if heard.note or heard.start > _AT else []):
            for one in self.units.values():
                if one.station.unit == unit and one.station.fails:
                    one.station.late(heard.at_s)

    def _told(self, reading: Reading, scans: Sequence[Scan]) -> None:
        """Tell those who asked; where there is nothing to tell yet (the block was split), ask on for them."""
        if scans:
            for wait in reading.waits:
                wait.take(scans[0])
            return
        task = reading.turn
        waits = [wait for wait in reading.waits if wait.left > 0]   # who was given up has his result
        parts = [part for part in self.schedule.tasks
                 if part.station is task.station and set(part.points) <= set(task.points)]
        if {point for part in parts for point in part.points} != set(task.points):
            parts = [task]   # no poll carries all of it
        for wait in waits:
            wait.left += len(parts) - 1
        for part in parts if waits else ():
            self.schedule.put(Reading(part, reading.deadline_s, *waits))

    def _answered(self, task: Task, heard: Heard, started_s: float) -> list[Scan]:
        station = task.station
        task.answered()
        power = self.units[station.device].power
        if power is not None and power.settling(station, heard.at_s):
            return []
        self.schedule.done(task, started_s)
        values, notes = task.reader.decode(heard.data, heard.start)
        values, notes = self.units[station.device].vouching.look(task.points, values, notes, heard.at_s)
        return [Scan(station.device, heard.at_s, task.points, values, notes)]

    def _failed(self, task: Task, heard: Heard, started_s: float, *, told: bool) -> list[Scan]:
        station, note = task.station, heard.note
        assert note is not None
        was_lost = station.lost
        station.failure(heard.at_s, note, heard.code, started_s)
        if note in SILENT:
            task.failure(heard.at_s)
        alone = note is Note.NO_ANSWER and not heard.code and station.fails == 1
        task.silences += alone
        if (heard.code in ILLEGAL or (alone and task.silences >= SILENCES)) and self._split(task):
            return []
        if not told:
            if note is Note.BUSY and station.busy < len(BUSY_S):
                return []   # it asked for a moment: this poll is not over
            if note in SILENT and not station.lost and station.fails <= self._retries and task.fails <= self._retries:
                return []   # the same again at once
        self.schedule.done(task, started_s)
        if station.lost and (unit := self.units[station.device]).power is not None:
            for other in self._tasks_of(unit, ()):   # it is fed for its polls only, not for every try of a probe
                self.schedule.done(other, started_s)
        scans = [Scan(station.device, heard.at_s, task.points, task.nothing, task.failed[note])]
        if station.lost and not was_lost:
            scans += self._silent_scans([station], heard.at_s, Note.QUARANTINED, beside=task.points)
        return scans

    def _split(self, task: Task) -> bool:
        """Read a block in parts from now on; False when it is one span, or no poll of ours."""
        if task not in self.schedule.tasks:
            return False
        unit = self.units[task.station.device]
        parts = unit.parts(task)
        if not parts:
            return False
        self.schedule.replace(task, parts)
        ask = task.ask
        task.station.refused.append(f"{ask.function}:{ask.first}-{ask.first + ask.count - 1}")
        log.info("block_split device=%s function=%d first=%d count=%d parts=%d", task.station.device, ask.function,
                 ask.first, ask.count, len(parts))
        return True

    def borrowed(self, now: float) -> tuple[list[Scan], float]:
        """Pass over the polls that are due, as the line is lent; return that they were, and when the next one is."""
        scans: list[Scan] = []
        for task in self.schedule.tasks:
            if task.due_s <= now:
                self.schedule.done(task, now)
                scans.append(Scan(task.station.device, now, task.points, task.nothing, task.failed[Note.BORROWED]))
        return scans, min((task.due_s for task in self.schedule.tasks), default=math.inf)

    def gone(self, now: float) -> list[Scan]:
        """Say of every point that is polled that its line is gone."""
        return self._silent_scans([unit.station for unit in self.units.values()], now, Note.LINK)

    def _silent_scans(self, stations: Sequence[Station], now: float, note: Note,
                      beside: Sequence[str] = ()) -> list[Scan]:
        scans = []
        for station in stations:
            points = tuple(dict.fromkeys(point for task in self.schedule.tasks if task.station is station
                                         for point in task.points if point not in beside))
            if points:
                scans.append(Scan(station.device, now, points, (None,) * len(points), (note,) * len(points)))
        return scans

    # --- what is asked of it

    def command(self, command: Command, answer: Answer, now: float) -> None:
        """Take a command for a device of this line; `answer` is called once, now or later."""
        unit = self.units[command.device]
        if command.deadline_s < now:
            late_s = now - command.deadline_s
            log.warning("command_expired device=%s id=%s kind=%s late_s=%.3f", command.device, command.id,
                        command.kind, late_s)
            answer(refused(command, f"{late_s:.1f} s too late", f"已过期 {late_s:.1f} 秒"))
            return
        try:
            if command.kind == "read_now":
                self._read_now(unit, command, answer)
            elif command.kind == "pace":
                self._pace(unit, command, now)
                answer(Result(id=command.id, ok=True))
            elif command.kind == "write":
                self.schedule.put(Job(command, answer, unit.station, write(command, _writes(unit, command))))
            elif command.kind == "act":
                self.schedule.put(Job(command, answer, unit.station, act(command, _action(unit, command))))
            else:
                raise SetupError(f"a device cannot {command.kind}")
        except (SetupError, ValueError) as error:
            log.warning("command_refused device=%s id=%s reason=%s", command.device, command.id, error)
            answer(refused(command, str(error), f"命令被拒绝：{error}"))

    def _tasks_of(self, unit: Unit, points: Iterable[str]) -> list[Task]:
        wanted = set(points)
        return [task for task in self.schedule.tasks
                if task.station is unit.station and (not wanted or wanted & set(task.points))]

    def _read_now(self, unit: Unit, command: Command, answer: Answer) -> None:
        tasks = self._tasks_of(unit, command.points)
        left = set(command.points) - {point for task in tasks for point in task.points}
        # Points nobody polls may be asked for too: plan a read of their own.
        tasks += unit.tasks(dict.fromkeys(sorted(left), 1.0))
        if not tasks:
            raise SetupError(f"device {command.device}: nothing of it is polled, so name the points to read")
        wait = Wait(command, answer, len(tasks))
        for task in tasks:
            waiting = next((u for u in self.schedule.urgent if isinstance(u, Reading)
                            and u.turn.ask.frame == task.ask.frame and u.turn.points == task.points), None)
            if waiting is None:
                self.schedule.put(Reading(task, command.deadline_s, wait))
            else:
                # One read answers all who ask; a second would only keep the polls waiting.
                waiting.deadline_s = max(waiting.deadline_s, command.deadline_s)
                waiting.waits.append(wait)

    def _pace(self, unit: Unit, command: Command, now: float) -> None:
        if command.period_s is None or command.until_s is None or not math.isfinite(command.until_s) \
                or not PACE_S[0] <= command.period_s <= PACE_S[1]:
            raise SetupError(f"a pace needs a period, {PACE_S[0]:g} to {PACE_S[1]:g} s, and an end "
                             "(pace_without_period)")
        self.schedule.pace(self._tasks_of(unit, command.points), command.period_s, command.until_s, now)

    def drop(self) -> None:
        """Give every command that waits its result: the line is gone or lent."""
        waiting, self.schedule.urgent = self.schedule.urgent, []
        for urgent in waiting:
            urgent.dropped(0.0)

    def close(self) -> None:
        """Give what waits its result and switch supplies off; twice is once."""
        self.drop()
        for unit in self._powered:
            if unit.power is not None:
                unit.power.close()


def _writes(unit: Unit, command: Command) -> list[tuple[str, Write, Ask | None]]:
    """Return the requests of a write, and the reads that check them."""
    if not command.values:
        raise SetupError("a write needs a point and a value")
    found: list[tuple[str, Write, Ask | None]] = []
    for name, value in command.values.items():
        if name not in unit.writable:
            allowed = ", ".join(sorted(unit.writable)) or "nothing"
            raise SetupError(f"device {command.device}: the configuration does not let {name!r} be written; "
                             f"writable: {allowed}")
        point = unit.template.point(name)
        rule = point.write
        check = Ask(unit.station.unit, point.function, point.register, width(point.type)) \
            if rule and rule.verify else None
        found.append((name, encode(point, value, unit.station.unit), check))
    return found


def _action(unit: Unit, command: Command) -> Raw:
    if command.action not in unit.actions:
        allowed = ", ".join(sorted(unit.actions)) or "nothing"
        raise SetupError(f"device {command.device}: the configuration does not let {command.action!r} be done; "
                         f"allowed: {allowed}")
    return action_frames(unit.template, command.action, unit.station.unit)
