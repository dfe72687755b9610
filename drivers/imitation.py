"""A template turned round: registers that look like the sensor's, for simulators.

Owns: writing values, codes and texts into an image of a device's registers. Promises: what is written reads back as
the nearest count, unit and status being those of a good reading. Never: does I/O, is used by the gateway.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from drivers.planner import Span
from drivers.reader import Reader, Worth, field, marks
from drivers.registers import FLOATS, Coils, Field, Layout, Scale, scale
from drivers.sensor import Point, Template
from drivers.sheet import Helper, Text
from drivers.transform import CurrentLoop, VibratingWire, undone


def image(template: Template, function: int, parameters: Mapping[str, float] | None = None) -> bytearray:
    """Return registers (2 bytes each) or packed coils of a healthy sensor at rest, from 0 to the highest it has.

    Args:
        template: the model.
        function: 1 to 4, whose registers are wanted.
        parameters: of this instrument; None = those of the template's own examples (`Template.sample`).
    """
    known = template.sample() if parameters is None else template.known(parameters)
    spans = [point.span() for point in template.points if point.function == function]
    spans += [Span(function, text.register, text.registers) for text in template.texts if text.function == function]
    if (rule := template.identify) and rule.function == function:
        spans.append(Span(function, rule.register, rule.count))
    top = max((span.end for span in spans), default=0)
    made = bytearray((top + 7) // 8 if function in (1, 2) else 2 * top)
    samples = {name: said for example in template.examples for name, said in example.texts.items()}
    for text in template.texts:
        if text.function == function and text.id in samples:
            write_text(text, samples[text.id], made)
    for point in reversed([p for p in template.points if p.function == function]):
        # Backwards, so that of two points on one register the first listed has the last word.
        rest(point, made, known)
    if rule and rule.function == function:
        rule.fake(made)
    return made


def functions(template: Template) -> set[int]:
    """Return the functions (1 to 4) a device of this model answers."""
    asked = {template.identify.function} if template.identify else set[int]()
    return asked | {point.function for point in template.points} | {text.function for text in template.texts}


def rest(point: Point, into: bytearray, parameters: Mapping[str, float]) -> None:
    """Write the first of 0 (or the low end of the range), its middle and its high end that reads as a good value."""
    low, high = point.range or (0.0, 100 * max(point.resolution, abs(point.scale)))
    for value in (max(low, min(high, 0.0)), (low + high) / 2, high):
        write(point, value, into, parameters)
        count = 8 * len(into) if point.function in (1, 2) else len(into) // 2
        if not Reader([point], point.function, 0, count, parameters).decode(bytes(into))[1]:
            return


def write(point: Point, value: float | None, into: bytearray, parameters: Mapping[str, float] = {}) -> None:
    """Make an image say `value` of `point`: the nearest count; unit, age and status become those of a good reading.

    None writes the point's first no-data or error mark, or a trouble word of its status, or breaks its current loop.

    Raises:
        ValueError: the value does not fit, or None and the template has no way to say it, or a parameter is missing.
    """
    if point.type == "bit":
        if value is None:
            raise ValueError(f"point {point.id} is a bit: it always has a value")
        Coils([field(point, 0)], 8 * len(into)).pack([value], into)
        return
    troubled = None
    if status := point.status:
        known = status.words or {0: "ok", **{1 << bit: word for bit, word in status.flags.items()}}
        good = [code for code, word in known.items() if word == "ok"]
        bad = [code for code, word in known.items() if word in ("sensor_fault", "no_data", "warm_up")]
        troubled = bad[0] if bad else None
        if good:
            poke(into, status, good[0])
    if point.age:
        poke(into, point.age, 0)
    if value is None:
        if told := list(marks(point)):
            _pack(point, told[0], into)
        elif isinstance(point.transform, CurrentLoop):
            _pack(point, scale(point.scale, point.offset).down(0.0), into)
        elif status and troubled is not None:
            poke(into, status, troubled)
        else:
            raise ValueError(f"point {point.id} has no raw number that means no data")
        return
    signal = _signal(point, value, into, parameters)
    last: ValueError | None = None
    for codes, worth in _worths(point):
        try:
            _pack(point, worth.down(signal), into)
        except ValueError as error:
            last = error
            continue
        for helper, code in zip((point.decimals, point.scale_code, point.unit_code), codes, strict=True):
            if helper:
                poke(into, helper, code)
        return
    raise last or ValueError(f"point {point.id} has no code that makes {value}")


def _signal(point: Point, value: float, into: bytearray, parameters: Mapping[str, float]) -> float:
    """Return what the sensor must feel for its transform to give `value`."""
    if not point.transform:
        return value
    warmth = 0.0
    if isinstance(point.transform, VibratingWire) and (own := point.transform.temperature):
        (raw,) = Layout([Field(own.register, own.type, own.order)], len(into) // 2).unpack(bytes(into))
        warmth = scale(own.scale, own.offset).up(raw)
    try:
        return undone(point.transform, parameters, value, warmth)
    except KeyError as error:
        raise ValueError(f"point {point.id} needs the parameter {error.args[0]}") from None


def _worths(point: Point) -> list[tuple[tuple[int, int, int], Scale]]:
    """Return codes by how well they suit: the coarsest that shows the resolution, then finer, then coarser ones."""
    def suits(pair: tuple[tuple[int, int, int], Scale]) -> tuple[bool, float]:
        step = abs(pair[1].mul / pair[1].div)
        fine = step <= point.resolution * 1.000001
        return (not fine, -step if fine else step)
    return sorted(Worth(point).codes(), key=suits)


def _pack(point: Point, raw: float, into: bytearray) -> None:
    whole = point.type not in FLOATS and math.isfinite(raw)
    Layout([field(point, 0)], len(into) // 2).pack([round(raw) if whole else raw], into)


def poke(into: bytearray, helper: Helper, code: int) -> None:
    """Write a code into the bits of a helper register."""
    Layout([Field(helper.register, bits=helper.bits)], len(into) // 2).pack([code], into)


def write_text(text: Text, said: str, into: bytearray) -> None:
    """Write packed characters, padded with 0.

    Raises:
        ValueError: more than fits, or not ASCII.
    """
    packed = said.encode("ascii")
    if len(packed) > 2 * text.registers:
        raise ValueError(f"{said!r} does not fit in {text.registers} registers")
    packed = packed.ljust(2 * text.registers, b"\0")
    order: Literal[1, -1] = -1 if text.order == "BADC" else 1
    for n in range(0, len(packed), 2):
        at = 2 * text.register + n
        into[at:at + 2] = packed[n:n + 2][::order]
