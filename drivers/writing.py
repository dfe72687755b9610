"""What may be told to a device: a point's value, a new address, a maker's own frame.

Owns: value → register words or coil bits, the steps of giving an address, the frames of actions. Promises: exactly
what was asked or a refusal: a value that does not fit, is out of range or between two counts is never rounded.
Never: does I/O, decides whether the site allows it.
"""

from __future__ import annotations

import math
import struct

from msgspec import Struct

from drivers.exchange import checked, sound
from drivers.reader import field, marks
from drivers.registers import FLOATS, Layout, scale, width
from drivers.sensor import Point, Template


class Write(Struct, frozen=True):
    """One write request."""

    function: int
    """5 one coil, 6 one register, 15 coils, 16 registers."""
    register: int
    words: tuple[int, ...]
    """Registers as they travel, or coils as 0 and 1."""
    broadcast: bool = False
    """To unit 0: every device on the wire takes it and none answers."""
    pause_s: float = 0.0
    """Rest after it."""


class Frames(Struct, frozen=True):
    """A raw exchange: what to send, and what comes back (None = nothing known)."""

    request: bytes
    answer: bytes | None


def encode(point: Point, value: float) -> Write:
    """Return the write that makes `point` read `value`.

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
        return Write(rule.function, at, (int(value),))
    worth = scale(point.scale, point.offset)
    raw = worth.down(value)
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
    return Write(rule.function, at, struct.unpack(f">{width(point.type)}H", block))


def address_writes(template: Template, address: int) -> tuple[Write, ...]:
    """Return the writes that give a device the new address, in order; empty when the template has no recipe.

    Raises:
        ValueError: not an address (1 to 247).
    """
    if not 1 <= address <= 247:
        raise ValueError(f"{address} is no address: 1 to 247")
    return tuple(Write(step.function, step.register, (address if step.value == "address" else int(step.value),),
                       step.broadcast, step.pause_ms / 1000) for step in template.set_address)


def action_frames(template: Template, action: str, address: int) -> Frames:
    """Return the frames of a named action for the device at `address`.

    Raises:
        KeyError: the template has no such action.
        ValueError: not an address (1 to 247).
    """
    if not 1 <= address <= 247:
        raise ValueError(f"{address} is no address: 1 to 247")
    told = next((a for a in template.actions if a.id == action), None)
    if told is None:
        raise KeyError(action)
    request = bytes.fromhex(told.request)
    answer = bytes.fromhex(told.answer) if told.answer else None
    return Frames(_readdressed(request, address), None if answer is None else _readdressed(answer, address))


def _readdressed(frame: bytes, address: int) -> bytes:
    if not sound(frame):
        raise ValueError(f"{frame.hex(' ').upper()} has a wrong CRC")
    return checked(bytes([address]) + frame[1:-2])
