"""What the registers of one block read of a sensor mean.

Owns: applying a template to bytes: scales, helper registers, no-data marks, status words, transforms. Promises: one
compiled Reader a block; a value the instrument itself disowns is None with the reason, never a number; no bytes of the
right length make it fail. Never: does I/O, judges a range (that is judgement's), keeps anything between two answers.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from msgspec import Struct

from drivers import Note, SetupError
from drivers.registers import BCD, FLOATS, Coils, Field, Layout, Scale, scale
from drivers.sensor import Point, Template
from drivers.sheet import Status
from drivers.transform import VibratingWire, compiled, names

Values = tuple[float | None, ...]
Notes = tuple[str, ...]

_SAID = {"ok": "", "under_range": Note.UNDER_RANGE, "over_range": Note.OVER_RANGE, "no_data": Note.NO_DATA,
         "warm_up": Note.WARM_UP, "sensor_fault": Note.SENSOR_FAULT, "": ""}
_WORST = ("sensor_fault", "warm_up", "no_data", "over_range", "under_range", "ok")
_DOUBTED = (Note.OVER_RANGE, Note.UNDER_RANGE)


class _Said:
    """What a status register says."""

    def __init__(self, status: Status) -> None:
        self._words = {code: _SAID[word] for code, word in status.words.items()}
        self._flags = [(1 << bit, _SAID[word]) for worst in _WORST for bit, word in status.flags.items()
                       if word == worst]
        self._listed = sum(mask for mask, _ in self._flags)

    def note(self, raw: int) -> str:
        """Return the note, "" when all is well; what is not listed is a fault."""
        if not self._flags:
            return self._words.get(raw, Note.SENSOR_FAULT)
        if raw & ~self._listed:
            return Note.SENSOR_FAULT
        return next((note for mask, note in self._flags if raw & mask), "")


class Worth:
    """What one count of a point is worth where other registers say so."""

    def __init__(self, point: Point) -> None:
        self._point = point
        self.decimals: Mapping[int, int] = point.decimals.map or {
            n: n for n in range(min(10, 1 << point.decimals.bits[1]))} if point.decimals else {}
        self.factors: Mapping[int, float] = point.scale_code.map if point.scale_code else {}
        unit = point.unit_code
        self.units: Mapping[int, float] = (unit.map or ({} if unit.equals is None else {unit.equals: 1.0})) \
            if unit else {}
        self._made: dict[tuple[int, int, int], Scale] = {}

    def scale(self, decimals: int, factor: int, unit: int) -> Scale | Note:
        """Return what a count is worth under these codes (-1 where there is no such register), or why nothing."""
        made = self._made.get((decimals, factor, unit))
        if made is not None:
            return made
        if unit >= 0 and unit not in self.units:
            return Note.UNIT_MISMATCH
        if (decimals >= 0 and decimals not in self.decimals) or (factor >= 0 and factor not in self.factors):
            return Note.NO_DATA
        made = scale(self._point.scale, self._point.offset, self.decimals.get(decimals, 0),
                     self.factors.get(factor, 1.0), self.units.get(unit, 1.0))
        self._made[decimals, factor, unit] = made
        return made

    def codes(self) -> Iterable[tuple[tuple[int, int, int], Scale]]:
        """Return all codes (decimals, scale, unit; -1 = no such register) and what they make of a count."""
        for codes in product(self.decimals or (-1,), self.factors or (-1,), self.units or (-1,)):
            made = self.scale(*codes)
            if isinstance(made, Scale):
                yield codes, made


class _Special(Struct, frozen=True):
    """What must be looked at before point `n` is believed; `at` are indexes into the raw tuple, -1 = none."""

    n: int
    may_be_nan: bool
    marks: Mapping[float, Note]
    at: tuple[int, int, int, int, int]
    """Decimals, scale, unit, status, age."""
    worth: Worth | None
    said: _Said | None
    oldest: float
    """The greatest age, in counts of its register."""
    zeros: tuple[int, int]
    """Bytes of the block that must not all be 0."""
    empty: str
    transform: Any
    warmth: int
    warmth_scale: Scale

    @property
    def plain(self) -> bool:
        """Whether a look at the numbers alone tells that there is nothing special."""
        return max(*self.at, *self.zeros) < 0 and self.transform is None


class Reader:
    """One block of a template's registers, compiled."""

    def __init__(self, points: Sequence[Point], function: int, first: int, count: int,
                 parameters: Mapping[str, float] = {}) -> None:
        """Take the points to read from `count` registers (or coils) beginning at `first`.

        Args:
            points: of one template.
            function: the block's.
            first: register the block begins at.
            count: registers in the block.
            parameters: of this very instrument, defaults included (`Template.known`).

        Raises:
            ValueError: a point does not lie in the block.
            SetupError: a point's transform wants a parameter that is not given.
        """
        self.points = tuple(point.id for point in points)
        self.function, self.first, self.count = function, first, count
        fields = [field(point, first) for point in points]
        self._specials: list[_Special] = []
        for n, point in enumerate(points):
            if point.function != function:
                raise ValueError(f"point {point.id} is read by function {point.function}, not {function}")
            special = _special(n, point, first, fields, parameters)
            if special.marks or special.may_be_nan or not special.plain:
                self._specials.append(special)
        self._layout: Layout | Coils = Coils(fields, count) if function in (1, 2) else Layout(fields, count)
        self._scales = [(s.mul, s.add, s.div) for s in (scale(point.scale, point.offset) for point in points)]
        self._marks = frozenset(mark for special in self._specials for mark in special.marks)
        self._plain = all(special.plain for special in self._specials)
        """No helper registers: one look at all values tells whether any needs a closer one."""

    def decode(self, data: bytes, start: int = 0) -> tuple[Values, Notes]:
        """Return the values and notes of an answer whose data bytes begin at `start`; no notes = ()."""
        raw = self._layout.unpack(data, start)
        numbers = [(r * mul + add) / div for r, (mul, add, div) in zip(raw, self._scales, strict=False)]
        if not self._specials or (self._plain and self._marks.isdisjoint(raw) and math.isfinite(sum(numbers))):
            return tuple(numbers), ()
        values: list[float | None] = [*numbers]
        notes: list[str] | None = None
        for special in self._specials:
            low, high = special.zeros
            if low >= 0 and not any(data[start + low:start + high]):
                values[special.n], note = None, special.empty
            else:
                values[special.n], note = _look(special, raw, numbers[special.n])
            if note:
                if notes is None:
                    notes = [""] * len(values)
                notes[special.n] = note
        return tuple(values), tuple(notes) if notes else ()


