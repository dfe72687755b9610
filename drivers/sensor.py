"""What a sensor model says: the shape of config/sensors/*.yaml.

Owns: the keys of a template and what follows from them alone. Promises: plain frozen data that looks like the
datasheet. Never: reads files, opens hardware, evaluates expressions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta

from drivers import Beyond, Id, Note, PointInfo
from drivers.identify import Identify
from drivers.planner import Span
from drivers.registers import Kind, Order, scale, width
from drivers.sheet import (
    Age,
    AllZero,
    Bits,
    Counter,
    Decimals,
    Helper,
    Hex,
    Line,
    Name,
    Parameter,
    Part,
    Register,
    ScaleCode,
    Status,
    Text,
    Title,
    Trouble,
    UnitCode,
    WriteRule,
)
from drivers.transform import Transform, VibratingWire, limits


class Serial(Part, frozen=True, kw_only=True):
    """How characters travel."""

    baud: Literal[1200, 2400, 4800, 9600, 14400, 19200, 38400, 57600, 115200] = 9600
    parity: Literal["none", "even", "odd"] = "none"
    stop_bits: Literal[1, 2] = 1
    data_bits: Literal[7, 8] = 8
    """7 where framing is ascii; RTU demands 8."""


class Point(Part, frozen=True, kw_only=True):
    """One quantity the sensor gives."""

    id: Id
    register: Register
    function: Literal[1, 2, 3, 4] = 3
    type: Kind = "u16"
    order: Order = "ABCD"
    byte: Literal["high", "low"] | None = None
    """Which half of the register a u8 or s8 is."""
    bits: Bits | None = None
    """Of an s16, s32 or s64 the highest of these bits is the sign."""
    scale: float = 1.0
    """value = raw × scale + offset"""
    offset: float = 0.0
    transform: Transform | None = None
    """What becomes of that value: a named formula with its parameters."""
    unit: Line
    resolution: Annotated[float, Meta(gt=0)]
    range: tuple[float, float] | None = None
    """What the instrument can measure."""
    beyond_low: Beyond = "fail"
    beyond_high: Beyond = "fail"
    rest: float | None = None
    no_data: tuple[int | float, ...] = ()
    """Raw numbers (as the type reads them) that mean there is no value."""
    errors: Mapping[int, Trouble] = {}
    """Raw number (as the type reads it) → what it means instead of a value."""
    counter: bool | Counter = False
    """Only ever grows; `true` = may begin again at 0 after a power cut."""
    decimals: Decimals | None = None
    scale_code: ScaleCode | None = None
    unit_code: UnitCode | None = None
    status: Status | None = None
    age: Age | None = None
    all_zero: AllZero | None = None
    write: WriteRule | None = None
    vouched_by: Mapping[Id, tuple[float, float]] = {}
    """Other points that must have said a value from low to high lately for this one to be believed; read apart, so
    for what lies in the same answer a helper register is better."""

    @property
    def helpers(self) -> tuple[Helper | None, ...]:
        """Return the registers that say something about this one, in the order decimals, scale, unit, status, age."""
        return self.decimals, self.scale_code, self.unit_code, self.status, self.age

    def span(self) -> Span:
        """Return all this point needs, its helpers included: they are only true of the same moment."""
        parts = [(self.register, width(self.type)), *((helper.register, 1) for helper in self.helpers if helper)]
        if self.all_zero:
            parts.append((self.all_zero.register, self.all_zero.count))
        if isinstance(self.transform, VibratingWire) and (warmth := self.transform.temperature):
            parts.append((warmth.register, width(warmth.type)))
        first, end = min(at for at, _ in parts), max(at + size for at, size in parts)
        return Span(self.function, first, end - first)

    def info(self, template: Template, given: Mapping[str, float] = {}) -> PointInfo:
        """Return what judgement and inventory need to know.

        Args:
            template: whose point it is.
            given: this device's parameters: the range of a current loop may depend on them.
        """
        ends = self.range or (limits(self.transform, template.known(given)) if self.transform else None)
        low, high = ends or (None, None)
        counter = self.counter if isinstance(self.counter, Counter) else Counter()
        return PointInfo(unit=self.unit, resolution=self.resolution, low=low, high=high, beyond_low=self.beyond_low,
                         beyond_high=self.beyond_high, rest=self.rest, counter=bool(self.counter),
                         wrap=scale(self.scale).up(counter.wrap) if self.counter and counter.wrap else None,
                         resets=counter.resets, warm_up_s=template.warm_up_s, model=template.model)


class Step(Part, frozen=True, kw_only=True):
    """One write of giving an address."""

    function: Literal[5, 6, 16] = 6
    register: Register
    value: int | Literal["address"]
    """A number, or the new address."""
    broadcast: bool = False
    """Sent to unit 0: every sensor on the wire would take it, so this one must be alone there."""
    moved: bool = False
    """Sent to the new address, to which the device has moved by now."""
    pause_ms: Annotated[float, Meta(ge=0, le=60000)] = 0.0
    """Rest after this step."""


class Action(Part, frozen=True, kw_only=True):
    """A whole frame for what is no legal Modbus write, with CRC, as sent to the factory address."""

    id: Id
    title: Title | None = None
    request: Hex
    answer: Hex | None = None
    """What comes back when it was understood; none = not known, or nothing."""
    source: Line


class Example(Part, frozen=True, kw_only=True):
    """One request and answer, whole RTU frames with CRC, and what they mean."""

    request: Hex
    answer: Hex
    values: Mapping[str, float | None] = {}
    notes: Mapping[str, Note] = {}
    texts: Mapping[str, str] = {}
    parameters: Mapping[Name, float] = {}
    """Of the instrument the frames come from."""
    source: Line
    """Where the frames were published or captured; `computed` needs an oracle that does not use this codec."""


class Template(Part, frozen=True, kw_only=True):
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
    """From power-on to the first true measurement."""
    settle_reads: Annotated[int, Meta(ge=0, le=100)] = 0
    """First answers after power-on to throw away, where the sensor's power is switched."""
    max_registers: Annotated[int, Meta(ge=1, le=125)] = 125
    contiguous: bool = True
    """False: the device wants each point asked for alone."""
    traps: tuple[Title, ...] = ()
    """What an installer should know before cursing."""
    parameters: Mapping[Name, Parameter] = {}
    points: tuple[Point, ...]
    """[] only where there is nothing to read: a siren has `actions`."""
    texts: tuple[Text, ...] = ()
    identify: Identify | None = None
    set_address: tuple[Step, ...] = ()
    actions: tuple[Action, ...] = ()
    examples: tuple[Example, ...]

    def point(self, name: str) -> Point:
        """Return the point called `name`; raises KeyError."""
        for point in self.points:
            if point.id == name:
                return point
        raise KeyError(name)

    def known(self, given: Mapping[str, float]) -> dict[str, float]:
        """Return the parameters of one instrument: the given ones, and the defaults of the rest."""
        return {**{name: p.default for name, p in self.parameters.items() if p.default is not None}, **given}

    def sample(self) -> dict[str, float]:
        """Return parameters of a made-up instrument, for a simulator: those of the examples, else the defaults."""
        return self.known({name: value for example in reversed(self.examples)
                           for name, value in example.parameters.items()})

    @property
    def alone(self) -> bool:
        """Whether giving it an address needs all other devices off the wire."""
        return any(step.broadcast for step in self.set_address)
