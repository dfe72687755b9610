"""Modbus on a serial line (RTU, ASCII) or on a network (TCP, RTU over TCP): the driver.

Owns: one wire: a serial line with its devices, or hosts that share a thread. Promises: one exchange in flight per
line or host; a failed exchange is a Scan of None with the reason, never a number; a device that keeps failing is asked
seldom, and harms only itself. Never: writes to a device what the configuration does not let be written, judges.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections.abc import Callable, Mapping
from typing import ClassVar

from drivers import (
    Answer,
    Command,
    Health,
    Library,
    LinkError,
    PointInfo,
    Polls,
    Result,
    Scan,
    SetupError,
    refused,
    unheard,
)
from drivers import Wire as AnyWire
from drivers.line import SerialLine
from drivers.load import Overload, Request, cost_of, overload, requests
from drivers.modbus_wire import Device, ModbusWire, Problem, line_settings, problems, settings_of, target_of
from drivers.network import Network
from drivers.power import Power
from drivers.rounds import Rounds, Unit
from drivers.station import Station
from drivers.tcp import Host
from drivers.template import find, infos

log = logging.getLogger(__name__)

LOAN_S = 120.0
"""The longest a wire is lent at a time."""
GRID_S = 0.25
"""Polls of a network begin on multiples of this: what arrives together is judged and kept in one go."""
FINISH_S = 1.0
"""How long a stop waits for answers that are still on their way."""
DEAF_S, REOPEN_S = 30.0, 300.0
"""A serial port on which nobody has answered for so long is opened anew (an adapter may hang), and how often."""


class Modbus:
    """The driver; see `drivers.Driver`."""

    Wire: ClassVar[type[AnyWire]] = ModbusWire

    def __init__(self, wire: ModbusWire, polls: Polls, library: Library, now: Callable[[], float]) -> None:
        if wrong := self.problems(wire, library):
            raise SetupError(f"wire {wire.id}: " + "; ".join(f"{_dotted(path)}: {text}" for path, text in wrong))
        if unknown := sorted(set(polls) - {device.id for device in wire.devices}):
            raise SetupError(f"wire {wire.id}: asked to poll {', '.join(unknown)}, which is not on it")
        self._id, self._now = wire.id, now
        self._commands: queue.SimpleQueue[tuple[Command, Answer]] = queue.SimpleQueue()
        self._called = threading.Event()
        self._started = False
        hosts: dict[tuple[str, int] | None, list[Device]] = {}
        for device in wire.devices:
            hosts.setdefault(target_of(wire, device), []).append(device)
        self._rounds = {target: _rounds(wire, devices, polls, library, network=target is not None)
                        for target, devices in hosts.items()}
        self._of = {device: rounds for rounds in self._rounds.values() for device in rounds.units}
        timeout_s = wire.answer_timeout_ms / 1000
        self._line: SerialLine | None = None
        self._network: Network | None = None
        if None in hosts:
            self._line = SerialLine(wire.port, line_settings(wire, library), timeout_s, now,
                                    framing="ascii" if wire.framing == "ascii" else "rtu", echo=wire.echo,
                                    direction=wire.direction)
        else:
            self._network = Network(((Host(*target, timeout_s, wire.framing or "tcp"), rounds)
                                     for target, rounds in self._rounds.items() if target), now)
        self._loan: tuple[Command, float] | None = None
        self._gate = threading.Lock()
        """Held while commands are obeyed and for no I/O: a wire that is down has no thread in `read` to obey them."""
        self._up = False
        self._heard_s = self._opened_s = -math.inf
        for told in self.overload(wire, polls, library):
            log.warning("wire_overloaded wire=%s %s", wire.id, told.en)

    @staticmethod
    def describe(wire: ModbusWire, library: Library) -> Mapping[str, Mapping[str, PointInfo]]:
        """Device id → point → PointInfo; devices whose template is missing or broken are left out."""
        known = {}
        for device in wire.devices:
            try:
                known[device.id] = infos(find(device.template, library), device.parameters)
            except SetupError:
                continue   # `problems` says so
        return known

    @staticmethod
    def problems(wire: ModbusWire, library: Library) -> list[Problem]:
        """What cannot work in this set-up: (path below the wire, message)."""
        return problems(wire, library)

    @staticmethod
    def overload(wire: ModbusWire, polls: Polls, library: Library) -> list[Overload]:
        """Say where polls want more time than wire or device has; apart from `problems`, which knows no polls."""
        return overload(wire, polls, library)

    @staticmethod
    def requests(wire: ModbusWire, polls: Polls, library: Library) -> list[Request]:
        """Plan every read of the wire without touching it."""
        return requests(wire, polls, library)

    def open(self) -> None:
        """Take the wire; raises LinkError while it is not there. A wire that is lent is left to its borrower."""
        with self._gate:
            self._obey()
            lent = self._lent(self._now())
            self._up = True
        if not self._started:
            for rounds in self._rounds.values():
                rounds.start(self._now())
        try:
            if self._network is not None:
                self._network.open()
            elif self._line is not None and not lent:
                self._loan = None
                self._line.open()
                self._heard_s = self._opened_s = self._now()
        except LinkError:
            with self._gate:
                self._up = False
                self._obey()
            raise
        self._started = True

    def read(self, timeout_s: float) -> list[Scan]:
        """Do what is due, or wait for it at most `timeout_s`: one exchange on a serial line, all that is ready on TCP.

        Raises:
            LinkError: the wire is gone, or was never opened.
        """
        give_up_s = self._now() + timeout_s
        while True:
            self._called.clear()
            with self._gate:
                self._obey()
            scans = self._serve_hosts(give_up_s) if self._network is not None else self._serve(give_up_s)
            if scans or (self._now() >= give_up_s and self._commands.empty()):
                return scans

    # --- a serial line

    def _serve(self, give_up_s: float) -> list[Scan]:
        """Do one exchange if one is due; else wait for it, or for a command."""
        assert self._line is not None
        rounds, now = self._rounds[None], self._now()
        if self._loan is not None:
            if now < self._loan[1]:
                scans, wake_s = rounds.borrowed(now)
                if not scans:
                    self._called.wait(max(0.0, min(wake_s, give_up_s, self._loan[1]) - now))
                return scans
            self._take_back()
        turn, urgent, wake_s = rounds.next(now)
        if turn is None:
            self._called.wait(max(0.0, min(wake_s, give_up_s) - now))
            return []
        try:
            heard = self._line.exchange(turn.ask, turn.station.settings, turn.station.timeout_s)
        except Exception:
            if urgent is not None:
                urgent.dropped(0.0)   # it waits in no list while it is under way, and still gets its one result
            raise
        if heard.note is None or heard.code:
            self._heard_s = heard.at_s
        if heard.stray or heard.data:
            rounds.overheard(heard)
        scans = rounds.settle(turn, urgent, heard, now)
        if heard.at_s - self._heard_s > DEAF_S and heard.at_s - self._opened_s > REOPEN_S:
            log.warning("port_reopened wire=%s reason=nobody has answered for %.0f s", self._id, DEAF_S)
            self._line.close()
            self._line.open()
            self._opened_s = self._now()
        return scans

    def _serve_hosts(self, give_up_s: float) -> list[Scan]:
        assert self._network is not None
        if self._loan is not None and self._now() >= self._loan[1]:
            self._loan = None
        return self._network.read(give_up_s)

    # --- commands

    def submit(self, command: Command, answer: Answer = unheard) -> None:
        """Take an ask from any thread; the next `read` honours it, before ordinary polls, and calls `answer`."""
        self._commands.put((command, answer))
        self._called.set()
        if self._network is not None:
            self._network.ring()
        if not self._up and self._gate.acquire(blocking=False):
            try:
                if not self._up:
                    self._obey()
            finally:
                self._gate.release()

    def _obey(self) -> None:
        while not self._commands.empty():
            (command, answer), now = self._commands.get(), self._now()
            if command.kind == "lend":
                self._lend(command, answer, now)
            elif command.kind == "take_back":
                self._end_loan(command, answer)
            elif (rounds := self._of.get(command.device)) is None:
                log.warning("command_refused wire=%s id=%s reason=no_such_device device=%s", self._id, command.id,
                            command.device)
                answer(refused(command, f"no device {command.device} on this wire", f"线路上没有设备 {command.device}"))
            elif self._lent(now):
                answer(refused(command, "the wire is lent to an installer's command", "线路已借给安装调试命令"))
            elif not self._up:
                answer(refused(command, "the wire is down", "线路中断"))
            else:
                rounds.command(command, answer, now)
                if self._network is not None:
                    self._network.look_at(rounds)

    def _lent(self, now: float) -> bool:
        """Whether a borrower has the wire; a loan that is over may still wait for the port to be opened again."""
        return self._loan is not None and now < self._loan[1]

    def _lend(self, command: Command, answer: Answer, now: float) -> None:
        """Let go of the port; its points read `borrowed` until it is taken back."""
        until_s = min(command.until_s if command.until_s is not None else now + LOAN_S, now + LOAN_S)
        if self._lent(now):
            answer(refused(command, "the wire is lent already", "线路已被借用"))
            return
        self._loan = (command, until_s)
        for rounds in self._rounds.values():
            rounds.drop()
            if self._network is not None:
                self._network.lend(rounds, until_s)
        if self._line is not None:
            self._line.close()
        log.info("wire_lent wire=%s id=%s for_s=%.0f", self._id, command.id, until_s - now)
        answer(Result(id=command.id, ok=True))

    def _end_loan(self, command: Command, answer: Answer) -> None:
        if self._loan is not None and self._loan[0].id == command.id:
            self._loan = (self._loan[0], -math.inf)
            if self._network is not None:
                for rounds in self._rounds.values():
                    self._network.lend(rounds, -math.inf)
        answer(Result(id=command.id, ok=True))

    def _take_back(self) -> None:
        """Open the port again; raises LinkError while the borrower still holds it."""
        self._loan = None
        log.info("wire_taken_back wire=%s", self._id)
        assert self._line is not None
        self._line.open()

    def finish(self) -> list[Scan]:
        """Return the answers that hosts still owe; on a serial line an exchange is never left half-way."""
        return self._network.finish(self._now() + FINISH_S) if self._network is not None else []

    def close(self) -> None:
        """Let go of the wire; twice is once. May be opened again."""
        with self._gate:
            self._up = False
        if self._line is not None:
            self._line.close()
        if self._network is not None:
            self._network.close()
        for rounds in self._rounds.values():
            rounds.close()

    def health(self) -> list[Health]:
        """How each device is doing; may be called from any thread."""
        return [rounds.units[device].station.health() for device, rounds in self._of.items()]


def _rounds(wire: ModbusWire, devices: list[Device], polls: Polls, library: Library, *, network: bool) -> Rounds:
    """Make what one line or host is asked."""
    units = []
    # On Modbus TCP the transaction number tells a late answer from a fresh one: nothing to listen out for.
    patience_s = 0.0 if network and wire.framing in (None, "tcp") else wire.answer_timeout_ms / 1000
    for device in devices:
        template = find(device.template, library)
        settings = None if network else settings_of(wire, device, library)
        timeout_s = device.answer_timeout_ms and device.answer_timeout_ms / 1000
        station = Station(device.id, settings, template.min_gap_ms / 1000, patience_s and (timeout_s or patience_s),
                          unit=device.address, timeout_s=timeout_s)
        power = Power(device.supply, template.warm_up_s, template.settle_reads) if device.supply else None
        units.append(Unit(station, template, cost_of(wire, device, template), parameters=device.parameters,
                          writable=device.writable, actions=device.actions, power=power))
    mine = {device.id: polls[device.id] for device in devices if device.id in polls}
    return Rounds(units, mine, retries=wire.retries, grid_s=GRID_S if network else 0.0)


def _dotted(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path))
