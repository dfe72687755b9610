"""What a sensor model says: the shape of config/sensors/*.yaml.

Owns: the keys of a template and what follows from them alone. Promises: plain frozen data that looks like the
datasheet. Never: reads files, opens hardware, evaluates expressions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from drivers import Beyond, Id, Note, PointInfo
from drivers.planner import Span
from drivers.registers import Kind, Order, width

Register = Annotated[int, Meta(ge=0, le=65535, description="0-based, as it travels on the wire")]
Bits = Annotated[tuple[Annotated[int, Meta(ge=0, le=63)], Annotated[int, Meta(ge=1, le=64)]],
                 Meta(description="lowest bit, how many")]
Word = Literal["ok", "warm_up", "no_data", "sensor_fault", "over_range", "under_range"]
Line = Annotated[str, Meta(min_length=1, max_length=200)]
Hex = Annotated[str, Meta(pattern=r"^([0-9A-Fa-f]{2} ?)+$", description="bytes as hex, e.g. 02 03 00 00")]


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every section of the file: frozen, and a key nobody reads is an error."""


class Title(_Part, frozen=True, kw_only=True):
    """What people call the model."""

    zh: Line
    en: Line


class Serial(_Part, frozen=True, kw_only=True):
    """How characters travel; 8 data bits always, as Modbus RTU demands."""

    baud: Literal[1200, 2400, 4800, 9600, 14400, 19200, 38400, 57600, 115200] = 9600
    parity: Literal["none", "even", "odd"] = "none"
    stop_bits: Literal[1, 2] = 1


class Decimals(_Part, frozen=True, kw_only=True):
    """How many decimals the value has, told by bits of another register."""

    register: Register
    bits: Bits = (0, 16)
    map: Mapping[int, Annotated[int, Meta(ge=0, le=9)]] = {}
    """Bits → decimals; empty = the bits are the number. A code not in the map makes the value no_data."""


class UnitCode(_Part, frozen=True, kw_only=True):
    """The unit the instrument is set to, told by bits of another register: anything else is a unit_mismatch."""

    register: Register
    bits: Bits = (0, 16)
    equals: int


class Status(_Part, frozen=True, kw_only=True):
    """What the instrument says of itself, in bits of another register. A word not listed is a sensor_fault."""

    register: Register
    bits: Bits = (0, 16)
    words: Mapping[int, Word]


class Point(_Part, frozen=True, kw_only=True):
    """One quantity the sensor gives."""

    id: Id
    register: Register
    function: Literal[1, 2, 3, 4] = 3
    type: Kind = "u16"
    order: Order = "ABCD"
    bits: Bits | None = None
    scale: float = 1.0
    """value = raw × scale + offset"""
    offset: float = 0.0
    unit: Line
    resolution: Annotated[float, Meta(gt=0)]
    range: tuple[float, float] | None = None
    """What the instrument can measure."""
    beyond_low: Beyond = "fail"
    beyond_high: Beyond = "fail"
    rest: float | None = None
    no_data: tuple[int | float, ...] = ()
    """Raw numbers (as the type reads them) that mean there is no value."""
    counter: bool = False
    decimals: Decimals | None = None
    unit_code: UnitCode | None = None
    status: Status | None = None

    def span(self) -> Span:
        """Return all this point needs, its helpers included: they are only true of the same moment."""
        helpers = [h.register for h in (self.decimals, self.unit_code, self.status) if h]
        first = min([self.register, *helpers])
        end = max([self.register + width(self.type), *(register + 1 for register in helpers)])
        return Span(self.function, first, end - first)

    def info(self, template: Template) -> PointInfo:
        """Return what judgement and inventory need to know."""
        low, high = self.range or (None, None)
        return PointInfo(unit=self.unit, resolution=self.resolution, low=low, high=high, beyond_low=self.beyond_low,
                         beyond_high=self.beyond_high, rest=self.rest, counter=self.counter,
                         warm_up_s=template.warm_up_s, model=template.model)


class Check(_Part, frozen=True, kw_only=True):
    """One register that must hold one of these."""

    register: Register
    bits: Bits = (0, 16)
    among: Annotated[tuple[int, ...], Meta(min_length=1)]


class Identify(_Part, frozen=True, kw_only=True):
    """Is it this model? One read, and what its registers must hold. Reads only, so it may be tried on anything."""

    function: Literal[3, 4] = 3
    register: Register
    count: Annotated[int, Meta(ge=1, le=125)]
    checks: tuple[Check, ...] = ()

    def matches(self, data: bytes) -> bool:
        """Whether the registers of that read (2 × count bytes) look like this model."""
        return len(data) == 2 * self.count and all(
            int.from_bytes(data[at:at + 2], "big") >> c.bits[0] & (1 << c.bits[1]) - 1 in c.among
            for c in self.checks for at in [2 * (c.register - self.register)])


class Write(_Part, frozen=True, kw_only=True):
    """One step of giving an address."""

    function: Literal[6, 16] = 6
    register: Register
    value: int | Literal["address"]
    """A number, or the new address."""
    broadcast: bool = False
    """Sent to unit 0: every sensor on the wire would take it, so this one must be alone there."""


class Example(_Part, frozen=True, kw_only=True):
    """One request and answer, whole RTU frames with CRC, and what they mean."""

    request: Hex
    answer: Hex
    values: Mapping[str, float | None]
    notes: Mapping[str, Note] = {}
    source: Line
    """Where the frames were published or captured; `computed` needs an oracle that does not use this codec."""


class Template(_Part, frozen=True, kw_only=True):
    """The model. Its name is its file's name."""

    model: str = ""
    maker: Line
    title: Title
    manual: Line
    """Page or document the registers come from."""
    protocol: Literal["modbus"] = "modbus"
    serial: Serial = Serial()
    address: Annotated[int, Meta(ge=1, le=247)] = 1
    """As it leaves the factory."""
    min_gap_ms: Annotated[float, Meta(ge=0, le=60000)] = 0.0
    """Rest the device wants between its last answer and the next request."""
    warm_up_s: Annotated[float, Meta(ge=0, le=86400)] = 0.0
    max_registers: Annotated[int, Meta(ge=1, le=125)] = 125
    contiguous: bool = True
    """False: the device wants each point asked for alone."""
    points: Annotated[tuple[Point, ...], Meta(min_length=1)]
    identify: Identify | None = None
    set_address: tuple[Write, ...] = ()
    examples: Annotated[tuple[Example, ...], Meta(min_length=1)]

    def point(self, name: str) -> Point:
        """Return the point called `name`; raises KeyError."""
        for point in self.points:
            if point.id == name:
                return point
        raise KeyError(name)
