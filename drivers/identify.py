"""Is it this model? One read, and what its registers must hold.

Owns: the shape of an `identify` rule, whether an answer fits it, and how much that proves. Promises: reads only, so a
rule may be tried on anything; of two rules that fit, the one that could less easily fit by chance says so.
Never: does I/O.
"""

from __future__ import annotations

import math
import struct
from typing import Annotated, Any, Literal

from msgspec import Meta

from drivers.registers import FLOATS, Coils, Field, Kind, Layout, Order, width
from drivers.sheet import Bits, Line, Part, Register


class Check(Part, frozen=True, kw_only=True):
    """One number (or text) that must hold one of these."""

    register: Register
    type: Kind = "u16"
    order: Order = "ABCD"
    byte: Literal["high", "low"] | None = None
    bits: Bits | None = None
    among: tuple[int | float, ...] = ()
    """Raw numbers allowed; or"""
    between: tuple[float, float] | None = None
    """raw numbers from, to; or"""
    text: Line | None = None
    """packed characters, high byte first, that begin here."""

    @property
    def registers(self) -> int:
        """How many registers it looks at."""
        return (len(self.text) + 1) // 2 if self.text else width(self.type)

    def field(self, first: int) -> Field:
        """Return where the number lies in a read that begins at `first`."""
        return Field(self.register - first, self.type, self.order, self.bits, self.byte)

    def allows(self, raw: Any) -> bool:
        """Whether a raw number is one of those allowed."""
        return raw in self.among if self.between is None else self.between[0] <= raw <= self.between[1]

    def weight(self) -> float:
        """Bits of evidence: how often one must halve the numbers of this type to be left with those allowed."""
        if self.text:
            return 8.0 * len(self.text)
        size = self.bits[1] if self.bits else 1 if self.type == "bit" else 8 if self.byte else 16 * width(self.type)
        if self.between is None:
            some: float = len(set(self.among))
        elif self.type in FLOATS:
            some = _steps(self.type, self.between[1]) - _steps(self.type, self.between[0]) + 1.0
        else:
            some = math.floor(self.between[1]) - math.ceil(self.between[0]) + 1.0
        return max(0.0, size - math.log2(max(some, 1.0)))


def _steps(kind: Kind, number: float) -> int:
    """Return which of all floats of its kind, in rising order, is nearest to `number`; 0.0 is 0."""
    code, whole = {"f16": ("e", "h"), "f32": ("f", "i"), "f64": ("d", "q")}[kind]
    try:
        (steps,) = struct.unpack(">" + whole, struct.pack(">" + code, abs(number)))
    except OverflowError:
        (steps,) = struct.unpack(">" + whole, struct.pack(">" + code, math.inf))
    return int(steps) if number >= 0 else -int(steps)


class Identify(Part, frozen=True, kw_only=True):
    """One read, and what it must hold. Reads only, so it may be tried on anything."""

    function: Literal[1, 2, 3, 4] = 3
    register: Register
    count: Annotated[int, Meta(ge=1, le=125)]
    checks: tuple[Check, ...] = ()

    @property
    def data_bytes(self) -> int:
        """How many data bytes the answer has."""
        return (self.count + 7) // 8 if self.function in (1, 2) else 2 * self.count

    def matches(self, data: bytes) -> bool:
        """Whether the data bytes of that read look like this model."""
        return len(data) == self.data_bytes and all(self._holds(check, data) for check in self.checks)

    def _holds(self, check: Check, data: bytes) -> bool:
        if check.text:
            at = 2 * (check.register - self.register)
            return data[at:at + len(check.text)] == check.text.encode("ascii", "replace")
        fields = [check.field(self.register)]
        (raw,) = (Coils if self.function in (1, 2) else Layout)(fields, self.count).unpack(data)
        return check.allows(raw)

    def weight(self) -> float:
        """Bits of evidence a match gives; the model whose rule has the most is the likeliest of those that match."""
        return sum(check.weight() for check in self.checks)

    def fake(self, into: bytearray) -> None:
        """Make an image (from register or coil 0 on) pass the rule, changing only what does not pass already."""
        for check in self.checks:
            if check.text:
                into[2 * check.register:2 * check.register + len(check.text)] = check.text.encode("ascii", "replace")
                continue
            bits = self.function in (1, 2)
            layout = Coils([check.field(0)], 8 * len(into)) if bits else Layout([check.field(0)], len(into) // 2)
            if not check.allows(layout.unpack(bytes(into))[0]):
                low = check.among[0] if check.between is None else check.between[0]
                layout.pack([low if check.type in FLOATS else math.ceil(low)], into)
