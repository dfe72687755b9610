"""Modbus RTU on a serial line, and Modbus TCP: the driver.

Owns: a wire of Modbus devices: which blocks to read, when, and the Scans that come of it. Promises: one exchange a
`read`; a failed exchange is a Scan of None with the reason, never a number; a device that keeps failing is asked
seldom (0, 0.5 … 10 s), and says so once per attempt, not once per skipped poll. Never: writes to a device, judges.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from typing import ClassVar

from drivers import Answer, Command, Health, Library, PointInfo, Polls, Scan, SetupError, unheard
from drivers import Wire as AnyWire
from drivers.exchange import Ask
from drivers.line import Line, SerialLine
from drivers.load import Request, blocks_of, cost_of, overload, requests
from drivers.modbus_wire import ModbusWire, Problem, host_port, problems
from drivers.planner import Cost
from drivers.reader import Reader
from drivers.schedule import Schedule, Station, Task
from drivers.sensor import Serial, Template
from drivers.tcp import TcpLine
from drivers.template import find, infos

log = logging.getLogger(__name__)


class Modbus:
    """The driver; see `drivers.Driver`."""

    Wire: ClassVar[type[AnyWire]] = ModbusWire

    def __init__(self, wire: ModbusWire, polls: Polls, library: Library, now: Callable[[], float]) -> None:
        if wrong := self.problems(wire, library):
            raise SetupError(f"wire {wire.id}: " + "; ".join(f"{_dotted(path)}: {text}" for path, text in wrong))
        self._id = wire.id
        self._now = now
        timeout_s = wire.answer_timeout_ms / 1000
        target = host_port(wire.port)
        settings = wire.serial or Serial()
        self._line: Line = TcpLine(*target, timeout_s, now) if target else \
            SerialLine(wire.port, settings, timeout_s, now)
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._called = threading.Event()
        self._templates: dict[str, Template] = {}
        self._costs: dict[str, Cost] = {}
        self._units: dict[str, int] = {}
        self._stations: dict[str, Station] = {}
        tasks: list[Task] = []
        for device in wire.devices:
            template = find(device.template, library)
            self._templates[device.id], self._costs[device.id] = template, cost_of(wire, device, template)
            self._units[device.id] = device.address
            # On TCP the transaction number tells a late answer from a fresh one: nothing to listen out for.
            self._stations[device.id] = Station(device.id, device.serial, template.min_gap_ms / 1000,
                                                0.0 if target else timeout_s)
            tasks += self._tasks(device.id, polls.get(device.id, {}))
        if unknown := sorted(set(polls) - set(self._stations)):
            raise SetupError(f"wire {wire.id}: asked to poll {', '.join(unknown)}, which is not on it")
        self._schedule = Schedule(tasks)
        self._started = False
        for _, text in self.overload(wire, polls, library):
            log.warning("wire_overloaded wire=%s %s", wire.id, text)

    def _tasks(self, device: str, points: Mapping[str, float]) -> list[Task]:
        template = self._templates[device]
        if unknown := sorted(set(points) - {point.id for point in template.points}):
            raise SetupError(f"device {device}: its model {template.model} has no point {', '.join(unknown)}; "
                             f"it has {', '.join(point.id for point in template.points)}")
        return [Task(self._stations[device], Ask(self._units[device], block.function, block.first, block.count),
                     Reader(members, block.function, block.first, block.count), poll_s)
                for poll_s, members, block in blocks_of(template, points, self._costs[device])]

    @staticmethod
    def describe(wire: ModbusWire, library: Library) -> Mapping[str, Mapping[str, PointInfo]]:
        """Device id → point → PointInfo; devices whose template is missing or broken are left out."""
        known = {}
        for device in wire.devices:
            try:
                known[device.id] = infos(find(device.template, library))
            except SetupError:
                continue   # `problems` says so
        return known

    @staticmethod
    def problems(wire: ModbusWire, library: Library) -> list[Problem]:
        """What cannot work in this set-up: (path below the wire, message)."""
        return problems(wire, library)

    @staticmethod
    def overload(wire: ModbusWire, polls: Polls, library: Library) -> list[Problem]:
        """Say where polls want more time than wire or device has; apart from `problems`, which knows no polls."""
        return overload(wire, polls, library)

    @staticmethod
    def requests(wire: ModbusWire, polls: Polls, library: Library) -> list[Request]:
        """Plan every read of the wire without touching it."""
        return requests(wire, polls, library)

    def open(self) -> None:
        """Take the wire; raises LinkError while it is not there."""
        self._line.open()
        if not self._started:
            self._started = True
            self._schedule.start(self._now())

    def read(self, timeout_s: float) -> list[Scan]:
        """Do the exchange that is due, or wait for it at most `timeout_s`; at most one exchange a call.

        Raises:
            LinkError: the wire is gone, or was never opened.
        """
        give_up_s = self._now() + timeout_s
        while True:
            self._called.clear()
            self._obey()
            now = self._now()
            task, wake_s = self._schedule.next(now)
            if task is not None:
                return [self._read(task, now)]
            left = min(wake_s, give_up_s) - now
            if left <= 0:
                return []
            self._called.wait(left)

    def _read(self, task: Task, now: float) -> Scan:
        station = task.station
        heard = self._line.exchange(task.ask, station.settings)
        self._schedule.done(task, now)
        if heard.note is None:
            station.answer(heard.at_s, heard.response_s or 0.0)
            values, notes = task.reader.decode(heard.data, heard.start)
            return Scan(station.device, heard.at_s, task.points, values, notes)
        station.failure(heard.at_s, heard.note)
        return Scan(station.device, heard.at_s, task.points, task.nothing, task.failed[heard.note])

    def submit(self, command: Command, answer: Answer = unheard) -> None:  # noqa: ARG002
        """Take an ask from any thread; the next `read` honours it, before ordinary polls."""
        self._commands.put(command)
        self._called.set()

    def _obey(self) -> None:
        while not self._commands.empty():
            command, now = self._commands.get(), self._now()
            if command.device not in self._stations:
                log.warning("command_refused wire=%s id=%s reason=no_such_device device=%s", self._id, command.id,
                            command.device)
                continue
            if command.deadline_s < now:
                log.warning("command_expired wire=%s id=%s kind=%s late_s=%.3f", self._id, command.id, command.kind,
                            now - command.deadline_s)
                continue
            wanted = set(command.points)
            tasks = [task for task in self._schedule.tasks if task.station.device == command.device
                     and (not wanted or wanted & set(task.points))]
            if command.kind == "pace":
                if command.period_s is None or command.period_s <= 0 or command.until_s is None:
                    log.warning("command_refused wire=%s id=%s reason=pace_without_period", self._id, command.id)
                    continue
                self._schedule.pace(tasks, command.period_s, command.until_s, now)
                continue
            for task in tasks:
                wanted -= set(task.points)
            try:
                # Points nobody polls may be asked for too: plan a read of their own.
                tasks += self._tasks(command.device, dict.fromkeys(sorted(wanted), 1.0))
            except SetupError as error:
                log.warning("command_refused wire=%s id=%s reason=%s", self._id, command.id, error)
                continue
            self._schedule.ask_now(tasks, command.deadline_s)

    def close(self) -> None:
        """Let go of the wire; twice is once. May be opened again."""
        self._line.close()

    def health(self) -> list[Health]:
        """How each device is doing; may be called from any thread."""
        return [station.health() for station in self._stations.values()]


def _dotted(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path))
