"""What a template must not say: the checks of its parts that types and bounds cannot make.

Owns: points, texts, identify rule, writes, steps and actions, each against itself. Promises: all that is wrong at
once, each with its path and what to do. Never: runs an example (that is `proof`'s), touches hardware.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from drivers.exchange import checked, sound
from drivers.identify import Check, Identify
from drivers.planner import limit
from drivers.registers import BCD, FLOATS, Field, Kind, Layout, Order, misfit, size, width
from drivers.sensor import Action, Point, Step, Template
from drivers.sheet import Counter, WriteRule
from drivers.transform import VibratingWire, names

_FAR = 1e30
"""Scales beyond this overflow a double."""

Path = tuple[str | int, ...]
Complaint = tuple[Path, str]


def contradictions(template: Template) -> list[Complaint]:
    """Return what contradicts itself in a template: (path, message)."""
    found: list[Complaint] = []
    for key, ids in (("points", [point.id for point in template.points]), ("texts", [t.id for t in template.texts]),
                     ("actions", [action.id for action in template.actions])):
        found += [((key, n, "id"), f"a second one called {name!r}; names must differ")
                  for n, name in enumerate(ids) if name in ids[:n]]
    for n, point in enumerate(template.points):
        found += under(("points", n), _of_point(point, template))
    for n, text in enumerate(template.texts):
        if text.register + text.registers > 65536:
            found.append((("texts", n, "registers"), "reaches beyond register 65535"))
        if text.registers > template.max_registers:
            found.append((("texts", n, "registers"), f"more than max_registers, which is {template.max_registers}"))
    if template.identify:
        found += under(("identify",), _of_identify(template.identify))
    found += under(("set_address",), _of_steps(template.set_address))
    for n, action in enumerate(template.actions):
        found += under(("actions", n), _of_action(action, template))
    used = {name for point in template.points if point.transform for name in names(point.transform)}
    found += [(("parameters", name), "no point's transform uses it: delete it") for name in template.parameters
              if name not in used]
    if not template.points and not template.actions:
        found.append((("points",), "a template needs points to read, or actions"))
    if template.points and not template.examples:
        found.append((("examples",), "no examples: a template without a frame that proves it is refused"))
    return found


def under(above: Path, wrong: Iterable[Complaint]) -> list[Complaint]:
    """Put complaints about a part under the path of that part."""
    return [((*above, *path), text) for path, text in wrong]


def _of_point(point: Point, template: Template) -> list[Complaint]:
    found: list[Complaint] = []
    bit = point.type == "bit"
    if bit != (point.function in (1, 2)):
        gives = "bits" if point.function in (1, 2) else "registers"
        found.append((("type",), f"function {point.function} gives {gives}, found type {point.type!r}"))
    found += _of_number(point.type, point.order, point.bits, point.byte)
    if bit and (any(point.helpers) or point.all_zero or point.transform or point.no_data or point.errors):
        found.append((("type",), "a bit has no decimals, unit, status or other registers, marks or transform"))
    for key in ("decimals", "scale_code", "unit_code", "status", "age"):
        helper = getattr(point, key)
        if helper and sum(helper.bits) > 16:
            found.append(((key, "bits"), f"bits {list(helper.bits)} (lowest, how many) do not fit in a register"))
    if (status := point.status) and bool(status.words) == bool(status.flags):
        found.append((("status",), "expected either words (number → word) or flags (bit → word)"))
    if (status := point.status) and any(flag >= status.bits[1] for flag in status.flags):
        found.append((("status", "flags"), f"there are only {status.bits[1]} bits to look at; counted from 0"))
    if (unit := point.unit_code) and (unit.equals is None) == (not unit.map):
        found.append((("unit_code",), "expected either equals (the code of the declared unit) or map (code → factor)"))
    factors = [*(point.scale_code.map.values() if point.scale_code else ()),
               *(point.unit_code.map.values() if point.unit_code else ())]
    if not point.scale or not math.isfinite(point.scale) or not math.isfinite(point.offset):
        found.append((("scale",), f"scale {point.scale}, offset {point.offset}: expected finite numbers, scale not 0"))
    elif abs(point.offset) > _FAR or not all(1 / _FAR < abs(factor) < _FAR for factor in (point.scale, *factors)):
        found.append((("scale",), (f"scale {point.scale}, offset {point.offset}, factors {factors}: no instrument is "
                      "so far from its unit")))
    if point.range and not point.range[0] < point.range[1]:
        found.append((("range",), f"found {list(point.range)}, expected [low, high] with low below high"))
    found += _of_marks(point)
    if isinstance(point.counter, Counter) and point.counter.wrap:
        most = 10 ** (size(point.type) // 4) if point.type in BCD else \
            1 << (point.bits[1] if point.bits else size(point.type))
        if point.type in FLOATS or point.type[0] == "s" or point.counter.wrap > most:
            found.append((("counter", "wrap"), (f"{point.counter.wrap}: {point.type} counts to {most - 1} at most; "
                          "give the raw count after which it begins at 0, or leave wrap out")))
        if point.decimals or point.scale_code or point.unit_code:
            found.append((("counter", "wrap"), ("what a count is worth is told by another register, so its wrap has no "
                          "fixed value: leave wrap out")))
    if point.transform:
        found += _of_transform(point, template)
    known = {other.id for other in template.points} - {point.id}
    found += [(("vouched_by", name), f"no other point is called {name!r}" if name not in known else
               f"found [{low:g}, {high:g}], expected [low, high]")
              for name, (low, high) in point.vouched_by.items() if name not in known or not low <= high]
    if point.write:
        found += under(("write",), _of_write(point, point.write))
    span = point.span()
    most = limit(point.function) if bit else template.max_registers
    if span.count > most:
        found.append((("register",), (f"value and helper registers span {span.count}, but max_registers is {most}: "
                      "what cannot be read in one answer is a point of its own")))
    if not template.contiguous and span.count > width(point.type):
        found.append((("register",), ("contiguous is false: a register that says something about the value cannot be "
                      "read with it; make it a point of its own")))
    if span.end > 65536:
        found.append((("register",), "reaches beyond register 65535"))
    return found


def _of_number(kind: Kind, order: Order, bits: tuple[int, int] | None, byte: str | None) -> list[Complaint]:
    if kind == "bit":
        return [((key,), "a bit has none") for key, given in (("bits", bits), ("byte", byte)) if given]
    why = misfit(Field(0, kind, order, bits, byte))   # type: ignore[arg-type]
    if not why:
        return []
    return [(("byte" if (byte is None) == (kind in ("u8", "s8")) else "bits",), why)]


def _of_marks(point: Point) -> list[Complaint]:
    found: list[Complaint] = []
    if point.type == "bit" or misfit(Field(0, point.type, point.order, point.bits, point.byte)):
        return found   # said elsewhere
    if point.type not in FLOATS and any(isinstance(mark, float) for mark in point.no_data):
        return [(("no_data",), f"found {list(point.no_data)}, expected whole raw numbers for {point.type}")]
    found += [(("errors", str(mark)), "is in no_data too: leave one out") for mark in point.errors
              if mark in point.no_data]
    layout = Layout([Field(0, point.type, bits=point.bits, byte=point.byte)], width(point.type))
    try:
        told = [(key, mark) for key, group in (("no_data", point.no_data), ("errors", point.errors)) for mark in group]
        for key, mark in told:
            where: Path = (key,)
            layout.pack([mark], bytearray(8))
    except ValueError as error:
        # 65535 of an s16 reads as -1: such a mark would never be seen, and "no data" become a value.
        found.append((where, f"{error}: write the raw number as the type reads it"))
    return found


def _of_transform(point: Point, template: Template) -> list[Complaint]:
    assert point.transform
    found: list[Complaint] = []
    found += [(("transform",), f"{name!r} is not declared: add it under parameters, with title and unit")
              for name in names(point.transform) if name not in template.parameters]
    if point.counter:
        found.append((("counter",), "a counter has no transform"))
    if isinstance(point.transform, VibratingWire):
        warmth = point.transform.temperature
        if bool(warmth) != (point.transform.kt != 0):
            found.append((("transform", "kt"), "kt and temperature belong together: give both or none"))
        if warmth:
            found += under(("transform", "temperature"), _of_number(warmth.type, warmth.order, None, None))
            if warmth.type == "bit" or not 1 / _FAR < abs(warmth.scale) < _FAR or abs(warmth.offset) > _FAR:
                found.append((("transform", "temperature"), "expected a number in registers with a finite scale"))
        if point.transform.k == 0:
            found.append((("transform", "k"), "k is 0: every frequency would give the same value"))
    elif point.transform.low == point.transform.high:
        found.append((("transform", "high"), "high is low: every current would give the same value"))
    return found


def _of_write(point: Point, rule: WriteRule) -> list[Complaint]:
    allowed = {1: (5, 15), 3: (6, 16)}.get(point.function, ())
    found: list[Complaint] = []
    if rule.function not in allowed:
        told = f"use {' or '.join(map(str, allowed))}" if allowed else "it can't be written"
        found.append((("function",), (f"function {rule.function} does not write what function {point.function} reads: "
                                     f"{told}")))
    if rule.function == 6 and width(point.type) > 1:
        found.append((("function",), f"function 6 writes one register, {point.type} has {width(point.type)}: use 16"))
    if point.bits or point.byte:
        found.append((("function",), "a part of a register cannot be written without the rest: declare the whole"))
    if point.decimals or point.scale_code or point.unit_code or point.transform:
        found.append((("function",), "what one count is worth is known only while reading: such a point is read-only"))
    return found


def _of_identify(rule: Identify) -> list[Complaint]:
    found: list[Complaint] = []
    bits = rule.function in (1, 2)
    for n, check in enumerate(rule.checks):
        where: Path = ("checks", n)
        last = check.register + check.registers
        if not (rule.register <= check.register and last <= rule.register + rule.count):
            found.append(((*where, "register"), f"register {check.register} is not among the {rule.count} read from "
                          f"{rule.register}" if check.registers == 1 else f"registers {check.register} to {last - 1} "
                          f"are not among the {rule.count} read from {rule.register}"))
        found += under(where, _of_check(check, bits))
    if rule.register + rule.count > 65536:
        found.append((("count",), "reaches beyond register 65535"))
    return found


def _of_check(check: Check, bits: bool) -> list[Complaint]:
    if bool(check.among) + (check.between is not None) + (check.text is not None) != 1:
        return [((), "expected one of among, between and text")]
    if check.text is not None:
        return [(("text",), "expected registers and ASCII characters")] if bits or not check.text.isascii() else []
    if bits != (check.type == "bit"):
        return [(("type",), f"functions 1 and 2 read bits, 3 and 4 registers; found type {check.type!r}")]
    found = _of_number(check.type, check.order, check.bits, check.byte)
    if check.among and not found:
        if check.type in FLOATS:
            found.append((("among",), f"a {check.type} is hardly ever exactly one number: use between"))
        try:
            for raw in () if bits else check.among:
                Layout([check.field(check.register)], width(check.type)).pack([raw], bytearray(8))
        except ValueError as error:
            found.append((("among",), f"{error}: write the raw number as the type reads it"))
    if check.between and not check.between[0] <= check.between[1]:
        found.append((("between",), f"found {list(check.between)}, expected from, to"))
    return found


def _of_steps(steps: Sequence[Step]) -> list[Complaint]:
    found: list[Complaint] = []
    for n, step in enumerate(steps):
        most = 1 if step.function == 5 else 65535
        if step.value != "address" and not 0 <= int(step.value) <= most:
            found.append(((n, "value"), f"{step.value} does not fit: 0 to {most}, or address"))
        if step.moved and (step.broadcast or not any(before.value == "address" for before in steps[:n])):
            found.append(((n, "moved"), "only after the step that writes the address, and not broadcast"))
        if step.function == 5 and step.value == "address":
            found.append(((n, "function"), "an address does not fit in a coil: use 6 or 16"))
    if steps and not any(step.value == "address" for step in steps):
        found.append(((), "no step writes the address: one needs value: address"))
    return found


def _of_action(action: Action, template: Template) -> list[Complaint]:
    found: list[Complaint] = []
    for key, text in (("request", action.request), ("answer", action.answer)):
        if text is None:
            continue
        frame = bytes.fromhex(text)
        if len(frame) < 4 or not sound(frame):
            found.append(((key,), (f"{text}: its CRC should be {checked(frame[:-2])[-2:].hex(' ').upper()}"
                                   if len(frame) >= 4 else f"{text}: too short for a frame")))
        elif frame[0] != template.address:
            found.append(((key,), f"is for address {frame[0]}, but the model's factory address is {template.address}"))
        elif len(frame) > 256:
            found.append(((key,), "longer than 256 bytes"))
    return found
