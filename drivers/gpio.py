"""Contacts, buttons and pulses on pins.

Owns: what an edge means (debounce, count) and when a level is said again.
Promises: an edge becomes a Scan at the edge's own time, and wakes a blocked `read`; every level is said again every
`poll_s`, so that a listener can tell "unchanged" from "gone".
Never: drives a pin (`drivers.pins.open_relay` does), touches gpiozero (`drivers.pins` does).

Debounce. The first edge counts at once and the next `debounce_ms` are deaf; at their end the level decides. Waiting
until a contact is quiet would put the whole debounce time between a torn break-wire and the siren. The price: a spark
shorter than the debounce is reported as on and, at its end, off; where that must not count, the rule has `on_delay_s`.
Pulses are counted on debounced edges to the active level, so neither closing nor opening bounces count twice.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from drivers import (
    Answer,
    Command,
    Health,
    Id,
    Library,
    LinkError,
    PointInfo,
    Polls,
    Result,
    Scan,
    SetupError,
    Wire,
    refused,
    unheard,
)
from drivers import pins as _pins
from drivers.registers import Scale, scale

_STAMP_BELIEF_S = 1.0
"""An edge's own time is believed when it lies at most this far back; older kernels stamp with another clock."""


class GpioDevice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing on one pin."""

    id: Id
    name: str = ""
    kind: Annotated[Literal["contact", "button", "pulse"],
                    Meta(description="contact and button give `state` (1 = pin at its active level), pulse `total`")]
    pin: Annotated[int, Meta(ge=0, le=27, description="BCM number")]
    pull: Annotated[Literal["up", "down", "none"], Meta(description="none = a resistor outside holds the line")]
    active: Annotated[Literal["low", "high"],
                      Meta(description="level that means 1; a break-wire to ground with pull up is active: high")]
    debounce_ms: Annotated[int, Meta(ge=0, le=1000)] = 50
    per_pulse: Annotated[float, Meta(gt=0, description="quantity per pulse, 0.2 for a 0.2 mm bucket")] | None = None
    unit: str = ""


class GpioWire(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A set of pins."""

    port: Annotated[str, Meta(description="lgpio, lgpio:CHIP or, in a demo, mock:SOCKET_PATH")]
    devices: tuple[GpioDevice, ...] = ()


class Debounce:
    """Turns raw edges into believed ones. Pure: time comes in.

    The result depends on the edges alone, not on how late or in what portions they are handed over.
    """

    def __init__(self, level: bool, deaf_s: float) -> None:
        self.level = level
        """The believed level."""
        self.until_s: float | None = None
        """End of the deaf time, when somebody must call `settle`."""
        self._deaf_s = deaf_s
        self._raw = level
        self._raw_at_s = float("-inf")

    def edge(self, level: bool, at_s: float) -> list[tuple[bool, float]]:
        """Take a raw edge; return the believed changes (level, monotonic seconds) it brings to light."""
        changes = self.settle(at_s)
        self._raw, self._raw_at_s = level, max(at_s, self._raw_at_s)
        if self.until_s is None and level != self.level:
            changes.append(self._believe())
        return changes

    def settle(self, now_s: float) -> list[tuple[bool, float]]:
        """End deaf times that are over; the change is dated when the level last moved."""
        changes: list[tuple[bool, float]] = []
        while self.until_s is not None and now_s >= self.until_s:
            self.until_s = None
            if self._raw != self.level:
                changes.append(self._believe())
        return changes

    def _believe(self) -> tuple[bool, float]:
        self.level = self._raw
        self.until_s = self._raw_at_s + self._deaf_s
        return self.level, self._raw_at_s


