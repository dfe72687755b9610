"""Bytes ⇄ numbers: register types, byte and word orders, bit fields, scales.

Owns: how raw numbers lie in the registers of one block, and what one count is worth. Promises: pure functions of
their arguments; formats are compiled once per block; a scaled value is the double nearest to the exact decimal
(1441 × 0.1 is 144.1). Never: knows units, meanings, devices or time.

Registers travel high byte first (Modbus Application Protocol V1.1b3, 4.2); the order of the *words* of a wider number
is the maker's choice, written as datasheets write it: ABCD, CDAB, BADC, DCBA.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from math import gcd
from operator import itemgetter
from typing import Any, Literal

from msgspec import Struct

Kind = Literal["u16", "s16", "u32", "s32", "u64", "s64", "f32", "f64", "bit"]
Order = Literal["ABCD", "CDAB", "BADC", "DCBA"]

_CODES = {"u16": "H", "s16": "h", "u32": "I", "s32": "i", "u64": "Q", "s64": "q", "f32": "f", "f64": "d"}
_WORDS = {"u16": 1, "s16": 1, "u32": 2, "s32": 2, "u64": 4, "s64": 4, "f32": 2, "f64": 4, "bit": 1}
FLOATS = frozenset({"f32", "f64"})


def width(kind: Kind) -> int:
    """Return how many registers a number of this kind fills (a coil counts as one)."""
    return _WORDS[kind]


class Field(Struct, frozen=True):
    """Where one raw number lies in a block."""

    at: int
    """Registers (or coils) from the first of the block."""
    kind: Kind = "u16"
    order: Order = "ABCD"
    bits: tuple[int, int] | None = None
    """(lowest bit, how many) of an unsigned number; None = all of it."""


def _places(field: Field) -> list[int]:
    """Return byte positions in the block, most significant byte of the number first."""
    words = [[2 * (field.at + n), 2 * (field.at + n) + 1] for n in range(width(field.kind))]
    if field.order in ("CDAB", "DCBA"):
        words.reverse()
    if field.order in ("BADC", "DCBA"):
        words = [word[::-1] for word in words]
    return [place for word in words for place in word]


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
            size = width(field.kind)
            if field.at < 0 or field.at + size > registers:
                raise ValueError(f"{field.kind} at register {field.at} reaches beyond a block of {registers}")
            if field.kind == "bit":
                raise ValueError("a coil does not lie in a register: use Coils")
            if field.bits and (min(field.bits) < 0 or not field.bits[1] or sum(field.bits) > 16 * size):
                raise ValueError(f"bits {field.bits} do not fit in {field.kind}")
            if field.bits and field.kind[0] != "u":
                raise ValueError(f"bits of {field.kind}: only unsigned numbers have them")
        places = [place for field in self.fields for place in _places(field)]
        codes = "".join(_CODES[field.kind] for field in self.fields)
        self._packed = struct.Struct(">" + codes)
        self._cuts = [(n, low, (1 << many) - 1) for n, field in enumerate(self.fields) if field.bits
                        for low, many in [field.bits]]
        self._pick: Callable[[bytes], tuple[int, ...]] | None = None
        if all(a < b for a, b in pairwise(places)):
            # In order and big-endian: read in place, skipping what lies between.
            text, end = ">", 0
            for field in self.fields:
                text += f"{2 * field.at - end}x{_CODES[field.kind]}"
                end = 2 * (field.at + width(field.kind))
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
        if self._cuts:
            numbers = list(raw)
            for n, low, mask in self._cuts:
                numbers[n] = numbers[n] >> low & mask
            return tuple(numbers)
        return raw

    def pack(self, raw: Sequence[float], into: bytearray, start: int = 0) -> None:
        """Write raw numbers into the bytes of a block; bits beside a bit field stay as they are.

        Raises:
            ValueError: a number does not fit its field.
        """
        for field, number in zip(self.fields, raw, strict=True):
            places = [start + place for place in _places(field)]
            if field.bits:
                low, many = field.bits
                if not 0 <= number < 1 << many:
                    raise ValueError(f"{number} does not fit in {many} bits")
                old = int.from_bytes(bytes(into[place] for place in places), "big")
                number = old & ~(((1 << many) - 1) << low) | int(number) << low
            try:
                packed = struct.pack(">" + _CODES[field.kind], number)
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


def scale(factor: float = 1.0, offset: float = 0.0, decimals: int = 0) -> Scale:
    """Make the Scale for value = raw × factor × 10^-decimals + offset, with the decimals as they were written.

    Raises:
        ValueError: a factor of zero, or not a finite number.
    """
    try:
        one = Fraction(Decimal(repr(factor))) / 10 ** decimals
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
