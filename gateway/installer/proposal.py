"""Which model a device is: candidates with how sure that is.

Owns: the weighing of evidence. Promises: reads only; every model of the library whose rule fits is weighed, and
"a model nobody described" always competes, so thin evidence never looks sure. Never: writes, decides for the installer.

Evidence is counted in bits (how often the possibilities were halved): what the `identify` rule pins down, the factory
address and settings, a register that holds the device's own address, registers that exist, values in their ranges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

from drivers import WIRE_NOTES
from drivers.exchange import Ask
from drivers.identify import Identify
from drivers.line import Heard
from drivers.registers import FLOATS, Coils, Layout, width
from drivers.sensor import Serial, Template
from gateway.installer.link import Link
from gateway.installer.reading import PARAMETER, Reading, read
from gateway.installer.settings import Question, own

UNKNOWN_BITS = 3.0
"""What a model nobody described is worth: 1 in 8 devices fits a rule by chance."""
ADDRESS_BITS, SERIAL_BITS, OWN_ADDRESS_BITS = 4.0, 1.0, 8.0
REGISTER_BITS = 0.25
ZERO_BITS, SMALL_BITS, RARE_BITS = 2.0, 10.0, 16.0
"""What a register is worth at most that holds 0 (a quarter of all do), a number below 256, any other number."""
VALUE_BITS = 6.0
"""Most that one plausible value proves; an implausible one costs as much."""
READ_AT_MOST = 10
"""So many candidates are read whole; those with less evidence are left out."""


class Proposal(Struct, frozen=True):
    """A model the device may be."""

    template: Template
    bits: float
    sure: float
    """0 to 1, among all that fit."""
    reading: Reading


class Witness:
    """One device under question; the same register is never asked twice."""

    def __init__(self, link: Link, address: int, settings: Serial | None, timeout_s: float) -> None:
        self._link, self.address, self.settings, self._timeout_s = link, address, settings, timeout_s
        self._heard: dict[Question, bytes | None] = {}
        self._rest_s = 0.0

    def ask(self, question: Question, rest_s: float = 0.0) -> bytes | None:
        """Return the data bytes of a read, or None when it was refused or not answered."""
        if question not in self._heard:
            if self._heard:
                self._link.rest(max(rest_s, self._rest_s))
            self._rest_s = rest_s
            self._heard[question] = self._data(self._link.exchange(
                Ask(self.address, *question), self.settings, self._timeout_s), question)
        return self._heard[question]

    @staticmethod
    def _data(heard: Heard, question: Question) -> bytes | None:
        size = (question.size + 7) // 8 if question.function < 3 else 2 * question.size
        return bytes(heard.data[heard.start:heard.start + size]) if heard.note is None else None

    def read(self, template: Template) -> Reading:
        """Read all points by a model."""
        if template.min_gap_ms:
            self._link.rest(template.min_gap_ms / 1000)
        self._rest_s = max(self._rest_s, template.min_gap_ms / 1000)
        return read(self._link, template, self.address, self.settings, self._timeout_s)


def propose(witness: Witness, models: Sequence[Template]) -> list[Proposal]:
    """Return the models that fit, the likeliest first.

    Raises:
        LinkError: the port is gone.
        Told: the port is no longer ours.
    """
    fitting = [(bits, model) for model in models for bits in [_first_look(witness, model)] if bits is not None]
    fitting.sort(key=lambda pair: -pair[0])
    weighed: list[tuple[float, Template, Reading]] = []
    for bits, model in fitting[:READ_AT_MOST]:
        reading = witness.read(model)
        if not any(value.value is not None or (value.note and value.note not in {*WIRE_NOTES, PARAMETER})
                   for value in reading.values):
            continue   # it has none of this model's registers
        weighed.append((bits + _values(reading) + _own_address(witness, model), model, reading))
    if not weighed:
        return []
    most = max(UNKNOWN_BITS, *(bits for bits, _, _ in weighed))
    total = 2 ** (UNKNOWN_BITS - most) + sum(2 ** (bits - most) for bits, _, _ in weighed)
    found = [Proposal(model, bits, 2 ** (bits - most) / total, reading) for bits, model, reading in weighed]
    return sorted(found, key=lambda one: -one.bits)


def _first_look(witness: Witness, model: Template) -> float | None:
    """Weigh a model by its rule; None when it does not fit."""
    question, rule = own(model), model.identify
    bits = ADDRESS_BITS * (witness.address == model.address) + SERIAL_BITS * (
        witness.settings is not None and (witness.settings.baud, witness.settings.parity)
        == (model.serial.baud, model.serial.parity))
    if question is None or rule is None:
        return bits - UNKNOWN_BITS   # nothing tells it apart: it must earn its place by its values
    data = witness.ask(question, model.min_gap_ms / 1000)
    if data is None or not rule.matches(data):
        return None
    return bits + _rule(rule, data) + REGISTER_BITS * min(question.size, 8)


def _rule(rule: Identify, data: bytes) -> float:
    """Weigh a rule that fits: no check proves more than the number it met is rare."""
    layout = Coils if rule.function in (1, 2) else Layout
    total, zeros = 0.0, 0
    for check in rule.checks:
        if check.text:
            total += check.weight()
            continue
        (raw,) = layout([check.field(rule.register)], rule.count).unpack(data)
        if not raw:
            zeros += 1
            continue
        small = isinstance(raw, int) and 0 < raw < 256
        total += min(check.weight(), SMALL_BITS if small else RARE_BITS)
    # Registers nobody filled read 0, and then all of them do: together they prove little.
    return total + (min(ZERO_BITS, sum(check.weight() for check in rule.checks)) if zeros else 0.0)


def _values(reading: Reading) -> float:
    """Weigh how plausible the values are; points that share a register are one witness."""
    seen: dict[tuple[int, int], float] = {}
    for one in reading.values:
        point = one.point
        if one.code or (one.value is None and not one.note):
            bits = -VALUE_BITS
        elif one.value is None:
            bits = 0.0    # a state the model knows: says nothing either way
        elif one.outside:
            bits = -VALUE_BITS
        elif one.value == point.offset:
            bits = 0.0    # raw 0: see ZERO_BITS
        elif point.range and point.type not in FLOATS and point.scale:
            counts = (point.range[1] - point.range[0]) / abs(point.scale) + 1
            size = point.bits[1] if point.bits else 16 * width(point.type)
            bits = min(VALUE_BITS, max(0.0, size - math.log2(max(counts, 1.0))))
        elif point.range:
            bits = VALUE_BITS / 2
        else:
            bits = 0.0
        where = (point.function, point.register)
        seen[where] = bits if where not in seen else max(seen[where], bits)
    return sum(seen.values())


def _own_address(witness: Witness, model: Template) -> float:
    """Weigh the register that the model's recipe writes its address to: does it hold the address?"""
    places = [step.register for step in model.set_address if step.value == "address"]
    if not places:
        return 0.0
    data = witness.ask(Question(3, places[-1], 1), model.min_gap_ms / 1000)
    return OWN_ADDRESS_BITS if data is not None and int.from_bytes(data, "big") == witness.address else 0.0