class _Line:
    """One device's running state."""

    def __init__(self, device: GpioDevice, poll_s: float | None) -> None:
        self.device = device
        self.poll_s = poll_s
        self.input: _pins.Input | None = None
        self.bounce = Debounce(False, 0.0)
        self.count = 0
        self.said = 0
        self.due_s = float("inf")
        self.fast_s: float | None = None
        self.fast_until_s = 0.0
        self._worth: Scale = scale(device.per_pulse or 1.0)

    def is_active(self, level: bool) -> bool:
        return level == (self.device.active == "high")

    def period_s(self, now_s: float) -> float | None:
        return self.fast_s if self.fast_s is not None and now_s < self.fast_until_s else self.poll_s

    def scan(self, at_s: float) -> Scan:
        if self.device.kind == "pulse":
            return Scan(self.device.id, at_s, ("total",), (self._worth.up(self.count),))
        return Scan(self.device.id, at_s, ("state",), (1.0 if self.is_active(self.bounce.level) else 0.0,))

    def changed(self, changes: list[tuple[bool, float]]) -> list[Scan]:
        """Scans of the believed changes; a pulse counts on its way to the active level only."""
        if self.device.kind != "pulse":
            return [Scan(self.device.id, at_s, ("state",), (1.0 if self.is_active(level) else 0.0,))
                    for level, at_s in changes]
        scans = []
        for level, at_s in changes:
            if self.is_active(level):
                self.count += 1
                scans.append(self.scan(at_s))
        return scans


