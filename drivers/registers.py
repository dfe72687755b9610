"""Bytes ⇄ numbers: register types, byte and word orders, bit fields, scales.

Owns: how raw numbers lie in the registers of one block, and what one count is worth. Promises: pure functions of
their arguments; formats are compiled once per block; a scaled value is the double nearest to the exact decimal
(1441 × 0.1 is 144.1); BCD with a digit beyond 9 is NaN. Never: knows units, meanings, devices or time.

Registers travel high byte first (Modbus Application Protocol V1.1b3, 4.2); the order of the *words* of a wider number
is the maker's choice, written as datasheets write it: ABCD, CDAB, BADC, DCBA.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from math import gcd, nan
from operator import itemgetter
from typing import Any, Literal

from msgspec import Struct

Kind = Literal["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64", "f16", "f32", "f64",
               "bcd16", "bcd32", "bcd64", "sm16", "sm32", "sm64", "bit"]
Order = Literal["ABCD", "CDAB", "BADC", "DCBA"]

_CODES = {"u8": "B", "s8": "b", "u16": "H", "s16": "h", "u32": "I", "s32": "i", "u64": "Q", "s64": "q",
          "f16": "e", "f32": "f", "f64": "d", "bcd16": "H", "bcd32": "I", "bcd64": "Q",
          "sm16": "H", "sm32": "I", "sm64": "Q"}
FLOATS = frozenset({"f16", "f32", "f64"})
BCD = frozenset({"bcd16", "bcd32", "bcd64"})
SIGNED = frozenset({"s16", "s32", "s64"})
"""Whose bits are a signed number too."""
_SLICED = SIGNED | {"u8", "u16", "u32", "u64"}


def size(kind: Kind) -> int:
    """Return how many bits a number of this kind has."""
    return 1 if kind == "bit" else int(kind.lstrip("abcdfmsu"))


def width(kind: Kind) -> int:
    """Return how many registers a number of this kind fills (a coil counts as one)."""
    return (size(kind) + 15) // 16


class Field(Struct, frozen=True):
    """Where one raw number lies in a block."""

    at: int
    """Registers (or coils) from the first of the block."""
    kind: Kind = "u16"
    order: Order = "ABCD"
    bits: tuple[int, int] | None = None
    """(lowest bit, how many) of an integer; None = all of it. Of a signed one the highest of them is the sign."""
    byte: Literal["high", "low"] | None = None
    """Which half of the register an 8-bit number is."""


def misfit(field: Field) -> str:
    """Say why there is no such number in registers; "" when there is. Where it lies is not looked at."""
    if field.kind == "bit":
        return "a coil does not lie in a register: use Coils"
    if (field.byte is None) == (field.kind in ("u8", "s8")):
        return f"{field.kind} with byte {field.byte}: an 8-bit number is the high or the low byte, any other has none"
    if field.bits and field.kind not in _SLICED:
        return f"bits of {field.kind}: only u8, u16 to u64 and s16 to s64 have them"
    if field.bits and (min(field.bits) < 0 or not field.bits[1] or sum(field.bits) > size(field.kind)):
        return f"bits {list(field.bits)} (lowest, how many) do not fit in {field.kind}"
    return ""


def _places(field: Field) -> list[int]:
    """Return byte positions in the block, most significant byte of the number first."""
    if field.byte:
        return [2 * field.at + (field.byte == "low")]
    words = [[2 * (field.at + n), 2 * (field.at + n) + 1] for n in range(width(field.kind))]
    if field.order in ("CDAB", "DCBA"):
        words.reverse()
    if field.order in ("BADC", "DCBA"):
        words = [word[::-1] for word in words]
    return [place for word in words for place in word]


def _code(field: Field) -> str:
    """Return the struct code; the number whose bits are wanted is read without its sign."""
    code = _CODES[field.kind]
    return code.upper() if field.bits else code


def _from_bcd(number: int) -> float:
    """Return the decimal number; not a number where a digit is beyond 9."""
    text = f"{number:x}"
    return int(text) if text.isdecimal() else nan


def _reading(field: Field) -> Callable[[int], float] | None:
    """Return what is still to be done to a number as struct gives it, None for nothing."""
    if field.bits:
        low, mask = field.bits[0], (1 << field.bits[1]) - 1
        if field.kind in SIGNED:
            sign = 1 << field.bits[1] - 1
            return lambda number: ((number >> low & mask) ^ sign) - sign
        return lambda number: number >> low & mask
    if field.kind in BCD:
        return _from_bcd
    if field.kind.startswith("sm"):
        top = 1 << size(field.kind) - 1
        return lambda number: number if number < top else top - number
    return None


def _writing(field: Field, number: float, old: int) -> float:
    """Return what struct is to write for a raw number, `old` standing there now.

    Raises:
        ValueError: it does not fit.
    """
    kind = field.kind
    if kind not in FLOATS and number != int(number):
        raise ValueError(f"{number} does not fit in {kind}: it is no whole number")
    if field.bits:
        low, many = field.bits
        least, most = (-(1 << many - 1), (1 << many - 1) - 1) if kind in SIGNED else (0, (1 << many) - 1)
        if not least <= number <= most:
            raise ValueError(f"{number} does not fit in {many} bits of {kind}: {least} to {most}")
        mask = (1 << many) - 1
        return old & ~(mask << low) | (int(number) & mask) << low
    if kind in BCD:
        digits = size(kind) // 4
        if not 0 <= number < 10 ** digits:
            raise ValueError(f"{number} does not fit in {kind}: {digits} decimal digits")
        return int(str(int(number)), 16)
    if kind.startswith("sm"):
        top = 1 << size(kind) - 1
        if not -top < number < top:
            raise ValueError(f"{number} does not fit in {kind}: {1 - top} to {top - 1}")
        return int(number) if number >= 0 else top - int(number)
    return number if kind in FLOATS else int(number)


class Layout:
    """The numbers of one register block, compiled."""

    def __init__(self, fields: Sequence[Field], registers: int) -> None:
        """Compile `fields` of a block of `registers` registers.

        Raises:
            ValueError: a field reaches beyond the block, or its bits beyond its number.
        """
        self.fields = tuple(fields)
        self.registers = registers
        for field in self.fields:
            if why := misfit(field):
                raise ValueError(why)
            if field.at < 0 or field.at + width(field.kind) > registers:
                raise ValueError(f"{field.kind} at register {field.at} reaches beyond a block of {registers}")
        places = [place for field in self.fields for place in _places(field)]
        self._packed = struct.Struct(">" + "".join(_code(field) for field in self.fields))
        self._rest = [(n, read) for n, field in enumerate(self.fields) for read in [_reading(field)] if read]
        self._pick: Callable[[bytes], tuple[int, ...]] | None = None
        if all(a < b for a, b in pairwise(places)):
            # In order and big-endian: read in place, skipping what lies between.
            text, end = ">", 0
            for field in self.fields:
                mine = _places(field)
                text += f"{mine[0] - end}x{_code(field)}"
                end = mine[-1] + 1
            self._format = struct.Struct(text)
        else:
            # Swapped or shared words: one gather brings the bytes into order first.
            self._format = self._packed
            self._pick = itemgetter(*places) if len(places) > 1 else None
        self._places = places

    def unpack(self, data: bytes, start: int = 0) -> tuple[Any, ...]:
        """Return the raw int or float of each field, from `registers` × 2 bytes beginning at `start`."""
        if self._pick is None:
            raw = self._format.unpack_from(data, start)
        else:
            raw = self._format.unpack(bytes(self._pick(data[start:] if start else data)))
        if self._rest:
            numbers = list(raw)
            for n, read in self._rest:
                numbers[n] = read(numbers[n])
            return tuple(numbers)
        return raw

    def pack(self, raw: Sequence[float], into: bytearray, start: int = 0) -> None:
        """Write raw numbers into the bytes of a block; what lies beside them stays as it is.

        Raises:
            ValueError: a number does not fit its field.
        """
        for field, number in zip(self.fields, raw, strict=True):
            places = [start + place for place in _places(field)]
            try:
                told = _writing(field, number, int.from_bytes(bytes(into[place] for place in places), "big"))
                packed = struct.pack(">" + _code(field), told)
            except (struct.error, OverflowError) as error:
                raise ValueError(f"{number} does not fit in {field.kind}: {error}") from error
            for place, byte in zip(places, packed, strict=True):
                into[place] = byte


class Coils:
    """The bits of one block of coils or discrete inputs; the same two verbs as Layout."""

    def __init__(self, fields: Sequence[Field], coils: int) -> None:
        """Take `fields` (kind ``bit``) of a block of `coils` coils.

        Raises:
            ValueError: a field is not a bit, or lies beyond the block.
        """
        for field in fields:
            if field.kind != "bit" or field.bits or not 0 <= field.at < coils:
                raise ValueError(f"{field.kind} at coil {field.at} is not one bit of a block of {coils}")
        self.fields = tuple(fields)
        self._at = [(field.at >> 3, field.at & 7) for field in fields]

    def unpack(self, data: bytes, start: int = 0) -> tuple[Any, ...]:
        """Return 0 or 1 for each field; the first coil is the lowest bit of the first byte."""
        return tuple(data[start + byte] >> bit & 1 for byte, bit in self._at)

    def pack(self, raw: Sequence[float], into: bytearray, start: int = 0) -> None:
        """Write bits into the packed bytes of a block.

        Raises:
            ValueError: a number is neither 0 nor 1.
        """
        for number, (byte, bit) in zip(raw, self._at, strict=True):
            if number not in (0, 1):
                raise ValueError(f"{number} is not a bit")
            into[start + byte] = into[start + byte] & ~(1 << bit) | int(number) << bit


class Scale(Struct, frozen=True):
    """What a count is worth: value = (raw × mul + add) / div, all whole numbers, so one rounding only."""

    mul: int = 1
    add: int = 0
    div: int = 1

    def up(self, raw: float) -> float:
        """Return the value of a raw number."""
        return (raw * self.mul + self.add) / self.div

    def down(self, value: float) -> float:
        """Return the (not yet whole) raw number of a value."""
        return float((Fraction(value) * self.div - self.add) / self.mul)


def scale(factor: float = 1.0, offset: float = 0.0, decimals: int = 0, *more: float) -> Scale:
    """Make the Scale for value = raw × factor × 10^-decimals × more + offset, with the decimals as they were written.

    Raises:
        ValueError: a factor of zero, or not a finite number.
    """
    try:
        one = Fraction(Decimal(repr(factor))) / 10 ** decimals
        for another in more:
            one *= Fraction(Decimal(repr(another)))
        zero = Fraction(Decimal(repr(offset)))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"scale {factor} and offset {offset} must be finite numbers") from error
    if not one:
        raise ValueError("a scale of 0 loses the reading")
    div = one.denominator * zero.denominator
    whole = Scale(int(one * div), int(zero * div), div)
    # The common denominator in lowest terms keeps the products small enough to be exact.
    return _lowest(whole)


def _lowest(whole: Scale) -> Scale:
    by = gcd(whole.mul, whole.add, whole.div)
    return Scale(whole.mul // by, whole.add // by, whole.div // by)
