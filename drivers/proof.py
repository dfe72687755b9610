"""A template proves itself: what its shape cannot show, and its own example frames.

Owns: the checks of a template beyond types and bounds. Promises: all that is wrong at once, each with its path.
Never: touches hardware.
"""

from __future__ import annotations

import math

from drivers import Note
from drivers.exchange import Ask, checked, hear
from drivers.planner import limit
from drivers.reader import Reader, carried
from drivers.registers import FLOATS, Field, Layout, width
from drivers.sensor import Example, Point, Template

_FAR = 1e30
"""Scales beyond this overflow a double."""

Complaint = tuple[tuple[str | int, ...], str]


def complaints(template: Template) -> list[Complaint]:
    """Return what the shape of the file can't show: (path, message); empty when the template proves itself."""
    found: list[Complaint] = []
    seen: set[str] = set()
    for n, point in enumerate(template.points):
        if point.id in seen:
            found.append((("points", n, "id"), f"a second point called {point.id!r}; names must differ"))
        seen.add(point.id)
        found += [(("points", n, *path), text) for path, text in _of_point(point, template)]
    if rule := template.identify:
        found += [(("identify", "checks", n, "register"), (f"register {check.register} is not among the "
                   f"{rule.count} read from {rule.register}")) for n, check in enumerate(rule.checks)
                  if not rule.register <= check.register < rule.register + rule.count]
    if found:
        return found   # the examples of a broken set-up would only add noise
    proven: set[str] = set()
    for n, example in enumerate(template.examples):
        carried, wrong = prove(template, example)
        found += [(("examples", n, *path), text) for path, text in wrong]
        proven |= carried
    found += [(("points", n), f"no example shows {point.id!r}: add a frame that carries it")
              for n, point in enumerate(template.points) if point.id not in proven]
    return found


def _of_point(point: Point, template: Template) -> list[Complaint]:
    found: list[Complaint] = []
    if (point.type == "bit") != (point.function in (1, 2)):
        gives = "bits" if point.function in (1, 2) else "registers"
        found.append((("type",), f"function {point.function} gives {gives}, found type {point.type!r}"))
    if point.bits and (point.type[0] != "u" or sum(point.bits) > 16 * width(point.type)):
        found.append((("bits",), f"bits {list(point.bits)} (lowest, how many) do not fit in {point.type}"))
    if point.type == "bit" and (point.decimals or point.unit_code or point.status):
        found.append((("type",), "a bit has no decimals, unit or status register"))
    for key, helper in (("decimals", point.decimals), ("unit_code", point.unit_code), ("status", point.status)):
        if helper and sum(helper.bits) > 16:
            found.append(((key, "bits"), f"bits {list(helper.bits)} (lowest, how many) do not fit in a register"))
    if not point.scale or not math.isfinite(point.scale) or not math.isfinite(point.offset):
        found.append((("scale",), f"scale {point.scale}, offset {point.offset}: expected finite numbers, scale not 0"))
    if point.range and not point.range[0] < point.range[1]:
        found.append((("range",), f"found {list(point.range)}, expected [low, high] with low below high"))
    if point.type not in FLOATS and any(isinstance(mark, float) for mark in point.no_data):
        found.append((("no_data",), f"found {list(point.no_data)}, expected whole raw numbers for {point.type}"))
    elif point.type != "bit":
        try:
            for mark in point.no_data:
                Layout([Field(0, point.type, bits=point.bits)], width(point.type)).pack([mark], bytearray(8))
        except ValueError as error:
            # 65535 of an s16 reads as -1: such a mark would never be seen, and "no data" become a value.
            found.append((("no_data",), f"{error}: write the raw number as the type reads it"))
    if abs(point.offset) > _FAR or not 1 / _FAR < abs(point.scale) < _FAR:
        found.append((("scale",), f"scale {point.scale}, offset {point.offset}: no instrument is so far from its unit"))
    span = point.span()
    most = limit(point.function) if point.function in (1, 2) else template.max_registers
    if span.count > most:
        found.append((("register",), f"value and helper registers span {span.count}, but max_registers is {most}"))
    if span.end > 65536:
        found.append((("register",), "reaches beyond register 65535"))
    return found


def prove(template: Template, example: Example) -> tuple[set[str], list[Complaint]]:
    """Run one example through the codec: the points it carries, and what comes out otherwise than written."""
    try:
        request, answer = bytes.fromhex(example.request), bytes.fromhex(example.answer)
        ask = Ask.parse(request)
    except ValueError as error:
        return set(), [(("request",), str(error))]
    points = carried(template, ask.function, ask.first, ask.count)
    verdict = hear(ask, answer)
    if isinstance(verdict, Note) or verdict is None:
        crc = f" (its CRC should be {checked(answer[:-2])[-2:].hex(' ').upper()})" if verdict is Note.BAD_CRC else ""
        return set(), [(("answer",), f"is no answer to the request: {verdict or 'too short'}{crc}")]
    wrong: list[Complaint] = []
    values, notes = Reader(points, ask.function, ask.first, ask.count).decode(answer, verdict) if points else ((), ())
    got = dict(zip((point.id for point in points), zip(values, notes or [""] * len(values), strict=True), strict=True))
    wrong += [(("values",), f"{name!r} is not in this answer, which carries {', '.join(got) or 'no point'}")
              for name in sorted({*example.values, *example.notes} - set(got))]
    for point in points:
        value, note = got[point.id]
        want, remark = example.values.get(point.id), example.notes.get(point.id, "")
        if point.id not in example.values:
            wrong.append((("values",), f"the answer carries {point.id!r} too ({value}): say what it should be"))
        elif not _same(value, want, point.type in FLOATS):
            wrong.append((("values", point.id), f"the answer says {value}, the example {want}"))
        elif note != remark:
            wrong.append((("notes",), (f"{point.id!r} comes with {note or 'no note'!r}, the example says "
                                      f"{remark or 'none'!r}")))
    rule = template.identify
    if rule and (rule.function, rule.register, rule.count) == (ask.function, ask.first, ask.count) \
            and not rule.matches(answer[verdict:verdict + 2 * rule.count]):
        wrong.append((("answer",), "the identify rule does not recognise its own model"))
    return set(got), wrong


def _same(value: float | None, want: float | None, is_float: bool) -> bool:
    if value is None or want is None:
        return value is want
    return math.isclose(value, want, rel_tol=1e-6, abs_tol=1e-9) if is_float else value == want