def _look(special: _Special, raw: tuple[Any, ...], value: float) -> tuple[float | None, str]:
    """Return the value of one point put right, or None, and the note about it."""
    number = raw[special.n]
    decimals, factor, unit, status, age = special.at
    note = special.said.note(raw[status]) if special.said else ""
    if note and note not in _DOUBTED:
        return None, note
    if age >= 0 and raw[age] > special.oldest:
        return None, Note.NO_DATA
    if special.may_be_nan and not math.isfinite(number):
        return None, Note.NOT_A_NUMBER
    if number in special.marks:
        return None, special.marks[number]
    if special.worth:
        worth = special.worth.scale(*(raw[at] if at >= 0 else -1 for at in (decimals, factor, unit)))
        if isinstance(worth, Note):
            return None, worth
        value = worth.up(number)
    if special.transform:
        warmth = special.warmth_scale.up(raw[special.warmth]) if special.warmth >= 0 else 0.0
        changed, word = special.transform(value, warmth)
        if changed is None:
            return None, _SAID[word]
        value, note = changed, note or _SAID[word]
    return (value, note) if math.isfinite(value) else (None, Note.NOT_A_NUMBER)


def field(point: Point, first: int) -> Field:
    """Return where the point's number lies in a block that begins at register `first`."""
    return Field(point.register - first, point.type, point.order, point.bits, point.byte)