class Gpio:
    """A set of pins as a wire; see `drivers.Driver`. Counts of pulses live as long as this object."""

    Wire = GpioWire

    def __init__(self, wire: GpioWire, polls: Polls, library: Library = (),
                 now: Callable[[], float] = time.monotonic) -> None:
        problems = self.problems(wire, library)
        if problems:
            path, text = problems[0]
            raise SetupError(f"wire {wire.id}: {'.'.join(map(str, path))}: {text}")
        self._wire = wire
        self._now = now
        self._edges: deque[tuple[_Line, bool, float]] = deque()
        self._asked: deque[tuple[Command, Answer]] = deque()
        self._wake = threading.Event()
        self._is_open = False
        self._lines: dict[str, _Line] = {}
        for device in wire.devices:
            periods = polls.get(device.id, {}).values()
            self._lines[device.id] = _Line(device, min(periods) if periods else None)

    @staticmethod
    def describe(wire: GpioWire, library: Library = ()) -> Mapping[str, Mapping[str, PointInfo]]:  # noqa: ARG004
        """Device id → point → PointInfo, without touching hardware."""
        infos: dict[str, dict[str, PointInfo]] = {}
        for device in wire.devices:
            if device.kind == "pulse":
                total = PointInfo(unit=device.unit, resolution=device.per_pulse or 1.0, low=0.0, counter=True,
                                  model="pulse")
                infos[device.id] = {"total": total}
            else:
                infos[device.id] = {"state": PointInfo(unit="", resolution=1.0, low=0.0, high=1.0, rest=0.0,
                                                       model=device.kind)}
        return infos

    @staticmethod
    def problems(wire: GpioWire, library: Library = ()) -> list[tuple[tuple[str | int, ...], str]]:  # noqa: ARG004
        """What cannot work: (path below the wire, message)."""
        found: list[tuple[tuple[str | int, ...], str]] = []

        def wrong(text: str, *path: str | int) -> None:
            found.append((path, text))

        try:
            _pins.parse(wire.port)
        except SetupError as error:
            wrong(str(error), "port")
        owner: dict[int, str] = {}
        for i, device in enumerate(wire.devices):
            if device.pin in owner:
                wrong(f"pin {device.pin} is already used by {owner[device.pin]}: expected a pin of its own for "
                      f"{device.id}", "devices", i, "pin")
            owner.setdefault(device.pin, device.id)
            if device.pin in _pins.FIXED_PULL_UPS and device.pull != "up":
                wrong(f"pin {device.pin} has a pull-up resistor on the board: expected pull: up, or another pin",
                      "devices", i, "pull")
            if device.kind == "pulse":
                if device.per_pulse is None:
                    wrong("a pulse needs per_pulse, the quantity of one pulse (0.2 for 0.2 mm)",
                          "devices", i, "per_pulse")
                if not device.unit:
                    wrong("a pulse needs the unit of per_pulse (mm for a tipping bucket)", "devices", i, "unit")
            else:
                for key in ("per_pulse", "unit"):
                    if getattr(device, key):
                        wrong(f"a {device.kind} has no {key}: remove it, or set kind: pulse", "devices", i, key)
        return found

    def open(self) -> None:
        """Take all pins; their levels are said by the next `read`.

        Raises:
            LinkError: the port is not there, or a pin is taken.
        """
        self.close()
        now = self._now()
        try:
            for line in self._lines.values():
                line.input = _pins.Input(self._wire.port, line.device.pin, line.device.pull, self._hear(line))
                line.bounce = Debounce(line.input.level(), line.device.debounce_ms / 1000)
                line.due_s = float("inf") if line.poll_s is None else now
        except LinkError:
            self.close()
            raise
        self._is_open = True

    def read(self, timeout_s: float) -> list[Scan]:
        """Return changes in order of their time, then levels that are due; waits for the first of them."""
        if not self._is_open:
            raise LinkError(f"wire {self._wire.id}: is not open")
        end_s = self._now() + timeout_s
        while True:
            self._wake.clear()
            now_s = self._now()
            scans = self._changes(now_s)
            scans += self._due(now_s)
            if scans or now_s >= end_s:
                for scan in scans:
                    self._lines[scan.device].said += 1
                return scans
            wakes = [end_s, *(line.due_s for line in self._lines.values()),
                     *(line.bounce.until_s for line in self._lines.values() if line.bounce.until_s is not None)]
            self._wake.wait(max(0.0, min(wakes) - now_s))
            if not self._is_open:
                raise LinkError(f"wire {self._wire.id}: was closed")

    def submit(self, command: Command, answer: Answer = unheard) -> None:
        """Take ``read_now`` or ``pace``, from any thread; wakes a blocked `read`. Pins know no other command."""
        if command.kind not in ("read_now", "pace"):
            answer(refused(command, f"a wire of pins cannot {command.kind}", f"引脚线路不支持 {command.kind}"))
            return
        self._asked.append((command, answer))
        self._wake.set()

    def finish(self) -> list[Scan]:
        """Nothing is ever on its way: a pin is looked at, not asked."""
        return []

    def close(self) -> None:
        """Let go of the pins; twice is once."""
        self._is_open = False
        for line in self._lines.values():
            if line.input is not None:
                line.input.close()
                line.input = None
        self._edges.clear()
        self._wake.set()

    def health(self) -> list[Health]:
        """How each device is doing: `answered` counts its Scans."""
        state: Literal["ok", "unknown"] = "ok" if self._is_open else "unknown"
        return [Health(line.device.id, state, asked=line.said, answered=line.said) for line in self._lines.values()]

    def _hear(self, line: _Line) -> Callable[[bool, float], None]:
        """Return what gpiozero's thread does on an edge: note it and wake `read`, nothing else."""
        def hear(level: bool, stamp_s: float) -> None:
            now_s = self._now()
            self._edges.append((line, level, stamp_s if 0.0 <= now_s - stamp_s <= _STAMP_BELIEF_S else now_s))
            self._wake.set()
        return hear

    def _changes(self, now_s: float) -> list[Scan]:
        scans: list[Scan] = []
        while self._edges:
            line, level, at_s = self._edges.popleft()
            scans += line.changed(line.bounce.edge(level, at_s))
        for line in self._lines.values():
            scans += line.changed(line.bounce.settle(now_s))
        scans.sort(key=lambda scan: scan.at_s)
        return scans

    def _due(self, now_s: float) -> list[Scan]:
        wanted: dict[str, _Line] = {}
        while self._asked:
            command, answer = self._asked.popleft()
            line = self._lines.get(command.device)
            if line is None or command.deadline_s < now_s:
                answer(refused(command, "no such device, or too late", "无此设备，或已过期"))
                continue
            if command.kind == "pace":
                if command.period_s is None or command.period_s <= 0:
                    answer(refused(command, "a pace needs a period", "加密采集须给出周期"))
                    continue   # no pace at all would be one without end
                line.fast_s, line.fast_until_s = command.period_s, command.until_s or 0.0
                line.due_s = min(line.due_s, now_s + (line.period_s(now_s) or float("inf")))
            else:
                wanted[command.device] = line
            answer(Result(id=command.id, ok=True))
        for line in self._lines.values():
            if line.due_s <= now_s:
                period_s = line.period_s(now_s)
                # From the due time, so that the pace does not drift; from now when whole periods were slept through.
                if period_s is None:
                    line.due_s = float("inf")
                else:
                    line.due_s = line.due_s + period_s if line.due_s + period_s > now_s else now_s + period_s
                wanted[line.device.id] = line
        scans: list[Scan] = []
        for line in wanted.values():
            held = line.input   # another thread may close meanwhile
            if held is not None and line.bounce.until_s is None:
                level = held.level()
                if level != line.bounce.level and not self._edges:  # the kernel dropped an edge
                    scans += line.changed(line.bounce.edge(level, now_s))
            scans.append(line.scan(now_s))
        return scans
