"""Bytes ⇄ numbers: nothing is lost on the way there and back."""

import math
import struct
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.registers import BCD, FLOATS, Coils, Field, Layout, scale, size, width

ORDERS = ("ABCD", "CDAB", "BADC", "DCBA")
WHOLE = ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64")
KINDS = (*WHOLE, "f16", "f32", "f64", "bcd16", "bcd32", "bcd64", "sm16", "sm32", "sm64")
SLICED = ("u8", "u16", "s16", "u32", "s32", "u64", "s64")


def ends(kind, bits=None):
    """Least and greatest raw number, from the kind's name alone."""
    many = bits[1] if bits else int(kind.strip("abcdfmsu"))
    if kind in BCD:
        return 0, 10 ** (many // 4) - 1
    if kind.startswith("sm"):
        return 1 - 2 ** (many - 1), 2 ** (many - 1) - 1
    return (0, 2**many - 1) if kind[0] == "u" else (-(2 ** (many - 1)), 2 ** (many - 1) - 1)


@st.composite
def numbers(draw):
    """A field at register 0 of any kind, order, byte and bits, and a raw number that fits."""
    kind = draw(st.sampled_from(KINDS))
    byte = draw(st.sampled_from(["high", "low"])) if kind in ("u8", "s8") else None
    bits = None
    if kind in SLICED and draw(st.booleans()):
        low = draw(st.integers(0, size(kind) - 1))
        bits = low, draw(st.integers(1, size(kind) - low))
    number = draw(st.floats(width=size(kind), allow_nan=False) if kind in FLOATS else st.integers(*ends(kind, bits)))
    return Field(0, kind, draw(st.sampled_from(ORDERS)), bits, byte), number


@st.composite
def layouts(draw):
    """Non-overlapping fields at random places of a block, and a raw number for each."""
    fields, raws, at = [], [], 0
    for field, number in draw(st.lists(numbers(), min_size=1, max_size=8)):
        at += draw(st.integers(0, 3))
        fields.append(Field(at, field.kind, field.order, field.bits, field.byte))
        raws.append(number)
        at += width(field.kind)
    order = draw(st.permutations(range(len(fields))))
    return [fields[n] for n in order], [raws[n] for n in order], at


@settings(deadline=None)
@given(layouts(), st.binary(max_size=5))
def test_numbers_survive_packing_and_unpacking(case, before):
    fields, raws, registers = case
    layout, block = Layout(fields, registers), bytearray(2 * registers)
    layout.pack(raws, block)
    assert layout.unpack(bytes(before) + bytes(block), len(before)) == tuple(raws)


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
@given(numbers(), st.binary(min_size=8, max_size=8))
def test_packing_changes_nothing_beside_the_number(case, before):
    field, number = case
    layout, block = Layout([field], 4), bytearray(before)
    layout.pack([number], block)
    assert layout.unpack(bytes(block)) == (number,)
    bits = set(range(*((0, size(field.kind)) if not field.bits else (field.bits[0], sum(field.bits)))))
    beside = Layout([Field(0, f"u{size(field.kind)}", field.order, None, field.byte)], 4)
    (was,), (now,) = beside.unpack(before), beside.unpack(bytes(block))
    assert not {bit for bit in range(size(field.kind)) if (was ^ now) >> bit & 1} - bits
    assert block[2 * width(field.kind):] == before[2 * width(field.kind):]
    if field.byte:
        other = field.byte == "high"
        assert block[other] == before[other]


@settings(deadline=None)
@given(st.binary(min_size=8, max_size=8))
def test_orders_of_four_words_are_those_of_two(data):
    words = [data[n:n + 2] for n in range(0, 8, 2)]
    for order, on_wire in (("ABCD", data), ("CDAB", b"".join(reversed(words))),
                           ("BADC", b"".join(word[::-1] for word in words)), ("DCBA", data[::-1])):
        for kind, code in (("u64", "Q"), ("s64", "q")):
            assert Layout([Field(0, kind, order)], 4).unpack(on_wire) == struct.unpack(">" + code, data)


@settings(deadline=None)
@given(st.sampled_from(KINDS), st.sampled_from(ORDERS), st.binary(min_size=8, max_size=8), st.data())
def test_any_bytes_read_as_a_number_of_the_kind(kind, order, data, draw):
    byte = draw.draw(st.sampled_from(["high", "low"])) if kind in ("u8", "s8") else None
    (number,) = Layout([Field(0, kind, order, byte=byte)], 4).unpack(data)
    if kind in FLOATS:
        assert isinstance(number, float)
    elif kind in BCD and isinstance(number, float):
        assert math.isnan(number)
        assert set(data[:2 * width(kind)].hex()) & set("abcdef")
    else:
        least, most = ends(kind)
        assert isinstance(number, int)
        assert least <= number <= most


@settings(deadline=None)
@given(st.integers(0, 9999))
def test_bcd_is_the_digits_one_sees(number):
    assert Layout([Field(0, "bcd16")], 1).unpack(bytes.fromhex(f"{number:04d}")) == (number,)


@pytest.mark.parametrize(("kind", "order", "text", "number"), [
    ("sm16", "ABCD", "80 00", 0), ("sm16", "ABCD", "80 05", -5), ("sm16", "BADC", "05 80", -5),
    ("sm32", "CDAB", "00 01 80 00", -1), ("sm32", "ABCD", "80 00 00 00", 0),
    ("sm64", "ABCD", "FF FF FF FF FF FF FF FF", -(2**63 - 1)), ("sm64", "DCBA", "00 00 00 00 00 00 00 80", 0),
    ("bcd32", "CDAB", "56 78 12 34", 12345678), ("bcd64", "ABCD", "99 99 99 99 99 99 99 99", 10**16 - 1),
    ("f16", "ABCD", "3C 00", 1.0), ("f16", "ABCD", "7B FF", 65504.0), ("f16", "BADC", "01 00", 2.0**-24),
    ("f16", "ABCD", "FC 00", -math.inf), ("f16", "ABCD", "80 00", 0.0), ("f64", "DCBA", "00 00 00 00 00 00 F0 3F", 1.0),
    ("f32", "DCBA", "00 00 80 3F", 1.0),
])
def test_numbers_datasheets_print(kind, order, text, number):
    (read,) = Layout([Field(0, kind, order)], width(kind)).unpack(bytes.fromhex(text))
    assert read == number
    if kind.startswith("sm"):
        assert str(read) == str(number)   # no negative zero


@pytest.mark.parametrize("text", ["7C 01", "FE 00", "7E 00"])
def test_a_half_float_that_is_no_number(text):
    assert math.isnan(Layout([Field(0, "f16")], 1).unpack(bytes.fromhex(text))[0])


@pytest.mark.parametrize("text", ["00 0A", "A0 00", "FF FF"])
def test_bcd_with_a_digit_beyond_nine_is_no_number(text):
    assert math.isnan(Layout([Field(0, "bcd16")], 1).unpack(bytes.fromhex(text))[0])


def test_halves_of_a_register_are_numbers_of_their_own():
    fields = [Field(0, "u8", byte="high"), Field(0, "s8", byte="low"), Field(1, "s16", bits=(4, 12))]
    layout = Layout(fields, 2)
    assert layout.unpack(bytes.fromhex("80 FF 80 0F")) == (128, -1, -2048)
    assert Layout(fields[::-1], 2).unpack(bytes.fromhex("80 FF 80 0F")) == (-2048, -1, 128)


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


@settings(deadline=None)
@given(st.integers(-(2**31), 2**32 - 1), st.integers(0, 9), st.sampled_from([1.0, 0.5, 0.1, 1000.0, 0.01]),
       st.sampled_from([1.0, 20.0, 0.001]), st.sampled_from([0.0, -50.0, 3.2]))
def test_factors_of_other_registers_round_once_too(raw, decimals, factor, unit, offset):
    exact = Fraction(raw) * Fraction("0.2") / 10**decimals * Fraction(str(factor)) * Fraction(str(unit)) \
        + Fraction(str(offset))
    assert scale(0.2, offset, decimals, factor, unit).up(raw) == float(exact)


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
    (lambda: Layout([Field(0, "s16", bits=(0, 4))], 1).pack([8], bytearray(2)), "-8 to 7"),
    (lambda: Layout([Field(0, "bcd16")], 1).pack([10000], bytearray(2)), "4 decimal digits"),
    (lambda: Layout([Field(0, "bcd16")], 1).pack([-1], bytearray(2)), "4 decimal digits"),
    (lambda: Layout([Field(0, "sm16")], 1).pack([-32768], bytearray(2)), "-32767 to 32767"),
    (lambda: Layout([Field(0, "f16")], 1).pack([65520.0], bytearray(2)), "does not fit in f16"),
    (lambda: Layout([Field(0)], 1).pack([1.5], bytearray(2)), "no whole number"),
    (lambda: Layout([Field(0)], 1).pack([math.nan], bytearray(2)), "NaN"),
    (lambda: Layout([Field(0)], 1).pack([math.inf], bytearray(2)), "does not fit in u16"),
    (lambda: Coils([Field(0, "bit")], 1).pack([2], bytearray(1)), "not a bit"),
])
def test_what_cannot_be_is_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()