def _special(n: int, point: Point, first: int, fields: list[Field], parameters: Mapping[str, float]) -> _Special:
    """Compile what is special about a point, adding the fields of its helper registers."""
    at = []
    for helper in point.helpers:
        at.append(len(fields) if helper else -1)
        if helper:
            fields.append(Field(helper.register - first, bits=helper.bits))
    warmth, warmth_scale = -1, Scale()
    if isinstance(point.transform, VibratingWire) and (own := point.transform.temperature):
        warmth, warmth_scale = len(fields), scale(own.scale, own.offset)
        fields.append(Field(own.register - first, own.type, own.order))
    try:
        transform = compiled(point.transform, parameters) if point.transform else None
    except KeyError as error:
        raise SetupError(f"point {point.id} needs the parameter {error.args[0]}: it stands on the calibration sheet "
                         "of the instrument; give it with the device, under parameters") from None
    zero = point.all_zero
    return _Special(
        n, point.type in FLOATS or point.type in BCD, marks(point), (at[0], at[1], at[2], at[3], at[4]),
        Worth(point) if max(at[:3]) >= 0 else None, _Said(point.status) if point.status else None,
        point.age.limit_s / point.age.scale if point.age else math.inf,
        (2 * (zero.register - first), 2 * (zero.register - first + zero.count)) if zero else (-1, -1),
        _SAID[zero.word] if zero else "", transform, warmth, warmth_scale)


def marks(point: Point) -> dict[float, Note]:
    """Return raw number → what it means instead of a value, as the registers hold it: -999.9 in a f32 is -999.9000244.

    Raises:
        OverflowError: a mark is beyond what the type can hold.
    """
    code = {"f16": ">e", "f32": ">f"}.get(point.type)
    told: dict[float, Note] = {mark: Note(word) for mark, word in point.errors.items()}
    told |= dict.fromkeys(point.no_data, Note.NO_DATA)
    return {struct.unpack(code, struct.pack(code, mark))[0] if code else mark: note for mark, note in told.items()}


def carried(template: Template, function: int, first: int, count: int) -> list[Point]:
    """Return the points that lie whole, helpers included, in a block."""
    return [point for point in template.points for span in [point.span()]
            if span.function == function and first <= span.first and span.end <= first + count]


def missing_parameters(template: Template, points: Iterable[str], given: Mapping[str, float]) -> list[str]:
    """Say what is wrong with the parameters given for one device; empty when nothing is.

    Args:
        template: its model.
        points: ids of the points to be read; a parameter only others need may be missing.
        given: name → number, from the site's configuration.
    """
    known, wanted = template.known(given), set(points)
    wrong = [f"parameter {name!r} is not one of {template.model}: it has {', '.join(template.parameters) or 'none'}"
             for name in given if name not in template.parameters]
    wrong += [f"parameter {name} is {number}: expected a finite number" for name, number in given.items()
              if not math.isfinite(number)]
    lacking: dict[str, list[str]] = {}
    for point in template.points:
        if point.id in wanted and point.transform:
            for name in names(point.transform):
                if name not in known:
                    lacking.setdefault(name, []).append(point.id)
    return wrong + [f"{', '.join(users)} needs the parameter {name} ({told.title.en}, {told.title.zh}; {told.unit}), "
                    "from the instrument's calibration sheet" for name, users in lacking.items()
                    for told in [template.parameters[name]]]


def texts(template: Template, function: int, first: int, count: int, data: bytes) -> dict[str, str]:
    """Return the packed texts that lie whole in a block; what is no printable ASCII is shown as U+FFFD."""
    found = {}
    for text in template.texts:
        at = 2 * (text.register - first)
        if text.function == function and at >= 0 and text.register + text.registers <= first + count:
            packed = data[at:at + 2 * text.registers]
            if text.order == "BADC":
                packed = bytes(byte for n in range(0, len(packed), 2) for byte in (packed[n + 1], packed[n]))
            plain = packed.split(b"\0", 1)[0].rstrip(b" \xff").lstrip(b" ")
            found[text.id] = "".join(chr(byte) if 32 <= byte < 127 else "�" for byte in plain)
    return found
