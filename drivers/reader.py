"""What the registers of one block read of a sensor mean; and back, for simulators.

Owns: applying a template to bytes: scales, helper registers, no-data marks, status words. Promises: one compiled
Reader a block; a value the instrument itself disowns is None with the reason, never a number. Never: does I/O,
judges a range (that is judgement's), keeps anything between two answers.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from drivers import Note
from drivers.planner import Span
from drivers.registers import FLOATS, Coils, Field, Layout, Scale, scale
from drivers.sensor import Decimals, Point, Status, Template, UnitCode

Values = tuple[float | None, ...]
Notes = tuple[str, ...]

_SAID = {"warm_up": Note.WARM_UP, "no_data": Note.NO_DATA, "sensor_fault": Note.SENSOR_FAULT,
         "over_range": Note.OVER_RANGE, "under_range": Note.UNDER_RANGE, "ok": ""}
_DOUBTED = (Note.OVER_RANGE, Note.UNDER_RANGE)


class _Special(Struct, frozen=True):
    """What must be looked at before point `n` is believed; indexes are into the raw tuple, -1 = none."""

    n: int
    is_float: bool
    no_data: frozenset[float]
    decimals: int
    scales: dict[int, Scale]
    unit: int
    equals: int
    status: int
    words: dict[int, str]


class Reader:
    """One block of a template's registers, compiled."""

    def __init__(self, points: Sequence[Point], function: int, first: int, count: int) -> None:
        """Take the points to read from `count` registers (or coils) beginning at `first`.

        Raises:
            ValueError: a point does not lie in the block.
        """
        self.points = tuple(point.id for point in points)
        self.function, self.first, self.count = function, first, count
        fields = [_field(point, first) for point in points]
        specials: list[_Special] = []
        for n, point in enumerate(points):
            if point.function != function:
                raise ValueError(f"point {point.id} is read by function {point.function}, not {function}")
            at = []
            for helper in (point.decimals, point.unit_code, point.status):
                at.append(len(fields) if helper else -1)
                if helper:
                    fields.append(Field(helper.register - first, bits=helper.bits))
            if point.no_data or point.type in FLOATS or max(at) >= 0:
                specials.append(_Special(
                    n, point.type in FLOATS, marks(point), at[0], _scales(point),
                    at[1], point.unit_code.equals if point.unit_code else 0,
                    at[2], {code: _SAID[word] for code, word in point.status.words.items()} if point.status else {}))
        self._layout: Layout | Coils = Coils(fields, count) if function in (1, 2) else Layout(fields, count)
        self._scales = [(s.mul, s.add, s.div) for s in (scale(point.scale, point.offset) for point in points)]
        self._specials = specials
        self._marks = frozenset(mark for point in points for mark in marks(point))
        self._plain = all(max(s.decimals, s.unit, s.status) < 0 for s in specials)
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
            note = self._look(special, raw, values)
            if note:
                if notes is None:
                    notes = [""] * len(values)
                notes[special.n] = note
        return tuple(values), tuple(notes) if notes else ()

    @staticmethod
    def _look(special: _Special, raw: tuple[Any, ...], values: list[float | None]) -> str:
        """Put right, or take away, the value of one point; return the note about it."""
        n, number = special.n, raw[special.n]
        note: str = special.words.get(raw[special.status], Note.SENSOR_FAULT) if special.status >= 0 else ""
        if note == "" or note in _DOUBTED:
            if special.is_float and not (math.isfinite(number) and math.isfinite(values[n] or 0.0)):
                note = Note.NOT_A_NUMBER
            elif number in special.no_data:
                note = Note.NO_DATA
            elif special.unit >= 0 and raw[special.unit] != special.equals:
                note = Note.UNIT_MISMATCH
            elif special.decimals >= 0:
                worth = special.scales.get(raw[special.decimals])
                if worth is None:
                    note = Note.NO_DATA
                else:
                    values[n] = worth.up(number)
        if note and note not in _DOUBTED:
            values[n] = None
        return note


def marks(point: Point) -> frozenset[float]:
    """Return the no-data numbers as the registers hold them: -999.9 in a f32 is -999.9000244140625."""
    if point.type != "f32":
        return frozenset(point.no_data)
    return frozenset(struct.unpack(">f", struct.pack(">f", mark))[0] for mark in point.no_data)


def _field(point: Point, first: int) -> Field:
    return Field(point.register - first, point.type, point.order, point.bits)


def _scales(point: Point) -> dict[int, Scale]:
    """Code in the decimals register → what a count is worth."""
    if not point.decimals:
        return {}
    codes = point.decimals.map or {n: n for n in range(min(10, 1 << point.decimals.bits[1]))}
    return {code: scale(point.scale, point.offset, places) for code, places in codes.items()}


def carried(template: Template, function: int, first: int, count: int) -> list[Point]:
    """Return the points that lie whole, helpers included, in a block."""
    return [point for point in template.points for span in [point.span()]
            if span.function == function and first <= span.first and span.end <= first + count]


def image(template: Template, function: int) -> bytearray:
    """Return registers (2 bytes each) or packed coils of a healthy sensor at rest, from 0 to the highest it has."""
    spans = [point.span() for point in template.points if point.function == function]
    if (rule := template.identify) and rule.function == function:
        spans.append(Span(function, rule.register, rule.count))
    top = max((span.end for span in spans), default=0)
    made = bytearray((top + 7) // 8 if function in (1, 2) else 2 * top)
    for point in reversed([p for p in template.points if p.function == function]):
        # Backwards, so that of two points on one register the first listed has the last word.
        write(point, max(point.range[0], 0.0) if point.range else 0.0, made)
    return made


def write(point: Point, value: float | None, into: bytearray) -> None:
    """Make an image say `value` of `point`: the nearest count; unit and status become those of a good reading.

    None writes the point's first no-data mark.

    Raises:
        ValueError: the value does not fit, or None and the template has no mark for it.
    """
    if value is None and not point.no_data:
        raise ValueError(f"point {point.id} has no raw number that means no data")
    if point.type == "bit":
        Coils([_field(point, 0)], 8 * len(into)).pack([float(value or 0)], into)
        return
    if point.status and (good := [code for code, word in point.status.words.items() if word == "ok"]):
        poke(into, point.status, good[0])
    if point.unit_code:
        poke(into, point.unit_code, point.unit_code.equals)
    worth = scale(point.scale, point.offset)
    if point.decimals:
        scales = _scales(point)
        fine = {code: s for code, s in scales.items() if s.mul / s.div <= point.resolution * 1.000001} or scales
        code = max(fine, key=lambda c: fine[c].mul / fine[c].div)
        poke(into, point.decimals, code)
        worth = scales[code]
    raw = point.no_data[0] if value is None else worth.down(value)
    if point.type not in FLOATS:
        raw = round(raw)
    Layout([_field(point, 0)], len(into) // 2).pack([raw], into)


def poke(into: bytearray, helper: Decimals | UnitCode | Status, code: int) -> None:
    """Write a code into the bits of a helper register."""
    Layout([Field(helper.register, bits=helper.bits)], len(into) // 2).pack([code], into)
