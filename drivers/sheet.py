"""The small words of a datasheet: what one register may say about another, and what people are told.

Owns: the shapes of the parts of a template that stand inside a point. Promises: plain frozen data, an unknown key is
an error. Never: reads files, opens hardware, evaluates expressions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

Register = Annotated[int, Meta(ge=0, le=65535, description="0-based, as it travels on the wire")]
Bits = Annotated[tuple[Annotated[int, Meta(ge=0, le=63)], Annotated[int, Meta(ge=1, le=64)]],
                 Meta(description="lowest bit, how many")]
Word = Literal["ok", "warm_up", "no_data", "sensor_fault", "over_range", "under_range"]
Trouble = Literal["warm_up", "no_data", "sensor_fault", "over_range", "under_range"]
Line = Annotated[str, Meta(min_length=1, max_length=200)]
Hex = Annotated[str, Meta(pattern=r"^([0-9A-Fa-f]{2} ?)+$", description="bytes as hex, e.g. 02 03 00 00")]
Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]*$", max_length=32,
                           description="a parameter: lower-case letters, digits and _")]


class Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every section of the file: frozen, and a key nobody reads is an error."""


class Title(Part, frozen=True, kw_only=True):
    """One line for people."""

    zh: Line
    en: Line


class Helper(Part, frozen=True, kw_only=True):
    """Bits of one register that say something about a value. It is read in the same request as the value."""

    register: Register
    bits: Bits = (0, 16)


class Decimals(Helper, frozen=True, kw_only=True):
    """How many decimals the value has, told by bits of another register."""

    map: Mapping[int, Annotated[int, Meta(ge=0, le=9)]] = {}
    """Bits → decimals; empty = the bits are the number. A code not in the map makes the value no_data."""


class ScaleCode(Helper, frozen=True, kw_only=True):
    """What one count is worth, told by bits of another register. A code not in the map makes the value no_data."""

    map: Annotated[Mapping[int, float], Meta(min_length=1)]
    """Bits → factor, on top of `scale`."""


class UnitCode(Helper, frozen=True, kw_only=True):
    """The unit the instrument is set to, told by bits of another register: anything not listed is a unit_mismatch."""

    equals: int | None = None
    """The code of the declared unit; or"""
    map: Mapping[int, float] = {}
    """bits → how many of the declared unit one of that unit is."""


class Status(Helper, frozen=True, kw_only=True):
    """What the instrument says of itself, in bits of another register. What is not listed is a sensor_fault."""

    words: Mapping[int, Word] = {}
    """Number → word; or"""
    flags: Mapping[Annotated[int, Meta(ge=0, le=15)], Word] = {}
    """bit (0 = lowest of `bits`) → word when it is set. None set is ok; of several the worst wins."""


class Age(Helper, frozen=True, kw_only=True):
    """How old the value is (the time since a radio sensor's last message): older than the limit is no_data."""

    scale: Annotated[float, Meta(gt=0)] = 1.0
    """Seconds one count is worth."""
    limit_s: Annotated[float, Meta(gt=0)]


class AllZero(Part, frozen=True, kw_only=True):
    """Registers that are never all 0 in a true measurement: while they are, the value is this word instead.

    They are read in the same request as the value.
    """

    register: Register
    count: Annotated[int, Meta(ge=1, le=125)]
    word: Trouble = "warm_up"


class Counter(Part, frozen=True, kw_only=True):
    """How a number that only ever grows begins again."""

    wrap: Annotated[int, Meta(ge=2)] | None = None
    """Raw counts after which it begins again at 0 (65536 for a u16 that uses all its bits)."""
    resets: Literal["power_loss", "command", "never"] = "power_loss"


class WriteRule(Part, frozen=True, kw_only=True):
    """The point may be written, where the site's configuration allows it."""

    function: Literal[5, 6, 15, 16]
    register: Register | None = None
    """Where, if not where it is read."""
    verify: bool = True
    """Reading the point afterwards gives what was written."""


class Parameter(Part, frozen=True, kw_only=True):
    """A number that differs from one instrument to the next: on its calibration sheet, given for each device."""

    title: Title
    unit: Line
    default: float | None = None


class Text(Part, frozen=True, kw_only=True):
    """Packed characters (a serial number, a model name): no reading, never polled, but it tells devices apart."""

    id: Annotated[str, Meta(pattern=r"^[a-z0-9_-]+$", max_length=48)]
    register: Register
    registers: Annotated[int, Meta(ge=1, le=125)]
    function: Literal[3, 4] = 3
    order: Literal["ABCD", "BADC"] = "ABCD"
    """ABCD: high byte first; BADC: low byte first."""
