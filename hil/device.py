"""A Modbus device made from a template: the same YAML is the device.

Owns: registers that behave like a sensor's, what is written to them, and the device's habits and faults. Promises: an
answer is told with the values decoded from the very bytes sent; what a fault made untrue is told as nothing; an
address recipe of the template changes the address, step by step. Never: keeps the wire's time.
"""

from __future__ import annotations

import random
import struct
import threading
from collections import deque
from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from drivers.imitation import functions, image, write
from drivers.reader import Reader, carried
from drivers.registers import width
from drivers.sensor import Serial, Template
from drivers.writing import action_frames
from hil.faults import ACCEPTABLE, DOUBTFUL, SERIAL_ONLY, Fault, bent, refusal

Values = dict[str, float | None]


class Answer(Struct, frozen=True):
    """One answered read: the truth an audit compares with."""

    at_s: float
    """Monotonic time of the last byte on the wire."""
    device: str
    values: Values
    """All points the answer carries, asked for by name or not; None where the bytes say there is no value."""
    fault: str = ""
    """Why a program may refuse it, true as it is: `late`, `doubled`. Empty: it should take it."""
    asked_s: float = 0.0
    """When the last byte of its question had been heard: a late answer is true of its own question only."""


class Written(Struct, frozen=True):
    """One write the device obeyed, or pretended to (`forgets`)."""

    at_s: float
    device: str
    function: int
    first: int
    values: tuple[int, ...]
    broadcast: bool = False


class Outcome(Struct, frozen=True):
    """What the device does about a request."""

    unit: int
    pdu: bytes
    delay_s: float
    told: Values
    """The truth in it; empty when there is none."""
    fault: Fault
    stale: bool = False
    """The PDU belongs to the previous question."""


class Log(Protocol):
    """Anything answers can be appended to; `append` may be called from the bus's or the server's thread."""

    def append(self, answer: Answer, /) -> object:
        """Keep one."""


