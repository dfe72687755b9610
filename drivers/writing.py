"""What may be told to a device: a point's value, a new address, a maker's own frame.

Owns: value → the request that writes it, the steps of giving an address, the frames of actions. Promises: exactly
what was asked or a refusal: a value that does not fit, is out of range or between two counts is never rounded.
Never: does I/O, decides whether the site allows it.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

from drivers.exchange import BROADCAST, Raw, Write, checked
from drivers.reader import field, marks
from drivers.registers import FLOATS, Layout, scale, width
from drivers.sensor import Point, Template


class Told(NamedTuple):
    """One step of giving an address."""

    write: Write
    pause_s: float
    """Rest after it."""


def encode(point: Point, value: float, unit: int) -> Write:
    """Return the request that makes `point` of the device at address `unit` read `value`.

    Raises:
        ValueError: the template does not allow writing it, or the value is out of range, does not fit, lies between
            two counts, or is one of the numbers that mean no value.
    """
    rule = point.write
    if rule is None:
        raise ValueError(f"{point.id} is not to be written: its template has no write rule")
    low, high = point.range or (-math.inf, math.inf)
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{value} is out of the range {low} to {high} {point.unit} of {point.id}")
    at = point.register if rule.register is None else rule.register
    if point.type == "bit":
        if value not in (0, 1):
            raise ValueError(f"{value} is not a bit: {point.id} takes 0 or 1")
        return Write(unit, rule.function, at, (int(value),))
    worth = scale(point.scale, point.offset)
    try:
        raw = worth.down(value)
        worth.up(round(raw))
    except OverflowError as error:
        raise ValueError(f"{value} cannot be held by {point.type}: it is beyond all numbers") from error
    if point.type not in FLOATS:
        raw = round(raw)
        if worth.up(raw) != value:
            near = sorted({worth.up(raw - 1), worth.up(raw), worth.up(raw + 1)}, key=lambda v: abs(v - value))[:2]
            raise ValueError(f"{value} {point.unit} lies between two counts of {point.id}: the nearest are "
                             f"{min(near)} and {max(near)}")
    block = bytearray(2 * width(point.type))
    layout = Layout([field(point, point.register)], width(point.type))
    layout.pack([raw], block)
    (held,) = layout.unpack(bytes(block))
    if held in marks(point):
        raise ValueError(f"{value} is raw {held} in {point.id}, which means {marks(point)[held]}")
    if not math.isclose(worth.up(held), value, rel_tol=2e-3 if point.type == "f16" else 1e-6, abs_tol=1e-9):
        raise ValueError(f"{value} cannot be held by {point.type}: it would become {worth.up(held)}")
    return Write(unit, rule.function, at, struct.unpack(f">{width(point.type)}H", block))


def address_steps(template: Template, unit: int, address: int) -> tuple[Told, ...]:
    """Return the writes that move a device from `unit` to `address`, in order; empty when the model has no recipe.

    Raises:
        ValueError: not an address (1 to 247).
    """
    if not 1 <= address <= 247:
        raise ValueError(f"{address} is no address: 1 to 247")
    return tuple(Told(Write(BROADCAST if step.broadcast else address if step.moved else unit, step.function,
                            step.register, (address if step.value == "address" else int(step.value),)),
                      step.pause_ms / 1000) for step in template.set_address)


def action_frames(template: Template, action: str, unit: int) -> Raw:
    """Return a named action, re-addressed to the device at `unit`.

    Raises:
        KeyError: the model has no such action.
        ValueError: not an address (1 to 247).
    """
    if not 1 <= unit <= 247:
        raise ValueError(f"{unit} is no address: 1 to 247")
    told = next((a for a in template.actions if a.id == action), None)
    if told is None:
        raise KeyError(action)
    return Raw(_readdressed(told.request, unit), _readdressed(told.answer, unit) if told.answer else None)


def _readdressed(frame: str, unit: int) -> bytes:
    return checked(bytes([unit]) + bytes.fromhex(frame)[1:-2])
