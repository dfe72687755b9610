"""Bytes ⇄ numbers: nothing is lost on the way there and back."""

import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.registers import FLOATS, Coils, Field, Layout, scale, width

ORDERS = ("ABCD", "CDAB", "BADC", "DCBA")
KINDS = ("u16", "s16", "u32", "s32", "u64", "s64", "f32", "f64")


@st.composite
def layouts(draw):
    """Non-overlapping fields at random places of a block, and a raw number for each."""
    fields, numbers, at = [], [], 0
    for _ in range(draw(st.integers(1, 8))):
        at += draw(st.integers(0, 3))
        kind = draw(st.sampled_from(KINDS))
        fields.append(Field(at, kind, draw(st.sampled_from(ORDERS))))
        bits = 16 * width(kind)
        if kind in FLOATS:
            numbers.append(draw(st.floats(width=bits, allow_nan=False)))
        elif kind[0] == "u":
            numbers.append(draw(st.integers(0, 2**bits - 1)))
        else:
            numbers.append(draw(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)))
        at += width(kind)
    order = draw(st.permutations(range(len(fields))))
    return [fields[n] for n in order], [numbers[n] for n in order], at


@settings(deadline=None)
@given(layouts(), st.binary(max_size=5))
def test_numbers_survive_packing_and_unpacking(case, before):
    fields, numbers, registers = case
    layout, block = Layout(fields, registers), bytearray(2 * registers)
    layout.pack(numbers, block)
    assert layout.unpack(bytes(before) + bytes(block), len(before)) == tuple(numbers)


@settings(deadline=None)
@given(st.binary(min_size=4, max_size=4))
def test_orders_are_the_letters_of_the_datasheet(data):
    a, b, c, d = (data[n:n + 1] for n in range(4))
    for order, text in (("ABCD", a + b + c + d), ("CDAB", c + d + a + b),
                        ("BADC", b + a + d + c), ("DCBA", d + c + b + a)):
        on_wire = bytes(text)   # the number's bytes are A B C D, most significant first
        assert Layout([Field(0, "u32", order)], 2).unpack(on_wire) == struct.unpack(">I", data)


@settings(deadline=None)
@given(st.integers(0, 0xFFFF), st.integers(0, 15), st.integers(1, 16), st.data())
def test_a_bit_field_changes_nothing_beside_it(word, low, many, data):
    many = min(many, 16 - low)
    code = data.draw(st.integers(0, (1 << many) - 1))
    layout, block = Layout([Field(0, bits=(low, many))], 1), bytearray(struct.pack(">H", word))
    layout.pack([code], block)
    after = struct.unpack(">H", block)[0]
    mask = ((1 << many) - 1) << low
    assert (after & mask) >> low == code == layout.unpack(bytes(block))[0]
    assert after & ~mask == word & ~mask


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_coils_survive(bits):
    coils = Coils([Field(n, "bit") for n in range(len(bits))], len(bits))
    block = bytearray((len(bits) + 7) // 8)
    coils.pack([float(bit) for bit in bits], block)
    assert coils.unpack(bytes(block)) == tuple(int(bit) for bit in bits)
    assert int.from_bytes(block, "little") == sum(bit << n for n, bit in enumerate(bits))


@settings(deadline=None)
@given(st.integers(-(2**31), 2**32 - 1), st.integers(0, 6))
def test_a_scaled_count_is_the_decimal_people_write(raw, places):
    text = f"{'-' if raw < 0 else ''}{abs(raw) // 10**places}.{abs(raw) % 10**places:0{places or 1}d}"
    assert scale(float(f"1e-{places}")).up(raw) == float(text)
    assert scale(decimals=places).up(raw) == float(text)


@settings(deadline=None)
@given(st.integers(-32768, 32767), st.sampled_from([0.1, 0.2, 0.01, 5.0, 0.0054931640625, 9.80665]),
       st.sampled_from([0.0, -50.0, 3.2]))
def test_down_undoes_up(raw, factor, offset):
    worth = scale(factor, offset)
    assert round(worth.down(worth.up(raw))) == raw


def test_offset_and_scale_round_once():
    assert scale(0.1, -50).up(753) == 25.3
    assert scale(0.1).up(1441) == 144.1   # 1441 * 0.1 would be 144.10000000000002
    assert math.isnan(scale(0.1).up(math.nan))


@pytest.mark.parametrize(("call", "text"), [
    (lambda: Layout([Field(3, "u32")], 4), "beyond a block of 4"),
    (lambda: Layout([Field(0, bits=(12, 5))], 1), "do not fit"),
    (lambda: Layout([Field(0, "f32", bits=(0, 4))], 2), "bits of f32"),
    (lambda: Layout([Field(0, "u8")], 1), "high or the low byte"),
    (lambda: Layout([Field(0, "u16", byte="low")], 1), "any other has none"),
    (lambda: Layout([Field(0, "bit")], 1), "use Coils"),
    (lambda: Coils([Field(8, "bit")], 8), "coil 8"),
    (lambda: scale(0.0), "loses the reading"),
    (lambda: scale(math.inf), "finite"),
    (lambda: Layout([Field(0)], 1).pack([70000], bytearray(2)), "does not fit in u16"),
    (lambda: Layout([Field(0, bits=(0, 2))], 1).pack([4], bytearray(2)), "does not fit in 2 bits"),
    (lambda: Coils([Field(0, "bit")], 1).pack([2], bytearray(1)), "not a bit"),
])
def test_what_cannot_be_is_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()