class Slave:
    """One device at one address. All methods may be called from any thread.

    Habits: `turnaround_s`; `refuses_holes` (a read that touches a register the template does not know is exception 2);
    `refuses` (reads that touch one of these function, register pairs are too); `max_registers` an answer carries.
    Faults: `fault` for every exchange, or `chance`, fault → probability, drawn for each exchange while `fault` is "".
    """

    def __init__(self, template: Template, address: int, values: Mapping[str, float] | None = None, *,
                 name: str = "", turnaround_s: float = 0.005, serial: Serial | None = None, seed: int = 0,
                 parameters: Mapping[str, float] | None = None) -> None:
        """Make a healthy device.

        Args:
            template: what it is.
            address: where it answers.
            values: of points, at rest where not given.
            name: in logs; default the template's.
            turnaround_s: from the last byte of a request to the first of the answer.
            serial: its own settings; None = those of the wire, whatever they are.
            seed: of `chance` and of what it babbles.
            parameters: of this instrument; None = those of the template's own examples.
        """
        self.template, self.address, self.name = template, address, name or template.model
        self.turnaround_s, self.serial = turnaround_s, serial
        self.late_s = 1.0
        """The turnaround under the fault ``late``."""
        self.exception = 4
        """The code sent under the faults ``exception`` and ``refuses_writes``."""
        self.babble_bytes, self.babble_s = 32, 0.0
        """Size of a burst under the fault ``babbling``, and the pause after it; 0 = it never stops."""
        self.refuses_holes = False
        self.refuses: set[tuple[int, int]] = set()
        self.max_registers = template.max_registers
        self.fault: Fault = ""
        self.chance: dict[Fault, float] = {}
        self.answered = 0
        """Requests answered, rightly or not."""
        self.written: deque[Written] = deque(maxlen=10_000)
        self.acted: deque[tuple[float, str]] = deque(maxlen=10_000)
        """When which of the template's actions was asked for."""
        self.rng = random.Random(f"{seed}/{self.name}")
        self.burst_due = False
        self._lock = threading.RLock()
        self._parameters = template.sample() if parameters is None else template.known(parameters)
        self._images: dict[int, bytearray] = {
            function: image(template, function, parameters) for function in functions(template)}
        self._known = _known(template)
        self._readers: dict[tuple[int, int, int], Reader | None] = {}
        self._previous: bytes | None = None
        self._step = 0
        self._pending = 0
        """The address a recipe gave; it is taken once no step more goes to the old one."""
        for point, value in (values or {}).items():
            self.set(point, value)

    def set(self, point: str, value: float | None) -> None:
        """Let the registers say `value` (the nearest count), or the point's no-data mark for None."""
        wanted = self.template.point(point)
        with self._lock:
            write(wanted, value, self._images[wanted.function], self._parameters)

    def set_register(self, function: int, register: int, word: int) -> None:
        """Write one register as it is, e.g. a status word."""
        with self._lock:
            struct.pack_into(">H", self._images[function], 2 * register, word)

    def unplug(self) -> None:
        """Pull the device's plug: it no longer answers."""
        self.fault = "silent"

    def plug(self) -> None:
        """Put the plug back, and end any other fault."""
        self.fault = ""

    def exchange(self, request: bytes, at_s: float, *, broadcast: bool = False, tcp: bool = False) -> Outcome | None:
        """Take a request whose last byte came at `at_s`; None when nothing is said."""
        fault = self._drawn()
        if (fault in SERIAL_ONLY) if tcp else fault == "wrong_transaction":
            fault = ""
        if fault == "silent":
            return None
        unit = self.address   # the answer to a new address still comes from the old one
        with self._lock:
            if broadcast:
                self._obey(request, at_s, fault, broadcast=True)
                return None
            honest = self.answer(request, at_s, fault)
            before, self._previous = self._previous, honest
        self.burst_due |= fault == "babbling"
        if fault == "stale":
            if before is None or (not tcp and _alike(before, honest)):
                return None
            return Outcome(unit, before, self.turnaround_s, {}, fault, stale=True)
        self.answered += 1
        answer_unit, pdu = bent(fault, unit, request, honest, self.exception)
        told = self.said(request, honest) if fault in ACCEPTABLE | DOUBTFUL else {}
        return Outcome(answer_unit, pdu, self.late_s if fault == "late" else self.turnaround_s, told, fault)

    def _drawn(self) -> Fault:
        if self.fault or not self.chance:
            return self.fault
        at = self.rng.random()
        for fault, chance in self.chance.items():
            at -= chance
            if at < 0:
                return fault
        return ""

    def answer(self, pdu: bytes, at_s: float = 0.0, fault: Fault = "") -> bytes:
        """Return the honest answer to a request, an exception where it cannot be served; writes are obeyed."""
        function = pdu[0]
        if function in (5, 6, 15, 16):
            return self._obey(pdu, at_s, fault)
        if len(pdu) != 5 or function not in self._images:
            return refusal(pdu, 1)
        first, count = struct.unpack(">HH", pdu[1:])
        bits = function in (1, 2)
        if not 1 <= count <= (2000 if bits else self.max_registers):
            return refusal(pdu, 3)
        with self._lock:
            held = bytes(self._images[function])
        asked = {(function, register) for register in range(first, first + count)}
        if first + count > (8 * len(held) if bits else len(held) // 2) or asked & self.refuses or (
                self.refuses_holes and asked - self._known):
            return refusal(pdu, 2)
        if bits:
            taken = int.from_bytes(held, "little") >> first & (1 << count) - 1
            data: bytes = taken.to_bytes((count + 7) // 8, "little")
        else:
            data = held[2 * first:2 * (first + count)]
        return bytes([function, len(data)]) + data

    def said(self, request: bytes, answer: bytes) -> Values:
        """Decode the points an honest answer carries; empty for an exception and for writes."""
        if answer[0] & 0x80 or answer[0] > 4:
            return {}
        key = struct.unpack(">BHH", request)
        if key not in self._readers:
            points = carried(self.template, *key)
            self._readers[key] = Reader(points, *key, self._parameters) if points else None
        reader = self._readers[key]
        return dict(zip(reader.points, reader.decode(answer, 2)[0], strict=True)) if reader else {}

    def _obey(self, pdu: bytes, at_s: float, fault: Fault, *, broadcast: bool = False) -> bytes:
        """Do what a write says and return its answer."""
        asked = _write_of(pdu)
        if isinstance(asked, int):
            return refusal(pdu, asked)
        function, first, values = asked
        if fault == "refuses_writes":
            return refusal(pdu, self.exception)
        places = [self._place(function in (5, 15), first + n) for n in range(len(values))]
        step = self._recipe_step(function, first, values, broadcast)
        if step is None and None in places:
            return refusal(pdu, 2)
        self.written.append(Written(at_s, self.name, function, first, values, broadcast))
        if fault != "forgets":
            for place, value in zip(places, values, strict=True):
                if place is not None:
                    self._put(*place, value)
            if step == "address":
                self._pending = values[0]
            if self._pending and all(later.moved for later in self.template.set_address[self._step or len(
                    self.template.set_address):]):
                self.address, self._pending = self._pending, 0
        return pdu[:5]

    def _place(self, bit: bool, register: int) -> tuple[int, int] | None:
        """Return function and register where a write to `register` can be read afterwards; None: nowhere."""
        for point in self.template.points:
            rule = point.write
            if rule and rule.register is not None and bit == (rule.function in (5, 15)) and (
                    rule.register <= register < rule.register + width(point.type)):
                return point.function, point.register + register - rule.register
        function = 1 if bit else 3
        held = self._images.get(function, b"")
        return (function, register) if register < (8 * len(held) if bit else len(held) // 2) else None

    def _put(self, function: int, register: int, value: int) -> None:
        held = self._images[function]
        if function in (1, 2):
            held[register // 8] = held[register // 8] & ~(1 << register % 8) | value << register % 8
        else:
            struct.pack_into(">H", held, 2 * register, value)

    def act(self, frame: bytes, at_s: float) -> bytes | None:
        """Take a raw RTU frame that is one of the template's actions: its answer (empty: none); None = it is not."""
        for action in self.template.actions:
            known = action_frames(self.template, action.id, self.address)
            if frame == known.frame and self._drawn() != "silent":
                self.acted.append((at_s, action.id))
                return known.answer or b""
        return None

    def _recipe_step(self, function: int, first: int, values: tuple[int, ...], broadcast: bool) -> str | int | None:
        """Return the value a write has in the address recipe; None when it is no step, or not the next one."""
        steps = self.template.set_address
        for n in (self._step, 0):
            if n >= len(steps):
                continue
            wanted = steps[n]
            fits = (1 <= values[0] <= 247) if wanted.value == "address" else values[0] == wanted.value
            if (function, first, len(values)) == (wanted.function, wanted.register, 1) and fits and (
                    wanted.broadcast or not broadcast):
                self._step = (n + 1) % len(steps)
                return wanted.value
        return None


def _write_of(pdu: bytes) -> tuple[int, int, tuple[int, ...]] | int:
    """Read a write: function, first, values (bits or words); or the exception code it deserves."""
    if len(pdu) < 5 or pdu[0] not in (5, 6, 15, 16):
        return 1
    function, first, word = int(pdu[0]), *struct.unpack(">HH", pdu[1:5])
    if function == 6 and len(pdu) == 5:
        return function, first, (word,)
    if function == 5 and len(pdu) == 5 and word in (0, 0xFF00):
        return function, first, (int(word == 0xFF00),)
    size = (word + 7) // 8 if function == 15 else 2 * word
    if function in (15, 16) and 1 <= word <= (1968 if function == 15 else 123) and len(pdu) == 6 + size == 6 + pdu[5]:
        if function == 16:
            return function, first, struct.unpack(f">{word}H", pdu[6:])
        bits = int.from_bytes(pdu[6:], "little")
        return function, first, tuple(bits >> n & 1 for n in range(word))
    return 3


def _alike(one: bytes, other: bytes) -> bool:
    """Whether nobody could tell which of two answers belongs to a question: RTU answers name no register."""
    return one == other or (one[0] <= 4 and one[:2] == other[:2])


def _known(template: Template) -> set[tuple[int, int]]:
    """Return function and register of all that a template names: the rest are holes."""
    spans = [(span.function, span.first, span.count) for span in (point.span() for point in template.points)]
    spans += [(text.function, text.register, text.registers) for text in template.texts]
    if rule := template.identify:
        spans.append((rule.function, rule.register, rule.count))
    return {(function, first + n) for function, first, count in spans for n in range(count)}
